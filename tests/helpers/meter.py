"""A model turned into a light meter: the feature of every image placeholder becomes the mean brightness of the pixels
behind it, through the model's own code, so that layouts can be checked against what tokens really see.
"""

from __future__ import annotations

import copy
import inspect

import numpy as np
import torch
from PIL import Image
from torch import nn

_ACTIVATIONS = ("GELU", "SiLU", "ReLU", "Tanh")


class Through(nn.Module):
    def forward(self, x, *_):
        return x.contiguous()


def light_meter(model):
    """A copy whose image features are mean brightness: blocks of the vision tower pass their input on, projections
    average, norms and activations do nothing, positions and newlines add nothing.
    """
    model = copy.deepcopy(model)
    decoder = {id(m) for m in model.get_decoder().modules()}
    for name, module in list(model.named_modules()):
        if id(module) in decoder or not name:
            continue
        kind = type(module).__name__
        if "Norm" in kind or any(a in kind for a in _ACTIVATIONS):
            model.set_submodule(name, Through())
        elif isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)):
            module.weight.fill_(1 / module.weight[0].numel())
            if module.bias is not None:
                module.bias.zero_()
        else:
            for parameter in module.parameters(recurse=False):
                parameter.zero_()
    for name, module in model.named_modules():
        blocks = name.endswith(("layers", "layer", "blocks"))
        if isinstance(module, nn.ModuleList) and id(module) not in decoder and blocks:
            for parameter in module.parameters():
                parameter.zero_()
    return model


def seen(model, encoded):
    """Brightness of the visual tokens of every image, one (N,) array each."""
    names = [n for n in inspect.signature(type(model).get_image_features).parameters if n in encoded.inputs]
    with torch.no_grad():
        found = model.get_image_features(**{n: encoded.inputs[n] for n in names}, return_dict=True).pooler_output
    found = found if isinstance(found, torch.Tensor) else torch.cat(list(found))
    light, out, start = found.reshape(-1, found.shape[-1]).mean(1).numpy(), [], 0
    for layout in encoded.layouts:
        out.append(light[start + layout.placeholder_index])
        start += layout.placeholders
    assert start == len(light), "there is one feature for every placeholder"
    return out


def whole_pixels(layout, k):
    """The largest rectangle of whole pixels inside cell k and the image, or None."""
    x0, y0, x1, y1 = np.clip(layout.boxes[k], 0, 1) * np.array(layout.size * 2)
    left, top = (int(np.ceil(v - 1e-6)) for v in (x0, y0))
    right, bottom = (int(np.floor(v + 1e-6)) for v in (x1, y1))
    return (left, top, right, bottom) if left < right and top < bottom else None


def lit(size, rectangle):
    """A black image with a white rectangle."""
    image = Image.new("RGB", size)
    image.paste((255, 255, 255), rectangle)
    return image


def brightest(layout, k, dark, light):
    """The token, among those of the kind of k (thumbnail or not), that gained most."""
    gain = np.where(layout.thumbnail == layout.thumbnail[k], light - dark, -np.inf)
    return int(gain.argmax())
