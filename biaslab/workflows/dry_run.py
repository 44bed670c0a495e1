"""The plan of a command before any weight is loaded: images, tokens, memory, FLOPs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from biaslab._util.jsonable import records
from biaslab.core.images import image_size
from biaslab.core.layers import resolve_layers
from biaslab.cost import kv_bytes
from biaslab.datasets.base import take
from biaslab.errors import InputError
from biaslab.evaluation.prompts import prompt_of
from biaslab.evaluation.run_once import GenerationOptions
from biaslab.evaluation.runner import check_configurations
from biaslab.evaluation.worker import WIDTH
from biaslab.models.grounding import MAX_NEW_TOKENS
from biaslab.workflows.meta_model import MetaModel, PromptTokens

if TYPE_CHECKING:
    from biaslab.datasets import Dataset
    from biaslab.datasets.calibration import Calibration
    from biaslab.evaluation.configurations import Config
    from biaslab.models.offline.geometry import Geometry
    from biaslab.models.recipe import LoadRecipe

__all__ = ["DryRun", "check_longest", "plan_evaluate", "plan_fit", "readable_size"]


@dataclass(frozen=True)
class DryRun:
    """The plan of a command.

    Attributes
    ----------
    model : dict
        name, family, source (of all this), layers, parameters, dtype, weights and disk (bytes), disk_source.
    data : dict
        what, count of images or expressions, sizes, tokens per image (min, median, max), text tokens.
    table : DataFrame
        One row per configuration: tokens kept, TFLOPs per image (means) and KV cache.
    notes : list of str
        Lines to be read with the numbers.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    table: pd.DataFrame
    notes: list[str] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """Return all of it, JSON-ready."""
        rows = records(self.table)
        return {"dry_run": True, "model": self.model, "data": self.data, "rows": rows, "notes": self.notes}

    def text(self) -> str:
        """Return all of it but the table as lines of text."""
        m, d = self.model, self.data
        low, middle, high = (d["tokens"][k] for k in ("min", "median", "max"))
        lines = [
            f"model   {m['name']} ({m['family']}), known from {m['source']}",
            f"        {m['layers']} decoder layers, {_count(m['parameters'])} parameters, "
            f"{size(m['weights'])} of memory in {m['dtype']}{_quantised(m['load_in'])}",
            f"disk    {size(m['disk'])} ({m['disk_source']})",
            f"data    {d['what']}: {d['count']}",
            f"tokens  {low} / {middle:g} / {high} visual per {d.get('per', 'image')} (min / median / max over "
            f"{_several(d['sizes'], 'image size')}), "
            f"about {d['text']} of text" + (", more than its own tokenizer makes" if m["stand_in"] else ""),
        ]
        return "\n".join([*lines, *(f"note    {note}" for note in self.notes)])


