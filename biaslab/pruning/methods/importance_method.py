"""What the methods share that weigh tokens by an importance of any kind, and look at how alike they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from biaslab.attention.vision_record import TowerShape, VisionRequest
from biaslab.errors import InputError
from biaslab.pruning.base import Picked, TokenContext, added_option, required
from biaslab.pruning.batch import TokenBatch, prefixes, ranked
from biaslab.pruning.citation import Citation
from biaslab.pruning.external import ExternalScore
from biaslab.pruning.methods.relative import Relative, inside
from biaslab.pruning.methods.vision_method import VisionMethod, shown_of
from biaslab.pruning.works import D2PRUNER

__all__ = ["IMPORTANCES", "ImportanceMethod"]

#: kind of importance -> what it reads
IMPORTANCES = {
    "attention": frozenset({"attention"}),
    "relative": frozenset({"attention", "profile"}),
    "lookahead": frozenset({"features", "text", "profile"}),
    "text": frozenset({"features", "text"}),
    "last_text": frozenset({"features", "text"}),
    "norm": frozenset({"features"}),
    "vision": frozenset({"features", "vision"}),
    "external": frozenset({"features"}),
}
#: kind -> the options of `Relative` that it reads; those of no kind are refused, as they would do nothing
_OPTIONS: dict[str, tuple[str, ...]] = {
    "relative": (
        "queries", "score", "reads_layer", "debias", "eps", "heads", "strength", "normalise", "sinks", "sink_dims",
    ),
    "attention": ("queries", "score", "reads_layer", "heads", "sink_dims"),
}  # fmt: skip
_EXTERNAL = "external:"

VISIONSELECTOR = Citation(
    key="visionselector2025",
    title="VisionSelector: End-to-End Learnable Visual Token Compression for Efficient Multimodal LLMs",
    year=2025,
    arxiv="2510.16598",
    authors=(
        "Jiaying Zhu", "Yurui Zhu", "Xin Lu", "Wenrui Yan", "Dong Li", "Kunlin Liu", "Xueyang Fu", "Zheng-Jun Zha",
    ),
)  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class ImportanceMethod(Relative):
    """A rule over an importance and the cosines of the features that enter layer K.

    Parameters
    ----------
    by : str, ExternalScore or callable
        Where the importance comes from:

        - "attention": of the query rows at layer K - 1, averaged over heads, as FastV.
        - "relative": the same over a positional profile, as :class:`Relative`, whose options it reads.
        - "lookahead": what a conditional profile foresees (:class:`Lookahead`); before the decoder.
        - "text": the cosine of a token's features with those of the tokens behind the image, averaged over these.
        - "last_text": the cosine with the last token behind the image.
        - "norm": the Euclidean norm of the features.
        - "vision": the saliency of the vision tower: attention of its CLS token, averaged over heads, or, of a tower
          without one, the attention that a token receives (:class:`~biaslab.attention.vision_record.VisionRecord`).
        - "external:PATH": the weights of a trained scorer in a file; in Python also an
          :class:`~biaslab.pruning.external.ExternalScore`, or a function of features (N, D) and layout that gives
          (N,) scores.

        "text", "last_text", "norm", "vision" and external ones read no attention of the decoder: they work at K = 0.
        "vision" is there by default, or at the first layer that the model allows, as the methods that are made for it.
        What stands behind the image is the question and what the template puts there.
    profile : Profile, optional
        For "relative" a positional one, for "lookahead" a conditional one. Required there.
    padding : {"keep", "drop"}
        "drop": tokens whose cell lies outside the image come last, whatever their importance.
    vision_layer : int
        For "vision", block of the tower, negative ones from the end: the last but one, whose output LLaVA projects.
    **options
        For "relative" those of :class:`Relative`, for "attention" ``queries``, ``score``, ``reads_layer``,
        ``heads`` and ``sink_dims``; refused elsewhere.

    Examples
    --------
    >>> from biaslab.core.layout import TokenLayout
    >>> class Best(ImportanceMethod):
    ...     name = "best"
    >>> features = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 3.0], [-1.0, 0.0]])
    >>> layout = TokenLayout.raster(2, 2, size=(200, 200), family="toy")
    >>> ctx = TokenContext(layout, budget=2, features=features, text=torch.tensor([[1.0, 0.0]]))
    >>> Best(by="text").select(ctx).indices, Best(by="norm").select(ctx).indices
    (tensor([0, 1]), tensor([1, 2]))
    >>> Best(by=lambda features, layout: features[:, 1]).select(ctx).indices
    tensor([1, 2])
    """

    by: Any = "attention"
    vision_layer: int = added_option(-2)

    nested: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"attention", "features"})
    source: ClassVar[Citation | None] = None

    def __post_init__(self) -> None:
        external = self.by
        if isinstance(external, str) and external.startswith(_EXTERNAL) and external != _EXTERNAL:
            external = ExternalScore(Path(external.removeprefix(_EXTERNAL)))
        elif callable(external) and not isinstance(external, ExternalScore):
            external = ExternalScore(external)
        given = isinstance(external, ExternalScore)
        if not given and (not isinstance(external, str) or external not in IMPORTANCES or external == "external"):
            known = ", ".join(kind for kind in IMPORTANCES if kind != "external")
            raise InputError(f"by must be one of {known}, or external:PATH; got {self.by!r}")
        object.__setattr__(self, "_external", external if given else None)
        super().__post_init__()
        kind = self.kind
        for option in _OPTIONS["relative"]:
            if option not in _OPTIONS.get(kind, ()) and getattr(self, option) != getattr(type(self), option):
                kinds = " or ".join(f"by={k}" for k in ("attention", "relative") if option in _OPTIONS[k])
                raise InputError(f"{option} does nothing without {kinds}: add it, or leave {option} out")
        if isinstance(self.vision_layer, bool) or not isinstance(self.vision_layer, int):
            raise InputError(f"vision_layer must be a block of the vision tower, got {self.vision_layer!r}")
        if kind != "vision" and self.vision_layer != type(self).vision_layer:
            raise InputError("vision_layer does nothing without by=vision: add it, or leave vision_layer out")
        if kind == "attention" and self.heads in ("all", "weighted"):
            raise InputError(f"heads={self.heads} does nothing without by=relative: add it, or choose other heads")
        reads = IMPORTANCES[kind] | {"features"}
        if kind == "relative" and self.debias == "none":
            reads -= {"profile"}
        if self.heads == "quality":
            reads |= {"profile"}
        if kind in ("attention", "relative"):
            reads |= self.row_needs
        object.__setattr__(self, "needs", reads)
        object.__setattr__(self, "conditional", kind == "lookahead")
        object.__setattr__(self, "profile_kind", "conditional" if kind == "lookahead" else "positional")
        object.__setattr__(self, "image_only", kind in ("norm", "external", "vision"))
        object.__setattr__(self, "before_decoder", kind == "vision")

    # -- what the importance decides -------------------------------------------------------------------------------
    @property
    def kind(self) -> str:
        """Where the importance comes from, a key of `IMPORTANCES`."""
        return self.by if self._scorer is None else "external"

    @property
    def nonnegative(self) -> bool:
        """Whether the importance is never below 0, so that it can be taken to a power as it is."""
        return self.kind in ("attention", "norm", "vision") or (
            self.kind == "relative" and self.debias in ("ratio", "none")
        )

    @property
    def needs_layout(self) -> bool:
        """As the importance does: a profile and a function of the user look at where tokens lie."""
        if self.kind == "relative":
            return super().needs_layout
        if self.kind == "attention":
            return self.padding == "drop"
        function = self._scorer is not None and self._scorer.function is not None
        return self.kind == "lookahead" or self.padding == "drop" or function

    @property
    def prune_layer(self) -> int | None:
        """The layer that a conditional profile was fitted for; None where any will do."""
        layers = getattr(self.profile, "layers_", None)
        return None if layers is None or self.kind != "lookahead" else layers[0]

    def reads(self, tower: TowerShape) -> VisionRequest:
        """Read of a vision tower the saliency in one block, or nothing."""
        return VisionMethod.salient(tower, self.vision_layer) if self.kind == "vision" else VisionRequest()

    def validate(self) -> None:
        """Refuse to run without the profile, or without the weights."""
        if self._scorer is not None and self._scorer.path is not None:
            _ = self._scorer.width  # reads the file
        if self.kind == "lookahead" and self.profile is None:
            raise InputError(
                f"method {self.name!r} needs a conditional profile with by=lookahead: pass "
                "profile=LookaheadProfile().fit(maps) (`biaslab fit-bias --estimator lookahead`)"
            )
        super().validate()

    def check_width(self, width: int) -> None:
        """Refuse a model whose features an external score cannot read."""
        super().check_width(width)
        if self._scorer is not None:
            self._scorer.check_width(width)

    def fits(self, layer: int, n_heads: int) -> dict[str, Any]:
        """List what the profile must have been fitted for, when tokens are dropped before ``layer``."""
        if self.kind == "lookahead":
            return {"layer": layer}
        return super().fits(layer, n_heads) | ({"layout": None} if self.kind == "attention" else {})

    def citations(self) -> tuple[Citation, ...]:
        """List the work of the rule, and those of the importance."""
        from_file = self._scorer is not None and self._scorer.path is not None
        debiased = (D2PRUNER,) if self.kind == "relative" and self.debias != "none" else ()
        return super().citations() + debiased + ((VISIONSELECTOR,) if from_file else ())

    def options(self) -> dict[str, Any]:
        """List the hyper-parameters; an external score by its path, or the name of its function."""
        named = {} if self._scorer is None else {"by": f"{_EXTERNAL}{self._scorer.word}"}
        return {**super().options(), **named}

    def _hashed_options(self) -> dict[str, Any]:
        # equal weights are the same score, wherever the file lies
        named = {} if self._scorer is None else {"by": f"{_EXTERNAL}{self._scorer.hash}"}
        return {**super()._hashed_options(), **named}

    def _check_profile(self) -> None:
        if self.profile is None or (self.kind == "attention" and self.heads == "quality"):
            return
        if self.kind not in ("relative", "lookahead"):
            raise InputError("profile does nothing without by=relative or by=lookahead: add it, or leave profile out")
        if self.kind == "lookahead" and not hasattr(self.profile, "relevance"):
            raise InputError(
                "by=lookahead needs a conditional profile: fit one with `biaslab fit-bias --estimator lookahead`"
            )
        if self.kind == "relative":
            super()._check_profile()

    @property
    def _scorer(self) -> ExternalScore | None:
        return self.__dict__["_external"]

    # -- the importance --------------------------------------------------------------------------------------------
    def importance(self, ctx: TokenContext) -> Tensor:
        """Score the tokens by the chosen kind of importance: (N,) float32."""
        scores = super().importance(ctx) if self.kind == "relative" else self._of_kind(ctx).float()
        return scores.masked_fill(~inside(ctx), -torch.inf) if self.padding == "drop" else scores

    def _of_kind(self, ctx: TokenContext) -> Tensor:
        if self.kind == "attention":
            return self.over_heads(ctx)
        if self.kind == "vision":
            return shown_of(ctx, self.name).saliency(self.vision_layer)
        features = required(ctx.features, "features")
        if self._scorer is not None:
            return self._scorer(features, ctx.layout)
        if self.kind == "norm":
            return torch.linalg.vector_norm(features, dim=1, dtype=torch.float32)
        text = required(ctx.text, "text")
        if self.kind == "lookahead":
            return self.profile.relevance(features, text, ctx.layout)  # type: ignore[union-attr]
        said = normalize(text.float(), dim=1)
        # the mean of cosines is the product with the mean direction
        return normalize(features.float(), dim=1) @ (said[-1] if self.kind == "last_text" else said.mean(0))

    # -- choosing --------------------------------------------------------------------------------------------------
    def orders(self, images: Sequence[Tensor], scores: Sequence[Tensor], most: Sequence[int]) -> list[Tensor]:
        """List the tokens of several images in the order of choice, up to so many of each.

        A greedy rule defines this alone: what a smaller budget keeps is a prefix. Default: the best scores.

        Parameters
        ----------
        images : sequence of (N, D) Tensor
            Features.
        scores : sequence of (N,) Tensor
            Importance, -inf for what comes last.
        most : sequence of int

        Returns
        -------
        list of (n,) int64 Tensor
        """
        return [order[:n] for order, n in zip(ranked(scores), most, strict=True)]

    def pick_batch(
        self, batch: TokenBatch, scores: Sequence[Tensor | None], budgets: Sequence[Sequence[int]]
    ) -> list[list[Picked]]:
        """List tokens in the order of the greedy choice, image after image up to the largest budget."""
        images = [required(ctx.features, "features") for ctx in batch]
        most = [max(wanted, default=0) for wanted in budgets]
        orders = self.orders(images, [required(own, "scores") for own in scores], most)
        return prefixes(orders, budgets)
