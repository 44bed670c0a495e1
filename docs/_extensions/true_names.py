"""A name that is public in two places has one page, and a reference to any name of a thing leads to it.

References to things that exist and have no page stay text; those to nothing are warnings, which ``make docs`` refuses.
"""

from __future__ import annotations

import posixpath
import pydoc
import sys
from collections.abc import Iterator
from typing import Any

from docutils.nodes import Element
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

_homes: dict[int, tuple[str, Any]] = {}  # id of a thing -> its documented name, and the thing, to keep it alive


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("missing-reference", _resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, shown: Element) -> Element | None:
    """Find the page of what a reference means where it stands: names are those of its class, module and room."""
    if node.get("refdomain") != "py":
        return None
    objects = env.domains.python_domain.objects
    if not _homes:
        things = ((pydoc.locate(name), name) for name in sorted(objects, reverse=True))
        _homes.update({id(thing): (name, thing) for thing, name in things if not isinstance(thing, str | int | None)})
    for thing in _meant(node["reftarget"].lstrip("."), posixpath.basename(node["refdoc"])):
        name, _ = _homes.get(id(thing), (None, None))
        if name is None:
            return shown
        entry = objects[name]
        return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, shown, name)
    return None


def _meant(target: str, page: str) -> Iterator[Any]:
    """Yield what ``target`` may mean on the page of the name ``page``."""
    if target.startswith("biaslab."):
        found = pydoc.locate(target)
        return iter([] if found is None else [found])
    here: Any = pydoc.locate(page)
    module = sys.modules.get(getattr(here, "__module__", None) or page)
    room = sys.modules.get(page.rpartition(".")[0])
    founds = []
    for scope in (here, module, room):
        found = scope
        for part in target.split("."):  # fields without a default are annotations only
            found = getattr(found, part, getattr(found, "__annotations__", {}).get(part))
        founds += [found] if found is not None else []
    return iter(founds)
