"""The attention of the samples that a report shows, and what the stages of its schedules left: both need the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from biaslab.attention.capture import capture
from biaslab.core.layers import resolve_layers
from biaslab.errors import BiaslabError, InputError
from biaslab.evaluation.configurations import UNPRUNED, configurations
from biaslab.evaluation.kept_tokens import kept_tokens, mask_of
from biaslab.evaluation.prompts import prompt_of
from biaslab.evaluation.recorded_methods import label_of
from biaslab.evaluation.schema import record_key
from biaslab.figures.report.viewer_data import Shown, lines_of
from biaslab.pruning.engine.prune import prune
from biaslab.workflows.shown_profiles import expected_maps

if TYPE_CHECKING:
    from biaslab.datasets.sample import Sample
    from biaslab.evaluation.results import Results
    from biaslab.models.vlm import VLM
    from biaslab.profiles import Profile

__all__ = ["check_model", "with_attention"]

_BATCH = 8


def with_attention(
    vlm: VLM,
    results: Results,
    shown: Sequence[Shown],
    samples: Mapping[str, Sample],
    *,
    layers: Sequence[int] | None = None,
    profiles: Sequence[Profile] = (),
) -> tuple[list[Shown], dict[str, dict[int, np.ndarray]], list[str]]:
    """Capture the attention of the unpruned model for the shown samples, and repeat the stages of schedules.

    Parameters
    ----------
    vlm : VLM
        The model of the run.
    results : Results
    shown : sequence of Shown
    samples : mapping of str to Sample
        By id.
    layers : sequence of int, optional
        By default K - 1 of the first configuration that is pruned at a layer K > 0, else the last layer.
    profiles : sequence of Profile
        Of the run.

    Returns
    -------
    shown : list of Shown
        With ``attention`` and ``stages``; the stages of a line only where the last one left what the run recorded.
    expected : dict
        Of `biaslab.figures.report.viewer_data.viewer_data`.
    undivided : list of str
        Why attention is divided by none of the profiles, in sentences.

    Raises
    ------
    InputError
        Another model than the run's, or a layer that it does not have.
    """
    check_model(vlm, results)
    wanted = resolve_layers(_default(results) if layers is None else list(layers), vlm.n_layers, "the decoder")
    out = {one.id: one for one in shown}
    drawable = [one for one in shown if one.image is not None and one.id in samples]
    for start in range(0, len(drawable), _BATCH):
        some = drawable[start : start + _BATCH]
        ids = [one.id for one in some]
        texts = [prompt_of(vlm.family, samples[name]) for name in ids]
        encoded = vlm.encode([one.image for one in some], texts, sample_ids=ids)
        with capture(vlm, layers=wanted, heads="all") as rows:
            vlm.forward(encoded)
        found = rows.per_image(encoded, wanted, device="cpu")
        stages = _stages(vlm, encoded, results, list(profiles), ids)
        for one, (layout, maps), left in zip(some, found, stages, strict=True):
            out[one.id] = replace(
                one,
                layouts=[layout],
                attention={layer: maps[i].numpy() for i, layer in enumerate(wanted)},
                stages=left,
            )
    layouts = {layout.key: layout for one in out.values() for layout in one.layouts if layout is not None}
    return list(out.values()), *expected_maps(vlm, profiles, layouts, wanted)


def check_model(vlm: VLM, results: Results) -> None:
    """Refuse another model than the one of a run.

    Raises
    ------
    InputError
    """
    known = results.run["identity"]["model"]
    mine, other = (vlm.fingerprint, known.get("fingerprint")) if known.get("fingerprint") else (vlm.name, known["name"])
    if mine is not None and mine != other:
        raise InputError(f"the model {vlm.name} ({mine}) is not the run's, {known['name']} ({other}): load that one")


def _default(results: Results) -> list[int]:
    starts = [config["layer"] for config in results.run["identity"]["configurations"] if config["layer"]]
    return [starts[0] - 1 if starts else -1]


def _stages(
    vlm: VLM, encoded: Any, results: Results, profiles: list[Profile], ids: Sequence[str]
) -> list[dict[str, list[np.ndarray]]]:
    """Repeat the cuts of the run's schedules on a batch: per sample, key of the configuration -> a mask per stage."""
    out: list[dict[str, list[np.ndarray]]] = [{} for _ in ids]
    options = results.run["identity"]["options"]
    lines = lines_of(results, ids)
    for config in results.run["identity"]["configurations"]:
        if config["method"] == UNPRUNED or len(config.get("options", {}).get("stages") or ()) < 2:
            continue
        key = record_key(config)
        try:
            (asked,) = configurations([label_of(config)], 1.0, 0, profiles or None, model=vlm)
            schedule: Any = asked.method
            with prune(
                vlm, schedule=schedule, seed=options.get("seed", 0), positions=options.get("positions", "original")
            ) as run:  # fmt: skip
                vlm.forward(encoded)
        except BiaslabError:  # a plug-in that is not here, a profile that is gone
            continue
        for i, (name, layout) in enumerate(zip(ids, encoded.layouts, strict=True)):
            masks = [mask_of(stage[i].indices.cpu().numpy(), layout.n) for stage in run.stages]
            line = lines.get((name, key))
            recorded = None if line is None or line["error"] is not None else kept_tokens(line)
            if recorded is not None and masks and np.array_equal(recorded, masks[-1]):
                out[i][key] = masks
    return out
