"""The scorer of the conditional profile: how much of a later layer's attention a visual token will draw."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, scaled_dot_product_attention
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from biaslab.core.layout import TokenLayout

__all__ = ["PLACES", "Student", "places"]

#: columns of `places`
PLACES = 8
_WHOLE = 1e-6  # of a cell that is smaller than any
_HEADS = 4
_SCALE = 0.577  # root mean square of the features that the first layers see
_EPSILON = 1e-12  # of norms that are divided by
# features that are scored at once, for they are centred in float32; a CPU, where nothing is launched, takes images one
# by one
_CELLS, _CELLS_ON_CPU = 2**27, 1


def places(layout: TokenLayout) -> np.ndarray:
    """Describe where the tokens of an image lie, the same way in every tiling.

    Parameters
    ----------
    layout : TokenLayout

    Returns
    -------
    (N, 8) float32 array
        Centre of the cell (x, y) from the middle of the image, in its widths and heights; their squares and product;
        logarithm (to base 2) of the cell's width and height; whether it is a thumbnail's.
    """
    x, y = (layout.centers - 0.5).T
    extent = np.log2(np.maximum(layout.boxes[:, 2:] - layout.boxes[:, :2], _WHOLE)).T
    return np.stack([x, y, x * x, y * y, x * y, *extent, layout.thumbnail], axis=1).astype(np.float32)


class Student(nn.Module):
    """Relevance of visual tokens to a question, from what enters the decoder.

    Each visual token i has a key ``k_i = A [x_i; p_i]`` of its feature and its place; the question has one query ``q =
    sum_t w_t (B e_t + C g_t)``, where ``g`` is a bidirectional GRU over its embeddings e and w, a softmax over its
    tokens, weighs them. What a token itself says is ``b_i = k_i . q / sqrt(r)``. An object is more than its tokens,
    so they look at each other once: ``m_i = k_i * q`` (elementwise), ``o_i`` the attention of token i to the V m of all
    (four heads, queries and keys projected from k), and ``s_i = b_i + u . GELU(U (m_i + o_i))``. Features are centred
    over the image and scaled to unit root mean square, embeddings scaled alike: what a model's widths and scales are
    does not matter.

    Parameters
    ----------
    width : int
        D, of the decoder's hidden states.
    rank : int
        r, of keys and queries; a multiple of 4.
    reads : bool
        False: one learned query, whatever is asked; the question is not looked at.
    """

    def __init__(self, width: int, rank: int = 96, *, reads: bool = True) -> None:
        super().__init__()
        self.reads = reads
        self.key = nn.Linear(width + PLACES, rank)
        if reads:
            half = max(1, rank // 2)
            self.word = nn.Linear(width, rank, bias=False)
            self.reader = nn.GRU(width, half, batch_first=True, bidirectional=True)
            self.context = nn.Linear(2 * half, rank)
            self.weight = nn.Linear(2 * half, 1)
        else:
            self.query = nn.Parameter(torch.randn(rank) / rank**0.5)
        self.asks, self.offers, self.carried = (nn.Linear(rank, rank) for _ in range(3))
        self.wide, self.out = nn.Linear(rank, 2 * rank), nn.Linear(2 * rank, 1)
        nn.init.zeros_(self.out.weight)  # it starts as what each token says by itself

    def forward(
        self, visual: Tensor, place: Tensor, text: Tensor, shown: Tensor | None = None, said: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Score the visual tokens of B images.

        Parameters
        ----------
        visual : (B, N, D) Tensor
            Hidden states of the visual tokens that enter the decoder.
        place : (B or 1, N, 8) Tensor
            Of `places`.
        text : (B, T, D) Tensor
            Hidden states of the tokens behind the image.
        shown : (B, N) bool Tensor, optional
            False for fillers of images with fewer tokens.
        said : (B,) int64 Tensor on the CPU, optional
            Tokens of each question; fillers of shorter ones stand behind them.

        Returns
        -------
        (B, N) float32 Tensor
            0 for fillers.
        """
        return self.match(self.keys(visual, place, shown), self.queries(text, said), shown)

    def match(self, keys: Tensor, query: Tensor, shown: Tensor | None = None) -> Tensor:
        """Score the (B, N, r) `keys` of visual tokens for the (B, r) `queries`: (B, N), 0 where not ``shown``."""
        matched = keys * query[:, None]
        mask = None if shown is None else shown[:, None, None]
        others = scaled_dot_product_attention(
            _heads(self.asks(keys)), _heads(self.offers(keys)), _heads(self.carried(matched)), attn_mask=mask
        )
        together = matched + others.transpose(1, 2).flatten(2)
        told = self.out(gelu(self.wide(together)))[..., 0]
        scores = torch.add(told, matched.mean(-1), alpha=keys.shape[-1] ** 0.5)  # the mean: what each says by itself
        return scores if shown is None else scores.masked_fill(~shown, 0)

    def relevance(self, visual: Tensor, place: Tensor, texts: Sequence[Tensor]) -> Tensor:
        """Score images of one size, each for its question, in few steps and bounded memory.

        Parameters
        ----------
        visual : (B, N, D) Tensor
        place : (B or 1, N, 8) Tensor
        texts : sequence of (T, D) Tensor
            Their lengths may differ.

        Returns
        -------
        (B, N) float32 Tensor
            Each image's as alone, up to rounding; on a CPU to the last bit.
        """
        cells = _CELLS_ON_CPU if visual.device.type == "cpu" else _CELLS
        step = max(1, cells // visual[0].numel())
        parts = []
        for first in range(0, len(visual), step):
            own = slice(first, first + step)
            keys = self.keys(visual[own], place if len(place) == 1 else place[own])
            parts.append(self.match(keys, self._asked(texts[own])))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _asked(self, texts: Sequence[Tensor]) -> Tensor:
        """Make the queries (B, r) of questions of any lengths; equally long ones are read together.

        Packed, questions of all lengths could be; but cuDNN then takes dozens of kernels for every token in the place
        of one for all, and rounds otherwise than for a question alone.
        """
        alike: defaultdict[int, list[int]] = defaultdict(list)
        for i, text in enumerate(texts):
            alike[len(text)].append(i)
        made: dict[int, Tensor] = {}
        for which in alike.values():
            read = self.queries(torch.stack([texts[i] for i in which]) if len(which) > 1 else texts[which[0]][None])
            if len(alike) == 1:
                return read
            made.update(zip(which, read, strict=True))
        return torch.stack([made[i] for i in range(len(texts))])

    def keys(self, visual: Tensor, place: Tensor, shown: Tensor | None = None) -> Tensor:
        """Make a key of each visual token, whatever is asked: (B, N, r).

        Features are read as they are and centred in float32; what they are divided by is left to their products with A,
        which are a fortieth of their size.
        """
        width = visual.shape[-1]
        if visual.dtype == torch.float64:
            visual = visual.float()
        if shown is None:
            centred = visual - visual.mean(1, keepdim=True, dtype=torch.float32)
        else:
            visual, here = visual.float(), shown[..., None].float()
            centred = (visual - (visual * here).sum(1, keepdim=True) / here.sum(1, keepdim=True)) * here
        norm = torch.linalg.vector_norm(centred, dim=-1, keepdim=True).clamp_min(_EPSILON)
        where = linear(place.to(centred), self.key.weight[:, width:], self.key.bias)
        what = linear(centred, self.key.weight[:, :width])
        return torch.addcdiv(where, what, norm, value=_SCALE * width**0.5)

    def queries(self, text: Tensor, said: Tensor | None = None) -> Tensor:
        """Make one query of each question: (B, r)."""
        if not self.reads:
            return self.query.expand(len(text), -1)
        words, read, weight = self._read(text, said)
        return torch.einsum("btr,bt->br", self.word(words) + self.context(read), weight)

    def weights(self, text: Tensor, said: Tensor | None = None) -> Tensor:
        """Weigh the tokens of each question against each other: (B, T), sums of 1, 0 for fillers."""
        return self._read(text, said)[2]

    def _read(self, text: Tensor, said: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        norm = torch.linalg.vector_norm(text, dim=-1, keepdim=True, dtype=torch.float32).clamp_min(_EPSILON)
        words = text / norm * (_SCALE * text.shape[-1] ** 0.5)
        if said is None:
            read, _ = self.reader(words)
        else:
            packed = pack_padded_sequence(words, said, batch_first=True, enforce_sorted=False)
            read, _ = pad_packed_sequence(self.reader(packed)[0], batch_first=True, total_length=text.shape[1])
        weight = self.weight(read)[..., 0]
        if said is not None:
            fillers = torch.arange(text.shape[1])[None] >= said[:, None]
            weight = weight.masked_fill(fillers.to(weight.device), -torch.inf)
        return words, read, weight.softmax(1)


def _heads(x: Tensor) -> Tensor:
    """(B, heads, N, r / heads) of (B, N, r)."""
    return x.unflatten(-1, (_HEADS, -1)).transpose(1, 2)
