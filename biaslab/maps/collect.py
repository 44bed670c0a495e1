"""Attention maps of many images, streamed into moments or stored on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import ExitStack
from functools import partial
from numbers import Integral
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from biaslab._util.ahead import ahead
from biaslab._util.arguments import as_path, at_least_one
from biaslab._util.launch import Launch
from biaslab._util.number_text import count_text
from biaslab._util.progress import progress_bar
from biaslab.attention.query_rows import check_queries, check_rows_of_family
from biaslab.attention.rotary import advances, rotary_of
from biaslab.attention.rows import PromptPositions
from biaslab.attention.scores import resolve, score_name
from biaslab.core.frames import frames_layout
from biaslab.core.layers import resolve_layers
from biaslab.datasets.calibration import PROMPT
from biaslab.errors import InputError
from biaslab.maps.base import AttentionMaps, ImageRecord
from biaslab.maps.batch_maps import batch_maps
from biaslab.maps.checkpointed import ResumableMaps
from biaslab.maps.image_source import ImageSource, Item, prepare_images, prepared
from biaslab.maps.parts import PartMaps, has_parts
from biaslab.maps.stored import StoredMaps
from biaslab.maps.streamed import StreamedMaps
from biaslab.models.encoded import Encoded
from biaslab.models.encoding import check_frames
from biaslab.models.expected import expect_model
from biaslab.models.preparing import Preparers, check_workers
from biaslab.models.prune_layer import lowest_prune_layer

if TYPE_CHECKING:
    from biaslab.core.layout import TokenLayout
    from biaslab.models.vlm import VLM

__all__ = ["PROMPT", "collect"]

logger = logging.getLogger(__name__)


def collect(
    vlm: VLM,
    images: Iterable[Any],
    *,
    prompt: str | list[str] | None = None,
    layers: int | Iterable[int] | None = None,
    heads: str = "mean",
    queries: str | Tensor = "last",
    score: str | Callable = "attention",
    batch_size: int = 8,
    out: str | Path | None = None,
    progress: bool = True,
    workers: int | None = None,
    ids: list[str] | None = None,
    folds: int = 5,
    checkpoint: str | Path | None = None,
    launch: Launch | None = None,
    features: bool = False,
    frames: bool = False,
) -> AttentionMaps:
    """Attention from the prompt to the visual tokens, over many images, one prefill each.

    Only the decoder layers up to the last one asked for are run; all of them where the model answers first.

    Parameters
    ----------
    vlm : VLM
        The model, of `biaslab.load` or `biaslab.wrap`.
    images : iterable of PIL images, paths, or objects with ``.image``
        Read one batch at a time. One that cannot be read is skipped: a warning counts them and
        ``maps.failures`` lists them. A list of them is one prompt with several images, each of which
        becomes a map of its own, "name[0]", "name[1]" ... (or, with ``frames``, all together one).
    prompt : str or list of str, optional
        One for all or one per image; by default "Please describe the provided image.".
    layers : int, iterable of int, or None for all
        Decoder layers; negative ones count from the end.
    heads : "mean" or "all"
        Keep the mean over heads, as pruning methods score, or every head.
    queries : "last", "text", "null", "raters", "answer", or LongTensor (Q,)
        As in `capture`; several query rows are averaged, but for "null", of which each image has its own, and frames of
        a video that behind the last. "answer": the model answers the prompt (greedily, 32 tokens at most), and the rows
        that it chose the tokens of its answer from become one map, in which a row weighs by how much it looks at
        something (`biaslab.maps.answer_rows.looking_row`).
    score : str or callable
        As in `capture`. Its name goes into the settings, and from there into a profile, which serves no other score.
    batch_size : int
        Images per forward pass.
    out : folder, optional
        Store every map there (append-only; the same call resumes after an interruption). Without it only
        moments are kept and memory does not grow with the number of images.
    progress : bool
        Whether to show a progress bar.
    workers : int, optional
        Threads that open and cut the images of the next batches while the model works on one, two batches ahead; 0
        for none. With two or more, objects of your own are asked for several images at a time. Default: up to 4
        where the model is on a GPU, else none. The maps are the same.
    ids : list of str, optional
        Image ids; by default the file name, the sample's id, or a hash of the pixels. Repeated ids get "#2",
        "#3".
    folds : int
        Cross-fitting folds; an image's fold is a hash of its id.
    checkpoint : file, optional
        Where the moments of an interrupted collection are kept, from which the same call goes on
        (:class:`~biaslab.maps.checkpointed.ResumableMaps`). Only without ``out``, which resumes by itself.
    launch : Launch, optional
        Which of several processes that share the batches and ``out`` this one is; default: it does all of them.
    features : bool
        Whether what enters the decoder is kept as well, in half precision, for a conditional profile
        (`biaslab.profiles.LookaheadProfile`): hidden states of the visual tokens and of the tokens behind the image, in
        front of the first layer before which tokens may be dropped. Only with ``out``: ``maps.features`` reads them.
        They take 2 N D bytes, 27 MB for 3,328 tokens of width 4,096, where that is the first layer once for all
        questions on an image.
    frames : bool
        Every entry of ``images`` is a list of frames of a video, in order, written as the family writes them
        (`VLM.encode`). They become one map over the tokens of all frames, of a layout of frames
        (`biaslab.core.frames.FramesLayout`): what is centred per image elsewhere is centred per prompt, so that a
        profile tells how much more one frame draws than another. Frames of one prompt must be laid out alike.

    Returns
    -------
    AttentionMaps
        `StoredMaps` with ``out``, otherwise moments only. :class:`~biaslab.maps.parts.PartMaps` in a process of several
        that leaves the end of the work to another one.

    Raises
    ------
    InputError
        For bad arguments, or when no image could be read.
    RunFolderError
        When ``out`` cannot be written or was made with other settings.

    Examples
    --------
    >>> import biaslab as bl
    >>> vlm = bl.load("grounder")
    >>> scenes = list(bl.load_dataset("scenes", split="test", n=3))
    >>> prompts = [f"Where is the {s.expression}?" for s in scenes]
    >>> maps = bl.collect(vlm, scenes, prompt=prompts, layers=[3], heads="all", progress=False)
    >>> maps.n, maps.heads, list(maps.layouts)
    (3, 4, ['internvl/16x16/tiles1x1'])
    >>> mean = maps.moments(3, "internvl/16x16/tiles1x1").mean  # heads, visual tokens
    >>> mean.shape
    (4, 256)
    """
    expect_model(vlm)
    if isinstance(images, (str, Path)) or not isinstance(images, Iterable):
        raise InputError(
            f"images must be a list of images, got {type(images).__name__}: pass [picture], or the images of "
            "bl.calibration(vlm, folder)"
        )
    out = None if out is None else as_path("out", out)
    layers = sorted(resolve_layers(layers, vlm.n_layers, "the decoder"))
    total = len(images) if isinstance(images, Sized) else None
    _check_arguments(vlm, total, queries, prompt, batch_size, workers, ids, folds, score)
    settings = _settings(vlm, layers, queries, prompt, heads, folds, score)
    if frames:
        check_frames(vlm.family, images if isinstance(images, (list, tuple)) else ())
        settings |= {"frames": True, "image_options": {**vlm.image_options, **vlm.family.frame_options}}
    door = None
    if features:
        if frames:
            raise InputError("features are kept of single images: leave out features=True with frames=True")
        if out is None or launch is not None:
            raise InputError("features are kept by one process: pass out=folder with features=True, and no launch=")
        door = lowest_prune_layer(vlm.model.config, vlm.family)
        settings["features"] = {"layer": door, "width": vlm.model.config.get_text_config().hidden_size}
    maps = _empty_maps(settings, out, checkpoint, total, launch or Launch())
    source = ImageSource(images, ids, prompt, maps, frames=frames)
    maps.failures = source.failures
    if isinstance(maps, PartMaps):
        total = maps.share_in(source, total, batch_size)
        progress = progress and maps.shows_progress
    preparers = Preparers(vlm, workers, processes=1 if launch is None else launch.local_world_size)
    with ExitStack() as stack:
        stack.enter_context(maps.writing())
        advance = stack.enter_context(progress_bar("collect", total=total, show=progress))
        entries, work = source.batches(batch_size, advance), partial(prepare_images, preparers, frames=frames)
        for batch in stack.enter_context(ahead(work, entries, workers=preparers.workers)):
            for name, why in batch.failed:
                logger.info("skipped %s: %s", name, why)
            source.failures += batch.failed
            ready = _encoded(vlm, batch.items, batch.prompts, source.failures, frames) if batch.items else ()
            for items, encoded in ready:
                found = batch_maps(
                    vlm, encoded, layers, queries=queries, heads=heads, score=score, door=door, device=maps.device_for
                )
                distances = _query_distances(encoded, found.prompt, settings["rotary"])
                if found.inputs is not None and isinstance(maps, StoredMaps):
                    _add_features(maps, items, found.inputs.per_image(vlm, encoded))
                attention = found.images
                if frames:
                    attention, distances = _of_frames(encoded, attention, distances)
                _add(maps, items, attention, distances, source.failures)
            if batch.items:
                maps.checkpoint()
            advance(batch.size)
    if isinstance(maps, PartMaps):
        if maps.whole is None:
            return maps
        maps = maps.whole
    failures = maps.failures
    skipped = [f"{count_text(len(failures), 'image')} skipped, the first: {why}" for _, why in failures[:1]]
    if maps.n == 0:
        raise InputError("; ".join(["no image to collect from", *skipped]))
    for text in skipped:
        warnings.warn(text, stacklevel=2)
    return maps


def _check_arguments(
    vlm: VLM,
    total: int | None,
    queries: str | Tensor,
    prompt: str | list[str] | None,
    batch_size: int,
    workers: int | None,
    ids: list[str] | None,
    folds: int,
    score: str | Callable,
) -> None:
    """Refuse, before any work, what would fail later or fail every image; ``total`` is None where it is not known."""
    resolve(score)
    at_least_one("batch_size", batch_size)
    check_workers(workers)
    if isinstance(folds, bool) or not isinstance(folds, Integral) or folds < 2:
        raise InputError(f"folds must be a whole number >= 2, got {folds!r}")
    check_queries(queries, ("last", "text", "null", "raters", "answer"))
    check_rows_of_family(queries, vlm.family)
    if isinstance(queries, Tensor) and queries.ndim != 1:
        raise InputError("collect takes explicit queries of shape (Q,), the same for every image")
    prompts = prompt if isinstance(prompt, list) else [prompt]
    for name, entries in (("prompt", prompts if prompts is prompt else None), ("ids", ids)):
        if entries is not None and total is not None and len(entries) != total:
            raise InputError(f"{len(entries)} entries in {name} for {total} images: give one per image")
    for text in prompts:  # or every image would be skipped for it
        if not isinstance(text, (str, NoneType)):
            raise InputError(f"prompt must be a string or a list of them, got {type(text).__name__}")
    for text in prompts:  # or every image would be skipped for it
        vlm.family.check_text(vlm.processor, text or "")


def _settings(
    vlm: VLM,
    layers: list[int],
    queries: str | Tensor,
    prompt: str | list[str] | None,
    heads: str,
    folds: int,
    score: str | Callable,
) -> dict[str, Any]:
    """Gather what maps must have in common to be added to each other."""
    return {
        "model": vlm.name,
        "revision": vlm.revision,
        "fingerprint": vlm.fingerprint,
        "family": vlm.family.name,
        "queries": queries if isinstance(queries, str) else f"indices {queries.tolist()}",
        "heads": heads,
        "score": score_name(score),
        "prompt": _prompt_name(prompt),
        "image_options": dict(vlm.image_options),
        "layers": layers,
        "folds": folds,
        "rotary": rotary_of(vlm),
        **vlm.loading,
        **vlm.watermark,
    }


def _empty_maps(
    settings: dict[str, Any], out: Path | None, checkpoint: str | Path | None, total: int | None, launch: Launch
) -> AttentionMaps:
    """Make the maps to add to, in a folder or in memory; not empty where an interrupted collection goes on."""
    if out is not None and checkpoint is not None:
        raise InputError("maps in a folder resume by themselves: pass out or checkpoint, not both")
    if out is None and not launch.alone:
        raise InputError(f"{launch} shares the images with the others in a folder: pass maps=, where all can write")
    if out is not None and (has_parts(out) or not launch.alone):
        return PartMaps(out, settings, launch, n_images=total)
    if out is not None:
        return StoredMaps.create(out, settings)
    return StreamedMaps(settings) if checkpoint is None else ResumableMaps(settings, checkpoint, n_images=total)


def _add_features(maps: StoredMaps, items: list[Item], values: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Write features before the maps of the same images: an image counts once its map is complete."""
    images = [(name, picture) for item in items for (name, _), picture in zip(item.records, item.pictures, strict=True)]
    for (name, picture), (visual, text) in zip(images, values, strict=True):
        if name not in maps.features:
            maps.features.add(name, picture, visual, text)


