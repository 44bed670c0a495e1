"""Attention, features and keys of the vision tower, heard from the hooks of an unmodified model.

Queries and keys are those that the tower's own attention function is called with (after rotary embedding), so that
every implementation is read alike; towers that see images of any size call it once per image or window, or, under
FlashAttention, once with the ends of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from biaslab.attention.hook import _forget, _remember, _switch_off, _switch_on
from biaslab.attention.received import received_attention
from biaslab.attention.vision_record import TowerShape, VisionRecord, VisionRequest
from biaslab.models.towers import find_tower

if TYPE_CHECKING:
    from biaslab.models.encoded import Encoded
    from biaslab.models.vlm import VLM

__all__ = ["TowerWatch", "tower_shape", "watch_tower"]

_PER_IMAGE = ("image_sizes", "image_grid_thw")


def tower_shape(model: Any) -> TowerShape:
    """Tell the shape of a model's vision tower.

    Raises
    ------
    UnsupportedError
        A model whose tower is not known.

    Examples
    --------
    >>> import biaslab as bl
    >>> tower_shape(bl.load("grounder").model)
    TowerShape(depth=3, class_token=True, full=(0, 1, 2))
    """
    tower = find_tower(model)
    return TowerShape(len(tower.blocks), tower.class_tokens > 0, tower.full)


class TowerWatch:
    """What the latest forward of a vision tower has shown of its patches; made by `watch_tower`.

    Attributes
    ----------
    shape : TowerShape
    request : VisionRequest
        Without negative blocks.
    encoded : Encoded or None
        The prompts that were announced when the tower ran.
    """

    def __init__(self, vlm: VLM, request: VisionRequest, *, announced: bool) -> None:
        self.vlm, self.announced = vlm, announced
        self.tower = find_tower(vlm.model)
        self.shape = tower_shape(vlm.model)
        self.request = request.resolved(self.shape)
        self.encoded: Encoded | None = None
        self._hears = False
        self._parts: dict[tuple[str, int], list[Tensor]] = {}

    # -- what the hooks call ---------------------------------------------------------------------------------
    def attach(self, stack: ExitStack) -> None:
        """Register every hook; ``stack`` removes them."""
        tower, asked = self.tower, self.request
        stack.callback(self.clear)
        stack.callback(tower.module.register_forward_pre_hook(self._begin).remove)
        stack.callback(tower.module.register_forward_hook(self._end, always_call=True).remove)
        for layer in asked.features:
            stack.callback(tower.blocks[layer].register_forward_hook(self._features(layer)).remove)
        rows = {*asked.cls, *asked.received, *asked.keys}
        if not rows:
            return
        _switch_on(tower.module)
        stack.callback(_switch_off, tower.module)
        for layer in rows:
            module, callback = tower.attentions[layer], self._rows(layer)
            _remember(module, callback)
            stack.callback(_forget, module, callback)

    def clear(self) -> None:
        """Forget the latest forward."""
        self._parts, self.encoded = {}, None

    def _begin(self, *_: Any) -> None:
        self.clear()
        self.encoded = self.vlm.prefill.encoded
        self._hears = self.encoded is not None or not self.announced

    def _end(self, *_: Any) -> None:
        self._hears = False

    def _add(self, name: str, layer: int, values: Tensor) -> None:
        self._parts.setdefault((name, layer), []).append(values)

    def _features(self, layer: int) -> Callable:
        skip = self.tower.class_tokens

        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            if self._hears:
                states = output[0] if isinstance(output, tuple) else output
                states = states if states.ndim == 3 else states[None]
                self._add("features", layer, states[:, skip:].flatten(0, 1).detach())

        return hook

    def _rows(self, layer: int) -> Callable:
        def record(module, query, key, value, attention_mask, scaling, **kw: Any) -> None:
            if not self._hears:
                return
            ends = kw.get("cu_seq_lens_q")
            lengths = [query.shape[2]] if ends is None else ends.diff().tolist()
            for q, k in zip(query.split(lengths, 2), key.split(lengths, 2), strict=True):
                self._sequence(layer, q, k, scaling, attention_mask)

        return record

    def _sequence(self, layer: int, query: Tensor, key: Tensor, scaling: float, mask: Tensor | None) -> None:
        """Keep what is asked of S sequences of T tokens: (S, H, T, D)."""
        asked, skip = self.request, self.tower.class_tokens
        mask = mask if mask is not None and mask.ndim == 4 else None
        if layer in asked.received:
            received = received_attention(query, key, scaling=scaling, attention_mask=mask)
            self._add("received", layer, received[:, skip:].reshape(-1, 1))
        if layer in asked.keys:
            self._add("keys", layer, key[:, :, skip:].transpose(1, 2).flatten(2).flatten(0, 1).detach())
        if layer in asked.cls and skip:
            scores = query[:, :, :1].float() @ key.float().transpose(2, 3) * scaling
            if mask is not None:
                first = mask[:, :, :1]
                closed = first.dtype == torch.bool
                scores = scores.masked_fill(~first, float("-inf")) if closed else scores + first.float()
            self._add("cls", layer, scores.softmax(-1)[:, :, 0, skip:].transpose(1, 2).flatten(0, 1))

    # -- what callers ask ------------------------------------------------------------------------------------
    def records(self, encoded: Encoded, pictures: Sequence[int] | None = None) -> list[VisionRecord]:
        """Bring what was heard to the decoder tokens of every image, and forget it.

        Parameters
        ----------
        encoded : Encoded
            The prompts whose images ran.
        pictures : sequence of int, optional
            Where each distinct image ran once: for every prompt, the number of the image that it shows.

        Returns
        -------
        list of VisionRecord
            One for each image, in the order of the prompts; empty if the tower has not run.
        """
        if not self._parts:
            return []
        shown = range(len(encoded.layouts)) if pictures is None else pictures
        first = [list(shown).index(number) for number in range(max(shown) + 1)]
        layouts, inputs = [encoded.layouts[i] for i in first], dict(encoded.inputs)
        if pictures is not None:
            inputs |= {name: inputs[name][first] for name in _PER_IMAGE if name in inputs}
        family, given = self.vlm.family, (self.vlm.model, self.vlm.processor, inputs, layouts)
        found: list[dict[str, dict[int, Tensor]]] = [{} for _ in first]
        with torch.no_grad():
            for (name, layer), parts in self._parts.items():
                values = torch.cat(parts).float() if len(parts) > 1 else parts[0].float()
                for own, tokens in zip(found, family.tower_tokens(*given, values), strict=True):
                    shaped = {"cls": tokens.T, "received": tokens[:, 0]} if name in ("cls", "received") else {}
                    own.setdefault(name, {})[layer] = shaped.get(name, tokens)
        self.clear()
        cls: dict[str, Any] = {"cls": {}} if self.shape.class_token else {}
        distinct = [VisionRecord(self.shape, **{**cls, **own}) for own in found]
        return [distinct[number] for number in shown]


@contextmanager
def watch_tower(vlm: VLM, request: VisionRequest, *, announced: bool = True) -> Iterator[TowerWatch]:
    """Keep what a vision tower shows while it runs, without changing what it computes.

    Parameters
    ----------
    vlm : VLM
    request : VisionRequest
        Only these blocks are read.
    announced : bool
        Whether to hear only forwards of announced prompts (``vlm.running``), or every one.

    Yields
    ------
    TowerWatch
        Its ``records(encoded)`` are those of the latest forward of the tower.

    Raises
    ------
    InputError
        A block that the tower does not have.
    UnsupportedError
        A model whose tower is not known.

    Examples
    --------
    >>> import biaslab as bl
    >>> from biaslab.scenes import scene
    >>> vlm = bl.load("grounder")
    >>> encoded = vlm.encode([scene("test", 0).image], ["Where is the cat?"])
    >>> with watch_tower(vlm, VisionRequest(cls=(-1,), received=(-1,))) as tower:
    ...     _ = vlm.forward(encoded)
    ...     (record,) = tower.records(encoded)
    >>> record.cls[2].shape, record.received[2].shape  # heads and tokens of the last block
    (torch.Size([2, 256]), torch.Size([256]))
    """
    watch = TowerWatch(vlm, request, announced=announced)
    with ExitStack() as stack:
        watch.attach(stack)
        yield watch
