"""What a method reads of a running prefill beside the attention of layers below K, each only if it asks for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from biaslab.attention.precision import full_precision
from biaslab.attention.projection import Projected, project
from biaslab.attention.rotary import AXES, frequencies
from biaslab.attention.scores import SCORES, reads_rope
from biaslab.errors import UnsupportedError
from biaslab.models.transformers_versions import without_kv_cache
from biaslab.pruning.base import Method
from biaslab.pruning.context import Rotary
from biaslab.pruning.engine.checks import attention_method
from biaslab.pruning.engine.prompt import Prompt
from biaslab.pruning.engine.recording import prompt_rows

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = [
    "VECTORS",
    "Sources",
    "first_projection",
    "layers_read",
    "own_projection",
    "projected_rows",
    "raw_projection",
]

#: what is read of a layer beside attention rows
VECTORS = frozenset({"keys", "values"})


@dataclass(eq=False)
class Sources:
    """Tensors of one prefill that contexts are cut from; None what nobody has asked for.

    Attributes
    ----------
    key, value : (B, Hkv, N, d) Tensor
        Of the layer that is read (`Method.layer_read`), keys after rotary embedding.
    embeds : (B, N, D) Tensor
        What the decoder is given.
    theta : (J,) Tensor
        Frequencies of its rotary embedding.
    positions : (A, B or 1, N) Tensor
        Position ids on each axis.
    """

    key: Tensor | None = None
    value: Tensor | None = None
    embeds: Tensor | None = None
    theta: Tensor | None = None
    positions: Tensor | None = None

    def see(self, method: Method, key: Tensor, value: Tensor) -> None:
        """Keep what the method reads of a layer's keys and values."""
        self.key = key if "keys" in method.needs else None
        self.value = value if "values" in method.needs else None

    def enter(self, decoder: Any, needs: Collection[str], kwargs: Mapping[str, Any]) -> None:
        """Keep what is read of the decoder's own arguments.

        Parameters
        ----------
        decoder : nn.Module
        needs : collection of str
            Of a method, or of several.
        kwargs : mapping
            What the decoder is called with for the whole prompts.

        Raises
        ------
        UnsupportedError
            Embeddings that it is not given by name.
        """
        embeds, ids = kwargs.get("inputs_embeds"), kwargs.get("position_ids")
        if embeds is None:
            if "embeddings" in needs or "rotary" in needs:
                raise UnsupportedError("this decoder is given no embeddings by name: choose a method that needs none")
            return
        if "embeddings" in needs:
            self.embeds = embeds
        if "rotary" in needs:
            self.theta = frequencies(decoder)
            # the decoder's own choice where it is given none
            ids = torch.arange(embeds.shape[1], device=embeds.device)[None] if ids is None else ids
            # M-RoPE's ids may come with those of the text on top
            self.positions = ids[-len(AXES) :] if ids.ndim == 3 else ids[None]

    def left(self, positions: Tensor) -> Sources:
        """Gather what was given for the whole prompts to the (B, M) positions that a cut has left."""
        embeds, ids = self.embeds, self.positions
        if embeds is not None:
            at = positions.to(embeds.device)[..., None].expand(-1, -1, embeds.shape[2])
            embeds = embeds.gather(1, at)
        if ids is not None:
            at = positions.to(ids.device)
            ids = ids.expand(-1, len(at), -1).gather(2, at.expand(len(ids), -1, -1))
        return replace(self, embeds=embeds, positions=ids)

    def of_image(self, prompt: Prompt, row: int, image: int, device: torch.device) -> dict[str, Any]:
        """Cut out what belongs to one image and its question: fields of its `TokenContext`."""
        own = prompt.images[row][image]
        visual = prompt.visual[row, own.first : own.last]
        text = None if prompt.text is None else prompt.text[row, : prompt.text_counts[row]]
        out: dict[str, Any] = {}
        for names, whole in (
            (("keys", "text_keys"), None if self.key is None else self.key[row]),
            (("values", "text_values"), None if self.value is None else self.value[row]),
            (("embeddings", "text_embeddings"), None if self.embeds is None else self.embeds[row]),
        ):
            if whole is not None:
                for name, places in zip(names, (visual, text), strict=True):
                    out[name] = None if places is None else whole[..., places.to(whole.device), :].to(device)
        if self.theta is not None and self.positions is not None:
            at = self.positions[:, row if self.positions.shape[1] > 1 else 0]
            out["rotary"] = Rotary(self.theta.to(device), at[:, visual.to(at.device)].to(device))
        return out


