"""The weights of an original checkpoint under their native names, read only when they are asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from biaslab.errors import ModelError
from biaslab.models.checkpoints.internvl_chat.names import source

__all__ = ["Rows", "checkpoint_keys", "lazy_state_dict"]

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


class Rows:
    """Some rows of a tensor in a safetensors file; ``rows[...]`` reads them, and nothing is held before or after.

    It stands for a tensor in the ``state_dict`` of ``from_pretrained``, which in transformers 5 reads each entry with
    ``[...]``, moves it to its device and dtype and goes on to the next, as it does with its own safetensors slices.
    """

    def __init__(self, tensor: Any, ranges: list[tuple[int, int]] | None = None):
        self.tensor, self.ranges = tensor, ranges

    def __getitem__(self, key: Any) -> Tensor:
        if self.ranges is None:
            return self.tensor[key]
        pieces = [self.tensor[start:stop] for start, stop in self.ranges]
        return (pieces[0] if len(pieces) == 1 else torch.cat(pieces))[key]


def checkpoint_keys(folder: Path) -> dict[str, Path]:
    """Map the name of every weight to the file it is in; a single file goes before shards, as in transformers."""
    from safetensors import safe_open

    index, single = folder / INDEX, folder / SINGLE
    if single.is_file():
        with safe_open(single, framework="pt") as file:
            return dict.fromkeys(file.keys(), single)
    if not index.is_file():
        raise ModelError(f"{folder} has neither {SINGLE} nor {INDEX}: copy the whole checkpoint")
    table = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    return {key: folder / name for key, name in table.items()}


@contextmanager
def lazy_state_dict(
    folder: Path, files: dict[str, Path], shapes: dict[str, torch.Size], config: Any, internlm2: bool
) -> Iterator[dict[str, Rows]]:
    """Map native names to `Rows`, valid inside the ``with``.

    Parameters
    ----------
    files : dict
        From `checkpoint_keys`.
    shapes : dict
        Native name -> shape of all weights of the native model.
    config : InternVLConfig

    Raises
    ------
    ModelError
        For weights that are missing, not known or of another shape, naming the first of them.
    """
    from safetensors import safe_open

    sources = {native: source(native, internlm2) for native in shapes}
    if config.tie_word_embeddings:  # the output layer is the embedding, and is not in the file
        sources.pop("lm_head.weight")
    expected = {name for name, _ in sources.values()}
    _refuse(folder, "lacks {} weights", expected - files.keys(), "copy the whole checkpoint")
    computed = {key for key in files if key.endswith(".rotary_emb.inv_freq")}  # saved by old versions
    _refuse(folder, "has {} unknown weights", files.keys() - expected - computed, "config.json is of another model")
    with ExitStack() as stack:
        opened = {
            path: stack.enter_context(safe_open(path, framework="pt"))
            for path in sorted({files[key] for key in expected})
        }
        tensors = {}
        for name in expected:
            try:
                tensors[name] = opened[files[name]].get_slice(name)
            except Exception:  # of the Rust side, of no documented type
                where = f"{files[name].name} has no {name}, which {INDEX} says it has"
                raise ModelError(f"{folder}: {where}: copy the whole checkpoint") from None
        _check_shapes(folder, sources, shapes, tensors)
        yield {native: Rows(tensors[name], _ranges(native, part, config)) for native, (name, part) in sources.items()}


def _ranges(native: str, part: int | None, config: Any) -> list[tuple[int, int]] | None:
    """Find the rows of part q, k or v (0, 1, 2) in a fused projection."""
    if part is None:
        return None
    if native.startswith("model.vision_tower."):  # all queries, then all keys, then all values
        dim = config.vision_config.hidden_size
        return [(part * dim, (part + 1) * dim)]
    text = config.text_config  # per key head: its queries, its key, its value
    groups = text.num_attention_heads // text.num_key_value_heads
    first, count = ((0, groups), (groups, 1), (groups + 1, 1))[part]
    starts = [(head * (groups + 2) + first) * text.head_dim for head in range(text.num_key_value_heads)]
    return [(start, start + count * text.head_dim) for start in starts]


def _check_shapes(
    folder: Path, sources: dict[str, tuple[str, int | None]], shapes: dict[str, torch.Size], tensors: dict[str, Any]
) -> None:
    expected: dict[str, list[int]] = {}
    for native, (name, part) in sources.items():
        shape = list(shapes[native])
        if part is not None and name in expected:
            shape[0] += expected[name][0]
        expected[name] = shape
    wrong = [f"{name} {tensors[name].get_shape()} for {shape}" for name, shape in sorted(expected.items())
             if list(tensors[name].get_shape()) != shape]  # fmt: skip
    if wrong:
        raise ModelError(
            f"{folder} has {len(wrong)} weights of another shape than its config says, such as {wrong[0]}: "
            "config.json and weights are not of the same checkpoint"
        )


def _refuse(folder: Path, what: str, names: set[str], fix: str) -> None:
    if names:
        first = ", ".join(sorted(names)[:3])
        raise ModelError(f"{folder} {what.format(len(names))}, such as {first}: {fix}")