def _of_frames(
    encoded: Encoded, attention: list[tuple[TokenLayout, Tensor]], distances: list[int | None]
) -> tuple[list[tuple[TokenLayout, Tensor]], list[int | None]]:
    """Put the maps of the frames of each prompt together; the query is as far as it is from the last of them."""
    each: list[list[int]] = [[] for _ in range(len(encoded))]
    for i, owner in enumerate(encoded.owners):
        each[owner].append(i)
    joined = [
        (frames_layout([attention[i][0] for i in own]), torch.cat([attention[i][1] for i in own], dim=-1))
        for own in each
    ]
    return joined, [distances[own[-1]] for own in each]


def _add(
    maps: AttentionMaps,
    items: list[Item],
    attention: list[tuple[TokenLayout, Tensor]],
    distances: list[int | None],
    failures: list[tuple[str, str]],
) -> None:
    """Add the maps of a batch; an image with attention that is not finite becomes a failure.

    Part of a prompt may have been stored before an interruption: the maps leave it out.
    """
    records = [record for item in items for record in item.records]
    each = [tensor.isfinite().flatten(1).all(1) for _, tensor in attention]
    finite = torch.stack(each).cpu().numpy()  # (images, L): of streamed maps all that leaves a device here
    good = []
    for (name, digest), (layout, tensor), distance, fine in zip(records, attention, distances, finite, strict=True):
        if fine.all():
            good.append((ImageRecord(name, layout, digest, distance), tensor))
        else:
            broken = maps.settings["layers"][int(np.argmin(fine))]
            failures.append((name, f"attention of layer {broken} is not finite: load the model in another dtype"))
    maps.add_batch(good)


