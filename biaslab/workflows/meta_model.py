"""A model before its weights are read: what it weighs, what images cost in tokens and FLOPs."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from biaslab.cost import Parameters, VisionInput, parameters, prompt_flops
from biaslab.cost.memory import bytes_of
from biaslab.errors import InputError, UnsupportedError
from biaslab.models.checkpoints.files import missing_files
from biaslab.models.offline.geometry import Geometry, geometry
from biaslab.models.vlm import VLM
from biaslab.pruning import budget

if TYPE_CHECKING:
    from biaslab.core.layout import TokenLayout

__all__ = ["PromptTokens", "MetaModel"]

_GREY = (128, 128, 128)  # black would be taken for padding by some processors


@dataclass(frozen=True)
class PromptTokens:
    """Tokens of one prompt."""

    layout: TokenLayout
    text: int


@dataclass(frozen=True)
class MetaModel:
    """A model without weights, and what can be asked of it."""

    geometry: Geometry
    vlm: VLM
    dtype: str

    @classmethod
    def of(cls, model: str | Path | Geometry, dtype: str, image_options: dict[str, Any] | None = None) -> MetaModel:
        import torch
        from transformers import AutoModelForImageTextToText

        found = model if isinstance(model, Geometry) else geometry(model)
        with torch.device("meta"):  # all checks of the real run, no memory
            empty = AutoModelForImageTextToText.from_config(found.config, attn_implementation="sdpa")
        vlm = VLM(empty, found.processor, found.family, name=found.name).set_image_options(**(image_options or {}))
        return cls(found, vlm, _dtype(found.config, dtype))

    @property
    def family(self) -> Any:
        return self.geometry.family

    @property
    def config(self) -> Any:
        return self.geometry.config

    @cached_property
    def parameters(self) -> Parameters:
        return parameters(self.config)

    def record(self) -> dict[str, Any]:
        disk, source = _disk(self.geometry, self.parameters)
        return {
            "name": self.geometry.name,
            "family": self.family.name,
            "source": self.geometry.source,
            "stand_in": self.geometry.spec is not None,
            "layers": self.vlm.n_layers,
            "parameters": self.parameters.total,
            "dtype": self.dtype,
            "weights": self.parameters.bytes(self.dtype),
            "disk": disk,
            "disk_source": source,
        }

    def survey(self, items: Iterable[tuple[tuple[int, int] | None, str]]) -> list[PromptTokens | None]:
        """Tokens of every (image size, text): the layout depends on the size alone, so each size is tried once.

        None for a size that is None (a picture that cannot be read) and for one that the processor refuses.

        Raises
        ------
        InputError
            Where that leaves nothing.
        """
        known: dict[tuple[int, int] | None, PromptTokens | None] = {None: None}
        out, why = [], "none could be read"
        for dims, text in items:
            if dims not in known:
                try:
                    known[dims] = self._seen(dims, text)
                except InputError as err:
                    known[dims], why = None, str(err)
            out.append(known[dims])
        if not any(out):
            raise InputError(f"no image to plan for: {why}")
        return out

    def _seen(self, dims: tuple[int, int], text: str) -> PromptTokens:
        image = Image.new("RGB", dims, _GREY)
        inputs, (layout,), _ = self.family.encode(self.geometry.processor, [[image]], [text], self.vlm.image_options)
        return PromptTokens(layout, inputs["input_ids"].shape[1] - layout.n)

    def means(
        self, seen: Sequence[PromptTokens], text: Any, keep: Any, layer: int | None, new: int
    ) -> dict[str, float]:
        """Visual tokens kept and TFLOPs, mean per image."""
        config = copy.copy(self.config)
        config.text_config = text
        sums: Counter[str] = Counter()
        for one, times in Counter(seen).items():
            kept = None if keep is None else budget(keep, one.layout.n)
            sums["kept"] += times * (one.layout.n if kept is None else kept)
            try:
                flops = prompt_flops(
                    config, [VisionInput.of(one.layout)], one.text, keep_n=kept, layer=layer or 0, new_tokens=new
                )
            except UnsupportedError:
                flops = None
            for part in ("vision", "projector", "decoder"):
                sums[f"tflops_{part}"] += np.nan if flops is None else times * getattr(flops, part) / 1e12
        return {name: value / len(seen) for name, value in sums.items()}


def _dtype(config: Any, dtype: str) -> str:
    """Name of the dtype the weights would have; published sizes count in bfloat16."""
    if dtype == "auto":
        own = getattr(config, "dtype", None) or getattr(config.text_config, "dtype", None) or "bfloat16"
        dtype = str(own).removeprefix("torch.")
    bytes_of(dtype)
    return dtype


def _disk(found: Geometry, params: Parameters) -> tuple[int, str]:
    """Bytes of the weight files, and how they are known."""

    if found.folder is not None:
        there = sum(path.stat().st_size for path in found.folder.glob("*.safetensors"))
        if there and not missing_files(found.folder):
            return there, "on this machine"
    published = None if found.hub_id is None else _hub_size(found.hub_id)
    if published is not None:
        return published, "on the hub, not on this machine"
    return params.bytes(_dtype(found.config, "auto")), "computed, not on this machine"


def _hub_size(repo: str) -> int | None:
    """Bytes of a hub model's safetensors files; None where the hub does not answer."""
    from huggingface_hub import HfApi

    try:
        files = HfApi().model_info(repo, files_metadata=True, timeout=5.0).siblings or []
    except Exception:  # the hub client raises errors of three libraries; all mean that it does not tell
        return None
    return sum(f.size or 0 for f in files if f.rfilename.endswith(".safetensors")) or None
