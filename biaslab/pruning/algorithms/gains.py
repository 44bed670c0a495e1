"""Gains of greedy rules: what a token adds to those that are chosen. Each is a start and an update."""

from __future__ import annotations

import torch
from torch import Tensor

from biaslab.pruning.algorithms.greedy import Cosines
from biaslab.pruning.context import descending

__all__ = ["Coverage", "Excluded", "Suppressed", "Volume", "ranks"]

_TINY = 1e-30
_NOTHING = 1e-6  # share of a token that lies outside what is chosen, below which rounding decides


class Suppressed:
    r"""ID-Selection: a chosen token takes from each other one in proportion to its own score and their likeness.

    ``s_j <- max(0, s_j - exp(-gamma (1 - cos_ij)^2) s_i)`` for the chosen i. Element by element.

    Parameters
    ----------
    weight : (B, N) Tensor
        Scores of at least 0.
    pairs : Cosines
    gamma : float
        How fast likeness falls; a large one leaves all but copies alone.
    """

    def __init__(self, weight: Tensor, pairs: Cosines, *, gamma: float) -> None:
        self.gain, self.gamma = weight, gamma

    def take(self, latest: Tensor, row: Tensor) -> None:
        """Take from the scores what the chosen tokens say already."""
        share = (1 - row).square_().mul_(-self.gamma).exp_()
        self.gain = (self.gain - share * self.gain.gather(1, latest)).clamp_(min=0)


class Excluded:
    """GreedyPrune: a chosen token sends all that are too like it behind the rest. Element by element.

    Parameters
    ----------
    weight : (B, N) Tensor
        `ranks` of the scores: whole numbers below N, so that being sent back loses no digit.
    pairs : Cosines
    tau : float
        Cosine above which a token is sent back.
    """

    def __init__(self, weight: Tensor, pairs: Cosines, *, tau: float) -> None:
        self.gain, self.tau, self._behind = weight, tau, float(weight.shape[1])

    def take(self, latest: Tensor, row: Tensor) -> None:
        """Send back what is like the chosen tokens and was not sent back before."""
        like = (row > self.tau) & (self.gain >= 0)
        self.gain = torch.where(like, self.gain - self._behind, self.gain)


class Volume:
    r"""CDPruner: the determinant of the kernel ``r_i cos_ij r_j`` over the chosen tokens, by Cholesky.

    A token multiplies the determinant by ``r_i^2 d_i``, where ``d_i`` in [0, 1] is what the chosen tokens leave of its
    direction: relevance factors out of the kernel, and the decomposition is of the cosines alone. The gain is that
    factor. Where ``d_i`` is below 1e-6 (copies, or more tokens than dimensions) rounding would decide: it counts as
    1e-6, and relevance decides. One image at a time, as it sums over the chosen tokens.

    Parameters
    ----------
    weight : (1, N) Tensor
        Relevance r, positive.
    pairs : Cosines
    steps : int
        Tokens to choose.
    """

    def __init__(self, weight: Tensor, pairs: Cosines, *, steps: int) -> None:
        self.gain = self._square = weight.square()
        self._left = torch.ones_like(weight)
        self._factors = weight.new_empty(steps, weight.shape[1])
        self._n = 0

    def take(self, latest: Tensor, row: Tensor) -> None:
        """Take the direction of the chosen token out of all others: a row more of the Cholesky factor."""
        known = self._factors[: self._n]
        factor = row - (known.T @ known[:, latest[0]]).T
        left = self._left.gather(1, latest)
        # a token of which nothing is left takes nothing: what rounding made of it would be blown up
        factor = torch.where(left > _NOTHING, factor / left.clamp(min=_NOTHING).sqrt(), 0)
        self._factors[self._n] = factor[0]
        self._n += 1
        self._left = self._left - factor.square()
        self.gain = self._square * self._left.clamp(min=_NOTHING)


class Coverage:
    r"""SCOPE: how much better the chosen tokens would cover the image, weighted by saliency.

    ``A_i^a sum_u max(0, cos(u, i) - C(u))``, where ``C(u)`` is 0 at first, and then the largest cosine of u with a
    chosen token. ``a = 0`` is the greedy of facility location. One image at a time, as it sums over tokens; a step
    costs N x N.

    Parameters
    ----------
    weight : (1, N) Tensor
        Saliency A, of at least 0.
    pairs : Cosines
    power : float
        The exponent a.
    """

    def __init__(self, weight: Tensor, pairs: Cosines, *, power: float) -> None:
        # of the largest, so that no power overflows
        self._pairs, self._scale = pairs, (weight / weight.amax(1, keepdim=True).clamp(min=_TINY)).pow(power)
        self._covered = torch.zeros_like(weight)
        self.gain = self._gains()

    def take(self, latest: Tensor, row: Tensor) -> None:
        """Cover what the chosen token covers better."""
        self._covered = torch.maximum(self._covered, row)
        self.gain = self._gains()

    def _gains(self) -> Tensor:
        covered = self._covered[:, None]
        added = [(block - covered).clamp_(min=0).sum(2) for block in self._pairs.blocks()]
        return self._scale * torch.cat(added, 1)


def ranks(scores: Tensor) -> Tensor:
    """Turn scores into ranks, N - 1 for the highest, equal ones by position; -inf stays.

    Parameters
    ----------
    scores : (N,) Tensor

    Returns
    -------
    (N,) float32 Tensor
        Whole numbers: exact below 16,777,216 tokens.

    Examples
    --------
    >>> ranks(torch.tensor([0.5, 2.0, 0.5, -torch.inf]))
    tensor([2., 3., 1., -inf])
    """
    n = len(scores)
    falling = torch.arange(n - 1, -1, -1, dtype=torch.float32, device=scores.device)
    out = torch.empty_like(falling).scatter_(0, descending(scores), falling)
    return out.masked_fill(scores == -torch.inf, -torch.inf)
