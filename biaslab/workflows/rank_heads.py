"""Rate decoder heads on calibration images by several criteria: what ``biaslab heads`` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from biaslab._util.cards import card_text, table_lines
from biaslab._util.files import atomic_write, writing_to
from biaslab._util.number_text import count_text, interval_text
from biaslab._util.tables import write_table
from biaslab._util.watermark import stamp_table
from biaslab.core.images import load_image
from biaslab.core.layers import resolve_layers
from biaslab.diagnostics.heads.ablation import by_ablation
from biaslab.diagnostics.heads.agreement import compare_ratings
from biaslab.diagnostics.heads.of_maps import by_auroc, by_localization, by_quality
from biaslab.diagnostics.heads.projections import LAMBDA, by_projection
from biaslab.diagnostics.heads.ratings import HeadRatings, groups_of
from biaslab.diagnostics.heads.summary import UNITS, rating_sentences
from biaslab.errors import InputError
from biaslab.evaluation.provenance_file import write_provenance
from biaslab.figures import HeadRatingDisplay, save
from biaslab.maps.collect import collect
from biaslab.maps.stored import StoredMaps

if TYPE_CHECKING:
    from biaslab.datasets.sample import Sample
    from biaslab.models.encoded import Encoded
    from biaslab.models.vlm import VLM

__all__ = ["CRITERIA", "HeadRanking", "check_criteria", "rank_heads"]

#: every criterion, those that read maps alone first
CRITERIA = tuple(UNITS)
_LISTED = 10  # heads of a criterion in the card


@dataclass(frozen=True)
class HeadRanking:
    """What criteria make of heads.

    Attributes
    ----------
    ratings : DataFrame
        criterion, layer, head, value, lo, hi, rank: a row per criterion and head.
    agreement : DataFrame
        Of :func:`biaslab.diagnostics.heads.agreement.compare_ratings`.
    sentences : list of str
    maps : StoredMaps
        Attention of every head to the images.
    files : list of Path
        Files written.
    """

    ratings: pd.DataFrame
    agreement: pd.DataFrame
    sentences: list[str]
    maps: StoredMaps
    files: list[Path] = field(default_factory=list)


def check_criteria(criteria: str | Sequence[str]) -> list[str]:
    """Refuse criteria that are not known, none, and the same twice.

    Raises
    ------
    InputError
    """
    names = [criteria] if isinstance(criteria, str) else list(criteria)
    if not names or len(set(names)) < len(names) or not set(names) <= set(CRITERIA):
        raise InputError(f"criteria must be among {', '.join(CRITERIA)}, each once; got {', '.join(map(str, names))!r}")
    return names


def rank_heads(
    vlm: VLM,
    samples: Sequence[Sample],
    *,
    out: str | Path,
    criteria: str | Sequence[str] = ("quality", "localization", "auroc"),
    layers: Sequence[int] | None = None,
    batch_size: int = 8,
    lam: float = LAMBDA,
    top: int = 5,
    workers: int | None = None,
    progress: bool = True,
) -> HeadRanking:
    """Collect what every head attends to, rate the heads, and write tables, a figure and sentences.

    Parameters
    ----------
    vlm : VLM
    samples : sequence of Sample
        Calibration images, 4 or more, with an expression and the box of its target, which "auroc" alone reads.
    out : str or Path
        Folder: ``maps/`` (the same call resumes them), ``ratings.csv``, ``agreement.csv``, ``figure`` as PDF, PNG and
        CSV, ``card.md``, ``provenance.json``.
    criteria : str or sequence of str
        Of :data:`CRITERIA`. "ablation" is a forward per head and batch; "ippro" needs gradients, two forwards and
        backwards per image.
    layers : sequence of int, optional
        Layers whose heads are rated; default all.
    batch_size : int
        Images per forward.
    lam : float
        Of "ippro".
    top : int
        Best heads whose overlap between criteria is counted.
    workers : int, optional
        Threads that prepare images ahead of the model, as in :func:`biaslab.maps.collect.collect`.
    progress : bool
        Show progress bars.

    Returns
    -------
    HeadRanking

    Raises
    ------
    InputError
        Unknown criteria or layers, too few images.
    UnsupportedError
        A model that cannot be ablated, or has no gradients, where this is asked for.

    Examples
    --------
    >>> import biaslab as bl
    >>> from tempfile import TemporaryDirectory
    >>> from biaslab.workflows.rank_heads import rank_heads
    >>> scenes = list(bl.load_dataset("scenes", split="calibration", n=12))
    >>> with TemporaryDirectory() as folder:
    ...     found = rank_heads(bl.load("grounder"), scenes, out=folder, layers=[2, 3], progress=False)
    >>> found.ratings.query("criterion == 'quality' and rank == 1")[["layer", "head"]].values.tolist()
    [[3, 3]]
    """
    names = check_criteria(criteria)
    numbers = resolve_layers(layers, vlm.n_layers, "the decoder")
    compare_ratings([], top=top)  # refuses
    if "ippro" in names and not lam > 0:
        raise InputError(f"lam must be above 0, got {lam!r}")
    groups_of([s.image_id for s in samples])  # refuses too few
    folder = Path(out)
    collected = collect(
        vlm, samples, prompt=[vlm.family.grounding_prompt(s.expression) for s in samples], layers=numbers, heads="all",
        batch_size=batch_size, out=folder / "maps", progress=progress, workers=workers, ids=[s.id for s in samples],
    )  # fmt: skip
    assert isinstance(collected, StoredMaps)
    by_id = {sample.id: sample for sample in samples}
    shown = [by_id[collected.record(i).id] for i in range(collected.n)]  # those that could be read, in order
    groups = groups_of([s.image_id for s in shown])

    def encode(batch: Sequence[Sample]) -> Encoded:
        return vlm.encode_grounding([load_image(s) for s in batch], [s.expression for s in batch])

    def rate(name: str) -> HeadRatings:
        if name == "quality":
            return by_quality(collected, numbers, groups)
        if name == "localization":
            return by_localization(collected, numbers, groups)
        if name == "auroc":
            return by_auroc(collected, numbers, groups, [s.box for s in shown])
        if name == "ablation":
            batches = (encode(shown[i : i + batch_size]) for i in range(0, len(shown), batch_size))
            return by_ablation(vlm, batches, numbers, groups, progress=progress)
        return by_projection(vlm, lambda i: encode([shown[i]]), numbers, groups, lam=lam, progress=progress)

    rated = [rate(name) for name in names]
    ratings = pd.concat([one.table() for one in rated], ignore_index=True)
    compared = compare_ratings(rated, top=top)
    provenance = {**collected.provenance, "layers": numbers}
    for table in (ratings, compared):
        stamp_table(table, provenance)
    found = HeadRanking(ratings, compared, rating_sentences(ratings, compared), collected)
    found.files.extend(_write(found, folder, provenance))
    return found


def _write(found: HeadRanking, folder: Path, provenance: dict[str, Any]) -> list[Path]:
    files = save(HeadRatingDisplay.from_table(found.ratings, provenance=provenance), folder / "figure", close=True)
    with writing_to(folder):
        for name, table in (("ratings", found.ratings), ("agreement", found.agreement)):
            files += write_table(table, folder / name, provenance)
        files.append(folder / "card.md")
        atomic_write(files[-1], _card(found, provenance))
    files.append(write_provenance(folder, provenance))
    return files


def _card(found: HeadRanking, provenance: dict[str, Any]) -> str:
    lines = [f"Heads of {provenance.get('model')}, rated on {count_text(found.maps.n, 'image')}.", ""]
    lines += [f"- {sentence}" for sentence in found.sentences]
    for criterion, part in found.ratings.groupby("criterion", sort=False):
        best = part.dropna(subset="value").sort_values("value", ascending=False, kind="stable")[:_LISTED]
        unit = UNITS[str(criterion)]
        lines += ["", f"## {criterion}", "", f"{unit[0].upper()}{unit[1:]}.", ""]
        rows = [
            [int(r["layer"]), int(r["head"]), interval_text(r["value"], r["lo"], r["hi"])]
            for r in best.to_dict("records")
        ]
        lines += table_lines(["layer", "head", "value [95 %]"], rows)
    return card_text("Which heads matter", provenance, [*lines, ""])