def plan_fit(
    model: str | Path | LoadRecipe | Geometry,
    calibration: Calibration,
    *,
    layers: Sequence[int] | None = None,
    heads: str = "mean",
    batch_size: int = 8,
    maps: str | Path | None = None,
    dtype: str = "auto",
    image_options: dict[str, Any] | None = None,
) -> DryRun:
    """Plan a call of :func:`biaslab.workflows.fit_bias.fit_bias`.

    Parameters
    ----------
    model : str, Path, LoadRecipe or Geometry
        The model by alias, hub id or folder, or how it would be loaded; no weights are needed.
    calibration : Calibration
        Images with their prompts.
    layers, heads, batch_size, maps
        As in :func:`biaslab.workflows.fit_bias.fit_bias`.
    dtype : str
        ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    image_options : dict, optional
        How images are cut or resized, e.g. ``{"max_tiles": 6}``.

    Returns
    -------
    DryRun
        Images, tokens, memory and FLOPs.

    Raises
    ------
    InputError, UnsupportedError, ModelError
        What the real call would refuse and can be found out without weights.

    Examples
    --------
    >>> from PIL import Image
    >>> from biaslab.datasets.calibration import Calibration
    >>> from biaslab.workflows.dry_run import plan_fit
    >>> images = Calibration("grey", [Image.new("RGB", (896, 448))], "Please describe the provided image.")
    >>> plan = plan_fit("internvl2.5-1b", images, layers=[0, 1])
    >>> plan.data["tokens"]["max"], plan.notes
    (768, ['the forward runs 2 of 24 layers, in batches of 8'])
    """
    meta = MetaModel.of(model, dtype=dtype, image_options=image_options)
    layers = sorted(resolve_layers(layers, meta.vlm.n_layers, "the decoder"))
    if calibration.frames:
        check_longest(meta, calibration)
    images, prompts = calibration.images, calibration.prompts
    prompts = prompts if isinstance(prompts, list) else [prompts] * len(images)
    sizes: list[Any] = [_sizes(video) if calibration.frames else readable_size(video) for video in images]
    surveyed = meta.survey(zip(sizes, prompts, strict=True))
    seen = [s for s in surveyed if s is not None]
    text = copy.copy(meta.config.text_config)
    text.num_hidden_layers, text.vocab_size = layers[-1] + 1, 0  # the forward ends behind the last layer asked for
    row = meta.means(seen, text, new_tokens=1)
    one = "video" if calibration.frames else "image"
    table = pd.DataFrame([{"layers": f"{len(layers)} of {meta.vlm.n_layers}", f"{one}s": len(seen), **row}])
    notes = [f"{_several(n, one)} cannot be read: skipped"] if (n := sizes.count(None)) else []
    if n := surveyed.count(None) - sizes.count(None):
        notes.append(f"{_several(n, one)} cannot be cut or resized by this model: skipped")
    if maps is not None:
        each = 1 if heads == "mean" else text.num_attention_heads
        stored = 4 * each * len(layers) * sum(s.layout.n for s in seen)
        notes.append(f"the maps folder would take {size(stored)}")
    notes.append(f"the forward runs {layers[-1] + 1} of {meta.vlm.n_layers} layers, in batches of {batch_size}")
    data = _data(calibration.name, calibration.counted(len(seen)), seen)
    return DryRun(meta.record(), data | ({"per": one} if calibration.frames else {}), table, notes)


def plan_evaluate(
    model: str | Path | LoadRecipe | Geometry,
    dataset: Dataset,
    configs: Sequence[Config],
    *,
    n: int | None = None,
    batch_size: int = 8,
    dtype: str = "auto",
    new_tokens: int = MAX_NEW_TOKENS,
    image_options: dict[str, Any] | None = None,
    cache: str = "full",
) -> DryRun:
    """Plan a call of :func:`biaslab.evaluation.runner.evaluate`.

    Parameters
    ----------
    model : str, Path, LoadRecipe or Geometry
        The model by alias, hub id or folder, or how it would be loaded; no weights are needed.
    dataset : Dataset
        Referring expressions; of :func:`biaslab.load_dataset`.
    configs : sequence of Config
        Of :func:`biaslab.evaluation.configurations.configurations`.
    n : int, optional
        First n expressions; default all.
    batch_size : int
        Expressions per forward.
    dtype : str
        ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    new_tokens : int
        Length of an answer that the FLOPs are counted with; real answers may be shorter.
    image_options : dict, optional
        How images are cut or resized, e.g. ``{"max_tiles": 6}``.
    cache : "full" or "trimmed"
        As of :func:`biaslab.evaluation.runner.evaluate`.

    Returns
    -------
    DryRun
        Expressions, tokens, memory and FLOPs.

    Raises
    ------
    InputError, UnsupportedError, ProfileMismatchError, ModelError
        What the real call would refuse and can be found out without weights.

    Examples
    --------
    >>> import biaslab as bl
    >>> from biaslab.evaluation.configurations import configurations
    >>> from biaslab.workflows.dry_run import plan_evaluate
    >>> configs = configurations(["none", "random"], 0.1, 4)
    >>> plan = plan_evaluate("grounder", bl.load_dataset("scenes", n=2), configs)
    >>> plan.table[["method", "kept"]].to_dict("records")
    [{'method': 'none', 'kept': 256.0}, {'method': 'random', 'kept': 25.0}]
    """
    meta = MetaModel.of(model, dtype=dtype, image_options=image_options)
    check_configurations(meta.vlm, configs, GenerationOptions(cache=cache))
    samples = take(dataset, n)
    surveyed = meta.survey(((s.width, s.height), prompt_of(meta.family, s)) for s in samples)
    seen = [s for s in surveyed if s is not None]
    read = [stage.profile for config in configs for stage in config.stages if stage.rule.needs_layout]
    for profile in {id(p): p for p in read if p is not None}.values():
        for layout in {s.layout.key: s.layout for s in seen}.values():
            profile.check(layout=layout)
    rows = []
    for config in configs:
        text = meta.config.text_config
        row = meta.means(seen, text, config=config, new_tokens=new_tokens, cache=cache)
        largest = max(seen, key=lambda s: s.layout.n + s.text)
        layers = [stage.layer for stage in config.stages]
        kept = config.kept(largest.layout.n) if layers else None
        held = kv_bytes(
            text, largest.layout.n, largest.text, keep_n=kept, layer=layers or 0, new_tokens=new_tokens,
            dtype=meta.dtype, cache=cache,
        )  # fmt: skip
        rows.append(
            {
                "method": config.label,
                "keep": config.describe()["keep"],
                "layer": config.layer,
                **row,
                "kv_mib": batch_size * held / 2**20,
            }
        )
    table = pd.DataFrame(rows).astype({"layer": "Int64"})
    once = table[["tflops_vision", "tflops_projector"]].iloc[0].sum()  # all configurations share the features
    total = 1e12 * len(seen) * (once + table["tflops_decoder"].sum())
    count = f"{_several(len(samples), 'expression')} on {_several(len({s.image_id for s in samples}), 'image')}"
    notes = [
        f"{len(seen)} x {len(configs)} = {_several(len(seen) * len(configs), 'answer')}, {_count(total)} FLOPs in all: "
        f"{_several(new_tokens, 'new token')} per answer, the vision tower once per expression; what else "
        "configurations share is counted for each",
        f"kv_mib: KV cache of a batch of {batch_size} of the longest prompts in one configuration; a sweep holds those "
        f"of up to {WIDTH} rows (expressions x configurations) at a time",
    ]
    if refused := surveyed.count(None):
        notes.append(f"{_several(refused, 'expression')} on images that this model cannot cut or resize: no verdict")
    return DryRun(meta.record(), _data(f"{dataset.name} {dataset.split}", count, seen), table, notes)


