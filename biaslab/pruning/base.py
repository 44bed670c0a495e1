"""What every pruning method shares: the budget, its options, and how a choice is made.

A method is pure tensor code: it never sees a model. What it defines handles one image, so that a result cannot
depend on the other images of a batch; where that costs too much it may choose for a whole batch at once as well,
and must choose the same.
"""

from __future__ import annotations

import dataclasses
from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from biaslab.attention.precision import full_precision
from biaslab.errors import InputError
from biaslab.pruning.batch import TokenBatch, ascending, prefixes, ranked
from biaslab.pruning.budgets import budget, check_keep
from biaslab.pruning.citation import Citation
from biaslab.pruning.context import ExpectedAttention, Selection, TokenContext, descending, required
from biaslab.pruning.described import Described
from biaslab.pruning.options import added_option, choice, number, report_option, whole_numbers

__all__ = [
    "added_option",
    "ExpectedAttention",
    "Method",
    "Picked",
    "Selection",
    "TokenContext",
    "budget",
    "choice",
    "descending",
    "number",
    "report_option",
    "required",
]

#: positions in order of choice, and what to report
Picked = tuple[Tensor, dict[str, Any]]

#: what has one entry per visual token -> on which of how many axes
_TOKEN_AXES = {
    "attention": (-1, 3),
    "features": (0, 2),
    "keys": (1, 3),
    "values": (1, 3),
    "embeddings": (0, 2),
    "rotary": (1, 2),
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Method(Described, ABC):
    """A rule that keeps ``budget`` of N visual tokens.

    A subclass is a frozen keyword-only dataclass whose fields are its hyper-parameters. It sets ``name`` and
    ``needs`` and overrides `importance` (the best-scored tokens are kept) or :meth:`pick` (any other rule);
    :func:`register` makes it known.

    Parameters
    ----------
    keep : float or int
        Share of the visual tokens in (0, 1], or a count.

    Examples
    --------
    >>> import torch
    >>> from biaslab.core.layout import TokenLayout
    >>> class Last(Method):
    ...     name = "last"
    ...
    ...     def importance(self, ctx):
    ...         return torch.arange(ctx.n).float()
    >>> layout = TokenLayout.raster(2, 3, size=(300, 200), family="toy")
    >>> Last().select(TokenContext(layout, budget=2)).indices
    tensor([4, 5])
    """

    keep: float | int = 0.1

    name: ClassVar[str]
    #: what the engine must provide: a subset of {"attention", "features", "text", "profile", "keys", "values",
    #: "embeddings", "rotary", "vision"}; with "text" keys, values and embeddings come of the text as well
    needs: ClassVar[frozenset[str]] = frozenset()
    #: whether `pick` lists positions in an order whose first n are what it would choose at any smaller budget n,
    #: with the same report; a class that defines `importance` or `pick` says so itself, or does not nest
    nested: ClassVar[bool] = False
    #: whether layout and features of the image decide alone: neither attention nor the sample's seed is looked at; said
    #: by the class as `nested` is
    image_only: ClassVar[bool] = False
    #: whether it chooses among the tokens of all images of a prompt at once (`prune` has the last word)
    joint: ClassVar[bool] = False
    #: whether the profile it needs is a conditional one (`biaslab.profiles.LookaheadProfile`), not a positional one
    conditional: ClassVar[bool] = False
    #: kind of the profile it needs: that of `biaslab.profiles.learned.LearnedMaps.kind`
    profile_kind: ClassVar[str] = "positional"
    #: what figures and tables call it; empty for the name of the class
    display_name: ClassVar[str] = ""
    #: the work that the rule is from; None for what is ours or needs no source
    source: ClassVar[Citation | None] = None
    #: what a choice of n of N tokens costs beside the forward, in a few words
    cost: ClassVar[str] = ""
    #: how well the rule is known to be its source's: "paper" (written from its text), "partly: ..." (what could not be
    #: verified), "ours"; empty where nobody has said
    verified: ClassVar[str] = ""
    #: whether it drops tokens before the decoder (or at the first layer that allows it) unless a layer is given
    before_decoder: ClassVar[bool] = False

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        own: Any = cls
        defined = vars(cls)
        # what a class inherits for batches is not what it defines for one image
        if {"importance", "pick", "pick_batch", "select"} & set(defined):
            own.nested = defined.get("nested", False)
            own.image_only = defined.get("image_only", False)
        if "importance" in defined and "importance_batch" not in defined:
            own.importance_batch = Method.importance_batch
        if "pick" in defined and "pick_batch" not in defined:
            own.pick_batch = Method._pick_each
        if "pick_batch" in defined and "pick" not in defined:
            own.pick = Method._pick_alone
        if "select" in defined and "select_budgets" not in defined:
            own.select_budgets = Method._select_each

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", check_keep(self.keep))
        whole_numbers(self)

    # -- what a method defines -------------------------------------------------------------------------------
    @property
    def needs_layout(self) -> bool:
        """Whether the choice depends on where tokens lie in the image (then a true layout is required)."""
        return False

    @property
    def reads_heads(self) -> bool:
        """Whether the profile it needs must be one of single heads."""
        return False

    @property
    def prune_layer(self) -> int | None:
        """The only layer K before which it can drop tokens; None where any will do."""
        return None

    def layer_read(self, layer: int) -> int:
        """Name the decoder layer whose attention, keys and values are read when tokens are dropped before ``layer``."""
        return layer - 1

    @property
    def raw_values(self) -> bool:
        """Whether the values it reads are to be projected from hidden states before the layer's norm."""
        return False

    def importance(self, ctx: TokenContext) -> Tensor | None:
        """Score the tokens: (N,) float32, or None where the rule is not a ranking. One score serves every budget."""
        return None

    def importance_batch(self, batch: TokenBatch) -> Sequence[Tensor | None]:
        """Score the tokens of several images at once, each as `importance` does, up to rounding.

        A method need not define it: one that defines `importance` alone is asked image by image.
        """
        return [self.importance(ctx) for ctx in batch]

    def pick(self, ctx: TokenContext, scores: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        """Choose positions to keep, in any order, and what to report. Default: the best scores, ties by index."""
        return descending(required(scores, "scores"))[: ctx.budget], {}

    def pick_batch(
        self, batch: TokenBatch, scores: Sequence[Tensor | None], budgets: Sequence[Sequence[int]]
    ) -> list[list[Picked]]:
        """Choose for several images at once, at several budgets each, exactly what :meth:`pick` would.

        A method need not define it: one that defines `pick` alone is asked image by image. One that defines this alone
        chooses for a single image as for a batch of one.

        Parameters
        ----------
        batch : TokenBatch
            B images; the budgets of their contexts do not count.
        scores : sequence of Tensor or None
            What `importance` gives for each.
        budgets : sequence of sequence of int
            Budgets of each image, any number of them.

        Returns
        -------
        list of list of (Tensor, dict)
            For each image and budget, positions in any order and what to report. Default: the best scores from one
            sort of all images, ties by index.
        """
        orders = ranked([required(own, "scores") for own in scores])
        return prefixes(orders, budgets)

    @property
    def merges(self) -> bool:
        """Whether dropped tokens are merged into kept ones (:meth:`merging`)."""
        return False

    @property
    def restores(self) -> bool:
        """Whether, behind a stage of its kind, it chooses among all tokens again (`engine/parking.py` says how)."""
        return False

    def merging(self, ctx: TokenContext, indices: Tensor, scores: Tensor | None) -> Tensor | None:
        """Tell what the kept tokens go on with.

        Parameters
        ----------
        ctx : TokenContext
            Its budget does not count.
        indices : (budget,) int64 Tensor
            The kept ones, ascending.
        scores : (N,) Tensor or None

        Returns
        -------
        (budget, N) float32 Tensor or None
            As ``Selection.merge``. Default: None.
        """
        return None

    def own_stages(self, n_layers: int, lowest: int = 0) -> Sequence[tuple[int, Method]] | None:
        """List the cuts that the method makes where no layer is named, as (K, method at its keep there).

        Parameters
        ----------
        n_layers : int
            Of the decoder.
        lowest : int
            First layer before which the model's tokens may be dropped.

        Returns
        -------
        sequence of (int, Method) or None
            None, as of most, for a single cut before any layer.
        """
        return None

    def validate(self) -> None:
        """Refuse, before any work, a method that cannot run as it is configured."""

    def check_width(self, width: int) -> None:
        """Refuse, before any work, a model whose features of so many dimensions the method cannot read."""

    def citations(self) -> tuple[Citation, ...]:
        """List the works to cite with a run of the method as it is configured, that of the rule first.

        Examples
        --------
        >>> from biaslab.pruning import FastV
        >>> [work.key for work in FastV(score="no_rope").citations()]
        ['fastv2024', 'feather2025']
        """
        return () if self.source is None else (self.source,)

    # -- what callers use ------------------------------------------------------------------------------------
    def select(self, ctx: TokenContext) -> Selection:
        """Choose the tokens of one image, in full precision whatever autocast surrounds the call.

        Parameters
        ----------
        ctx : TokenContext

        Returns
        -------
        Selection

        Raises
        ------
        InputError
            The context lacks what the method needs, or its shapes do not fit the layout.
        """
        self.validate()
        self._check(ctx)
        with full_precision():
            scores = self.importance(ctx)
            positions, info = self.pick(ctx, scores)
            indices = positions.sort().values
            merge = self.merging(ctx, indices, scores) if self.merges else None
        return Selection(indices, scores, info, merge)

    def select_batch(self, images: Sequence[TokenContext]) -> list[Selection]:
        """Choose the tokens of several images at once: what :meth:`select` gives for each, in fewer steps.

        Parameters
        ----------
        images : sequence of TokenContext
            On one device; they may differ in tokens and budgets. A :class:`TokenBatch` with a ``stack``
            saves looking features up image by image.

        Returns
        -------
        list of Selection
            An image's does not depend on the others.

        Raises
        ------
        InputError
            As `select`.

        Examples
        --------
        >>> from biaslab.core.layout import TokenLayout
        >>> from biaslab.pruning import Random
        >>> layouts = [TokenLayout.raster(2, n, size=(300, 200), family="toy") for n in (3, 4)]
        >>> [s.indices.tolist() for s in Random().select_batch([TokenContext(x, budget=2, seed=1) for x in layouts])]
        [[1, 5], [4, 5]]
        """
        return [chosen for (chosen,) in self.select_budgets(images, [[ctx.budget] for ctx in images])]

    def select_budgets(self, images: Sequence[TokenContext], budgets: Sequence[Sequence[int]]) -> list[list[Selection]]:
        """Choose the tokens of several images at several budgets each: what budgets share is computed once.

        Scores and their sort always are shared. Where the method is ``nested``, one run at the largest budget serves
        all: each keeps a prefix of it.

        Parameters
        ----------
        images : sequence of TokenContext
            As in `select_batch`; their own budgets do not count.
        budgets : sequence of sequence of int
            For each image the budgets that are wanted, 1 .. N, in any order.

        Returns
        -------
        list of list of Selection
            For each image and budget what `select` gives.

        Raises
        ------
        InputError
            As `select`.

        Examples
        --------
        >>> from biaslab.core.layout import TokenLayout
        >>> from biaslab.pruning import Random
        >>> ctx = TokenContext(TokenLayout.raster(2, 3, size=(300, 200), family="toy"), budget=6, seed=1)
        >>> [[s.indices.tolist() for s in each] for each in Random().select_budgets([ctx], [[1, 2, 3]])]
        [[[1], [1, 5], [1, 2, 5]]]
        """
        self.validate()
        batch = TokenBatch.of(images)
        for ctx, wanted in zip(batch, budgets, strict=True):
            for n in wanted:
                self._check(dataclasses.replace(ctx, budget=n))
        if not any(budgets):
            return [[] for _ in budgets]
        with full_precision():
            scores = self.importance_batch(batch)
            picked = self.pick_batch(batch, scores, budgets)
            indices = iter(ascending([positions for one in picked for positions, _ in one]))
        pairs = zip(picked, scores, strict=True)
        found = [[Selection(next(indices), own, info) for _, info in one] for one, own in pairs]
        if self.merges:
            with full_precision():
                for ctx, each in zip(batch, found, strict=True):
                    for selection in each:
                        selection.merge = self.merging(ctx, selection.indices, selection.scores)
        return found

    def _pick_alone(self, ctx: TokenContext, scores: Tensor | None) -> Picked:
        """Choose as for a batch of one image."""
        ((picked,),) = self.pick_batch(TokenBatch([ctx]), [scores], [[ctx.budget]])
        return picked

    def _pick_each(
        self, batch: TokenBatch, scores: Sequence[Tensor | None], budgets: Sequence[Sequence[int]]
    ) -> list[list[Picked]]:
        """Choose image by image: the plain path."""
        out: list[list[Picked]] = []
        for ctx, own, wanted in zip(batch, scores, budgets, strict=True):
            if self.nested and wanted:
                order, info = self.pick(dataclasses.replace(ctx, budget=max(wanted)), own)
                out.append([(order[:n], dict(info)) for n in wanted])
            else:
                out.append([self.pick(dataclasses.replace(ctx, budget=n), own) for n in wanted])
        return out

    def _select_each(self, images: Sequence[TokenContext], budgets: Sequence[Sequence[int]]) -> list[list[Selection]]:
        """Select image by image, for a class that replaces `select`."""
        pairs = zip(images, budgets, strict=True)
        return [[self.select(dataclasses.replace(ctx, budget=n)) for n in wanted] for ctx, wanted in pairs]

    def budget_of(self, n: int) -> int:
        """Count how many of the n visual tokens of an image it keeps: :func:`budget`, unless it rounds otherwise."""
        return budget(self.keep, n)

    def with_keep(self, keep: float | int) -> Method:
        """Copy the method, at another keep ratio or count."""
        return dataclasses.replace(self, keep=keep)

    def _check(self, ctx: TokenContext) -> None:
        if not 1 <= ctx.budget <= ctx.n:
            raise InputError(f"budget must be 1 .. {ctx.n} visual tokens, got {ctx.budget}")
        for what in self.needs - {"profile"}:
            given = getattr(ctx, what)
            if given is None:
                raise InputError(f"method {self.name!r} needs {what}: pass it in the TokenContext")
            if what == "vision" and given.n != ctx.n:
                raise InputError(f"a vision record of {given.n} tokens does not fit {ctx.n} visual tokens")
            if (place := _TOKEN_AXES.get(what)) is None:
                continue
            tensor = given.positions if what == "rotary" else given
            if tensor.ndim != place[1] or tensor.shape[place[0]] != ctx.n:
                raise InputError(f"{what} of shape {tuple(tensor.shape)} does not fit {ctx.n} visual tokens")
