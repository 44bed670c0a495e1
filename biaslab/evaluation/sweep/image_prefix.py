"""The layers below K on the tokens up to an image once for all its expressions, then on what follows in each prompt.

In causal attention nothing of the image sees the question: keys, values and hidden states of the tokens up to it are
those of every expression of the image. They are put in the columns in which the whole rows would have them, so that
whoever reads on sees no difference but that of rounding.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from biaslab.attention.hook import is_flash
from biaslab.errors import UnsupportedError
from biaslab.evaluation.sweep.generation import Generation
from biaslab.evaluation.sweep.image_plan import ImagePlan
from biaslab.evaluation.sweep.kv_cache import fresh
from biaslab.evaluation.sweep.layer_input import LayerInput
from biaslab.evaluation.sweep.recorders import Recorders
from biaslab.evaluation.sweep.swapped_layers import Skipped, swapped_layers
from biaslab.models.transformers_versions import check_layer_arguments, kv_cache_of, with_kv_cache

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = ["States", "run_images"]

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class States:
    """What two forwards leave behind.

    Attributes
    ----------
    inputs : dict of int to LayerInput
        Layer -> what enters it, of those asked for.
    last : (B, 1, D) Tensor
        Hidden states of the last token, after the last layer that has run.
    """

    inputs: dict[int, LayerInput] = field(default_factory=dict)
    last: Any = None


def run_images(
    vlm: VLM, generation: Generation, plan: ImagePlan, layers: Collection[int], n_layers: int, recorders: Recorders
) -> States | None:
    """Run the layers 0 .. ``n_layers`` - 1.

    Parameters
    ----------
    vlm : VLM
    generation : Generation
        On an empty KV cache, which gets the entries of the whole prompts.
    plan : ImagePlan
    layers : collection of int
        Layers up to ``n_layers`` whose inputs are wanted.
    n_layers : int
    recorders : Recorders
        Watch the model.

    Returns
    -------
    States or None
        None, and nothing done, where what the decoder hands its layers says that the plan does not hold: attention that
        is not causal, or positions that differ.
    """
    decoder: Any = vlm.decoder
    modules = list(decoder.layers)
    skipped = [Skipped() for _ in modules[: n_layers + 1]]
    with swapped_layers(decoder, skipped):
        generation.step(first=True)
    given = [each.given for each in skipped]
    length = generation.ids.shape[1]
    for module, own in zip(modules, given, strict=False):
        check_layer_arguments(module, own.args, own.kwargs, length)
    if not _holds(plan, given, modules[:n_layers]):
        logger.debug("the tokens up to an image are not the same in all its prompts, or see what follows them")
        return None
    added = [
        None if own.hidden is before.out else own.hidden for before, own in zip(skipped[:-1], given[1:], strict=True)
    ]
    recorders.begin_at(plan.first)
    return _run(vlm, plan, given, [None, *added], set(layers), n_layers, recorders)


def _run(
    vlm: VLM, plan: ImagePlan, given: Sequence[LayerInput], added: Sequence[Tensor | None], layers: set[int],
    n_layers: int, recorders: Recorders,
) -> States:  # fmt: skip
    """Layer by layer on both parts, so that no more than one layer's entries are held twice."""
    decoder: Any = vlm.decoder
    cache = kv_cache_of(given[0].kwargs)
    scratch, parts, states = fresh(cache), _Parts(plan, decoder.config._attn_implementation), States()
    image, text = parts.image(given[0].hidden), given[0].hidden[:, plan.first :]
    for index in range(n_layers + 1):
        more = added[index] if index < len(added) else None
        if more is not None:  # image features of the first layers
            image, text = image + parts.image(more).to(image.device), text + more[:, plan.first :].to(text.device)
        if index in layers:
            states.inputs[index] = given[index].with_hidden(plan.joined(image, text))
        if index == n_layers:
            break
        own, module = given[index], decoder.layers[index]
        recorders.deaf = True
        image = _forward(module, own, image, parts.image_kwargs(own), scratch)
        recorders.deaf = False
        held = scratch.layers[index]
        cache.update(plan.spread(held.keys, 2), plan.spread(held.values, 2), index)
        held.keys = held.values = None
        recorders.turned_by(own.kwargs.get("position_embeddings"))
        text = _forward(module, own, text, parts.text_kwargs(own), cache)
    states.last = text[:, -1:]
    return states


