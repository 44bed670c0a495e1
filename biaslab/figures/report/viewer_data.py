"""The data of the sample browser: configurations, samples, images and layouts, JSON-ready."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from biaslab._util.number_text import is_number
from biaslab.core.layout import TokenLayout
from biaslab.evaluation.kept_tokens import token_mask
from biaslab.evaluation.results import Results
from biaslab.evaluation.sample_log import sample_lines
from biaslab.evaluation.schema import record_key
from biaslab.figures.report.attention_packing import SAMPLE_BYTES, put_images_and_attention
from biaslab.figures.report.names import PrintNames
from biaslab.figures.report.packing import packed_layout

__all__ = ["Shown", "lines_of", "packed_samples", "viewer_data"]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A sample that is shown, with what the run folder does not hold of it.

    Attributes
    ----------
    id, image_id : str
        As in the run.
    text : str
        The expression or question; empty where the data set is not at hand.
    why : sequence of str
        Reasons to show it (:func:`biaslab.figures.report.choosing.chosen_samples`).
    image : PIL image or None
    size : (width, height) or None
        Of the original image, in pixels: what boxes are in.
    layouts : sequence of TokenLayout or None
        Where the visual tokens lie: one per run that is shown.
    target : (4,) sequence or None
        True box in pixels; None for a question without evidence.
    answers : sequence of str
        Right answers to a question.
    attention : mapping of int
        Layer -> (heads, N) attention of the unpruned model, of the first run's layout.
    stages : mapping of str
        Key of a configuration of the first run -> masks (N,) of what each stage of its schedule has left.
    words : sequence of str
        Tokens of the unpruned answer, as text.
    word_attention : mapping of int
        Layer -> (words, N) attention, mean over heads, of the rows that these tokens were chosen from.
    """

    id: str
    image_id: str = ""
    text: str = ""
    why: Sequence[str] = ()
    image: Image.Image | None = None
    size: tuple[int, int] | None = None
    layouts: Sequence[TokenLayout | None] = ()
    target: Sequence[float] | None = None
    answers: Sequence[str] = ()
    attention: Mapping[int, np.ndarray] = field(default_factory=dict)
    stages: Mapping[str, Sequence[np.ndarray]] = field(default_factory=dict)
    words: Sequence[str] = ()
    word_attention: Mapping[int, np.ndarray] = field(default_factory=dict)


def lines_of(results: Results, ids: Sequence[str]) -> dict[tuple[str, str], dict[str, Any]]:
    """Read the lines of some samples: (id, key of the configuration) -> line; of one tried again, what it became."""
    wanted, found = set(ids), {}
    records: Any
    if results.folder is None:
        frame = results.samples
        records = frame[frame["id"].isin(wanted)].to_dict("records")
    else:
        records = sample_lines(results.folder)
    for line in records:
        if line["id"] in wanted:
            name = (line["id"], line.get("key") or record_key(line))
            if name not in found or line["error"] is None:
                found[name] = line
    return found


def viewer_data(
    runs: Mapping[str, Results],
    shown: Sequence[Shown],
    names: PrintNames,
    *,
    expected: Mapping[str, Mapping[int, np.ndarray]] | None = None,
) -> dict[str, Any]:
    """Gather what the viewer draws.

    Parameters
    ----------
    runs : mapping of str to Results
        One run under the name ``""``, or two as ``"A"`` and ``"B"``.
    shown : sequence of Shown
        The samples, in the order in which they are shown.
    names : PrintNames
        Of these runs.
    expected : mapping, optional
        Key of a layout -> layer -> (heads or 1, N) attention that a profile expects: attention is then shown divided by
        it too, head by head where it is of every head, else the mean over heads alone.

    Returns
    -------
    dict
        JSON-ready: ``configs``, ``samples``, ``images``, ``layouts``, ``expected``.
    """
    configs: list[dict[str, Any]] = []
    lines: dict[tuple[int, str, str], Mapping[str, Any]] = {}
    for side, (letter, results) in enumerate(runs.items()):
        lines |= {(side, *of): line for of, line in lines_of(results, [one.id for one in shown]).items()}
        for config in results.run["identity"]["configurations"]:
            stages = config.get("options", {}).get("stages") or []
            configs.append(
                {
                    "name": f"{letter}: {names.configuration(config)}" if letter else names.configuration(config),
                    "spelled": names.spelled(config),
                    "pruned": config["method"] != "none",
                    "side": side,
                    "key": record_key(config),
                    "stages": [names.stage(stage) for stage in stages],
                }
            )
    return packed_samples(configs, lines, shown, expected=expected)


