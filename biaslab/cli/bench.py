"""The verb ``biaslab bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from biaslab._util.output_place import check_output_folder
from biaslab.cli import options as opt
from biaslab.cli.app import app
from biaslab.cli.completion import method_names
from biaslab.cli.model_options import ModelChoice, with_model
from biaslab.cli.output import emit, table
from biaslab.errors import BiaslabError, RunFolderError


@app.command(
    "bench",
    epilog="Example: biaslab bench --methods none,fastv,d2pruner --keep 0.1 --layer 4 --profile grounder.safetensors",
)
@with_model
def bench(
    model: ModelChoice,
    methods: Annotated[
        str,
        typer.Option(
            autocompletion=method_names, help="Methods separated by commas; the unpruned model is always measured."
        ),
    ] = "none,fastv,divprune",
    keep: Annotated[str, typer.Option(help='Keep ratios ("0.1", "10%") or counts ("64").')] = "0.1",
    layer: opt.Layers = None,
    profile: opt.ProfileFiles = None,
    images: Annotated[
        str | None,
        typer.Option(
            help="A folder of images, or scenes, gallery, blank, noise. Default: scenes; gallery for the observer."
        ),
    ] = None,
    data_root: opt.DataRoot = None,
    n: Annotated[int, typer.Option(min=1, help="Number of images.")] = 4,
    repeats: Annotated[int, typer.Option(min=1, help="Timed rounds per batch of images; methods take turns.")] = 5,
    new_tokens: Annotated[int, typer.Option(min=2, help="Length of every answer.")] = 16,
    out: Annotated[
        Path | None, typer.Option(help="Folder for bench.csv, bench-runs.csv, bench.tex and bench.json.")
    ] = None,
    batch_size: opt.Batch = 1,
    decode: opt.Decode = "dynamic",
    cache: opt.KeptCache = "full",
    seed: opt.Seed = 0,
    json: opt.Json = False,
) -> None:
    """Time prefill and decoding with and without pruning, and measure peak memory, beside FLOPs and the limit of it."""
    from biaslab.datasets.calibration import calibration, source_folder
    from biaslab.datasets.drawn import embedded_data
    from biaslab.evaluation.configurations import configurations
    from biaslab.workflows.before_loading import check_pruning
    from biaslab.workflows.bench import bench as run
    from biaslab.workflows.bench_limits import limit_texts
    from biaslab.workflows.bench_table import shown
    from biaslab.workflows.dry_run import readable_size

    opt.way_to_decode(decode)
    opt.kept_cache(cache)
    ratios, where, rules = opt.keeps(keep), opt.layers(layer), opt.methods(methods)
    fitted = opt.profiles(profile)
    configurations(rules, ratios, where, fitted)  # refusals come before a model is loaded
    images = embedded_data(model.name) if images is None else images
    source_folder(images, data_root=data_root)
    if out is not None:
        check_output_folder(out)
    known = model.known()
    if known is not None:
        pictures = calibration(known.geometry, images, n=n, seed=seed, data_root=data_root).images
        sizes = (size for size in map(readable_size, pictures) if size is not None)
        check_pruning(known, rules, ratios, where, fitted, sizes, cache=cache)
    vlm = model.load()
    data = calibration(vlm, images, n=n, seed=seed, data_root=data_root)
    result = run(
        vlm, data, methods=rules, profile=fitted, keep=ratios, layer=where, batch_size=batch_size, seed=seed,
        progress=True, repeats=repeats, new_tokens=new_tokens, decode=decode, cache=cache,
    )  # fmt: skip
    files: list[Path] = []
    unsaved: RunFolderError | None = None
    try:
        files = [] if out is None else result.save(out)
    except RunFolderError as error:  # what was measured is printed all the same
        unsaved = error
    rows = result.table
    said = limit_texts(rows) + [
        f"{r['method']} keep {r['keep']:g} layer {r['layer']}: {r['verdict']}"
        for r in rows.to_dict("records")
        if r["verdict"]
    ]
    memory = "" if rows["extra_mb"].notna().any() else "\npeak memory: not measured (this system does not tell)"
    text = table(shown(rows).drop(columns="verdict"), 2) + memory + "\n\n" + "\n".join(said)
    emit(json, {"settings": result.settings, "rows": result.records()}, text.rstrip(), files)
    if unsaved is not None:
        raise unsaved
    if failed := result.settings["failed"]:
        name, why = next(iter(failed.items()))
        raise BiaslabError(
            f"{len(failed)} of {len(failed) + len(rows)} configurations could not be measured, the first {name}: {why}"
        )