def _forward(module: nn.Module, given: LayerInput, hidden: Tensor, kwargs: dict[str, Any], cache: Any) -> Tensor:
    kwargs = with_kv_cache({**given.kwargs, **kwargs}, cache)
    kwargs.pop("hidden_states", None)
    out = module(hidden, *given.args[1:], **kwargs)
    if not isinstance(out, Tensor):
        raise UnsupportedError(f"{type(module).__name__} returns {type(out).__name__}")
    return out


class _Parts:
    """What the decoder hands its layers, cut to the two forwards: once for all layers that share it."""

    def __init__(self, plan: ImagePlan, implementation: str) -> None:
        self.plan, self.implementation = plan, implementation
        self._cut: dict[tuple[str, int], tuple[Any, Any]] = {}

    def image(self, x: Tensor) -> Tensor:
        """Columns of the leaders."""
        return self._leaders(x)[:, : self.plan.end]

    def image_kwargs(self, given: LayerInput) -> dict[str, Any]:
        """Arguments of the forward up to the image."""
        return self._kwargs(given, "image", self._image_mask, self.image)

    def text_kwargs(self, given: LayerInput) -> dict[str, Any]:
        """Arguments of the forward of what follows."""
        hidden = given.hidden
        return self._kwargs(
            given, "text", lambda mask: self._text_mask(mask, hidden), lambda x: x[:, self.plan.first :]
        )

    def _kwargs(self, given: LayerInput, part: str, cut_mask: Callable, cut: Callable) -> dict[str, Any]:
        mask, rope = given.kwargs.get("attention_mask"), given.kwargs.get("position_embeddings")
        kwargs: dict[str, Any] = {"attention_mask": self._once(f"{part} mask", mask, cut_mask)}
        if rope is not None:
            kwargs["position_embeddings"] = self._once(f"{part} rope", rope, lambda r: tuple(cut(x) for x in r))
        if "position_ids" in given.kwargs:
            kwargs["position_ids"] = None  # only read to recognise packed sequences
        return kwargs

    def _image_mask(self, mask: Tensor | None) -> Tensor | None:
        if mask is None:
            return None
        end = self.plan.end
        return self._leaders(mask)[..., :end] if mask.ndim == 2 else self._leaders(mask)[:, :, :end, :end]

    def _text_mask(self, mask: Tensor | None, hidden: Tensor) -> Tensor | None:
        """Rows of the text, over all keys; without a mask attention would take the first query for the first key's."""
        if mask is not None:
            return mask if mask.ndim == 2 else mask[:, :, self.plan.first :]
        if is_flash(self.implementation):
            return None  # which aligns the last query with the last key
        batch, length, _ = hidden.shape
        key = torch.arange(length, device=hidden.device)
        look = (key <= key[self.plan.first :, None]).expand(batch, 1, -1, -1)
        if "eager" not in self.implementation:
            return look
        return torch.zeros_like(look, dtype=hidden.dtype).masked_fill(~look, torch.finfo(hidden.dtype).min)

    def _leaders(self, x: Tensor) -> Tensor:
        return x if len(x) == 1 else x[self.plan.leaders.to(x.device)]

    def _once(self, name: str, source: Any, cut: Callable) -> Any:
        key = (name, id(source))
        if key not in self._cut:
            self._cut[key] = (source, cut(source))  # holding the sources keeps their ids from being reused
        return self._cut[key][1]


def _holds(plan: ImagePlan, given: Sequence[LayerInput], modules: Sequence[nn.Module]) -> bool:
    """Whether the tokens up to an image see nothing behind them, and stand at the same positions in all its rows."""
    if not all(getattr(getattr(module, "self_attn", None), "is_causal", True) for module in modules):
        return False
    masks = {id(mask): mask for own in given if (mask := own.kwargs.get("attention_mask")) is not None}
    ropes = {id(rope): rope for own in given if (rope := own.kwargs.get("position_embeddings")) is not None}
    flags = [_sees_later(mask) for mask in masks.values() if mask.ndim == 4]
    flags += [_turns_otherwise(plan, table) for rope in ropes.values() for table in rope]
    return not flags or not bool(torch.stack([flag.to(flags[0].device) for flag in flags]).any())


def _sees_later(mask: Tensor) -> Tensor:
    """Whether any query of a mask (B or 1, 1, N, N) may look at a later key."""
    look = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    return look.triu(1).any()


def _turns_otherwise(plan: ImagePlan, table: Tensor) -> Tensor:
    """Whether cosines or sines (B or 1, N, D) of a row differ from its leader's."""
    full = table.expand(len(plan.of_row), -1, -1)
    theirs = full[plan.leaders[plan.of_row].to(table.device)[:, None], plan.source.to(table.device)]
    return ((theirs != full).any(-1) & ~(plan.padding | plan.text).to(table.device)).any()
