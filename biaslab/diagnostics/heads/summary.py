"""Ratings of heads in sentences."""

from __future__ import annotations

import pandas as pd

from biaslab._util.number_text import interval_text, is_number, list_text

__all__ = ["UNITS", "rating_sentences"]

_NAMED = 3
#: criterion -> what its values are
UNITS = {
    "quality": "(1 - share explained by position) x Moran x skewness, without labels",
    "localization": "share of the images that vote for the head, by lowest spatial entropy",
    "auroc": "mean AUROC of its raw attention for the target's tokens, with labels",
    "ablation": "rise of the cross entropy of the model's own answer without it, nats per token",
    "ippro": "1000 (PRO - 1) of its slice of the output projection after a step of gradient; unverified",
}


def rating_sentences(ratings: pd.DataFrame, compared: pd.DataFrame) -> list[str]:
    """Say of each criterion which heads are best, and of each pair how far they agree.

    Parameters
    ----------
    ratings : DataFrame
        Tables of :class:`~biaslab.diagnostics.heads.ratings.HeadRatings`, one below the other.
    compared : DataFrame
        Of :func:`~biaslab.diagnostics.heads.agreement.compare_ratings`.

    Returns
    -------
    list of str
    """
    sentences = []
    for criterion, part in ratings.groupby("criterion", sort=False):
        best = part.dropna(subset="value").sort_values("value", ascending=False, kind="stable")[:_NAMED]
        named = [
            f"layer {int(r['layer'])} head {int(r['head'])} ({interval_text(r['value'], r['lo'], r['hi'])})"
            for r in best.to_dict("records")
        ]
        unit = UNITS.get(str(criterion), "")
        sentences.append(
            f"By {criterion}{f' ({unit})' if unit else ''} the best of {len(part)} heads are {list_text(named)}; "
            "extremes of many are flattered by their choice."
        )
    for row in compared.to_dict("records"):
        pair = f"{row['first']} and {row['second']}"
        if not is_number(row["spearman"]):
            sentences.append(f"Whether {pair} agree is not known: one of them does not tell heads apart.")
            continue
        sure = is_number(row["lo"]) and (row["lo"] > 0 or row["hi"] < 0)
        size = interval_text(row["spearman"], row["lo"], row["hi"])
        sentences.append(
            f"Rank correlation of {pair}: "
            f"{size}{'' if sure else ', which is not significantly different from 0'}; they share "
            f"{row['shared']} of the {row['top']} best heads ({row['by_chance']:.1f} expected by chance)."
        )
    return sentences
