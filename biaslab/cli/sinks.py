"""The verb ``biaslab sinks``."""

from __future__ import annotations

from typing import Annotated

import typer

from biaslab._util.jsonable import records
from biaslab.cli import options as opt
from biaslab.cli.app import app
from biaslab.cli.completion import dataset_names
from biaslab.cli.data_set import open_data_set
from biaslab.cli.model_options import ModelChoice, with_model
from biaslab.cli.output import emit, table


@app.command("sinks", epilog="Example: biaslab sinks --model llava-1.5-7b --layer 3 --profile profile.safetensors")
@with_model
def sinks(
    model: ModelChoice,
    layer: opt.Layers = None,
    profile: opt.ProfileFile = None,
    dataset: Annotated[
        str | None, typer.Option(autocompletion=dataset_names, help="Images and expressions, as evaluate takes them.")
    ] = None,
    split: opt.Split = None,
    columns: opt.Columns = None,
    image_root: opt.ImageRoot = None,
    data_root: opt.DataRoot = None,
    n: Annotated[int, typer.Option(min=4, help="First n expressions.")] = 50,
    level: Annotated[
        float, typer.Option(help="Size of a dimension, over the root mean square of all, from which it is massive.")
    ] = 20.0,
    share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the prompts in which a dimension is massive somewhere.")
    ] = 0.5,
    batch_size: opt.Batch = 8,
    json: opt.Json = False,
) -> None:
    """Find the massive dimensions of a model, and how much of its attention, and of a profile, falls on sinks."""
    from biaslab.core.images import load_image
    from biaslab.datasets.base import take
    from biaslab.diagnostics.sinks import check_level, find_sinks
    from biaslab.models.prune_layer import prune_layer

    at = opt.one_layer(layer)
    check_level(level)
    fitted = opt.one_profile(profile)
    data = open_data_set(
        dataset, n=n, split=split, columns=columns, image_root=image_root, data_root=data_root, model=model.name,
        drawn_split="calibration",
    )  # fmt: skip
    samples = take(data, n)
    vlm = model.load(False, at or 0)
    at = prune_layer(vlm, at)
    if fitted is not None:
        fitted.check(
            model=vlm.name, revision=vlm.revision, fingerprint=vlm.fingerprint, family=vlm.family.name, layer=at - 1
        )
    parts = [samples[i : i + batch_size] for i in range(0, len(samples), batch_size)]

    def batches():
        return (vlm.encode_grounding([load_image(s) for s in part], [s.expression for s in part]) for part in parts)

    found = find_sinks(vlm, batches, at, level=level, least=share)
    said, record = found.sentences(), {"layer": at, "dims": found.dims, "images": records(found.images)}
    if found.dims:
        said.append(f"To leave them out: --methods fastv:sink_dims=[{','.join(map(str, found.dims))}]")
    if fitted is not None and found.dims:
        of_profile = found.of_profile(fitted)
        said.append(f"Of the profile, mass where sinks lie and correlation with their frequency:\n{table(of_profile)}")
        record["profile"] = records(of_profile)
    emit(json, record | {"sentences": said}, "\n".join(said), [], vlm)