def _encoded(
    vlm: VLM, items: list[Item], prompts: Encoded | InputError | None, failures: list[tuple[str, str]], frames: bool
) -> Iterator[tuple[list[Item], Encoded]]:
    """Yield the batch as it is, or, where the processor refuses one of its images, those that it takes, one by one."""
    try:
        if isinstance(prompts, InputError):
            raise prompts
        made = prepared(vlm, items, frames=frames) if prompts is None else prompts
        yield items, vlm.send(made)
    except InputError as err:
        if len(items) == 1:
            failures.append((items[0].records[0][0], str(err)))
            return
        for item in items:
            yield from _encoded(vlm, [item], None, failures, frames)


def _query_distances(encoded: Encoded, prompt: PromptPositions, rotary: dict[str, Any] | None) -> list[int | None]:
    """Positions from the last placeholder of each image to its prompt's query rows, their mean rounded."""
    is_image, n_queries = prompt.is_image, prompt.queries.shape[1]
    # as one tensor, because each transfer waits for the device
    together = torch.cat([is_image.long(), prompt.queries, prompt.query_mask.long()], 1).cpu()
    is_image, queries, mask = together.split([is_image.shape[1], n_queries, n_queries], 1)
    is_image = is_image.bool()
    moves = [advances(layout, rotary) for layout in encoded.layouts]  # images come in the order of the prompts
    step = torch.ones_like(together[:, : is_image.shape[1]])
    step[is_image] = torch.from_numpy(np.concatenate(moves))
    at = step.cumsum(1)
    ends = at[is_image][np.cumsum([len(m) for m in moves]) - 1]
    where = at.gather(1, queries)
    if prompt.row_of is None:
        far = ((where * mask).sum(1) / mask.sum(1))[encoded.owners]
    else:  # each image has its own
        far = where[encoded.owners, encoded.places].double()
    return [None if bool(d.isnan()) else round(float(d)) for d in far - ends]


def _prompt_name(prompt: str | list[str] | None) -> str:
    """Return the prompt itself, or for one per image a hash of the list."""
    if isinstance(prompt, list):
        digest = hashlib.sha256(json.dumps(prompt).encode()).hexdigest()[:12]
        return f"one per image ({digest})"
    if prompt is not None and not prompt.strip():
        raise InputError("empty prompt: leave it out for the generic one")
    return PROMPT if prompt is None else prompt
