"""The report of a run of ``evaluate``: its sections, from results, images and profiles that others have opened."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from biaslab._util.number_text import count_text, is_number
from biaslab._util.watermark import note_of
from biaslab.evaluation.results import Results
from biaslab.evaluation.schema import record_key
from biaslab.figures.frames import UNPRUNED
from biaslab.figures.report.charts import line_chart, place_map
from biaslab.figures.report.choosing import MOST, hit_table
from biaslab.figures.report.findings import RULE, findings
from biaslab.figures.report.names import PrintNames
from biaslab.figures.report.page import Block, Page, Section
from biaslab.figures.report.profile_section import profile_blocks
from biaslab.figures.report.tables import cost_table, data_link, group_table, main_table, share_cell
from biaslab.figures.report.viewer_data import Shown, viewer_data
from biaslab.profiles import Profile
from biaslab.pruning.schedule import is_schedule

__all__ = ["places_blocks", "provenance_blocks", "run_page"]

_PLACES = 3  # rows and columns of the map of the target's place
_SMALL = 0.1  # TFLOPs: below, costs are written in GFLOPs
_MAPS = 12  # configurations that have one: more are no image


def run_page(
    results: Results,
    shown: Sequence[Shown],
    *,
    targets: Mapping[str, Sequence[float]],
    profiles: Mapping[str, Profile] | None = None,
    expected: Mapping[str, Mapping[int, np.ndarray]] | None = None,
    missing: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
) -> Page:
    """Put together the report of a run.

    Parameters
    ----------
    results : Results
    shown : sequence of Shown
        Samples of the browser.
    targets : mapping of str
        Id of every sample whose target's place is known -> its centre (x, y) in fractions of the image.
    profiles : mapping of str to Profile, optional
        Hash -> profile, of those that the run used.
    expected : mapping, optional
        As of :func:`biaslab.figures.report.viewer_data.viewer_data`.
    missing : sequence of str
        What cannot be shown, and why, in sentences.
    labels : mapping of str, optional
        As of :class:`biaslab.figures.report.names.PrintNames`.

    Returns
    -------
    Page
    """
    identity = results.run["identity"]
    model, dataset = identity["model"], identity["dataset"]
    names = PrintNames(results, labels=labels)
    sections = [
        Section("found", "What was found", [Block("sentences", findings(results, names)), Block("text", RULE)]),
        Section("accuracy", "Accuracy against cost", _charts(results, names)),
        Section("table", "Table", [Block("table", main_table(results, names))]),
        Section("fails", "Where it fails", _failing(results, names, targets)),
        Section("samples", "Samples", _samples(results, shown, missing)),
        Section("profile", "Profile", profile_blocks(profiles or {})),
        Section("cost", "Cost", [Block("table", cost_table(results, names))]),
        Section("provenance", "Provenance", provenance_blocks(results, names)),
    ]
    split = f", {dataset['split']}" if dataset.get("split") else ""
    counts = [(int(dataset["n"]), "sample"), (len(identity["configurations"]), "configuration")]
    return Page(
        title=f"{model['name']} on {dataset['name']}{split}",
        subtitle=", ".join(count_text(*each) for each in counts),
        sections=sections,
        data=viewer_data({"": results}, shown, names, expected=expected) if shown else None,
        note=_note(model),
    )


def _note(model: Mapping[str, Any]) -> str | None:
    note = note_of(model)
    return None if note is None else note.capitalize()


def _charts(results: Results, names: PrintNames) -> list[Block]:
    frame = results.table[results.table["expression_type"] == "all"]
    name = results.accuracy
    title = "accuracy" if name == "accuracy" else "Acc@0.5"
    rows = [
        {**row, "tflops": sum(row[f"tflops_{part}"] for part in ("vision", "projector", "decoder"))}
        for row in frame.to_dict("records")
    ]
    unpruned = next((row for row in rows if row["method"] == "none"), None)
    reference = None if unpruned is None else _point(names, unpruned, name)
    pruned = [row for row in rows if row["method"] != "none"]
    single = [row for row in pruned if not is_schedule(names.word(row))]  # a schedule has several keeps
    layers = list(dict.fromkeys(row["layer"] for row in single))
    ratios = sorted({float(row["keep"]) for row in single}, reverse=True)
    drawn = []
    for layer in layers:
        part = [row for row in single if row["layer"] == layer]
        series: dict[str, list] = {}
        spelled: dict[str, str] = {}
        for row in part:
            place = ratios.index(float(row["keep"])) / max(len(ratios) - 1, 1) if len(ratios) > 1 else 0.5
            series.setdefault(names.method(row), []).append({"x": place, **_point(names, row, name)})
            spelled[names.method(row)] = names.word(row)
        ticks = [(i / max(len(ratios) - 1, 1) if len(ratios) > 1 else 0.5, f"{r:g}") for i, r in enumerate(ratios)]
        if series:
            chart = line_chart(
                series, x_label="visual tokens kept", y_label=title, ticks=ticks, reference=reference, spelled=spelled
            )  # fmt: skip
            drawn.append((f"Tokens are dropped before layer {layer}. Whiskers: 95 % intervals over images; "
                          "dashed: no pruning.", Markup(chart)))  # fmt: skip
    costs = [row["tflops"] for row in rows if is_number(row["tflops"])]
    if costs and min(costs) < max(costs):
        low, high = min(costs), max(costs)
        series, spelled = {}, {}
        for row in pruned:
            if is_number(row["tflops"]):
                label, word = names.method(row), names.word(row)
                if len(layers) > 1 and not is_schedule(word):
                    label, word = (f"{text} layer {row['layer']}" for text in (label, word))
                x = (row["tflops"] - low) / (high - low)
                series.setdefault(label, []).append({"x": x, **_point(names, row, name)})
                spelled[label] = word
        scale, unit = (1000, "GFLOPs") if high < _SMALL else (1, "TFLOPs")
        ticks = [(i / 4, f"{scale * (low + i / 4 * (high - low)):.3g}") for i in range(5)]
        chart = line_chart(
            series, x_label=f"{unit} per sample", y_label=title, ticks=ticks, reference=reference, spelled=spelled
        )  # fmt: skip
        drawn.append(("Vision tower, projector and decoder together. Markers are set a little apart.", Markup(chart)))
    return [Block("figures", drawn)] if drawn else []


def _point(names: PrintNames, row: Mapping[Any, Any], name: str) -> dict[str, Any]:
    return {
        "value": row[name], "lo": row[f"{name}_lo"], "hi": row[f"{name}_hi"],
        "text": f"{names.both(row)}: {share_cell(row, name)} %",
    }  # fmt: skip


def _failing(results: Results, names: PrintNames, targets: Mapping[str, Sequence[float]]) -> list[Block]:
    blocks = places_blocks(results, names, targets)
    questions = results.accuracy == "accuracy"
    for column, title in (
        ("expression_type", "Category of question" if questions else "Type of expression"),
        ("object_size", "Size of the target"),
    ):
        if (table := group_table(results, names, column, "configuration")) is not None:
            blocks.append(Block("table", table, title))
    return blocks


def places_blocks(results: Results, names: PrintNames, targets: Mapping[str, Sequence[float]]) -> list[Block]:
    """Map the accuracy over the place of the target; of many configurations for those that keep least."""
    hits = hit_table(results.verdicts)
    hits = hits[hits.index.isin(list(targets))]
    if hits.empty:
        return []
    cells = np.array([[min(int(_PLACES * targets[name][axis]), _PLACES - 1) for axis in (1, 0)] for name in hits.index])
    known = [config for config in results.run["identity"]["configurations"] if record_key(config) in hits]
    mapped = _mapped(known, names)
    drawn = []
    for config in mapped:
        verdicts, counts = hits[record_key(config)].to_numpy(), []
        for row in range(_PLACES):
            inside = [verdicts[(cells == (row, col)).all(1) & ~np.isnan(verdicts)] for col in range(_PLACES)]
            counts.append([(int(values.sum()), len(values)) for values in inside])
        label = f"accuracy by place of the target, {names.both(config)}"
        drawn.append((names.configuration(config), Markup(place_map(counts, label=label))))
    blocks = [Block("figures", drawn, "Place of the target")]
    text = "Accuracy in per cent by where the centre of the target lies in the image, as seen; n samples in each cell."
    if left_out := len(known) - len(mapped):
        text += f" Drawn are those that keep least; {count_text(left_out, 'configuration')} more are left out."
    return [*blocks, Block("text", text)]


def _mapped(configs: Sequence[Mapping[str, Any]], names: PrintNames) -> list[Mapping[str, Any]]:
    """Choose those that have a map: no pruning, and whole sets of methods at one keep and layer, least kept first."""
    if len(configs) <= _MAPS:
        return list(configs)
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for config in sorted(configs, key=lambda config: float(config["keep"])):  # stable: layers in order
        if config["method"] != UNPRUNED:
            groups.setdefault(names.place(config), []).append(config)
    chosen = unpruned = [config for config in configs if config["method"] == UNPRUNED]
    for group in groups.values():
        if len(chosen) + len(group) > _MAPS and chosen != unpruned:
            break
        chosen = [*chosen, *group][:_MAPS]
    return [config for config in configs if config in chosen]


def _samples(results: Results, shown: Sequence[Shown], missing: Sequence[str]) -> list[Block]:
    blocks = [Block("sentences", list(missing))] if missing else []
    if not shown:
        return blocks
    share = hit_table(results.verdicts).mean(axis=1)
    missed = [share[one.id] < MOST for one in shown if "miss" in one.why]
    counts = {
        "where methods disagree most": sum("disagree" in one.why for one in shown),
        "that most methods miss": sum(missed),
        "that at least one method misses": len(missed) - sum(missed),
        "at random": sum("random" in one.why for one in shown),
    }
    text = "; ".join(f"{n} {reason}" for reason, n in counts.items() if n)
    return [*blocks, Block("text", f"{count_text(len(shown), 'sample')}: {text}."), Block("viewer")]


def provenance_blocks(results: Results, names: PrintNames) -> list[Block]:
    """Say where the numbers come from: methods as they are spelled, commands, versions, hashes, works to cite."""
    run = results.run
    identity, settings = run["identity"], run["settings"]
    model, dataset = identity["model"], identity["dataset"]
    facts = [
        ("model", f"{model['name']}, revision {model.get('revision')}, {model.get('dtype', '')}"),
        ("weights", str(model.get("fingerprint"))),
        (
            "data set",
            f"{dataset['name']}, {dataset.get('split')}, {int(dataset['n']):,} samples, hash {dataset['hash']}",
        ),
        *((f"method {name}", word) for name, word in names.spellings(results).items()),
        ("options", json.dumps(identity["options"])),
        ("reference", str(settings.get("reference"))),
        ("device", str(settings.get("device"))),
        ("made", str(run.get("created", ""))),
        *((f"profile {name}", str(entry.get("file", ""))) for name, entry in run.get("profiles", {}).items()),
        *((f"version of {name}", str(value)) for name, value in run.get("environment", {}).items()),
    ]
    commands = [command["line"] for command in run.get("commands", []) if command.get("line")]
    if not commands and run.get("made_by"):
        commands = [run["made_by"]]
    blocks = [Block("facts", facts)]
    if commands:
        blocks.append(Block("code", "\n".join(commands), "Commands"))
    else:
        blocks.append(Block("text", "The run was made in Python: no command line is known."))
    if cited := results.citations():
        blocks.append(Block("code", cited, "Works to cite"))
        blocks.append(Block("links", [data_link("citations.bib", cited, "application/x-bibtex")]))
    record = json.dumps(run, indent=1, ensure_ascii=False)
    return [*blocks, Block("links", [data_link("run.json", record, "application/json")])]
