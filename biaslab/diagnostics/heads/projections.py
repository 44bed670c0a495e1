"""Heads rated as IPPRO rates filters: by whether a step of gradient moves a head's weights toward nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from biaslab._util.progress import progress_bar
from biaslab.diagnostics.heads.own_answers import OwnAnswers, head_width, output_projection
from biaslab.diagnostics.heads.ratings import HeadRatings
from biaslab.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    from biaslab.models.encoded import Encoded
    from biaslab.models.vlm import VLM

__all__ = ["LAMBDA", "by_projection", "pro"]

LAMBDA = 1.0  # length of the step; unverified
_THOUSANDTHS = 1000


def pro(weight: Tensor, gradient: Tensor, lam: float) -> Tensor:
    """Compute ``|| F - lam dL/dF || / | ||F|| - lam dL/dD |`` of filters.

    F / D is what the filter does, with D a scaling coordinate that starts at ``||F||`` and F scaled alike, so that
    ``dL/dD = - <dL/dF, F> / ||F||``. 1 stays at its angle to the filter of zeros, more moves away from it.

    Parameters
    ----------
    weight, gradient : (..., P) Tensor
        A filter each along the last axis.
    lam : float
        Length of the step.

    Returns
    -------
    (...) Tensor

    Examples
    --------
    >>> weight = torch.tensor([3.0, 4.0])
    >>> pro(weight, torch.zeros(2), 0.5), pro(weight, -weight, 0.1), pro(weight, weight, 0.1)
    (tensor(1.), tensor(1.2222), tensor(0.8182))
    """
    along, size = (weight * gradient).sum(-1), weight.norm(dim=-1)
    return _pro(size, along, gradient.square().sum(-1), lam)


def _pro(size: Tensor, along: Tensor, square: Tensor, lam: float) -> Tensor:
    """As `pro`, of ||F||, <F, g> and ||g||^2."""
    tiny = torch.finfo(size.dtype).tiny
    moved = (size**2 - 2 * lam * along + lam**2 * square).clamp(min=0).sqrt()
    return moved / (size + lam * along / size.clamp(min=tiny)).abs().clamp(min=tiny)


def by_projection(
    vlm: VLM,
    encode: Callable[[int], Encoded],
    layers: Sequence[int],
    groups: np.ndarray,
    *,
    lam: float = LAMBDA,
    progress: bool = True,
) -> HeadRatings:
    """Rate heads by ``1000 * (pro - 1)``, the filter of a head being its slice of the output projection (:func:`pro`).

    The loss is the mean cross entropy of the model's own answer (a box). Two forwards and backwards per image, one
    image at a time; the gradients of the output projections of ``layers`` are held twice, in float32.

    IPPRO prunes filters of networks and was not made for heads; its text could not be read beyond the abstract and
    public reviews. Unverified: lambda (the reviews dispute its role; where the gradient is small against the weights
    the ranking does not depend on it), D as it is read here, and what the loss is taken over.

    Parameters
    ----------
    vlm : VLM
    encode : callable
        Number of an image, from 0 -> its prompt, a batch of one.
    layers : sequence of int
        Layers whose heads are rated.
    groups : (n,) int array
        Of :func:`~biaslab.diagnostics.heads.ratings.groups_of`.
    lam : float
        Length of the step, above 0.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    HeadRatings

    Raises
    ------
    InputError
        ``lam`` out of range.
    UnsupportedError
        Output projections that are not found, quantised or not in memory.

    References
    ----------
    IPPRO: arXiv 2507.14171.
    """
    if not lam > 0:
        raise InputError(f"lam must be above 0, got {lam!r}")
    projections = [output_projection(vlm, layer) for layer in layers]
    n, width = len(groups), head_width(vlm, projections[0])
    with _with_gradients(projections) as weights, progress_bar("ippro", total=2 * n, show=progress) as advance:

        def gradient(pictures: Iterable[int]) -> list[Tensor]:
            """Sum of the gradients of some images."""
            sums = [torch.zeros_like(w, dtype=torch.float32) for w in weights]
            for picture in pictures:
                for own, each in zip(sums, _gradients(vlm, encode(picture), weights), strict=True):
                    own += each
                advance(1)
            return sums

        total = gradient(range(n))
        # of a group's gradient s: <F, s>, <total, s>, ||s||^2, of which every ||total - s|| is made
        sums = torch.zeros(3, int(groups.max()) + 1, len(layers), total[0].shape[1] // width)
        for group in range(sums.shape[1]):
            parts = gradient(np.flatnonzero(groups == group).tolist())
            for at, (weight, whole, own) in enumerate(zip(weights, total, parts, strict=True)):
                products = (_dot(weight.detach().float(), own, width), _dot(whole, own, width), _dot(own, own, width))
                sums[:, group, at] = torch.stack(products).cpu()
        frozen = [weight.detach().float() for weight in weights]
        size = torch.stack([_dot(w, w, width).sqrt() for w in frozen]).cpu()
        along = torch.stack([_dot(w, t, width) for w, t in zip(frozen, total, strict=True)]).cpu()
        square = torch.stack([_dot(t, t, width) for t in total]).cpu()
    values = _pro(size, along / n, square / n**2, lam)
    counts = torch.from_numpy(n - np.bincount(groups)).view(-1, 1, 1)
    rest = (square - 2 * sums[1] + sums[2]).clamp(min=0)
    left_out = _pro(size, (along - sums[0]) / counts, rest / counts**2, lam)
    values, left_out = (_THOUSANDTHS * (ratios.double() - 1) for ratios in (values, left_out))
    return HeadRatings("ippro", list(layers), values.numpy(), left_out.numpy())


@contextmanager
def _with_gradients(projections: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Let the weights of these modules alone have gradients inside the block."""
    weights: list[Any] = [module.weight for module in projections]
    for weight in weights:
        if not isinstance(weight, nn.Parameter) or not weight.is_floating_point() or weight.device.type == "meta":
            raise UnsupportedError(
                "ippro needs gradients, which weights that are quantised or not in memory do not have: load the model "
                "plainly, or leave the criterion out"
            )
    before = [weight.requires_grad for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        yield weights
    finally:
        for weight, had in zip(weights, before, strict=True):
            weight.requires_grad_(had)


def _gradients(vlm: VLM, encoded: Encoded, weights: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of the loss of an image, float32."""
    answers = OwnAnswers.of(vlm, vlm.vision(encoded))
    with torch.enable_grad():
        gradients = torch.autograd.grad(answers.loss(vlm).sum(), list(weights))
    return [gradient.float() for gradient in gradients]


def _dot(a: Tensor, b: Tensor, width: int) -> Tensor:
    """(H,) products of the slices of heads, which lie side by side in the columns."""
    return (a * b).sum(0).view(-1, width).sum(1)
