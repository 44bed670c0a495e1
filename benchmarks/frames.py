"""Frames of a video, by the grounder: what each draws whatever it shows, and what AdaTP leaves of the one asked about.

Prompts of three scenes each (the grounder has positions for no more), asked about the target of one of them, the first,
the second and the third by turns. It was not trained on several images: what is shown is the bias, no answers.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

import biaslab as bl
from biaslab.diagnostics.measures.frame_mass import frame_mass
from biaslab.diagnostics.measures.frame_top import frame_top
from biaslab.profiles import FactorisedProfile, variance_explained
from biaslab.pruning import Method, make
from biaslab.stats.jackknife import jackknife_interval

from .common import arguments, numbers
from .report import Report, Table

FRAMES = 3


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write the report."""
    parser = arguments("benchmarks.frames", __doc__, repeats=1)
    parser.add_argument("--prompts", type=int, default=48, help="prompts of three scenes")
    parser.add_argument("--layers", type=numbers(int), default=[1, 5, 8], help="prune layers K, e.g. 1,5")
    parser.add_argument("--keep", type=float, default=0.1, help="keep ratio")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    report(options.prompts, options.layers, options.keep).publish(options.out)


def report(prompts: int, layers: list[int], keep: float) -> Report:
    """Collect maps of frames, fit profiles, prune."""
    vlm, images, texts, which = asked(prompts)
    ids = [f"video-{i}" for i in range(len(images))]
    read = sorted({layer - 1 for layer in layers})
    drawn, kept = [], []
    with TemporaryDirectory() as folder:  # `frame_top` reads single prompts
        of_rows = {
            queries: bl.collect(
                vlm, images, prompt=texts, layers=read, queries=queries, frames=True, ids=ids, progress=False,
                out=Path(folder) / queries,
            )
            for queries in ("last", "null")
        }  # fmt: skip
        for layer in layers:
            drawn += [{"rows": queries, **bias_of(maps, layer - 1)} for queries, maps in of_rows.items()]
            kept += measured(vlm, images, texts, which, of_rows["last"], layer, keep)
    columns = {"rows": ("rows", ""), "layer": ("layer", "")}
    columns |= {f"frame_{k}": (f"frame {k + 1}", "") for k in range(FRAMES)}
    columns |= {end: (f"of the most attended tenth in the {end} frame, %", "") for end in ("first", "last")}
    columns |= {name: (f"explained by {name}, %", ".1f") for name in ("tile", "factorised", "mean")}
    rules = {"layer": ("K", ""), "rule": ("adatp", ""), "asked": ("kept from the frame asked about, %", "")}
    rules |= {f"kept_{k}": (f"from frame {k + 1}, %", ".0f") for k in range(FRAMES)}
    rules |= {"segments": ("segments", ".1f")}
    return Report(
        name="frames",
        title="Frames of a video",
        settings={"prompts": len(images), "layers": layers, "keep": keep},
        tables=[
            Table(
                "Attention of each frame relative to uniform attention, and held-out variance explained", columns, drawn
            ),
            Table("Kept tokens by frame; equal parts are 33 %", rules, kept),
        ],
        notes=[
            "95 % intervals over prompts",
            "rows: the last prompt token, or the first token behind the last frame (null)",
            "the profile is fitted on the prompts that are pruned",
        ],
    )


def bias_of(maps: Any, layer: int) -> dict[str, Any]:
    """Tell how much frames draw in a layer, where the most attended tokens lie, and what profiles explain."""
    mass = frame_mass(maps, layers=layer).to_dict("records")
    top = frame_top(maps, layers=layer).to_dict("records")
    ends = {r["end"]: [100 * r[f"share{x}"] for x in ("", "_lo", "_hi")] for r in top}
    return {
        "layer": layer,
        **{f"frame_{r['frame']}": f"{r['ratio']:.2f} [{r['ratio_lo']:.2f}, {r['ratio_hi']:.2f}]" for r in mass},
        **{end: f"{share:.0f} [{lo:.0f}, {hi:.0f}]" for end, (share, lo, hi) in ends.items()},
        **{
            name: 100 * variance_explained(maps, estimator=name, layer=layer).r2
            for name in ("tile", "factorised", "mean")
        },
    }


def asked(prompts: int) -> tuple[Any, list[list[Any]], list[str], list[int]]:
    """Make the grounder, prompts of scenes, questions about one of them each, and which one."""
    first: dict[str, Any] = {}
    for sample in bl.load_dataset("scenes", split="validation", n=3 * FRAMES * prompts):
        first.setdefault(sample.image_id, sample)
    scenes = list(first.values())[: FRAMES * prompts]
    groups = [scenes[i : i + FRAMES] for i in range(0, len(scenes) - FRAMES + 1, FRAMES)]
    which = [i % FRAMES for i in range(len(groups))]
    vlm = bl.load("grounder")
    texts = [vlm.family.grounding_prompt(g[w].expression) for g, w in zip(groups, which, strict=True)]
    return vlm, [[scene.image() for scene in group] for group in groups], texts, which


def measured(
    vlm: Any, images: list, texts: list[str], which: list[int], maps: Any, layer: int, keep: float
) -> list[dict[str, Any]]:
    """Prune all prompts before a layer by every form of the rule: a row each."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few prompts
        profile = FactorisedProfile().fit(maps, layers=layer - 1)
    forms: dict[str, dict[str, Any]] = {
        "similarity": {}, "similarity, temperature 0.02": {"temperature": 0.02},
        "similarity of states": {"similar_by": "states"}, "attention (the control)": {"relevance": "attention"},
        "attention over a fitted profile": {"relevance": "profile", "profile": profile},
    }  # fmt: skip
    rules = {name: make("adatp", keep=keep, **options) for name, options in forms.items()}
    return [
        {"layer": layer, "rule": name, **_row(vlm, images, texts, which, layer, rule)} for name, rule in rules.items()
    ]


def _row(vlm: Any, images: list, texts: list[str], which: list[int], layer: int, rule: Method) -> dict[str, Any]:
    shares, segments = [], []
    for i in range(0, len(images), 8):
        encoded = vlm.encode(images[i : i + 8], texts[i : i + 8], frames=True)
        with bl.prune(vlm, rule, layer) as run:
            vlm.forward(encoded)
        counts = np.array([len(s.indices) for s in run.selections], float).reshape(-1, FRAMES)
        shares.append(100 * counts / counts.sum(1, keepdims=True))
        segments += [len(s.info["quota"]) for s in run.selections[::FRAMES]]
    share = np.concatenate(shares)
    own = share[np.arange(len(share)), which]
    lo, hi = jackknife_interval(own.mean(), (own.sum() - own) / (len(own) - 1), confidence=0.95)
    kept = {f"kept_{k}": share[:, k].mean() for k in range(FRAMES)}
    return {"asked": f"{own.mean():.1f} [{lo:.1f}, {hi:.1f}]", **kept, "segments": float(np.mean(segments))}


if __name__ == "__main__":
    main()
