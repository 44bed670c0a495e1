"""AdaTP: quotas for segments of a video by what is asked, one token for each place of a segment (arXiv 2505.20100)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from biaslab.core.frames import FramesLayout
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.pruning.algorithms.quotas import quotas
from biaslab.pruning.algorithms.segments import groups_of, joined, one_per_place
from biaslab.pruning.algorithms.transfer import upload, wide
from biaslab.pruning.base import ExpectedAttention, Picked, TokenContext, choice, number, required
from biaslab.pruning.batch import TokenBatch
from biaslab.pruning.citation import Citation
from biaslab.pruning.methods.attention_method import AttentionMethod
from biaslab.pruning.registry import register

__all__ = ["AdaTP"]

_NO_PROFILE = "adatp with relevance=profile needs a profile: fit 'factorised' on maps of frames"


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class AdaTP(AttentionMethod):
    """Give segments of a video quotas by what is asked, and keep of each the most attended token of a place.

    Attention over the frames of a prompt is biased in two ways (arXiv 2505.20100): frames at the ends draw more
    whatever
    they show (*global*), and so do some cells of the grid in every frame (*local*). All images of a prompt are chosen
    from at once; they are the frames. With A the attention, x the features of the visual tokens, t those of the words
    behind the last image, s a segment of n_s tokens:

    1. *Segments*: neighbouring frames join while the cosine of their mean features is at least ``join``.
    2. *Local*: of the tokens of a segment that lie in one cell (of their frames) the one with the largest A is its
       candidate; c_s candidates.
    3. *Global*: of the budget n, segment s gets a quota in proportion to ``c_s v_s``, at most c_s;
       ``v_s = exp(cos(mean t, mean x of s) / temperature)``, or as ``relevance`` says.
    4. Of each segment the candidates with the largest A, as many as its quota. Where n exceeds all candidates, the best
       of the other tokens follow.

    *Images* (ours): an image of several tiles is treated alike, a tile (or the thumbnail) being a segment. The
    thumbnail shows every place once more: of each of its cells either its token or those of the tiles are candidates,
    whichever hold the larger A (the tiles, where equal). With one frame of one tile nothing is left of it but `FastV`.

    Parameters
    ----------
    join : float
        Cosine in [-1, 1] from which neighbouring frames are one segment; 0.95 from a note on the paper.
    relevance : {"similarity", "profile", "attention", "even"}
        What v_s is. "similarity" (the paper): above. "profile" (ours): the segment's attention over what a fitted
        profile expects of its frames, ``sum A / sum E``. "attention": its mean attention, the biased
        control. "even": 1.
    temperature : float
        Of the similarity, above 0.
    similar_by : {"embeddings", "states"}
        Features x and t: what the decoder is given, or the states that enter layer K.
    local : {"cell", "none"}
        "none" leaves out step 2: every token is a candidate.
    profile : Profile, optional
        Expected attention, for ``relevance="profile"``: of several frames one that was fitted on frames, such as
        `biaslab.profiles.FactorisedProfile` of ``collect(..., frames=True)``. Or as `AttentionMethod` says, for
        ``heads``.
    **options
        Those of `AttentionMethod`.

    Notes
    -----
    The paper's method section and code could not be read. From its abstract: two debiasing modules, global and local.
    From a review and two notes: segments by cosine, 0.95, relevance of a segment by similarity of text and image in
    the place of attention, one representative for each place, attention of layers 2 to L - 12 of L, in stages.
    Unverified: which encoder gives the similarity (here the model's own embeddings, or states), how it becomes a
    share (here ``exp(. / temperature)``, and 0.1), what a representative is chosen by, the published keeps of the
    stages.

    ``Selection.info``: "segments" (first and last group, in order of the sequence), "relevance" (v_s), "candidates"
    (c_s) and "quota" of each.

    References
    ----------
    arXiv 2505.20100 (Findings of EMNLP 2025).

    Examples
    --------
    Two frames; the last draws all attention, the first is what the words are about:

    >>> import torch
    >>> from biaslab.core.frames import frames_layout
    >>> frame = TokenLayout.raster(2, 2, size=(200, 200), family="toy")
    >>> features = torch.tensor([[1.0, 0.0]] * 4 + [[0.0, 1.0]] * 4)
    >>> ctx = TokenContext(
    ...     frames_layout([frame, frame]), budget=3, attention=torch.arange(8.0)[None, None], text=torch.ones(1, 2),
    ...     embeddings=features, text_embeddings=torch.tensor([[1.0, 0.1]]),
    ... )  # fmt: skip
    >>> AdaTP().select(ctx).indices, AdaTP(relevance="attention", local="none").select(ctx).indices
    (tensor([1, 2, 3]), tensor([3, 6, 7]))
    """

    join: float = 0.95
    relevance: str = "similarity"
    temperature: float = 0.1
    similar_by: str = "embeddings"
    local: str = "cell"

    name: ClassVar[str] = "adatp"
    source: ClassVar[Citation | None] = Citation(
        key="adatp2025",
        title="AdaTP: Attention-Debiased Token Pruning for Video Large Language Models",
        year=2025,
        arxiv="2505.20100",
        authors=("Fengyuan Sun", "Leqi Shen", "Hui Chen", "Sicheng Zhao", "Jungong Han", "Guiguang Ding"),
        venue="Findings of EMNLP 2025",
    )
    cost: ClassVar[str] = "mean features of frames, one transfer, one sort"
    verified: ClassVar[str] = "partly: from abstract, review and notes; similarity, shares and stages are open"
    needs: ClassVar[frozenset[str]] = frozenset({"attention", "text", "embeddings"})
    joint: ClassVar[bool] = True
    takes_profile: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        number("join", self.join, -1, 1)
        number("temperature", self.temperature, 0, open_low=True)
        choice("relevance", self.relevance, ("similarity", "profile", "attention", "even"))
        choice("similar_by", self.similar_by, ("embeddings", "states"))
        choice("local", self.local, ("cell", "none"))
        if self.relevance != "similarity" and self.temperature != type(self).temperature:
            raise InputError("temperature does nothing without relevance=similarity: add it, or leave temperature out")
        reads = {"quality": "head_weights"}.get(str(self.heads))
        if self.relevance == "profile":
            if self.heads != "mean":
                raise InputError("relevance=profile is of the mean over heads: leave heads out")
            reads = "expected"
        if self.profile is not None and reads is None:
            raise InputError("profile does nothing without relevance=profile or heads=quality: leave it out")
        if self.profile is not None and reads is not None and not hasattr(self.profile, reads):
            raise InputError("profile must be a fitted profile: load one with biaslab.load_profile(path)")
        needs = {"attention", "embeddings" if self.similar_by == "embeddings" else "features", *self.row_needs}
        needs |= {"text"} if self.relevance == "similarity" else set()
        needs |= set() if reads is None else {"profile"}
        needs |= {"features"} if self.sink_dims else set()
        object.__setattr__(self, "needs", frozenset(needs))

    @property
    def needs_layout(self) -> bool:
        """Always: frames, tiles and cells are read off it."""
        return True

    def validate(self) -> None:
        """Refuse to run without the profile that is asked for."""
        if self.relevance == "profile" and self.profile is None:
            raise InputError(_NO_PROFILE)
        super().validate()

    def fits(self, layer: int, n_heads: int) -> dict[str, Any]:
        """List what the profile must have been fitted for, when tokens are dropped before ``layer``."""
        if self.relevance != "profile":
            return super().fits(layer, n_heads)
        return {"layer": self.layer_read(layer), "queries": self.queries, "score": self.score, "heads": "mean"}

    def importance(self, ctx: TokenContext) -> Tensor:
        """Average the attention over query rows and the heads that are read: (N,)."""
        return self.over_heads(ctx)

    def pick_batch(
        self, batch: TokenBatch, scores: Sequence[Tensor | None], budgets: Sequence[Sequence[int]]
    ) -> list[list[Picked]]:
        """Choose by quotas of segments, with one transfer to the host and one back for all prompts."""
        groups = [groups_of(ctx.layout) for ctx in batch]
        sent = [
            self._numbers(ctx, required(own, "scores"), g) for ctx, own, g in zip(batch, scores, groups, strict=True)
        ]
        arrived = np.split(torch.cat(sent).cpu().numpy(), np.cumsum([len(x) for x in sent])[:-1])
        made = [
            self._of_prompt(ctx, numbers, g, wanted)
            for ctx, numbers, g, wanted in zip(batch, arrived, groups, budgets, strict=True)
        ]
        flat = [positions for one in made for positions, _ in one]
        if not flat:
            return [[] for _ in budgets]
        kept = iter(upload(np.concatenate(flat), batch.device).split([len(positions) for positions in flat]))
        return [[(next(kept), info) for _, info in one] for one in made]

    def _numbers(self, ctx: TokenContext, scores: Tensor, group: np.ndarray) -> Tensor:
        """Put all that the host needs of a prompt of G frames in one: scores, expectation, products of means."""
        doored = self.similar_by == "embeddings"
        features = required(ctx.embeddings if doored else ctx.features, "features").float()
        count = int(group.max()) + 1
        members = upload((group == np.arange(count)[:, None]).astype(np.float32), features.device)
        sums = members @ features  # (G, D); a product, because sums by index differ from run to run on a GPU
        parts = [wide(scores), wide(sums @ sums.T).flatten()]
        if self.relevance == "similarity":
            text = required(ctx.text_embeddings if doored else ctx.text, "text").float().mean(0)
            parts += [wide(sums @ text), wide(text).norm()[None]]
        if self.relevance == "profile":
            if isinstance(ctx.whole_layout, FramesLayout) and not _saw_frames(self.profile):
                raise InputError(
                    "this profile was fitted on single images and knows no trend over frames: fit one on maps of "
                    "collect(..., frames=True)"
                )
            expected = _required_profile(self.profile).expected(
                ctx.whole_layout, self.layer_read(ctx.layer), device=features.device
            )
            parts.append(wide(ctx.left(expected).mean(0)))
        return torch.cat([part.to(features.device) for part in parts])

    def _of_prompt(
        self, ctx: TokenContext, numbers: np.ndarray, group: np.ndarray, budgets: Sequence[int]
    ) -> list[tuple[np.ndarray, dict[str, Any]]]:
        """Choose among the tokens of one prompt, on the host."""
        size = np.bincount(group)
        count, n = len(size), ctx.n
        scores, gram, rest = np.split(numbers, [n, n + count * count])
        gram = gram.reshape(count, count)
        frames = isinstance(ctx.layout, FramesLayout)
        segment = joined(gram, self.join) if frames else np.arange(count)
        own = segment[group]
        candidate = np.ones(n, dtype=bool) if self.local == "none" else one_per_place(ctx.layout, own, scores)
        room = np.bincount(own[candidate], minlength=segment[-1] + 1)
        relevance = self._relevance(scores, gram, rest, segment, own)
        order = np.argsort(-scores, kind="stable")
        ranked = [order[candidate[order] & (own[order] == s)] for s in range(len(room))]
        others = order[~candidate[order]]
        ends = [[int(x) for x in np.flatnonzero(segment == s)[[0, -1]]] for s in range(len(room))]
        told = {"segments": ends, "relevance": relevance.tolist(), "candidates": room.tolist()}
        out = []
        for budget in budgets:
            quota = quotas((room * relevance).tolist(), room.tolist(), min(budget, int(room.sum())))
            kept = np.concatenate([tokens[:k] for tokens, k in zip(ranked, quota, strict=True)])
            out.append((np.concatenate([kept, others[: budget - len(kept)]]), {**told, "quota": quota}))
        return out

    def _relevance(
        self, scores: np.ndarray, gram: np.ndarray, rest: np.ndarray, segment: np.ndarray, own: np.ndarray
    ) -> np.ndarray:
        """Compute v_s of every segment, up to a factor."""
        tokens = np.bincount(own)
        if self.relevance == "even":
            return np.ones(len(tokens))
        if self.relevance == "similarity":
            members = (segment == np.arange(len(tokens))[:, None]).astype(np.float64)
            lengths = np.sqrt(np.einsum("sg,gh,sh->s", members, gram, members))
            cosine = members @ rest[:-1] / np.maximum(lengths * rest[-1], 1e-12)
            return np.exp((cosine - cosine.max()) / self.temperature)
        drawn = np.bincount(own, weights=scores)
        return drawn / (tokens if self.relevance == "attention" else np.maximum(np.bincount(own, weights=rest), 1e-12))


def _required_profile(profile: ExpectedAttention | None) -> ExpectedAttention:
    """Return the profile, for callers that `AdaTP.validate` has not seen."""
    if profile is None:
        raise InputError(_NO_PROFILE)
    return profile


def _saw_frames(profile: Any) -> bool:
    """Whether a profile was fitted on prompts of several frames; one that does not say is believed."""
    layouts: dict[str, TokenLayout] | None = getattr(profile, "layouts_", None)
    return layouts is None or any(isinstance(layout, FramesLayout) for layout in layouts.values())
