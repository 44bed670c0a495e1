"""The vision tower of a model: its blocks, and how rows of patches become rows of decoder tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from biaslab.errors import UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Tower", "find_tower", "folded", "split_rows"]

_NAMES = ("vision_tower", "vision_model", "visual")
_BLOCKS = ("layers", "layer", "blocks")
_ATTENTION = ("self_attn", "attention", "attn")
# CLS tokens in front of the patches, by model type of the tower
_CLASS_TOKENS = {
    "clip_vision_model": 1, "internvl_vision": 1, "siglip_vision_model": 0, "idefics3_vision": 0, "smolvlm_vision": 0,
    "qwen2_vl": 0, "qwen2_vl_vision": 0, "qwen2_5_vl": 0, "qwen2_5_vl_vision": 0, "qwen3_vl": 0, "qwen3_vl_vision": 0,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Tower:
    """A vision tower.

    Attributes
    ----------
    module : PreTrainedModel
        One forward sees the images of one batch.
    blocks : list of nn.Module
    attentions : list of nn.Module
        The attention of each block.
    class_tokens : int
        Tokens in front of the patches of each sequence.
    full : tuple of int
        Blocks without windows.
    """

    module: Any
    blocks: list[nn.Module]
    attentions: list[nn.Module]
    class_tokens: int
    full: tuple[int, ...]


def find_tower(model: Any) -> Tower:
    """Find the vision tower of a multimodal model.

    Parameters
    ----------
    model : PreTrainedModel

    Returns
    -------
    Tower

    Raises
    ------
    UnsupportedError
        A model whose tower is not known.

    Examples
    --------
    >>> import biaslab as bl
    >>> tower = find_tower(bl.rehearse("qwen2.5-vl-7b").model)
    >>> type(tower.module).__name__, len(tower.blocks), tower.class_tokens
    ('Qwen2_5_VisionTransformerPretrainedModel', 3, 0)
    """
    from torch import nn  # adapters are read where models are listed, without torch

    base = getattr(model, "model", model)
    module = next((found for name in _NAMES if (found := getattr(base, name, None)) is not None), None)
    kind = getattr(getattr(module, "config", None), "model_type", None)
    lists = [] if module is None else [m for name, m in module.named_modules() if name.split(".")[-1] in _BLOCKS]
    blocks = next((list(each) for each in lists if isinstance(each, nn.ModuleList)), [])
    attentions = [next((getattr(b, name) for name in _ATTENTION if hasattr(b, name)), None) for b in blocks]
    if module is None or kind not in _CLASS_TOKENS or not blocks or None in attentions:
        raise UnsupportedError(f"{type(model).__name__} has no vision tower that biaslab can read: use another method")
    windows = getattr(module.config, "fullatt_block_indexes", None)
    full = tuple(range(len(blocks))) if windows is None else tuple(sorted(int(i) for i in windows))
    return Tower(module, blocks, [a for a in attentions if a is not None], _CLASS_TOKENS[kind], full)


def folded(values: Tensor, side: int, fold: int) -> Tensor:
    """Average squares of ``fold x fold`` neighbours in tiles of ``side x side`` patches, both row by row.

    Parameters
    ----------
    values : Tensor (tiles * side**2, C)
    side, fold : int

    Returns
    -------
    Tensor (tiles * (side // fold)**2, C)

    Examples
    --------
    >>> import torch
    >>> folded(torch.arange(16.0)[:, None], 4, 2).flatten()  # the first from patches 0, 1, 4 and 5
    tensor([ 2.5000,  4.5000, 10.5000, 12.5000])
    """
    if fold == 1:
        return values
    cells = side // fold
    return values.reshape(-1, cells, fold, cells, fold, values.shape[1]).mean((2, 4)).flatten(0, 2)


def split_rows(values: Tensor, counts: Sequence[int]) -> list[Tensor]:
    """Split what belongs to several images.

    Raises
    ------
    UnsupportedError
        There are more or fewer rows than the images have.
    """
    if len(values) != sum(counts):
        raise UnsupportedError(
            f"the vision tower has shown {len(values)} rows, these images have {sum(counts)}: encode with "
            "vlm.encode(...) and run vlm.generate(encoded) or vlm.forward(encoded)"
        )
    return list(values.split(list(counts)))
