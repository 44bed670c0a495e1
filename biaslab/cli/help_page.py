"""The help of a verb as plain text: on a narrow terminal a table of panels cuts names of options and examples short."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from typer.core import TyperCommand

__all__ = ["Verb"]


class Verb(TyperCommand):
    """A verb whose help is wrapped at words alone, with a heading for each group of options."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings | {"rich_markup_mode": None})

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, options and the groups of options, one under the other."""
        groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
                groups[getattr(parameter, "rich_help_panel", None) or kind].append(record)
        last = [name for name in groups if name not in ("Arguments", "Options")]
        for name in ["Arguments", "Options", *last]:
            if groups[name]:
                with formatter.section(name):
                    formatter.write_dl(groups[name])
