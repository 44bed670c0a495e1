"""A vision tower whose attention is known, it goes where the image is bright; and the eager attention of any."""

from __future__ import annotations

import copy
import sys
from contextlib import ExitStack

from meter import light_meter
from PIL import Image
from torch import nn

from biaslab.attention.vision import watch_tower
from biaslab.models.towers import find_tower

GAIN = 3.0


def attention_meter(vlm):
    """The model as a light meter (`meter.light_meter`) whose tower's queries are alike and whose keys are brightness.

    So every query of the tower, the CLS token among them, looks most at what is brightest.
    """
    model = light_meter(vlm.model)
    tower = find_tower(model)
    for name, buffer in tower.module.named_buffers():
        if "inv_freq" in name:
            buffer.zero_()  # no rotation: a logit is query times key wherever they stand
    for name, parameter in tower.module.named_parameters():
        if name.endswith(("cls_token", "class_embedding")):
            parameter.fill_(1.0)
    for attention in tower.attentions:
        for name, layer in attention.named_modules():
            if isinstance(layer, nn.Linear) and name in ("q_proj", "k_proj", "qkv"):
                layer.weight.fill_(GAIN / layer.weight.shape[1])
                constant = {"q_proj": slice(None), "qkv": slice(0, len(layer.weight) // 3)}.get(name)
                if constant is not None and layer.bias is not None:
                    layer.weight[constant] = 0
                    layer.bias[constant] = GAIN
    out = copy.copy(vlm)
    out.model = model.eval()
    return out


def grey(size, rectangle=None):
    """A grey image, maybe with a white rectangle."""
    image = Image.new("RGB", size, (200, 200, 200))
    if rectangle is not None:
        image.paste((255, 255, 255), rectangle)
    return image


def recorded(vlm, encoded, request):
    """The vision records of a plain forward, and its logits."""
    with watch_tower(vlm, request) as tower:
        logits = vlm.forward(encoded).logits
        return tower.records(encoded), logits


def eager_tower(vlm, encoded):
    """Of each block a list of (H, T, T) float32 maps, one per sequence of the tower, and the block's output.

    Written out from the weights of each attention and what it is given; shares nothing with the capture.
    """
    tower, maps, outputs = find_tower(vlm.model), {}, {}

    def look(index):
        def hook(module, args, kwargs):
            hidden = args[0] if args else kwargs["hidden_states"]
            heads = module.num_heads
            if hasattr(module, "qkv"):
                q, k = module.qkv(hidden).view(len(hidden), 3, heads, -1).unbind(1)[:2]
                turn = sys.modules[type(module).__module__].apply_rotary_pos_emb_vision
                q, k = (x.transpose(0, 1) for x in turn(q, k, *kwargs["position_embeddings"]))
                ends = kwargs["cu_seqlens"].tolist()
                pairs = [(q[:, a:b], k[:, a:b]) for a, b in zip(ends, ends[1:], strict=False)]
            else:
                q, k = (p(hidden).unflatten(-1, (heads, -1)).transpose(1, 2) for p in (module.q_proj, module.k_proj))
                pairs = list(zip(q, k, strict=True))
            maps[index] = [(q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) for q, k in pairs]
            maps[index, "keys"] = [k for _, k in pairs]

        return hook

    def remember(index):
        return lambda module, args, output: outputs.__setitem__(index, output)

    with ExitStack() as stack:
        for i, (block, attention) in enumerate(zip(tower.blocks, tower.attentions, strict=True)):
            stack.callback(attention.register_forward_pre_hook(look(i), with_kwargs=True).remove)
            stack.callback(block.register_forward_hook(remember(i)).remove)
        vlm.forward(encoded)
    return maps, outputs
