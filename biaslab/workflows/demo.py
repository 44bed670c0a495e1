"""The main job on the embedded grounder: profiles, debiased scores, D2Pruner, its rivals and look-ahead, figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from biaslab._util.launch import Launch
from biaslab._util.output_place import check_output_folder
from biaslab.attention.capture import capture
from biaslab.datasets.calibration import calibration
from biaslab.datasets.scenes import ScenesDataset
from biaslab.diagnostics.ranking import score_ranking
from biaslab.evaluation.matching import mean_share
from biaslab.evaluation.results import Results
from biaslab.evaluation.runner import evaluate
from biaslab.evaluation.single_image import compare_methods
from biaslab.figures import AttentionDisplay, AurocDisplay, save
from biaslab.models import load
from biaslab.models.vlm import VLM
from biaslab.profiles import Profile
from biaslab.pruning import D2Pruner, Method
from biaslab.workflows.fit_bias import FitResult, fit_bias
from biaslab.workflows.make_report import report
from biaslab.workflows.run_figures import draw_kept, draw_run

__all__ = ["KEEPS", "LAYER", "SHARES", "DemoReport", "before_decoder", "demo", "methods"]

#: chosen on the validation split and frozen before the test split was looked at
LAYER = 4
KEEPS = (0.5, 0.2, 0.1, 0.05)
#: of the visual tokens in every layer, where methods that wait for attention cannot come
SHARES = (0.156, 0.1)
_QUESTIONS = 3  # on an image, which the conditional profile learns from
_SHOWN_KEEP = 0.1
_EXAMPLES = 3


def methods() -> list[str | Method]:
    """List no pruning, the six methods, and D2Pruner's variant in which pivots suppress their neighbours.

    Examples
    --------
    >>> from biaslab.workflows.demo import methods
    >>> methods()[:6]
    ['none', 'random', 'uniform', 'fastv', 'relative', 'divprune']
    """
    return ["none", "random", "uniform", "fastv", "relative", "divprune", "d2pruner", D2Pruner(pivots_suppress=True)]


def before_decoder() -> list[str | Method]:
    """List the methods that need no attention of the decoder: they cut before it.

    Examples
    --------
    >>> from biaslab.workflows.demo import before_decoder
    >>> before_decoder()
    ['uniform', 'divprune', 'lookahead']
    """
    return ["uniform", "divprune", "lookahead"]


@dataclass(frozen=True)
class DemoReport:
    """The demo's results.

    Attributes
    ----------
    fitted : FitResult
        The bias profile.
    ranking : DataFrame
        How well attention ranks the target's tokens, raw and debiased; see :func:`biaslab.score_ranking`.
    results : Results
        Localization under pruning before ``layer``.
    equal_cost : Results
        Localization under pruning before the decoder, at the same mean shares of visual tokens and at two smaller ones.
    files : list of Path
        Files written.
    """

    fitted: FitResult
    ranking: pd.DataFrame
    results: Results
    equal_cost: Results
    files: list[Path]


def demo(
    out: str | Path,
    *,
    layer: int = LAYER,
    progress: bool = True,
    n_calibration: int = 300,
    n_pictures: int = 400,
    n_test: int = 300,
    processes: int = 2,
) -> DemoReport:
    """Fit, rank, evaluate and draw on the embedded grounder.

    Parameters
    ----------
    out : str or Path
        Run folder; the same call goes on with an interrupted run.
    layer : int
        Prune layer K.
    progress : bool
        Show progress bars.
    n_calibration : int
        Calibration scenes for the positional profile.
    n_pictures : int
        Calibration scenes, each with up to three questions, for the conditional profile.
    n_test : int
        Test expressions.
    processes : int
        Processes for the evaluation.

    Returns
    -------
    DemoReport
        Profiles, ranking, accuracy and the files written.

    Examples
    --------
    Skipped as a test, since it runs for minutes:

    >>> from biaslab.workflows.demo import demo
    >>> demo("runs/demo").results.summary()  # doctest: +SKIP
    """
    out = check_output_folder(out)
    vlm = load("grounder")
    scenes = calibration(vlm, "scenes", n=n_calibration)
    fitted = fit_bias(vlm, scenes, out=out / "profile.safetensors", batch_size=16, progress=progress, launch=Launch())
    data = ScenesDataset("test", n=n_test)
    results = evaluate(
        vlm, data, methods=methods(), keep=KEEPS, layer=layer, out=out, profile=fitted.profile, batch_size=25,
        processes=processes, progress=progress,
    )  # fmt: skip
    asked = calibration(vlm, "scenes", n=n_pictures, questions=_QUESTIONS)
    foreseen = fit_bias(
        vlm, asked, estimator="lookahead", out=out / "lookahead.safetensors", batch_size=16, progress=progress,
        launch=Launch(),
    )  # fmt: skip
    shares = [round(mean_share(vlm.n_layers, layer, 1, keep), 4) for keep in KEEPS]
    equal_cost = evaluate(
        vlm, data, methods=["none", *before_decoder()], keep=[*shares, *SHARES], layer=0, out=out / "equal-cost",
        profile=foreseen.profile, batch_size=25, processes=processes, progress=progress,
    )  # fmt: skip
    ranking = score_ranking(vlm, data, profile=fitted.profile, batch_size=25, progress=progress)
    files = [*fitted.files, *foreseen.files, out / "results.csv", *draw_run(results)]
    files += [out / "equal-cost" / "results.csv", *draw_run(equal_cost)]
    files += save(AurocDisplay.from_table(ranking, model=vlm.name).plot(), out / "figures" / "target-auroc", close=True)
    files += _draw_examples(vlm, data, fitted.profile, layer, out / "figures")
    # what to look at first is named last
    files += [report(equal_cost, dataset=data), report(results, dataset=data, vlm=vlm, layers=[layer - 1])]
    return DemoReport(fitted, ranking, results, equal_cost, files)


def _draw_examples(vlm: VLM, data: ScenesDataset, profile: Profile, layer: int, folder: Path) -> list[Path]:
    samples = list({s.image_id: s for s in data}.values())[:_EXAMPLES]  # one expression per scene
    images = [s.image() for s in samples]
    encoded = vlm.encode_grounding(images, [s.expression for s in samples])
    with capture(vlm, layers=[layer - 1]) as rows:
        vlm.forward(encoded)
    maps = [attention for _, attention in rows.per_image(encoded)]
    display = AttentionDisplay.from_attention(
        images, encoded.layouts, maps, profile=profile, layer=layer - 1,
        targets=[s.box for s in samples], titles=[s.expression for s in samples],
    )  # fmt: skip
    files = save(display.plot(), folder / "attention", close=True)
    for sample, image in zip(samples, images, strict=True):
        answers = compare_methods(
            vlm, image, sample.expression, methods=methods(), keep=_SHOWN_KEEP, layer=layer, profile=profile
        )
        files += draw_kept(
            image, answers, expression=sample.expression, out=folder / f"kept-{sample.id}", target=sample.box,
            keep=_SHOWN_KEEP,
        )  # fmt: skip
    return files
