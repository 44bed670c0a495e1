"""Tokens that any method keeps first: reference positions, a grid, or given ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.pruning.algorithms.coordinates import reference_tokens
from biaslab.pruning.base import Selection, TokenContext, number
from biaslab.pruning.budgets import share as count_of
from biaslab.pruning.citation import Citation
from biaslab.pruning.methods.ivc import IVC_PRUNE
from biaslab.pruning.methods.wrapper import Wrapper
from biaslab.pruning.registry import register
from biaslab.pruning.subset import Part, select_parts
from biaslab.pruning.works import FEATHER

__all__ = ["Protected"]

_GRID = "uniform:"


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class Protected(Wrapper):
    """Keep a set of tokens first; the rest of the budget by another method, among the other tokens.

    Of n tokens to keep, at most ``floor(share * n)`` are protected.

    Parameters
    ----------
    method : str or Method
        What chooses the rest. On a command line it comes last: ``protected:rule=ivc:share=0.2:method=fastv``.
    rule : str or sequence of int
        - "ivc": positions at which the rotary embedding is nearly no turn or a quarter turn, half of the share each
          (:func:`biaslab.pruning.algorithms.coordinates.reference_tokens`).
        - "uniform:S": every S-th row and column of each tile, FEATHER's grid ("uniform:3"); where these are more than
          the share, evenly many of them. On a command line "uniform3".
        - visual token numbers, in the order in which they are taken; those that an image does not have are left out.
    share : float
        In [0, 1], of the budget. IVC-Prune takes up to 0.4 at half of the tokens kept.
    profile : Profile, optional
        For a method that needs one.

    Notes
    -----
    ``Selection.info``: ``protected``, how many; the rest as the method reports it. Scores of protected tokens are
    infinite. IVC-Prune reports that its positions help others as well (FastV and PyramidDrop on Qwen2.5-VL, testA of
    RefCOCO: 74.4 to 82.1 and 77.6 to 83.9).

    References
    ----------
    IVC-Prune, arXiv 2602.03060; FEATHER, arXiv 2412.13180.

    Examples
    --------
    >>> attention = torch.tensor([[[0.1, 0.5, 0.2, 0.2]]])  # (1 head, 1 query row, 4 tokens)
    >>> ctx = TokenContext(TokenLayout.raster(2, 2, size=(200, 200), family="toy"), budget=2, attention=attention)
    >>> Protected(rule=[3], share=0.5, method="fastv").select(ctx).indices
    tensor([1, 3])
    """

    rule: Any = "ivc"
    share: float = 0.2

    name: ClassVar[str] = "protected"
    display_name: ClassVar[str] = "protected"
    source: ClassVar[Citation | None] = IVC_PRUNE
    cost: ClassVar[str] = "two sorts, and what the method costs"
    verified: ClassVar[str] = "partly: a share of the budget, published is a share of all tokens"
    needs: ClassVar[frozenset[str]] = frozenset({"attention", "rotary"})

    def __post_init__(self) -> None:
        rule: Any = self.rule
        if isinstance(rule, str):
            rule = _GRID + rule.removeprefix("uniform").removeprefix(":") if rule.startswith("uniform") else rule
            if rule != "ivc" and not (rule.startswith(_GRID) and rule.removeprefix(_GRID).isdecimal()):
                raise InputError(f"rule must be 'ivc', 'uniform:3' or token numbers; got {self.rule!r}")
            if rule.startswith(_GRID) and int(rule.removeprefix(_GRID)) < 1:
                raise InputError(f"rule {rule!r} needs a step of 1 or more")
        else:
            try:
                rule = tuple(int(i) for i in rule)
            except (TypeError, ValueError):
                rule = ()
            if not rule or min(rule) < 0 or len(set(rule)) < len(rule):
                raise InputError(f"rule must be 'ivc', 'uniform:3' or distinct token numbers; got {self.rule!r}")
        object.__setattr__(self, "rule", rule)
        number("share", self.share, 0, 1)
        super().__post_init__()

    @property
    def own_needs(self) -> frozenset[str]:
        """The rotary embedding, for its positions."""
        return frozenset({"rotary"}) if self.rule == "ivc" else frozenset()

    @property
    def needs_layout(self) -> bool:
        """As the method does; a grid lies in the image."""
        return self.method.needs_layout or str(self.rule).startswith(_GRID)

    def citations(self) -> tuple[Citation, ...]:
        """List the work of the positions or of the grid, then those of the method."""
        own = (IVC_PRUNE,) if self.rule == "ivc" else (FEATHER,) if isinstance(self.rule, str) else ()
        return tuple(dict.fromkeys((*own, *self.method.citations())))

    def options(self) -> dict[str, Any]:
        """List the hyper-parameters; a grid in the form of a command line, where a colon parts options."""
        rule = self.rule.replace(":", "") if isinstance(self.rule, str) else list(self.rule)
        out = {**super().options(), "rule": rule}
        return {**out, "method": out.pop("method")}

    def choose(self, images: Sequence[TokenContext], budgets: Sequence[Sequence[int]]) -> list[list[Selection]]:
        """Protect, then let the method choose among the others."""
        cases = [(i, n) for i, wanted in enumerate(budgets) for n in wanted]
        fixed = _on_host([self._fixed(images[i], count_of(self.share, n)) for i, n in cases])
        parts, of_case = [], []
        for case, ((i, n), own) in enumerate(zip(cases, fixed, strict=True)):
            if n > len(own):
                parts.append(Part(i, np.setdiff1d(np.arange(images[i].n), own), n - len(own)))
                of_case.append(case)
        chosen = dict(zip(of_case, select_parts(self.method, images, parts), strict=True)) if parts else {}
        made = iter([_joined(own, chosen.get(case), images[cases[case][0]]) for case, own in enumerate(fixed)])
        return [[next(made) for _ in wanted] for wanted in budgets]

    def _fixed(self, ctx: TokenContext, n: int) -> Tensor | np.ndarray:
        """List up to n protected tokens."""
        if self.rule == "ivc":
            if ctx.rotary is None:
                raise InputError("the method needs rotary: call select() with a TokenContext that holds what it needs")
            return reference_tokens(ctx.rotary, n)
        if isinstance(self.rule, str):
            grid = _grid(ctx.layout, int(self.rule.removeprefix(_GRID)))
            return grid if len(grid) <= n else grid[(2 * np.arange(n) + 1) * len(grid) // (2 * max(n, 1))]
        known = ctx.survivors
        if known is None:
            return np.array([i for i in self.rule if i < ctx.n], dtype=np.int64)[:n]
        place = {token: i for i, token in enumerate(known.tolist())}  # an earlier stage has dropped some
        return np.array([place[i] for i in self.rule if i in place], dtype=np.int64)[:n]


def _grid(layout: TokenLayout, step: int) -> np.ndarray:
    """List every ``step``-th row and column of each tile."""
    return np.flatnonzero((np.asarray(layout.row) % step == 0) & (np.asarray(layout.col) % step == 0))


def _on_host(sets: Sequence[Tensor | np.ndarray]) -> list[np.ndarray]:
    """Bring the sets of all images to the host in one transfer, ascending."""
    if sets and isinstance(sets[0], Tensor):
        lengths = [len(own) for own in sets]
        flat = torch.cat([own for own in sets if isinstance(own, Tensor)]).cpu().numpy()
        sets = np.split(flat, np.cumsum(lengths)[:-1])
    return [np.sort(np.asarray(own)) for own in sets]


def _joined(fixed: np.ndarray, rest: Selection | None, ctx: TokenContext) -> Selection:
    """Put protected tokens and what the method chose together."""
    own = torch.from_numpy(fixed).to(ctx.device)
    if rest is None:
        return Selection(own, None, {"protected": len(fixed)})
    scores = rest.scores
    if scores is not None:
        scores = scores.index_fill(0, own.to(scores.device), torch.inf)
    indices = torch.cat([own, rest.indices]).sort().values
    return Selection(indices, scores, {**rest.info, "protected": len(fixed)})
