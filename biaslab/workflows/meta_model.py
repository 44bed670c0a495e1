"""A model before its weights are read: what it weighs, what images cost in tokens and FLOPs."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from biaslab.core.frames import frames_layout, parts_of_frames
from biaslab.cost import Parameters, VisionInput, parameters, prompt_flops
from biaslab.cost.memory import bytes_of
from biaslab.errors import InputError, UnsupportedError
from biaslab.models.adapter_folder import cached_adapter, check_adapter
from biaslab.models.checkpoints.files import folder_revision, missing_files
from biaslab.models.fingerprints import loaded_fingerprint
from biaslab.models.lengths import position_limit
from biaslab.models.load_options import quantization
from biaslab.models.offline.geometry import Geometry, geometry
from biaslab.models.recipe import LoadRecipe
from biaslab.models.registry import resolve
from biaslab.models.vlm import VLM

if TYPE_CHECKING:
    from biaslab.core.layout import TokenLayout
    from biaslab.evaluation.configurations import Config

__all__ = ["PromptTokens", "MetaModel"]

Sizes = tuple[tuple[int, int], ...]  # (width, height) of each frame of a video
_QUANTISED = {"4bit": 0.5 + 4 / 64, "8bit": 1.0}  # bytes a weight; in 4 bits, a scale in float32 for every 64
_GREY = (128, 128, 128)  # black would be taken for padding by some processors


@dataclass(frozen=True)
class PromptTokens:
    """Tokens of one prompt.

    Attributes
    ----------
    layout : TokenLayout
        The visual tokens.
    text : int
        Number of text tokens.
    """

    layout: TokenLayout
    text: int


@dataclass(frozen=True)
class MetaModel:
    """A model without weights: its size, and what images cost in it.

    Attributes
    ----------
    geometry : Geometry
        Configuration, processor and family.
    vlm : VLM
        The model on torch's meta device: it has shapes and no numbers.
    dtype : str
        The dtype its weights would have.
    """

    geometry: Geometry
    vlm: VLM
    dtype: str

    @classmethod
    def of(
        cls,
        model: str | Path | LoadRecipe | Geometry,
        *,
        dtype: str = "auto",
        image_options: dict[str, Any] | None = None,
    ) -> MetaModel:
        """Make the model from its configuration.

        Parameters
        ----------
        model : str, Path, LoadRecipe or Geometry
            Alias, hub id, folder, how the model would be loaded, or a geometry read before.
        dtype : str
            ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        image_options : dict, optional
            How images are cut or resized, e.g. ``{"max_tiles": 6}``.

        Returns
        -------
        MetaModel
            On the meta device.

        Raises
        ------
        InputError, ModelError
            Unknown model, dtype or image option.

        Examples
        --------
        >>> from biaslab.workflows.meta_model import MetaModel
        >>> MetaModel.of("grounder").record()["parameters"]
        5671104
        """
        import torch
        from transformers import AutoModelForImageTextToText

        found = model if isinstance(model, Geometry) else geometry(model)
        if found.recipe is not None and dtype == "auto":
            dtype = found.recipe.dtype
        with torch.device("meta"):  # all checks of the real run, no memory
            empty = AutoModelForImageTextToText.from_config(found.config, attn_implementation="sdpa").eval()
        vlm = VLM(empty, found.processor, found.family, **_identity(found, dtype))
        return cls(found, vlm.set_image_options(**(image_options or {})), _dtype(found.config, dtype))

    @property
    def family(self) -> Any:
        """The model's family."""
        return self.geometry.family

    @property
    def config(self) -> Any:
        """The model's configuration, of transformers."""
        return self.geometry.config

    @cached_property
    def parameters(self) -> Parameters:
        """Numbers of parameters, by part."""
        return parameters(self.config)

    def record(self) -> dict[str, Any]:
        """Return name, source, number of parameters, and bytes in memory and on disk, JSON-ready."""
        disk, source = _disk(self.geometry, self.parameters)
        return {
            "name": self.geometry.name,
            "family": self.family.name,
            "source": self.geometry.source,
            "stand_in": self.geometry.spec is not None,
            "layers": self.vlm.n_layers,
            "parameters": self.parameters.total,
            "dtype": self.dtype,
            "load_in": None if self.geometry.recipe is None else self.geometry.recipe.load_in,
            "weights": self._weights(),
            "disk": disk,
            "disk_source": source,
        }

    def _weights(self) -> int:
        """Bytes of the weights in memory: quantised are the linear layers without the output head."""
        how = None if self.geometry.recipe is None else self.geometry.recipe.load_in
        if how is None:
            return self.parameters.bytes(self.dtype)
        from torch import nn

        model = self.vlm.model
        head = model.get_output_embeddings()
        linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear) and m is not head)
        return round(linear * _QUANTISED[how] + (self.parameters.total - linear) * bytes_of(self.dtype))

    def survey(
        self, items: Iterable[tuple[tuple[int, int] | None, str]] | Iterable[tuple[Sizes | None, str]]
    ) -> list[PromptTokens | None]:
        """Count the tokens of every (image size, text): the layout depends on the size alone, each is tried once.

        Parameters
        ----------
        items : iterable of (size, str)
            ``(width, height)`` of an image, or of each frame of a video, None for what cannot be read; and the text of
            the prompt.

        Returns
        -------
        list of PromptTokens or None
            None for a size that is None and for one that the processor refuses.

        Raises
        ------
        InputError
            No size is left.
        """
        by_size: dict[Any, PromptTokens | None] = {}
        out: list[PromptTokens | None] = []
        why = "none could be read"
        for dims, text in items:
            if dims is None:
                out.append(None)
                continue
            if dims not in by_size:
                try:
                    by_size[dims] = self.tokens(dims, text)
                except InputError as err:
                    by_size[dims], why = None, str(err)
            out.append(by_size[dims])
        if not any(out):
            raise InputError(f"no image to plan for: {why}")
        return out

    def tokens(self, dims: tuple[int, int] | Sizes, text: str) -> PromptTokens:
        """Count the tokens of a prompt with one image of this size (width, height), or with frames of these sizes.

        Raises
        ------
        InputError
            What the processor refuses.
        """
        sizes: list[Any] = [dims]
        options, more = self.vlm.image_options, {}
        if isinstance(dims[0], tuple):
            sizes, options, more = list(dims), {**options, **self.family.frame_options}, {"frames": True}
        images = [Image.new("RGB", size, _GREY) for size in sizes]
        inputs, layouts, _ = self.family.encode(self.geometry.processor, [images], [text], options, **more)
        layout = frames_layout(layouts)
        return PromptTokens(layout, inputs["input_ids"].shape[1] - layout.n)

    def layouts_of_frames(self, sizes: Sizes, text: str) -> list[TokenLayout]:
        """Lay out the frames of a video, of these sizes (width, height).

        Raises
        ------
        InputError
            What the processor refuses, or more frames than the model has positions for.
        """
        found, limit = self.tokens(sizes, text), position_limit(self.config)
        if limit is not None and found.layout.n + found.text > limit:
            raise InputError(
                f"{len(sizes)} frames take {found.layout.n + found.text} positions with their question, and "
                f"the model has {limit}: take fewer of them, --frames N"
            )
        return [part for part, _ in parts_of_frames(found.layout)]

    def means(
        self,
        seen: Sequence[PromptTokens],
        text: Any,
        *,
        config: Config | None = None,
        new_tokens: int,
        cache: str = "full",
    ) -> dict[str, float]:
        """Average visual tokens kept and TFLOPs per image.

        Parameters
        ----------
        seen : sequence of PromptTokens
            One per image.
        text : object
            The configuration of the decoder whose FLOPs are counted.
        config : Config, optional
            What is pruned; by default nothing.
        new_tokens : int
            Length of an answer.
        cache : "full" or "trimmed"

        Returns
        -------
        dict
            ``kept``, ``tflops_vision``, ``tflops_projector``, ``tflops_decoder``; NaN where the cost is not known.
        """
        whole = copy.copy(self.config)
        whole.text_config = text
        layers = [stage.layer for stage in config.stages] if config is not None else []
        sums: defaultdict[str, float] = defaultdict(float)
        for one, times in Counter(seen).items():
            kept = config.kept(one.layout.n) if config is not None and layers else [one.layout.n]
            sums["kept"] += times * kept[-1]
            images = [VisionInput.of(part) for part, _ in parts_of_frames(one.layout)]
            try:
                spent: Any = {"keep_n": kept, "layer": layers or 0, "new_tokens": new_tokens, "cache": cache}
                flops = prompt_flops(whole, images, one.text, **spent)
            except UnsupportedError:
                flops = None
            for part in ("vision", "projector", "decoder"):
                sums[f"tflops_{part}"] += np.nan if flops is None else times * getattr(flops, part) / 1e12
        return {name: value / len(seen) for name, value in sums.items()}


def _identity(found: Geometry, dtype: str) -> dict[str, Any]:
    """Name, revision and fingerprint of what would be loaded; None where the weights are not all on this machine."""
    recipe = found.recipe or LoadRecipe(name=found.name)
    unknown: dict[str, Any] = {"name": found.name, "revision": None, "fingerprint": None}
    if found.folder is None or missing_files(found.folder):
        return unknown
    revision = folder_revision(found.folder) if found.hub_id is None else found.folder.name
    quantized = quantization(recipe.load_in, recipe.arguments, dtype)
    fingerprint = loaded_fingerprint(found.folder, quantized, recipe.arguments)
    if recipe.adapter is None:
        return {"name": found.name, "revision": revision, "fingerprint": fingerprint}
    on_top = resolve(recipe.adapter)
    folder = on_top.folder or cached_adapter(on_top)
    if folder is None:
        return {**unknown, "name": on_top.name}
    check_adapter(folder)
    own, version = loaded_fingerprint(folder), folder_revision(folder) if on_top.hub_id is None else folder.name
    both = None if own is None or fingerprint is None else f"{own} on {fingerprint}"
    return {"name": on_top.name, "revision": f"{version} on {revision}", "fingerprint": both}


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
