"""Results, answers and the atlas in notebooks: their tables."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from biaslab._util.notebook import Drawing, draws
from biaslab._util.number_text import count_text
from biaslab.figures.inline.parts import drawn, line, table

_COLUMNS = ("layer", "n", "map_sd_factor", "r2_asymptotic", "reliability", "border", "top")


@draws("Results")
def results(found: Any) -> Drawing:
    """Draw the summary, and what is missing or failed."""
    identity = found.run["identity"]
    data = f"{identity['dataset']['name']} {identity['dataset']['split']}"
    lines = count_text(len(found.verdicts), "line")
    head = line(Markup("<b>{}</b>").format(identity["model"]["name"]), data, lines, found.lacking, found.failures)
    return drawn(table(found.summary(), head))


@draws("BiasAtlas")
def atlas(made: Any) -> Drawing:
    """Draw the main columns of the summary."""
    summary = made.summary()
    columns = [name for name in _COLUMNS if name in summary]
    about = made.provenance
    head = line(Markup("<b>atlas</b>"), about.get("model", ""), count_text(int(about.get("n", 0)), "image"),
                f"{len(summary.columns)} columns in .summary()")  # fmt: skip
    return drawn(table(summary[columns], head))
