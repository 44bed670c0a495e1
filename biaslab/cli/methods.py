"""The verb ``biaslab methods``."""

from __future__ import annotations

from typing import Annotated

import typer

from biaslab.cli import options as opt
from biaslab.cli.app import app
from biaslab.cli.output import emit, table

_FOOT = "from: first layer K that it can drop tokens before; costs: --details; BibTeX: --bibtex"
_FOOT_OF_DETAILS = "cost: of choosing n of N tokens, beside the forward"


@app.command("methods", epilog="Example: biaslab methods --bibtex > methods.bib")
def methods(
    details: Annotated[bool, typer.Option("--details", help="Show costs and what is verified instead.")] = False,
    bibtex: Annotated[bool, typer.Option("--bibtex", help="Print the works they are from as BibTeX.")] = False,
    json: opt.Json = False,
) -> None:
    """List the pruning methods: what each reads, its first layer, its profile, its cost, its source."""
    from biaslab.pruning import METHODS
    from biaslab.pruning.citation import bibtex as entries
    from biaslab.pruning.listing import methods as listed

    text = entries([work for cls in METHODS.values() for work in cls().citations()])
    frame = listed()
    columns = ["method", "cost", "verified"] if details else ["method", "reads", "from_layer", "profile", "source"]
    shown = table(frame[columns].replace("", "-").rename(columns={"from_layer": "from"}))
    record = {"bibtex": text} if bibtex else {"methods": frame.to_dict("records")}
    emit(json, record, text if bibtex else f"{shown}\n{_FOOT_OF_DETAILS if details else _FOOT}")
