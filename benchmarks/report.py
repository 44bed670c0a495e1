"""Tables of a benchmark: printed, and written as ``NAME.json`` (all figures) and ``NAME.md`` (what was printed)."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["Report", "Table", "Target", "interval", "percent"]

_CELL = re.compile(r"^([-+]?[\d.]+) \[([-+]?[\d.]+), ([-+]?[\d.]+)\]$")


@dataclass
class Table:
    """``columns``: key in the rows -> (header, format spec). A row may lack a key: the cell shows a dash."""

    caption: str
    columns: dict[str, tuple[str, str]]
    rows: list[dict[str, Any]]

    def markdown(self) -> str:
        """Lay the table out in Markdown, its columns aligned."""
        header = [title for title, _ in self.columns.values()]
        body = [[_cell(row.get(key), spec) for key, (_, spec) in self.columns.items()] for row in self.rows]
        widths = [max(len(line[i]) for line in [header, *body]) for i in range(len(header))]
        left = [all(isinstance(row.get(key), str | None) for row in self.rows) for key in self.columns]

        def line(cells: list[str]) -> str:
            padded = [c.ljust(w) if x else c.rjust(w) for c, w, x in zip(cells, widths, left, strict=True)]
            return f"| {' | '.join(padded)} |"

        rule = "|".join("-" * (w + 2) if x else "-" * (w + 1) + ":" for w, x in zip(widths, left, strict=True))
        return "\n".join([f"**{self.caption}**", "", line(header), f"|{rule}|", *map(line, body)])


@dataclass
class Target:
    """What was aimed at: ``value`` must be at most (at least, with ``least``) ``bound``."""

    what: str
    value: float
    bound: float
    least: bool = False

    @property
    def met(self) -> bool:
        """Whether the value is on the right side of the bound."""
        return self.value >= self.bound if self.least else self.value <= self.bound

    def markdown(self) -> str:
        """One line of a Markdown list."""
        sign = ">=" if self.least else "<="
        return f"- {'met' if self.met else 'MISSED'}: {self.what}: {self.value:.3f} (target {sign} {self.bound:g})"


@dataclass
class Report:
    """Everything one benchmark has to say; ``module`` is that which is run, where it is not called as the files."""

    name: str
    title: str
    settings: dict[str, Any]
    tables: list[Table]
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    module: str = ""
    load: float = field(default_factory=lambda: os.getloadavg()[0])

    def markdown(self) -> str:
        """Lay the whole report out in Markdown."""
        where = machine()
        about = [
            f"`{self._command()}`, {datetime.now(UTC):%Y-%m-%d}",
            f"{where['cpu']}, {where['cores']} cores, load {self.load:.1f} at the end; Python {where['python']}, "
            f"torch {where['torch']}, transformers {where['transformers']}, biaslab {where['biaslab']}",
            ", ".join(f"{key} {_plain(value)}" for key, value in self.settings.items()),
        ]
        parts = [f"# {self.title}", "  \n".join(about)]
        if self.targets:
            parts.append("\n".join(target.markdown() for target in self.targets))
        parts += [table.markdown() for table in self.tables]
        if self.notes:
            parts.append("\n".join(f"- {note}" for note in self.notes))
        return "\n\n".join(parts) + "\n"

    def publish(self, folder: Path) -> None:
        """Print, and write both files."""
        print(self.markdown())
        self.write(folder)
        print(f"written: {folder / self.name}.md and .json")

    def write(self, folder: Path) -> None:
        """Write both files."""
        data = {
            "name": self.name,
            "command": self._command(),
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "machine": {**machine(), "load": self.load},
            "settings": self.settings,
            "targets": [{**asdict(target), "met": target.met} for target in self.targets],
            "tables": [{"caption": table.caption, "rows": table.rows} for table in self.tables],
            "notes": self.notes,
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.md").write_text(self.markdown(), encoding="utf-8")
        (folder / f"{self.name}.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")

    def _command(self) -> str:
        return shlex.join(["python", "-m", f"benchmarks.{self.module or self.name}", *sys.argv[1:]])


def percent(interval: tuple[float, float, float], sign: str = "") -> str:
    """Write a share and its interval: "91.4 [89.7, 93.1]", with ``sign="+"`` a difference.

    Examples
    --------
    >>> percent((0.5, 0.25, 0.75)), percent((-0.005, -0.02, 0.01), "+")
    ('50.0 [25.0, 75.0]', '-0.5 [-2.0, +1.0]')
    """
    value, low, high = (100 * x for x in interval)
    return f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def interval(cell: str) -> tuple[float, float, float]:
    """Read what `percent` wrote: value, lower and upper end, in percent.

    Raises
    ------
    ValueError
        It is no value with an interval.

    Examples
    --------
    >>> interval("-0.5 [-2.0, +1.0]")
    (-0.5, -2.0, 1.0)
    """
    found = _CELL.match(cell)
    if found is None:
        raise ValueError(f"{cell!r} is no value with an interval")
    value, low, high = map(float, found.groups())
    return value, low, high


def machine() -> dict[str, Any]:
    """Name what the figures depend on besides the code."""
    packages = {name: version(name) for name in ("torch", "transformers")}
    from biaslab import __version__

    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "biaslab": __version__,
        **packages,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _cell(value: Any, spec: str) -> str:
    return "-" if value is None else format(value, spec)


def _plain(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