def layers_read(method: Method, layer: int) -> tuple[int, ...]:
    """List the decoder layers whose attention a method reads when tokens are dropped before ``layer`` (K).

    K itself, where it is among them, has not run when the tokens are dropped: it is projected.
    """
    if "attention" in method.needs:
        return attention_method(method).attention_layers(layer)
    return (method.layer_read(layer),) if method.needs & VECTORS else ()


def own_projection(vlm: VLM, index: int, args: tuple, kwargs: dict[str, Any], hidden: Tensor) -> Projected:
    """Project what enters decoder layer ``index`` by its own norm, queries, keys, values and rotary embedding.

    Parameters
    ----------
    vlm : VLM
    index : int
    args, kwargs
        What the decoder hands the layer.
    hidden : (B, N, D) Tensor

    Returns
    -------
    Projected
    """
    decoder: Any = vlm.decoder
    layer = decoder.layers[index]
    given = {k: v for k, v in without_kv_cache(kwargs).items() if k != "hidden_states"}
    # its forward and not itself: hooks on the layer, the engine's among them, belong to its own run
    return project(vlm.model, index, lambda: layer.forward(hidden, *args[1:], **given))


def raw_projection(vlm: VLM, index: int, args: tuple, kwargs: dict[str, Any]) -> Projected:
    """Project what enters decoder layer ``index`` without its norm: as no layer does.

    Parameters
    ----------
    vlm : VLM
    index : int
    args, kwargs
        What the layer is given.

    Returns
    -------
    Projected
    """
    decoder: Any = vlm.decoder
    attention = decoder.layers[index].self_attn
    given = {k: v for k, v in without_kv_cache(kwargs).items() if k != "hidden_states"}
    hidden = args[0] if args else kwargs["hidden_states"]
    return project(vlm.model, index, lambda: attention(hidden, **given))


def first_projection(vlm: VLM, args: tuple, kwargs: dict[str, Any], embeds: Tensor) -> Projected:
    """Project what enters the first layer, by the decoder itself: masks and rotary tables are not there before it.

    Parameters
    ----------
    vlm : VLM
    args, kwargs
        Of the decoder.
    embeds : (B, N, D) Tensor
        What it is given for the whole prompt.

    Returns
    -------
    Projected
    """
    decoder: Any = vlm.decoder
    given = {**without_kv_cache(kwargs), "inputs_embeds": embeds, "use_cache": False}
    if given.get("attention_mask") is None:  # without one, gaps in the positions can be taken for packed sequences
        given["attention_mask"] = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
    return project(vlm.model, 0, lambda: decoder.forward(*args, **given))


@torch.no_grad()
@full_precision()
def projected_rows(score: str, prompt: Prompt, found: Projected) -> Tensor | None:
    """Score the query rows of a prompt in a layer that has not run: (B, H, Q, V) float32, None without rows.

    Raises
    ------
    UnsupportedError
        A score that takes the rotary embedding out of a layer that is not given it.
    """
    if reads_rope(SCORES[score]) and "cos" not in found.options:
        name = type(found.module).__name__
        raise UnsupportedError(f"{name} is not given cos and sin: use the score 'attention' or 'value_norm'")
    return prompt_rows(score, prompt, found.module, found.query, found.key, found.value, **found.options)
