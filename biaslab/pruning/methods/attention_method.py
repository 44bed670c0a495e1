"""What the methods that rank tokens by attention share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from biaslab.attention.raters import raters
from biaslab.attention.scores import SCORES
from biaslab.attention.sink_tokens import sink_tokens
from biaslab.errors import InputError, ProfileMismatchError
from biaslab.pruning.algorithms.transfer import upload
from biaslab.pruning.base import Method, TokenContext, added_option, choice, required
from biaslab.pruning.citation import Citation
from biaslab.pruning.heads import as_heads, named_weights
from biaslab.pruning.works import FEATHER

__all__ = ["AttentionMethod"]


@dataclass(frozen=True, eq=False, kw_only=True)
class AttentionMethod(Method):
    """A method that reads the attention of query rows to the visual tokens, of the layer before K or of K itself.

    Parameters
    ----------
    queries : str or tuple of int
        "last" (the last prompt token, as FastV and D2Pruner), "text" (all text after the image), "null" (the first
        token behind the image, which has seen all of it and nothing of the question: a newline, an end-of-image token;
        one for each image of a prompt), "raters" (those of "text" that the image speaks to, by what the decoder is
        given, as SparseVLM chooses them: :func:`biaslab.attention.raters.raters`), or absolute positions in the prompt,
        negative ones counted from its end. Several rows are averaged.
    score : str
        The score that takes the place of attention, a key of :data:`biaslab.attention.scores.SCORES`: "attention"
        (default), "no_rope" (the rotary embedding taken out), "value_norm" (times the norm of the value; its mean
        over heads leans to heads with long values), "rope_corrected" (what the rotary embedding gives to all-ones
        vectors taken off the logits). A profile must be of the same score.
    reads_layer : {"previous", "own"}
        "previous" (default): the attention of layer K - 1, which has run. "own": that of layer K, as it would be were
        nothing dropped: what enters K goes through the layer's own norm, projections and rotary embedding, and the
        softmax of the wanted rows over all tokens is taken; PyramidDrop, SparseVLM and VScan read it. It is there at
        K = 0 as well, where it is the attention of the first layer. A profile must be of the layer that is read.
    heads : str, or sequence of int or of (int, float)
        "mean" (default): of all heads of the layer. "quality": of those that look at something, weighted by their
        quality (:func:`biaslab.profiles.head_quality`), which ``profile`` tells
        (:meth:`biaslab.profiles.Profile.head_weights`). Or named ones: ``[2, 3]`` alike, ``[[2, 0.7], [3, 0.3]]`` with
        weights. On a command line ``fastv:heads=quality``, ``fastv:heads=[2,3]``.
    profile : Profile, optional
        Fitted per head, for ``heads="quality"``; some methods read more of it.
    sink_dims : sequence of int
        Massive dimensions of the model (:func:`biaslab.diagnostics.sinks.find_sinks`): attention to visual tokens that
        are sinks before layer K (:func:`biaslab.attention.sink_tokens.sink_tokens`, at its published level) counts as
        0. Default none.

    References
    ----------
    "no_rope": FEATHER, arXiv 2412.13180. "own": PyramidDrop, arXiv 2410.17247.

    Examples
    --------
    >>> import torch
    >>> from biaslab.core.layout import TokenLayout
    >>> class Strongest(AttentionMethod):
    ...     name = "strongest"
    ...
    ...     def importance(self, ctx):
    ...         return self.per_head(ctx).amax(0)
    >>> attention = torch.tensor([[[0.1, 0.2, 0.3, 0.4]], [[0.7, 0.1, 0.1, 0.1]]])  # (2 heads, 1 query row, 4 tokens)
    >>> ctx = TokenContext(TokenLayout.raster(2, 2, size=(200, 200), family="toy"), budget=2, attention=attention)
    >>> Strongest().select(ctx).indices
    tensor([0, 3])
    """

    queries: str | tuple[int, ...] = "last"
    score: str = added_option("attention")
    reads_layer: str = added_option("previous")
    heads: Any = added_option("mean")
    profile: Any = None
    sink_dims: tuple[int, ...] = added_option(())

    #: what the option ``heads`` may say beside heads by number
    head_words: ClassVar[tuple[str, ...]] = ("mean", "quality")
    #: whether it reads more of a profile than the quality of heads
    takes_profile: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset({"attention"})

    def __post_init__(self) -> None:
        super().__post_init__()
        queries: Any = self.queries
        if not isinstance(queries, str):
            try:
                queries = tuple(int(q) for q in queries)
            except (TypeError, ValueError):
                queries = ()
        if queries not in ("last", "text", "null", "raters") and (isinstance(queries, str) or not queries):
            raise InputError(
                f"queries must be 'last', 'text', 'null', 'raters' or prompt positions; got {self.queries!r}"
            )
        object.__setattr__(self, "queries", queries)
        choice("score", self.score, tuple(SCORES))
        choice("reads_layer", self.reads_layer, ("previous", "own"))
        object.__setattr__(self, "heads", as_heads(self.heads, self.head_words))
        dims: Any = [self.sink_dims] if isinstance(self.sink_dims, int) else self.sink_dims
        whole = isinstance(dims, (list, tuple)) and all(type(d) is int and d >= 0 for d in dims)
        if not whole or len(set(dims)) < len(dims):
            raise InputError(f"sink_dims must be dimensions of the hidden states, each once; got {self.sink_dims!r}")
        object.__setattr__(self, "sink_dims", tuple(dims))
        object.__setattr__(self, "needs", self.needs | self.row_needs | ({"features"} if dims else set()))
        if self.heads == "quality":
            object.__setattr__(self, "needs", self.needs | {"profile"})
            if self.profile is not None and not hasattr(self.profile, "head_weights"):
                raise InputError("profile must be a fitted profile: load one with biaslab.load_profile(path)")
        elif self.profile is not None and not self.takes_profile:
            raise InputError(f"method {self.name!r} reads a profile for heads='quality' alone: leave profile out")

    @property
    def query_kinds(self) -> tuple[str | tuple[int, ...], ...]:
        """Kinds of query rows that are read in the one forward; that of `TokenContext.attention` first."""
        return (self.queries,)

    @property
    def row_needs(self) -> frozenset[str]:
        """What its query rows are chosen by, beside the attention that is read of them."""
        return frozenset({"text", "embeddings"} if "raters" in self.query_kinds else ())

    def layer_read(self, layer: int) -> int:
        """Name the decoder layer whose attention is read when tokens are dropped before ``layer`` (K): K - 1 or K."""
        return layer if self.reads_layer == "own" else layer - 1

    def attention_layers(self, layer: int) -> tuple[int, ...]:
        """List the decoder layers that are read when tokens are dropped before ``layer``: `layer_read`, others below.

        Raises
        ------
        InputError
            The method cannot be run at this K.
        """
        return (self.layer_read(layer),)

    def citations(self) -> tuple[Citation, ...]:
        """List the works of the rule, and FEATHER where attention without rotary positions is read."""
        return super().citations() + ((FEATHER,) if self.score == "no_rope" else ())

    @property
    def reads_heads(self) -> bool:
        """Whether a profile that it needs must be one of single heads."""
        return bool(self.heads != "mean")

    def validate(self) -> None:
        """Refuse to run without the profile that it needs."""
        if "profile" in self.needs and self.profile is None:
            raise InputError(
                f"method {self.name!r} with heads='quality' needs a profile that tells the quality of heads: "
                "`biaslab fit-bias --heads all --maps FOLDER` makes one"
            )

    def fits(self, layer: int, n_heads: int) -> dict[str, Any]:
        """List what the profile must have been fitted for; heads look at things in any layout."""
        read = self.layer_read(layer)
        return {"layer": read, "queries": self.queries, "score": self.score, "heads": n_heads, "layout": None}

    def check_width(self, width: int) -> None:
        """Refuse a model that does not have the dimensions of ``sink_dims``."""
        if self.sink_dims and max(self.sink_dims) >= width:
            raise InputError(f"no dimension {max(self.sink_dims)}: this model's hidden states have 0 .. {width - 1}")

    def check_heads(self, layer: int, n_heads: int) -> None:
        """Refuse heads that a layer of ``n_heads`` does not have, or of which the profile knows none.

        Raises
        ------
        InputError
        """
        named_weights(self.heads, n_heads)
        if self.heads == "quality" and self.profile is not None:
            self.profile.head_weights(self.layer_read(layer))

    def head_weights_of(self, ctx: TokenContext, n_heads: int) -> Tensor | None:
        """Weigh the heads of the layer read as ``heads`` says: (H,) float32 of sum 1; None where all are alike."""
        if self.heads == "quality":
            self.validate()
            weights: Tensor = self.profile.head_weights(self.layer_read(ctx.layer), device=ctx.device)
            if len(weights) != n_heads:
                raise ProfileMismatchError(
                    f"the profile tells the quality of {len(weights)} heads, the layer has {n_heads}: fit one for this "
                    "model with `biaslab fit-bias --heads all --maps FOLDER`"
                )
            return weights
        named = named_weights(self.heads, n_heads)
        return None if named is None else upload(named, ctx.device)

    def over_heads(self, ctx: TokenContext, each: Tensor | None = None) -> Tensor:
        """Average over the heads that are read: (N,) float32.

        Parameters
        ----------
        ctx : TokenContext
        each : (H, N) Tensor, optional
            What is averaged, of the heads of the layer that is read; default `per_head`.
        """
        each = self.per_head(ctx) if each is None else each
        weights = self.head_weights_of(ctx, len(each))
        return each.mean(0) if weights is None else weights @ each

    def per_head(self, ctx: TokenContext, layer: int | None = None, queries: Any = None) -> Tensor:
        """Average the attention of each head over query rows: (H, N) float32.

        Parameters
        ----------
        ctx : TokenContext
        layer : int, optional
            A further one of the ``attention_layers``; by default the first.
        queries : str or tuple of int, optional
            A further one of the ``query_kinds``; by default the first.

        Returns
        -------
        Tensor
        """
        attention = ctx.attention if layer is None else ctx.earlier.get(layer)
        attention = attention if queries is None else ctx.other_rows.get(queries)
        rows = required(attention, "attention").float()
        if (self.queries if queries is None else queries) == "raters":
            each = self._of_raters(ctx, rows)
        else:
            each = rows[:, 0] if rows.shape[1] == 1 else rows.mean(1)
        return each if queries is not None else self.without_sinks(ctx, each)

    def _of_raters(self, ctx: TokenContext, rows: Tensor) -> Tensor:
        """Average rows of all words (H, T, N) over those that rate: (H, N)."""
        embeddings, said = required(ctx.embeddings, "embeddings"), required(ctx.text_embeddings, "text_embeddings")
        rate = raters(embeddings, said).to(rows.dtype)
        return (rows * rate[:, None]).sum(1) / rate.sum()

    def without_sinks(self, ctx: TokenContext, each: Tensor) -> Tensor:
        """Set the attention (H, N) to sinks to 0, where ``sink_dims`` says what they are."""
        if not self.sink_dims:
            return each
        return each.masked_fill(sink_tokens(required(ctx.features, "features"), self.sink_dims), 0)

    def _check(self, ctx: TokenContext) -> None:
        super()._check(ctx)
        if "raters" in self.query_kinds:
            read = ctx.attention if self.queries == "raters" else ctx.other_rows.get("raters")
            said = 0 if ctx.text_embeddings is None else len(ctx.text_embeddings)
            if read is not None and read.shape[1] != said:
                raise InputError(
                    f"queries='raters' of {self.name!r} need one row of attention per token of text, got "
                    f"{read.shape[1]} rows and embeddings of {said} tokens"
                )
        for kind in self.query_kinds[1:]:
            rows = ctx.other_rows.get(kind)
            if rows is None:
                raise InputError(f"method {self.name!r} needs the rows {kind!r}: pass them as other_rows={{...}}")
            if rows.ndim != 3 or rows.shape[-1] != ctx.n:
                raise InputError(f"rows {kind!r} of shape {tuple(rows.shape)} do not fit {ctx.n} visual tokens")
        for layer in self.attention_layers(ctx.layer)[1:]:
            attention = ctx.earlier.get(layer)
            if attention is None:
                raise InputError(f"method {self.name!r} needs attention of layer {layer}: pass it as earlier={{...}}")
            if attention.ndim != 3 or attention.shape[-1] != ctx.n:
                shape = tuple(attention.shape)
                raise InputError(f"attention {shape} of layer {layer} does not fit {ctx.n} visual tokens")