def check_longest(meta: MetaModel, videos: Calibration) -> None:
    """Refuse videos whose frames take more positions than the model has, by the one that has most.

    Raises
    ------
    InputError
    """
    prompts = videos.prompts if isinstance(videos.prompts, list) else [videos.prompts] * len(videos.images)
    frames, text = max(zip(videos.images, prompts, strict=True), key=lambda video: len(video[0]))
    if (sizes := _sizes(frames)) is not None:  # else it is skipped
        meta.layouts_of_frames(sizes, text)


# -- the data --------------------------------------------------------------------------------------------------
def readable_size(image: Any) -> tuple[int, int] | None:
    """Width and height, from a file's header; None for an image that cannot be read."""
    try:
        return image_size(image)
    except InputError:
        return None


def _sizes(frames: Sequence[Any]) -> tuple[tuple[int, int], ...] | None:
    """Width and height of every frame of a video; None where one cannot be read."""
    sizes = tuple(size for frame in frames if (size := readable_size(frame)) is not None)
    return sizes if len(sizes) == len(frames) else None


def _data(what: str, count: str, seen: Sequence[PromptTokens]) -> dict[str, Any]:
    tokens = [s.layout.n for s in seen]
    return {
        "what": what,
        "count": count,
        "sizes": len({s.layout.size for s in seen}),
        "tokens": {"min": min(tokens), "median": float(np.median(tokens)), "max": max(tokens)},
        "text": int(np.median([s.text for s in seen])),
    }


def _quantised(how: str | None) -> str:
    return "" if how is None else f", linear layers in {how}"


def _several(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def _count(n: float) -> str:
    """Write a large number with 3 significant digits and its unit in words."""
    if not n < 1e21:
        return f"{n:.3g}"
    words = ("", " thousand", " million", " billion", " trillion", " quadrillion", " quintillion")
    power = min(len(words) - 1, int(np.log10(max(n, 1)) // 3))
    return f"{n / 1000**power:.3g}{words[power]}"


def size(n: float) -> str:
    """Bytes in the unit that suits.

    Examples
    --------
    >>> from biaslab.workflows.dry_run import size
    >>> size(1536), size(1023)
    ('1.5 KiB', '1023 B')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.3g} {unit}" if n < 1000 else f"{n:.0f} {unit}"
        n /= 1024
    return f"{n:.3g} TiB"
