"""The verb ``biaslab evaluate``."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from biaslab._util.output_place import check_output_folder
from biaslab.cli import options as opt
from biaslab.cli.app import app
from biaslab.cli.completion import dataset_names, method_names
from biaslab.cli.data_set import open_data_set
from biaslab.cli.model_options import ModelChoice, with_model
from biaslab.cli.output import emit, summary, table
from biaslab.cli.repeat import Config, command_of, repeat_earlier
from biaslab.errors import BiaslabError

_METHODS = "none,random,uniform,fastv,relative,divprune,d2pruner"


@app.command(
    "evaluate",
    epilog="Example: biaslab evaluate --methods none,random,fastv,d2pruner --keep 0.2,0.1 --layer 4 "
    "--profile grounder.safetensors --out runs/k4",
)
@with_model
def evaluate(
    context: typer.Context,
    out: Annotated[
        Path,
        typer.Option(
            help="Run folder; the same command goes on with an interrupted run, one with more methods, keep ratios, "
            "layers or samples adds what is missing."
        ),
    ],
    model: ModelChoice,
    methods: Annotated[
        str | None,
        typer.Option(
            autocompletion=method_names,
            help="Methods separated by commas; options as d2pruner:pivots_suppress=true, fastv:score=no_rope (or "
            "value_norm), layer_ratio:over=1; several cuts as one word, method@keep@layer joined by +: "
            f"divprune@0.4@2+fastv@0.06@4. Default: {_METHODS.replace(',', ', ')}; without --profile those that need "
            "none.",
        ),
    ] = None,
    keep: Annotated[str, typer.Option(help='Keep ratios ("0.1", "10%") or counts ("64").')] = "0.5,0.2,0.1,0.05",
    layer: opt.Layers = None,
    profile: opt.ProfileFiles = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            autocompletion=dataset_names,
            help="scenes, gallery, gallery-vqa (gallery:domain=both); a file of annotations (RefCOCO jsonl, Shikra, "
            "MDETR, REFER, ... told by its columns); an id of the hub such as lmms-lab/RefCOCO. Default: scenes; "
            "gallery for the observer.",
        ),
    ] = None,
    split: opt.Split = None,
    columns: opt.Columns = None,
    image_root: opt.ImageRoot = None,
    data_root: opt.DataRoot = None,
    n: Annotated[
        int | None, typer.Option(min=1, help="First n expressions. Default: 300 of scenes and gallery, all of a file.")
    ] = None,
    reference: Annotated[str, typer.Option(help="Method that the others are tested against (p-values).")] = "random",
    batch_size: opt.Batch = 16,
    workers: opt.Workers = None,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes, each with a copy of the model on its own GPU or share of the cores. Default: 1; with Ray "
            "what the cluster has GPUs for.",
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="Where they run: local, or ray (a cluster of Ray; needs biaslab[ray]).")
    ] = "local",
    gpus_per_process: Annotated[
        float | None, typer.Option(help="GPUs of a process on Ray, such as 0.5. Default: 1 if there are any.")
    ] = None,
    seed: opt.Seed = 0,
    max_new_tokens: opt.MaxNewTokens = None,
    match: Annotated[
        str | None,
        typer.Option(
            help="mean-share or flops: --keep is that of the smallest layer, other layers get the keep at which they "
            "cost the same; mean-share=0.2 and flops=1.5 (TFLOPs) name the cost in place of --keep."
        ),
    ] = None,
    retry_errors: Annotated[bool, typer.Option(help="Repeat samples that ended in an error.")] = False,
    plain: Annotated[
        bool,
        typer.Option(
            "--plain",
            help="Run the model once for every configuration, sharing nothing: the same answers, slower; times are "
            "in the results.",
        ),
    ] = False,
    decode: opt.Decode = "dynamic",
    cache: opt.KeptCache = "full",
    dry_run: opt.DryRun = False,
    rehearse: opt.Rehearse = False,
    config: Config = None,
    json: opt.Json = False,
) -> None:
    """Measure localization accuracy of pruning methods over keep ratios and layers."""
    from biaslab.datasets.base import check_pictures, take
    from biaslab.evaluation.configurations import configurations
    from biaslab.evaluation.matching import matched_configurations, read_match
    from biaslab.evaluation.runner import check_reference
    from biaslab.evaluation.runner import evaluate as run
    from biaslab.models.prune_layer import prune_layers
    from biaslab.workflows.before_loading import check_pruning

    repeat_earlier(context)
    opt.one_of(dry_run, rehearse)
    if not (dry_run and decode == "graph"):  # which may plan a run of another machine
        opt.way_to_decode(decode)
    opt.kept_cache(cache)
    ratios, where = opt.keeps(keep), opt.layers(layer)
    chosen = opt.methods(methods or _METHODS)
    data = open_data_set(
        dataset, n=n, split=split, columns=columns, image_root=image_root, data_root=data_root, model=model.name,
    )  # fmt: skip
    fitted = opt.profiles(profile)
    if methods is None:
        chosen = opt.methods_without_profile(chosen, fitted, model.name)
    asked = configurations(chosen, ratios, where, fitted)  # refusals come before a model is loaded
    if match is not None:
        read_match(match)
    check_reference(reference, asked, out)
    if dry_run or rehearse:
        where = model.prune_layers(where)
    if dry_run:
        from biaslab.models.grounding import MAX_NEW_TOKENS
        from biaslab.workflows.dry_run import plan_evaluate

        configs = configurations(chosen, ratios, where, fitted, model=model.geometry())
        limit = max_new_tokens or MAX_NEW_TOKENS
        if match is not None and (meta := model.known()) is not None:
            configs = matched_configurations(meta.vlm, take(data, n), chosen, ratios, where, fitted, match)
        plan = plan_evaluate(
            model.geometry(), data, configs, n=n, batch_size=batch_size, dtype=model.dtype,
            image_options=model.image_options, new_tokens=limit, cache=cache,
        )  # fmt: skip
        emit(json, plan.record(), f"{plan.text()}\n\nper image:\n{table(plan.table)}")
        return
    if not (out / "run.json").exists():  # a finished run needs no images
        check_pictures(islice(data, n))
    check_output_folder(out)
    sizes = ((sample.width, sample.height) for sample in take(data, n))
    meta = model.known(rehearse=rehearse)
    check_pruning(meta, chosen, ratios, where, fitted, sizes, cache=cache)
    if match is not None and meta is not None and not rehearse:  # a rehearsal has fewer layers
        layers = prune_layers(meta.geometry, where)
        matched_configurations(meta.vlm, take(data, n), chosen, ratios, layers, fitted, match)
    vlm = model.load(rehearse, max([*(where or [0]), *(stage.layer for config in asked for stage in config.stages)]))
    results = run(
        vlm, data, methods=chosen, keep=ratios, layer=where, out=out, profile=fitted, n=n,
        batch_size=batch_size, seed=seed, workers=workers, processes=processes, engine=engine,
        gpus_per_process=gpus_per_process, progress=True, reference=reference,
        retry_errors=retry_errors, match=match, max_new_tokens=max_new_tokens, plain=plain,
        decode=decode, cache=cache, command=command_of(context), launch=(context.obj or {}).get("launch"),
    )  # fmt: skip
    if not results.is_main:  # another rank has the table
        return
    record, files = {"rows": results.table.to_dict("records")}, [out / "results.csv"]
    emit(json, record, summary(results), files, vlm)
    if results.unanswered:  # the files stay; what is in them is no result
        names = "; ".join(results.unanswered[:3]) + ("; ..." if len(results.unanswered) > 3 else "")
        of = len(results.run["identity"]["configurations"])
        raise BiaslabError(
            f"{len(results.unanswered)} of {of} configurations without a verdict ({names}): {results.failures}"
        )
