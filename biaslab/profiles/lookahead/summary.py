"""What a reader of a conditional profile wants to know first: what it explains, who taught it, what the fit took."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from biaslab._util.cards import table_lines
from biaslab._util.number_text import count_text, interval_text, is_number

if TYPE_CHECKING:
    from biaslab.profiles.estimators.lookahead import LookaheadProfile

__all__ = ["summary"]


def summary(profile: LookaheadProfile) -> list[str]:
    """Write the part of a conditional profile's card that stands above where it comes from.

    Parameters
    ----------
    profile : LookaheadProfile
        Fitted.

    Returns
    -------
    list of str
        Markdown lines; what a profile of an earlier version does not tell is left out.
    """
    p = profile.provenance_
    held = p["held_out"]
    shares = [("position", held["position"]), ("position, content and question", held["all"])]
    told = "By a quality that asks for no labels: not explained by position, blobs not specks, few tokens stick out."
    if p["params"]["heads"] != "quality":
        told = "Named by whoever fitted it."
    return [
        "## What it explains",
        "",
        f"Of the variance of the teaching heads' log attention, on {count_text(held['images'], 'held-out prompt')}:",
        "",
        *table_lines(["by", "share"], [[by, _percent(share)] for by, share in shares]),
        "",
        "## Heads that taught",
        "",
        told,
        "",
        *table_lines(
            ["layer", "head", "weight", "quality", "95 % interval", "explained by position", "share of its attention"],
            [_head_row(profile, *head) for head in p["teacher"]],
        ),
        "",
        "## The fit",
        "",
        *table_lines(["", ""], _fit_rows(profile)),
        "",
        "## Where it comes from",
        "",
    ]


def _head_row(profile: LookaheadProfile, layer: int, head: int, weight: float) -> list[Any]:
    known = profile.quality_
    found = known[(known["layer"] == layer) & (known["head"] == head)] if len(known) else known
    if not len(found):
        return [layer, head, f"{weight:.2f}", None, None, None, None]
    row = found.iloc[0]
    return [
        layer, head, f"{weight:.2f}", f"{row['quality']:.2f}", f"{row['lo']:.2f} to {row['hi']:.2f}",
        _percent(row["position"]), _percent(row["mass"]),
    ]  # fmt: skip


def _fit_rows(profile: LookaheadProfile) -> list[tuple[str, str | None]]:
    p, curve = profile.provenance_, profile.curve_
    learned, held = count_text(p["learned_from"], "prompt"), count_text(p["held_out"]["images"], "prompt")
    if pictures := p.get("pictures"):
        learned += f" on {count_text(pictures['learned_from'], 'image')}"
        held += f" on {count_text(pictures['held_out'], 'other image')}"
    rows: list[tuple[str, str | None]] = [
        ("tokens are dropped before", f"layer {profile.layers_[0]}"),
        ("asked", p.get("prompt")),
        ("learned from", learned),
        ("held out", held),
    ]
    if len(curve):
        best = curve.iloc[int(curve["held_out"].argmin())]
        loss, floor = (interval_text(best[name]) for name in ("held_out", "floor"))
        epoch = f"{int(best['epoch']) + 1} of {len(curve)}"
        rows.append(("best epoch", f"{epoch}: held-out cross entropy {loss}, the teacher's own entropy {floor}"))
    rows.append(("parameters", f"{p['parameters']:,} ({4 * p['parameters'] / 2**20:.2f} MiB in float32)"))
    if profile.seconds_ is not None:
        rows.append(("time of the fit", f"{profile.seconds_:.0f} s"))
    return rows


def _percent(share: Any) -> str | None:
    return f"{100 * share:.1f} %" if is_number(share) else None
