"""The transformers versions that biaslab admits, each tried: ``make compat``.

For every version an overlay folder gets that transformers alone and precedes the environment's packages on the path, so
torch and everything else is shared; ``tests/test_transformers_versions.py`` runs under it. The table goes to
``docs/compatibility.md``.

    python -m tools.compat              # every minor from the floor to the newest release
    python -m tools.compat floor        # the floor alone, no table written (as CI does); or a minor such as 5.22
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from xml.etree import ElementTree

from biaslab.models import families
from biaslab.models.transformers_versions import OLDEST

ROOT = Path(__file__).parents[1]
OVERLAYS = ROOT / ".compat"
TABLE = ROOT / "docs" / "compatibility.md"
CHECKS = {
    "test_generate": "generate",
    "test_capture_equals_eager": "capture = eager",
    "test_keep_all_equals_unpruned": "keep all = unpruned",
    "test_fastv_equals_masked_recompute": "FastV at 40 % = masked recompute",
}


def main() -> int:
    """Run the checks, print what passed, write the table; 1 if one failed."""
    asked = [OLDEST if name == "floor" else name for name in sys.argv[1:]]
    outcomes = dict(run(minor) for minor in asked or admitted_minors())
    for version, cases in outcomes.items():
        failed = [name for name, passed in cases.items() if not passed]
        print(f"transformers {version}: {len(cases) - len(failed)} of {len(cases)} checks pass", *failed, sep="\n  ")
    if not asked:
        TABLE.write_text(table(outcomes))
        print(TABLE.relative_to(ROOT))
    return 0 if all(cases and all(cases.values()) for cases in outcomes.values()) else 1


def admitted_minors() -> list[str]:
    """Every minor from the floor to the newest that is published."""
    command = [sys.executable, "-m", "pip", "index", "versions", "transformers"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    releases = re.search(r"Available versions: (.*)", listed)[1].split(", ")
    newest_first = list(dict.fromkeys(".".join(release.split(".")[:2]) for release in releases))
    return newest_first[newest_first.index(OLDEST) :: -1]


def run(minor: str) -> tuple[str, dict[str, bool]]:
    """Give the release that an overlay of this minor holds, and the outcome of every check under it."""
    overlay = OVERLAYS / minor
    if not (overlay / "transformers").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(overlay)]
        subprocess.run([*pip, f"transformers=={minor}.*"], check=True)
    report = overlay / "report.xml"
    report.unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(overlay), str(ROOT)])}
    python = [sys.executable, "-c", "import transformers; print(transformers.__version__)"]
    version = subprocess.run(python, env=environment, check=True, capture_output=True, text=True).stdout.strip()
    if not version.startswith(f"{minor}."):
        raise RuntimeError(f"the overlay gave transformers {version} instead of {minor}: delete {overlay}")
    tests = next((ROOT / "tests").rglob("test_transformers_versions.py"))
    pytest = [sys.executable, "-m", "pytest", "-q", "-n", "2", f"--junitxml={report}", str(tests)]
    subprocess.run(pytest, cwd=ROOT, env=environment)
    cases = [c for c in ElementTree.parse(report).getroot().iter("testcase") if c.find("skipped") is None]
    return version, {c.get("name"): not any(c.find(tag) is not None for tag in ("failure", "error")) for c in cases}


def table(outcomes: dict[str, dict[str, bool]]) -> str:
    """Markdown: a row per family and check, a column per version."""
    lines = [
        "# Transformers versions",
        "",
        "Measured by `make compat` on tiny random-weight instances of the real classes",
        f"(torch {installed_version('torch')}); what is checked is in `test_transformers_versions.py`.",
        "",
        "| family | check | " + " | ".join(outcomes) + " |",
        "|---|---|" + "---|" * len(outcomes),
    ]
    for family in sorted(families()):
        for test, label in CHECKS.items():
            marks = [_mark(cases.get(f"{test}[{family}]")) for cases in outcomes.values()]
            lines.append(f"| {family} | {label} | " + " | ".join(marks) + " |")
    marks = [_mark(cases.get("test_evaluate_on_the_grounder")) for cases in outcomes.values()]
    lines.append("| grounder (InternVL) | `evaluate`, unpruned and FastV at 40 % | " + " | ".join(marks) + " |")
    rest = [{n: p for n, p in cases.items() if n.split("[")[0] not in CHECKS} for cases in outcomes.values()]
    lines.append("| | refusals and warnings | " + " | ".join(_mark(all(r.values())) for r in rest) + " |")
    return "\n".join(lines) + "\n"


def _mark(passed: bool | None) -> str:
    return {True: "yes", False: "**no**", None: "not run"}[passed]


if __name__ == "__main__":
    raise SystemExit(main())
