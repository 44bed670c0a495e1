"""The verb ``biaslab fit-bias``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from biaslab._util.jsonable import records
from biaslab._util.launch import Launch
from biaslab._util.output_place import check_figure_files, check_output_file, check_output_folder
from biaslab.cli import options as opt
from biaslab.cli.app import app
from biaslab.cli.completion import estimator_names_or_auto
from biaslab.cli.model_options import ModelChoice, with_model
from biaslab.cli.output import emit, table

_NOT_KNOWN = (
    "not known: no image could be predicted from others, for want of images or because no tiling occurs in two "
    "(more images, or --estimator tile)"
)


@app.command(
    "fit-bias",
    epilog="Example: biaslab fit-bias --model grounder --out grounder.safetensors",
)
@with_model
def fit_bias(
    context: typer.Context,
    model: ModelChoice,
    images: Annotated[
        str | None,
        typer.Option(
            help="Calibration images: a folder, .zip or .tar, a data set (as --dataset), or scenes, gallery, "
            "gallery-vqa, blank, noise; with --frames one that holds a folder of images for each video. Default: "
            "scenes; gallery for the observer."
        ),
    ] = None,
    frames: opt.Frames = None,
    split: opt.Split = None,
    columns: opt.Columns = None,
    image_root: opt.ImageRoot = None,
    data_root: opt.DataRoot = None,
    n: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of images, however many questions each is asked. Default: 300, or all of a folder."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Profile file; card and figures are written beside it.")] = Path(
        "profile.safetensors"
    ),
    estimator: Annotated[
        str,
        typer.Option(
            autocompletion=estimator_names_or_auto,
            help="mean, geometric, smooth, exponential, rope, tile or factorised (the last four also fit other "
            "tilings); auto: the one that predicts held-out images best; lookahead: by position, content and "
            "question; localization_heads: which heads to read.",
        ),
    ] = "mean",
    criterion: Annotated[str, typer.Option(help="With auto: r2 (of log attention) or deviance (of attention).")] = "r2",
    layers: Annotated[str | None, typer.Option(help='Decoder layers, e.g. "1,5" or "0-11". Default: all.')] = None,
    queries: Annotated[
        str | None,
        typer.Option(
            help="Query rows: last (prompt token), text (all after the image), null (the first token behind the image, "
            "which has not seen the question), raters (those of text that the image speaks to, as SparseVLM), or "
            "answer (those that the tokens of the model's own answer are chosen from). Default: last; answer for "
            "lookahead."
        ),
    ] = None,
    heads: Annotated[
        str,
        typer.Option(
            help="mean, or all for one map per head; with --maps it then tells which heads look at something."
        ),
    ] = "mean",
    score: Annotated[
        str, typer.Option(help="attention, no_rope or value_norm; a method takes only a profile of its own score.")
    ] = "attention",
    prompt: Annotated[
        str | None,
        typer.Option(
            help="One text for every image. Default: what --prompts says; a folder without it is to be described."
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            help="What images are asked, as grounding prompts: expressions, which scenes and data sets come with "
            "(their default); generic: the largest object, the object on the left ... in turn; named: objects that "
            "the model itself names in the image (kept in OUT.named.jsonl); or, for a folder of images, a FILE of "
            "captions: csv, tsv, json, jsonl with columns image and expression (or what --columns says).",
        ),
    ] = None,
    questions: Annotated[
        int,
        typer.Option(min=1, help="Questions per image, at most; each is a forward. --n counts images, not questions."),
    ] = 1,
    maps: Annotated[
        Path | None, typer.Option(help="Keep every image's attention in this folder; the same command resumes.")
    ] = None,
    batch_size: opt.Batch = 8,
    workers: opt.Workers = None,
    seed: opt.Seed = 0,
    dry_run: opt.DryRun = False,
    rehearse: opt.Rehearse = False,
    json: opt.Json = False,
) -> None:
    """Fit a positional bias profile, and report the share of the attention's variance it explains in each layer."""
    from biaslab._util.text import why_unreadable
    from biaslab.attention.query_rows import check_rows_of_family
    from biaslab.attention.scores import resolve
    from biaslab.datasets.calibration import calibration, source_folder
    from biaslab.datasets.drawn import embedded_data
    from biaslab.datasets.naming import check_names_objects
    from biaslab.errors import InputError
    from biaslab.profiles.file import check_replaceable, profile_path
    from biaslab.profiles.quality_text import quality_sentence
    from biaslab.profiles.registry import check_knows_frames
    from biaslab.profiles.sample_size import few_images_text
    from biaslab.workflows.dry_run import check_longest
    from biaslab.workflows.fit_bias import fit_bias as fit
    from biaslab.workflows.fit_bias import unfitted
    from biaslab.workflows.fit_conditional import check_alone

    launch = (context.obj or {}).get("launch", Launch())
    unfit = unfitted(estimator, criterion)
    check_alone(unfit, launch)
    if not launch.alone and maps is None:
        raise InputError("ranks share the images in a folder of maps: give --maps FOLDER, where all of them can write")
    resolve(score)  # refusals come before a model is loaded
    opt.check_rows(heads, queries, ("last", "text", "null", "raters", "answer"))
    if prompt is not None and (why := why_unreadable(prompt)):
        raise InputError(f"--prompt {why}")
    opt.one_of(dry_run, rehearse)
    numbers = model.layers(layers, rehearse=rehearse)
    images = embedded_data(model.name) if images is None else images
    of_dataset: dict[str, Any] = {"split": split, "columns": columns, "images": image_root}
    asked: dict[str, Any] = {
        "prompt": prompt, "prompts": prompts, "questions": questions, "data_root": data_root,
        "frames": opt.frames(frames),
    }  # fmt: skip
    if frames is not None:
        check_knows_frames(unfit)
    if prompts == "named":
        check_names_objects(model.name)
        if not launch.alone:
            raise InputError(
                "objects are named by one process: leave out the launcher once, then give the file that keeps the "
                f"names: --prompts {_log_of(out)}"
            )

    def check(family: Any) -> None:
        check_rows_of_family(queries, family, "--queries null")
        if frames is not None:
            opt.check_takes_frames(family, model.image_options)

    if dry_run:
        from biaslab.workflows.dry_run import plan_fit

        sizes = model.geometry()
        check(sizes.family)
        planned = calibration(sizes, images, n=n, seed=seed, **asked, **of_dataset)
        plan = plan_fit(
            sizes, planned, layers=numbers, heads=heads, batch_size=batch_size, maps=maps, dtype=model.dtype,
            image_options=model.image_options,
        )  # fmt: skip
        emit(json, plan.record(), f"{plan.text()}\n\n{table(plan.table)}")
        return
    source = source_folder(images, **asked, **of_dataset)
    check_output_file(out, suffix=".safetensors")
    check_replaceable(profile_path(out))
    check_figure_files(profile_path(out).with_suffix(""), inputs=[] if source is None else [source])
    if maps is not None:
        check_output_folder(maps)
    known = model.known(rehearse=rehearse)  # refuses
    if known is not None:
        check(known.vlm.family)
        if frames is not None:
            check_longest(known, calibration(known.geometry, images, n=n, **asked, **of_dataset))
    vlm = model.load(rehearse, max(numbers or [0]))
    data = calibration(
        vlm, images, n=n, batch_size=batch_size, seed=seed, progress=True, named=_log_of(out), **asked, **of_dataset
    )
    result = fit(
        vlm, data, layers=numbers, heads=heads, queries=queries, score=score, batch_size=batch_size, out=out,
        progress=True, workers=workers, estimator=estimator, criterion=criterion, maps=maps, launch=launch,
    )  # fmt: skip
    if not result.is_main:  # another rank has the profile
        return
    files = [*result.files, *([_log_of(out)] if prompts == "named" else [])]
    if result.profile.conditional:
        said = result.profile.provenance_
        text = (
            f"{model.name}, {data.counted(result.maps.n)} ({data.name}), estimator {result.profile.name}\n"
            f"taught by (layer, head): {', '.join(f'({layer}, {head})' for layer, head, _ in said['teacher'])}\n"
            "share of the variance of their log attention (centred per image) that is explained on held-out images:\n"
            f"{table(result.variance)}"
        )
        record = {"profile": result.profile.hash, "n": result.maps.n, "failures": result.maps.failures,
                  "asked": data.asked, "teacher": said["teacher"], "explained": records(result.variance)}  # fmt: skip
        emit(json, record, text, files, vlm)
        return
    if result.profile.kind == "heads":
        best = result.variance.sort_values("frequency", ascending=False, kind="stable")[:10]
        named = ", ".join(f"({layer}, {head})" for layer, head in result.profile.heads_)
        text = (
            f"{model.name}, {data.counted(result.maps.n)} ({data.name}), estimator {result.profile.name}\n"
            f"heads chosen (layer, head): {named}\n{result.profile.agreement()}\n"
            f"share of the images that vote for a head (frequency), the ten first:\n{table(best)}"
        )
        record = {"profile": result.profile.hash, "n": result.maps.n, "failures": result.maps.failures,
                  "asked": data.asked, "heads": [list(pair) for pair in result.profile.heads_],
                  "votes": records(result.variance)}  # fmt: skip
        emit(json, record, text, files, vlm)
        return
    explained = result.variance.drop(columns=["head", "folds", "estimator"], errors="ignore")
    few = few_images_text(result.profile.counts_, result.variance, transports="layout" in result.profile.transports)
    looking = quality_sentence(result.profile.quality_)
    if heads == "all" and maps is None:
        looking = "which heads look at something is read off single images: keep them with --maps FOLDER"
    one = "video" if data.frames else "image"
    text = (
        f"{model.name}, {data.counted(result.maps.n)} ({data.name}), estimator {result.profile.name}\n"
        f"share of the variance of log attention (centred per {one}) this profile explains on held-out {one}s (r2)\n"
        f"and that position would explain in the limit of many {one}s (r2_asymptotic):\n"
        + (table(explained) if len(explained) else _NOT_KNOWN)
        + (f"\n{few}" if few else "")
        + (f"\n{looking}" if looking else "")
    )
    selection = None
    if result.selection is not None:
        compared = result.selection.table.drop(columns=["n"])
        text += f"\n\nestimators on held-out images, {result.selection.best} chosen by {criterion}:\n{table(compared)}"
        selection = {"best": result.selection.best, "criterion": criterion, "table": records(compared)}
    record = {"profile": result.profile.hash, "n": result.maps.n, "failures": result.maps.failures, "asked": data.asked,
              "variance_explained": records(explained), "selection": selection,
              "head_quality": records(result.profile.quality_), "notes": [few] if few else []}  # fmt: skip
    emit(json, record, text, files, vlm)


def _log_of(out: Path) -> Path:
    """Name the file beside the profile that keeps what the model has named."""
    from biaslab.profiles.file import profile_path

    return profile_path(out).with_suffix(".named.jsonl")
