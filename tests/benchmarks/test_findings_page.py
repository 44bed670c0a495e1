"""Intervals that docs/findings.md quotes are those of the committed results, to the digit."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = ("findings", "findings-unfamiliar", "findings-asked", "findings_claims", "tilings")
INTERVAL = re.compile(r"\[([-+]?[\d.]+),\s+([-+]?[\d.]+)\]")


def _intervals(text: str) -> set[tuple[str, str]]:
    return {(low.removeprefix("+"), high.removeprefix("+")) for low, high in INTERVAL.findall(text)}


def test_every_interval_is_measured():
    page = (ROOT / "docs/findings.md").read_text(encoding="utf-8")
    measured = [(ROOT / f"benchmarks/results/{name}.json").read_text(encoding="utf-8") for name in RESULTS]
    quoted = _intervals(page)
    assert len(quoted) > 100
    assert not quoted - set().union(*map(_intervals, measured))
