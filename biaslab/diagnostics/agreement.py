"""Whether capture and pruning are right on a model as it is loaded here: held against its own plain forward."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from biaslab.attention.capture import capture
from biaslab.core.layers import resolve_layers
from biaslab.errors import UnsupportedError
from biaslab.models.prune_layer import prune_layer
from biaslab.pruning import FastV
from biaslab.pruning.engine.prune import prune

if TYPE_CHECKING:
    from biaslab.models.encoded import Encoded
    from biaslab.models.vlm import VLM

__all__ = ["Agreement", "capture_agreement", "pruning_agreement"]

_ROUNDING = 4  # units of the last place of the largest logit: other kernels, the same computation
#: in half precision the layers before round differently under another kernel: 1 % to 17 % of the attention differ on
#: small random models, 190 % to 200 % where a captured row is one column off
_COARSE = 0.5
_FLOAT32 = 1e-4  # what the contracts of capture and pruning promise


@dataclass(frozen=True)
class Agreement:
    """Two ways to one number.

    Attributes
    ----------
    what : str
        Which are compared.
    difference : float or None
        By how much they differ; None where they could not be compared.
    tolerance : float
        What rounding explains in the model's dtype.
    measure : str
        What the difference is.
    why_not : str
        Why they could not be compared; empty otherwise.
    """

    what: str
    difference: float | None
    tolerance: float
    measure: str = "largest difference"
    why_not: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether both agree; None where that is not known."""
        return None if self.difference is None else self.difference <= self.tolerance

    def __str__(self) -> str:
        if self.difference is None:
            return f"{self.what}: not checked ({self.why_not})"
        word = "holds" if self.holds else "DOES NOT HOLD"
        return f"{self.what}: {word} ({self.measure} {self.difference:.2g}, tolerance {self.tolerance:.2g})"


def pruning_agreement(vlm: VLM, encoded: Encoded, layer: int | None = None) -> Agreement:
    """Compare the logits of pruning that keeps all tokens with those of no pruning.

    Parameters
    ----------
    vlm : VLM
    encoded : Encoded
        A prompt.
    layer : int, optional
        K; by default the model's own.

    Returns
    -------
    Agreement
        In units of the logits.

    Examples
    --------
    >>> import biaslab as bl
    >>> from biaslab.diagnostics.agreement import pruning_agreement
    >>> vlm, sample = bl.load("grounder", device="cpu"), next(iter(bl.load_dataset("scenes", n=1)))
    >>> pruning_agreement(vlm, vlm.encode_grounding([sample.image()], [sample.expression])).difference
    0.0
    """
    k = prune_layer(vlm, layer)
    what = f"pruning at K = {k} that keeps all tokens = no pruning (logits)"

    def compare() -> tuple[float, float]:
        plain = _logits(vlm, encoded)
        with prune(vlm, FastV(keep=1.0), k):
            pruned = _logits(vlm, encoded)
        return _largest(plain, pruned), float(plain.abs().max())

    return _agreement(what, compare, lambda scale: max(_FLOAT32, _ROUNDING * scale * _eps(vlm)))