def packed_samples(
    configs: Sequence[Mapping[str, Any]],
    lines: Mapping[tuple[int, str, str], Mapping[str, Any]],
    shown: Sequence[Shown],
    *,
    expected: Mapping[str, Mapping[int, np.ndarray]] | None = None,
    budget: int = SAMPLE_BYTES,
) -> dict[str, Any]:
    """Put configurations, their lines and the samples together.

    Parameters
    ----------
    configs : sequence of dict
        ``name``, ``spelled`` (as on a command line), ``pruned``, ``side`` (number of the run), ``key`` and ``stages``
        (names).
    lines : mapping
        (side, id of the sample, key) -> sample line.
    shown, expected
        As of `viewer_data`.
    budget : int
        Bytes of a sample, within which it has attention (`biaslab.figures.report.attention_packing.attention_plan`).

    Returns
    -------
    dict
        As of `viewer_data`.
    """
    layouts: dict[str, int] = {}
    packed: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    for one in shown:
        places: list[int | None] = []
        for layout in one.layouts:
            if layout is not None and (name := f"{layout.key} {layout.boxes.round(5).tobytes().hex()}") not in layouts:
                layouts[name] = len(packed)
                packed.append(packed_layout(layout))
            places.append(None if layout is None else layouts[name])
        found = [lines.get((config["side"], one.id, config["key"])) for config in configs]
        first = next((line for line in found if line is not None), {})
        samples.append(
            {
                "id": one.id,
                "text": one.text,
                "why": list(one.why),
                "image": None,
                "size": list(one.size) if one.size else None,
                "layouts": places,
                "target": None if one.target is None else [round(float(v), 1) for v in one.target],
                "answers": list(one.answers),
                "type": first.get("expression_type") or "",
                "objectSize": first.get("object_size") or "",
                "runs": [_run(line, one, config) for line, config in zip(found, configs, strict=True)],
                "attention": {},
                "words": list(one.words),
                "wordAttention": {},
            }
        )
    images, expected_by_key = put_images_and_attention(samples, shown, expected or {}, budget)
    return {
        "configs": [{name: value for name, value in config.items() if name != "key"} for config in configs],
        "samples": samples,
        "images": images,
        "layouts": packed,
        "expected": expected_by_key,
    }


def _run(line: Mapping[str, Any] | None, one: Shown, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Take what is shown of a line; short names, as there are thousands."""
    if line is None:
        return None
    if line["error"] is not None:
        return {"error": str(line["error"])}
    hit = None if line["hit"] is None else int(bool(line["hit"]))  # None: nobody said what is right
    run: dict[str, Any] = {"hit": hit, "answer": line["answer"]}
    if isinstance(line.get("box"), (list, tuple, np.ndarray)):
        run["box"] = [round(float(v), 1) for v in line["box"]]
    for name, short, digits in (("iou", "iou", 3), ("tokens_kept", "kept", 0), ("target_kept", "target", 3)):
        if is_number(line.get(name)):
            run[short] = round(float(line[name]), digits) if digits else int(line[name])
    if isinstance(line.get("kept"), str):
        run["mask"] = line["kept"]
    if not line.get("parsed", True):
        run["note"] = "truncated" if line.get("truncated") is True else "unparsed"
    if config["side"] == 0 and config["key"] in one.stages:
        run["stages"] = [token_mask(np.flatnonzero(mask), len(mask)) for mask in one.stages[config["key"]]]
    return run
