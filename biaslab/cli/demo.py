"""The verb ``biaslab demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from biaslab.cli import options as opt
from biaslab.cli.app import app
from biaslab.cli.output import emit, summary, table

_SHOWN = ["layer", "debias", "n", "errors", "auroc", "auroc_lo", "auroc_hi", "gain", "gain_lo", "gain_hi", "p_adjusted"]


@app.command("demo", epilog="Example: biaslab demo --out runs/demo   (minutes on two cores; resumable)")
def demo(
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/demo"),
    calibration: Annotated[int, typer.Option(min=10, help="Calibration scenes of the positional profile.")] = 300,
    pictures: Annotated[int, typer.Option(min=10, help="Calibration scenes of the conditional profile.")] = 400,
    test: Annotated[int, typer.Option(min=10, help="Test expressions.")] = 300,
    layer: Annotated[
        int | None, typer.Option(min=1, help="Prune layer K. Default: the one chosen on validation.")
    ] = None,
    processes: opt.Processes = 2,
    json: opt.Json = False,
) -> None:
    """Run the main job on the embedded grounder: profiles, debiasing, D2Pruner, its rivals, look-ahead, figures."""
    from biaslab.workflows import demo as job

    report = job.demo(
        out, layer=layer or job.LAYER, progress=True, n_calibration=calibration, n_pictures=pictures, n_test=test,
        processes=processes,
    )  # fmt: skip
    text = "\n\n".join(
        [
            "Variance of log attention explained by position (held-out images):",
            table(report.fitted.variance[["layer", "r2", "r2_lo", "r2_hi"]]),
            "AUROC of the last token's attention for the target's tokens, raw and debiased:",
            table(report.ranking[_SHOWN])
            + "\np_adjusted: gain over raw, paired sign-flip test over images, two-sided, family-wise over the rows "
            "(step-down max-T)",
            f"Localization under pruning before layer {layer or job.LAYER}:",
            summary(report.results),
            "Before the decoder, at the same mean shares of visual tokens over the layers, and at smaller ones:",
            summary(report.equal_cost),
        ]
    )
    record = {
        "variance_explained": report.fitted.variance.to_dict("records"),
        "ranking": report.ranking.to_dict("records"),
        "rows": report.results.table.to_dict("records"),
        "rows_before_decoder": report.equal_cost.table.to_dict("records"),
    }
    emit(json, record, text, report.files)
