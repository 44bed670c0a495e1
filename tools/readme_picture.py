"""Write docs/overview.png: an image, attention before and after debiasing, and what two methods keep of it.

    python -m tools.readme_picture --profile grounder.safetensors

The image is the first of the test scenes on which FastV's answer misses and D2Pruner's hits: chosen to show the
difference, no evidence of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt

import biaslab as bl

LAYER, KEEP = 4, 0.1
METHODS = {"fastv": "FastV", "d2pruner": "D2Pruner"}


def main() -> None:
    """Find the image and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", type=Path, required=True, help="of the grounder, `biaslab fit-bias --n 300`")
    parser.add_argument("--out", type=Path, default=Path("docs/overview.png"))
    options = parser.parse_args()
    vlm, profile = bl.load("grounder"), bl.load_profile(options.profile)
    for sample in bl.load_dataset("scenes", split="test", n=300):
        found = bl.compare_methods(
            vlm, sample.image(), sample.expression, methods=["none", *METHODS], keep=KEEP, layer=LAYER, profile=profile
        )
        hit = {one.method: one.answer.box is not None and one.answer.box.iou(sample.box) >= 0.5 for one in found}
        if hit["none"] and hit["d2pruner"] and not hit["fastv"]:
            break
    figure, axes = plt.subplots(1, 5, figsize=(10.5, 2.9), layout="constrained")
    encoded = vlm.encode_grounding([sample.image()], [sample.expression])
    with bl.capture(vlm, layers=[LAYER - 1], queries="last") as rows:
        vlm.forward(encoded)
    bl.AttentionDisplay.from_attention(
        sample.image(), encoded.layouts[0], rows[LAYER - 1].values[0].mean((0, 1)), profile=profile, layer=LAYER - 1,
        targets=sample.box,
    ).plot(ax=axes[1:3])  # fmt: skip
    names = {"none": "no pruning", **METHODS}
    bl.KeptTokensDisplay.from_selections(
        sample.image(), encoded.layouts[0],
        {names[one.method]: one.selection for one in found},
        target=sample.box, answers={names[one.method]: one.answer.box for one in found},
    ).plot(ax=[axes[0], *axes[3:]])  # fmt: skip
    overlap = {one.method: one.answer.box.iou(sample.box) for one in found if one.answer.box is not None}
    titles = [
        f"all tokens, IoU {overlap['none']:.2f}", f"attention of layer {LAYER - 1}", "divided by the profile",
        *(f"{name} keeps {KEEP:.0%}, IoU {overlap[method]:.2f}" for method, name in METHODS.items()),
    ]  # fmt: skip
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=9)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=150, bbox_inches="tight")
    print(f"{options.out}: {sample.id}, {sample.expression!r}")


if __name__ == "__main__":
    main()
