"""Write docs/observer-curve.png: how the embedded observer came to what it knows, from the curve beside its weights.

    python -m tools.observer_curve

Lines are training images; points, images that were never trained on: filled familiar ones, hollow ones of unfamiliar
drawings and backgrounds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from biaslab.figures.styling import COLORS, style
from biaslab.models.registry import embedded_folder

WINDOW = 5  # points of 20 steps that a line is the median of: a point is of some 200 images
POINTS = {"monitor": {}, "unfamiliar": {"markerfacecolor": "white"}}
PANELS = {
    "vision": {"what": "which object", "letters": "letters of signs", "owned": "object or not"},
    "decoder": {"acc50": "boxes, IoU of 0.5 or more", "questions": "questions"},
}
TITLES = {"vision": "Vision stage, heads on visual tokens", "decoder": "Decoder stage, teacher-forced answers"}


def steps(curve: pd.DataFrame) -> pd.DataFrame:
    """Put the steps of all legs of a stage behind each other.

    Parameters
    ----------
    curve : DataFrame
        Lines of ``training.jsonl``.

    Returns
    -------
    DataFrame
        With ``at``: steps since the stage began.
    """
    curve = curve.assign(leg=curve["leg"].fillna(0).astype(int))
    ends = curve.groupby(["stage", "leg"])["step"].max()
    before = (ends.groupby("stage").cumsum() - ends).rename("before")
    return curve.assign(at=curve["step"] + curve.join(before, on=["stage", "leg"])["before"])


def main() -> None:
    """Draw both stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curve", type=Path, default=embedded_folder("observer") / "training.jsonl")
    parser.add_argument("--out", type=Path, default=Path("docs/observer-curve.png"))
    options = parser.parse_args()
    curve = steps(pd.read_json(options.curve, lines=True))
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(6.9, 2.5), layout="constrained", sharey=True)
        for axis, (stage, names) in zip(axes, PANELS.items(), strict=True):
            own = curve[(curve["stage"] == stage) & curve["loss"].notna()]
            tried = curve[(curve["stage"] == stage) & curve["monitor"].notna()]
            for colour, (name, label) in zip(COLORS, names.items(), strict=False):
                values = own.groupby("leg")[name].transform(lambda of: of.rolling(WINDOW, min_periods=1).median())
                for number, leg in own.assign(median=100 * values).groupby("leg"):
                    axis.plot(leg["at"], leg["median"], color=colour, label=label if number == 0 else None)
                for kind, look in POINTS.items():
                    found = [100 * line.get("boxes" if name == "acc50" else name, np.nan) for line in tried[kind]]
                    axis.plot(tried["at"], found, "o", color=colour, markersize=4, **look)
            for border in own.groupby("leg")["at"].max().iloc[:-1]:
                axis.axvline(border, color="0.7", linewidth=0.6, zorder=0)
            axis.set(title=TITLES[stage], xlabel="step", ylim=(0, 100))
            axis.legend()
        axes[0].set_ylabel("% right")
        figure.savefig(options.out, dpi=150)
    print(options.out)


if __name__ == "__main__":
    main()
