"""Attention on the object's tokens in every image of a design, streamed and resumable."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from biaslab._util.ahead import ahead
from biaslab._util.jsonl import read_lines
from biaslab._util.launch import Launch
from biaslab._util.progress import progress_bar
from biaslab.attention.capture import capture
from biaslab.attention.heads import check_heads
from biaslab.core.boxes import Box
from biaslab.core.layers import resolve_layers
from biaslab.core.layout import TokenLayout
from biaslab.diagnostics.probe.claims import few_objects_text
from biaslab.diagnostics.probe.logs import ProbeLog
from biaslab.diagnostics.probe.result import LOG, ProbeResult, assemble
from biaslab.diagnostics.probe.stimuli import ProbeDesign, Stimulus, stimulus_id
from biaslab.errors import InputError
from biaslab.evaluation.metrics import grounding_iou
from biaslab.maps.moments import TINY
from biaslab.models.preparing import Preparers, check_workers

if TYPE_CHECKING:
    from biaslab.models.encoded import Encoded
    from biaslab.models.vlm import VLM

__all__ = ["footprint", "measure", "measure_share", "regions_of_layout"]


def measure(
    vlm: VLM,
    design: ProbeDesign,
    *,
    layers: int | Iterable[int] | None = None,
    heads: str = "mean",
    queries: str = "last",
    batch_size: int = 16,
    out: str | Path | None = None,
    progress: bool = True,
    workers: int | None = None,
    locate: bool = False,
) -> ProbeResult:
    """Show every image of the design once and record the attention its object draws.

    The attention of the object is its mass over its area: attention of the tokens it reaches into, each weighted
    by the share of its cell that the box covers, over the sum of those weights. Thumbnail tokens, which show the
    object a second time, are a region of their own.

    Images are made, used and dropped batch by batch; a line of a few numbers per image stays. Fewer than six different
    objects (:data:`biaslab.diagnostics.probe.claims.FEWEST_OBJECTS`) are measured, with a warning.

    Parameters
    ----------
    vlm : VLM
        The model.
    design : ProbeDesign
        Of :func:`biaslab.diagnostics.probe.design_for`, on the model's raster of tokens.
    layers : int or iterable of int, optional
        Decoder layers; default all.
    heads : {"mean", "all"}
        "mean", or "all" for every head.
    queries : {"last", "text"}
        "last" (prompt token) or "text" (mean over all tokens after the image).
    batch_size : int
        Images per forward.
    out : str or Path, optional
        Folder for ``probe.json`` and ``stimuli.jsonl`` (append-only); the same call resumes. Default: memory.
    progress : bool
        Draw a progress bar.
    workers : int, optional
        Threads that make and cut the images of the next batches while the model works on one, two batches ahead; 0
        for none. Default: up to 4 where the model is on a GPU, else none. The measurement is the same.
    locate : bool
        Also generate the answer and record its IoU with the box (several times slower).

    Returns
    -------
    ProbeResult
        The complete measurement.

    Raises
    ------
    InputError
        Bad layers or batch size; a location at which no token looks.
    RunFolderError
        ``out`` cannot be written, or holds another probe.

    Examples
    --------
    >>> import biaslab as bl
    >>> from biaslab.diagnostics.probe import design_for, measure
    >>> vlm = bl.load("grounder")
    >>> result = measure(vlm, design_for(vlm, grid=(1, 2), pairs=1, scale=(0.3, 0.5)), layers=[1], progress=False)
    >>> result.log.shape, result.regions
    ((1, 1, 2, 1, 1, 1), ['tiles'])
    """
    result = measure_share(
        vlm, design, Launch(), layers=layers, heads=heads, queries=queries, batch_size=batch_size, out=out,
        progress=progress, workers=workers, locate=locate,
    )  # fmt: skip
    assert result is not None  # one process has the whole
    return result


def measure_share(
    vlm: VLM,
    design: ProbeDesign,
    launch: Launch,
    *,
    layers: int | Iterable[int] | None = None,
    heads: str = "mean",
    queries: str = "last",
    batch_size: int = 16,
    out: str | Path | None = None,
    progress: bool = True,
    workers: int | None = None,
    locate: bool = False,
) -> ProbeResult | None:
    """Do the part of one of several processes in `measure`; they meet in ``out``, and none waits for another.

    The batches of the design are taken in turn, so that a batch is the same images whoever does it, and whatever was
    done before.

    Parameters
    ----------
    vlm, design, layers, heads, queries, batch_size, out, progress, workers, locate
        As for `measure`.
    launch : Launch
        Which process of how many this is.

    Returns
    -------
    ProbeResult or None
        The complete measurement; None where another process finishes it.

    Raises
    ------
    InputError
        As for `measure`; several processes without ``out``.
    RunFolderError
        ``out`` cannot be written, holds another probe, or another command is at work in it.
    """
    layers = sorted(resolve_layers(layers, vlm.n_layers, "the decoder"))
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    check_workers(workers)
    check_heads(heads)
    if queries not in ("last", "text"):
        raise InputError(f"queries is 'last' or 'text', got {queries!r}")
    settings = {
        "model": vlm.name, "revision": vlm.revision, "fingerprint": vlm.fingerprint, "family": vlm.family.name,
        "layers": layers, "heads": heads, "queries": queries, "locate": bool(locate),
        "image_options": dict(vlm.image_options), "prompt": vlm.family.grounding_prompt(design.expression),
        "design": design.identity(), **vlm.loading, **vlm.watermark,
    }  # fmt: skip
    if out is None and not launch.alone:
        raise InputError(f"{launch} meets the others in a folder: pass out, where all of them can write")
    images = {stimulus_id(*at): at for at in design.order()}
    records: list[dict] = []  # where there is no folder
    with ExitStack() as stack:
        log, keep, done = None, records.append, set[str]()
        if out is not None:
            log = stack.enter_context(ProbeLog(Path(out), settings, list(images), launch).writing())
            keep, done = log.append, log.done
        few = few_objects_text(design.pairs, len(set(design.groups)))
        if few and launch.rank == 0:  # of a probe that is not refused, once
            warnings.warn(few, stacklevel=3)
        names = iter(images)
        batches = iter(lambda: list(islice(names, batch_size)), [])
        mine = [batch for batch in islice(batches, launch.rank, None, launch.world_size) if not done.issuperset(batch)]
        here = sum(name not in done for batch in mine for name in batch)
        before = len(done) if launch.alone else 0
        shown = progress and (launch.rank == 0 or not sys.stderr.isatty())  # several bars would overwrite each other
        advance = stack.enter_context(progress_bar("probe", total=here + before, done=before, show=shown))
        preparers = Preparers(vlm, workers, processes=launch.local_world_size)
        work = partial(_prepared, preparers, design, images)
        for batch, prompts in stack.enter_context(ahead(work, mine, workers=preparers.workers)):
            new = sum(stimulus.id not in done for stimulus in batch)
            for record in _measured(vlm, batch, vlm.send(prompts), layers, heads, queries, locate):
                keep(record)
            advance(new)
        if log is not None and not log.finish():
            return None
    return assemble(settings, design.groups, records if out is None else read_lines(Path(out) / LOG))


def _prepared(
    preparers: Preparers, design: ProbeDesign, places: dict[str, tuple[int, int, int, int]], names: list[str]
) -> tuple[list[Stimulus], Encoded]:
    """Make the images of a batch and their prompts, in whatever thread."""
    batch = [design.stimulus(*places[name]) for name in names]
    with preparers.one() as vlm:
        prompts = [vlm.family.grounding_prompt(s.expression) for s in batch]
        return batch, vlm.prepare([s.image for s in batch], prompts, sample_ids=[s.id for s in batch])


def _measured(
    vlm: VLM, batch: list[Stimulus], encoded: Encoded, layers: list[int], heads: str, queries: str, locate: bool
) -> list[dict]:
    answers: list[Any] = [None] * len(batch)
    with capture(vlm, layers=layers, queries=queries, heads=heads) as rows:
        if locate:  # the rows are those of the prefill: no second forward
            answers = vlm.locate_answers(encoded)
        else:
            vlm.forward(encoded, logits_to_keep=1, use_cache=False)
    records = []
    maps = rows.per_image(encoded, layers, device="cpu")
    for stimulus, (layout, attention), answer in zip(batch, maps, answers, strict=True):
        logs = np.log(footprint(attention.numpy(), layout, stimulus.box) + TINY)  # (regions, layers, heads)
        record = {
            "id": stimulus.id, "pair": stimulus.pair, "row": stimulus.row, "col": stimulus.col,
            "repetition": stimulus.repetition, "name": stimulus.name, "box": list(stimulus.box.as_tuple()),
            "log": logs.round(6).tolist(), "layout": layout.to_dict(),
        }  # fmt: skip
        if answer is not None:
            record |= {"iou": grounding_iou(answer.box, stimulus.box), "parsed": answer.parsed}
        records.append(record)
    return records


def regions_of_layout(layout: TokenLayout) -> dict[str, np.ndarray]:
    """Split tokens into regions: those of the tiles and, where there are two kinds, those of the thumbnail.

    Returns
    -------
    dict of str to ndarray
        Name -> (N,) bool.
    """
    if layout.thumbnail.all() or not layout.thumbnail.any():
        return {"tiles": np.ones(layout.n, dtype=bool)}
    return {"tiles": ~layout.thumbnail, "thumbnail": layout.thumbnail}


def footprint(values: np.ndarray, layout: TokenLayout, box: Box) -> np.ndarray:
    """Average token values over a box, each token weighted by the share of its cell that is covered.

    Parameters
    ----------
    values : ndarray
        (..., N) values of the layout's tokens.
    layout : TokenLayout
        Where the tokens look.
    box : Box
        In pixels.

    Returns
    -------
    ndarray
        (regions, ...): one mean per region of `regions_of_layout`.

    Raises
    ------
    InputError
        No token of a region looks at the box.
    """
    share, out = layout.overlap(box) * layout.in_image, []
    for name, mask in regions_of_layout(layout).items():
        at = np.flatnonzero(share * mask > 1e-9)
        if not len(at):
            raise InputError(f"no token of the {name} looks at the object at {box.as_tuple()}: choose another size")
        out.append(values[..., at] @ share[at] / share[at].sum())
    return np.stack(out)