def capture_agreement(vlm: VLM, encoded: Encoded, layers: Sequence[int] | None = None) -> Agreement:
    """Compare captured rows with the weights that the model's own eager attention hands out.

    Parameters
    ----------
    vlm : VLM
        Its attention is eager for one forward, and what it was afterwards.
    encoded : Encoded
        One short prompt: eager attention holds every pair of tokens of a layer.
    layers : sequence of int, optional
        Decoder layers; default the first, the middle and the last.

    Returns
    -------
    Agreement
        The largest difference in the attention of the last prompt token to a visual token, over all heads, in float32.
        In half precision, where other kernels round the layers before differently, the share of the attention that
        differs: it tells wrong rows, and not small errors.

    Examples
    --------
    >>> import biaslab as bl
    >>> from biaslab.diagnostics.agreement import capture_agreement
    >>> vlm, sample = bl.load("grounder", device="cpu"), next(iter(bl.load_dataset("scenes", n=1)))
    >>> capture_agreement(vlm, vlm.encode_grounding([sample.image()], [sample.expression])).holds
    True
    """
    n = vlm.n_layers
    chosen = resolve_layers(sorted({0, n // 2, n - 1}) if layers is None else layers, n, "the decoder")
    what = f"captured rows = eager attention (layers {', '.join(map(str, chosen))})"

    def compare() -> tuple[float, float]:
        with capture(vlm, chosen, heads="all") as rows:
            vlm.forward(encoded, **_last_logits(vlm))
        weights = _eager_weights(vlm, encoded, chosen)
        found = []
        for layer in chosen:
            held, want = rows[layer], weights[layer]
            columns = encoded.visual[0, encoded.visual_mask[0]].to(want.device)
            got = held.values[0, :, 0, held.mask[0]].to(want.device)
            found.append((got, want[0][:, columns].float()))
        if is_half:
            return max(float((a - b).abs().sum() / b.sum()) for a, b in found), 1.0
        return max(_largest(a, b) for a, b in found), 1.0

    is_half = _eps(vlm) > _FLOAT32
    measure = "share of attention that differs" if is_half else "largest difference"
    return _agreement(what, compare, lambda _: _COARSE if is_half else _FLOAT32, measure)


def _agreement(
    what: str,
    compare: Callable[[], tuple[float, float]],
    tolerance: Callable[[float], float],
    measure: str = "largest difference",
) -> Agreement:
    try:
        difference, scale = compare()
    except UnsupportedError as error:
        return Agreement(what, None, tolerance(0.0), measure, str(error))
    return Agreement(what, difference if difference == difference else float("inf"), tolerance(scale), measure)


def _logits(vlm: VLM, encoded: Encoded) -> torch.Tensor:
    return vlm.forward(encoded, **_last_logits(vlm)).logits[:, -1].float()


def _last_logits(vlm: VLM) -> dict[str, int]:
    """Ask for the last token's logits alone, where the model can."""
    return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(vlm.model.forward).parameters else {}


def _largest(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


def _eps(vlm: VLM) -> float:
    return torch.finfo(next(p.dtype for p in vlm.model.parameters() if p.is_floating_point())).eps


def _eager_weights(vlm: VLM, encoded: Encoded, layers: Sequence[int]) -> dict[int, torch.Tensor]:
    """Attention (B, H, N) of the last prompt token under the model's own eager attention, by layer."""
    found: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> Callable[..., None]:
        def hook(module: Any, args: Any, output: Any) -> None:
            weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
            if weights is not None:
                found[layer] = weights[:, :, encoded.last].detach()

        return hook

    modules: Any = vlm.decoder.layers
    handles = [modules[layer].self_attn.register_forward_hook(keep(layer)) for layer in layers]
    try:
        with _eager(vlm):
            vlm.forward(encoded, **_last_logits(vlm))
    finally:
        for handle in handles:
            handle.remove()
    if missing := [layer for layer in layers if layer not in found]:
        raise UnsupportedError(f"eager attention hands out no weights in layer {missing[0]}")
    return found


@contextmanager
def _eager(vlm: VLM) -> Iterator[None]:
    """Run the decoder under eager attention, the only one that returns its weights."""
    config = vlm.model.config
    parts = {name: getattr(config, name) for name in config.sub_configs}
    before = {"": config._attn_implementation}
    before |= {name: part._attn_implementation for name, part in parts.items() if part is not None}
    text = next(name for name, part in parts.items() if part is config.get_text_config())
    try:
        vlm.model.set_attn_implementation({"": "eager", text: "eager"})
    except (ValueError, ImportError) as error:  # of a model that has none
        raise UnsupportedError(f"the model has no eager attention: {error}") from None
    try:
        yield
    finally:
        vlm.model.set_attn_implementation(before)
