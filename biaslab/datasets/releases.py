"""Known releases: how many expressions a split has, and what a split is that is not what its name says."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["PUBLISHED_SIZES", "Release", "published_split", "release_of"]

#: expressions per published split: a file of another size does not give the published accuracy
PUBLISHED_SIZES = {
    "refcoco_val": 10_834,
    "refcoco_testA": 5_657,
    "refcoco_testB": 5_095,
    "refcoco+_val": 10_758,
    "refcoco+_testA": 5_726,
    "refcoco+_testB": 4_889,
    "refcocog_val": 4_896,
    "refcocog_test": 9_602,
}
_STEM = re.compile(
    r"(?:REC_|finetune_)?refcoco(?P<kind>\+|p|plus|g|)(?:_(?P<by>unc|umd|google))?_(?P<split>val|testA|testB|test)",
    re.IGNORECASE,
)
_KIND = {"": "", "+": "+", "p": "+", "plus": "+", "g": "g"}
_SPLIT = {"val": "val", "testa": "testA", "testb": "testB", "test": "test"}


@dataclass(frozen=True)
class Release:
    """What is known of a split.

    Attributes
    ----------
    count : int
        Of ``unit``.
    unit : str
        "expressions", or "rows", where a row holds several.
    note : str
        Part of the split's name where it is not what its own name says.
    """

    count: int
    unit: str = "expressions"
    note: str = ""


_MIXED = "UNC val and Google {} mixed, not the published val"
_ROWS = {
    ("lmms-lab/RefCOCO", "val"): Release(8_811, "rows", _MIXED.format("val")),
    ("lmms-lab/RefCOCO", "test"): Release(5_000, "rows", "Google's division, not the published testA or testB"),
    ("lmms-lab/RefCOCO", "testA"): Release(1_975, "rows"),
    ("lmms-lab/RefCOCO", "testB"): Release(1_810, "rows"),
    ("lmms-lab/RefCOCOplus", "val"): Release(3_805, "rows"),
    ("lmms-lab/RefCOCOplus", "testA"): Release(1_975, "rows"),
    ("lmms-lab/RefCOCOplus", "testB"): Release(1_798, "rows"),
    ("lmms-lab/RefCOCOg", "val"): Release(7_573, "rows", "UMD val and Google val mixed, not the published val"),
    ("lmms-lab/RefCOCOg", "test"): Release(5_023, "rows"),
    ("ref-l4", "val"): Release(7_231),
    ("ref-l4", "test"): Release(38_110),
    **{("refcoco (unc)", split): Release(PUBLISHED_SIZES[f"refcoco_{split}"]) for split in ("val", "testA", "testB")},
    **{("refcoco+ (unc)", split): Release(PUBLISHED_SIZES[f"refcoco+_{split}"]) for split in ("val", "testA", "testB")},
    **{("refcocog (umd)", split): Release(PUBLISHED_SIZES[f"refcocog_{split}"]) for split in ("val", "test")},
}


def published_split(stem: str) -> str | None:
    """Name the published split that a file's name claims to be.

    Examples
    --------
    >>> published_split("REC_refcoco+_unc_testA"), published_split("finetune_refcocog_val"), published_split("cats")
    ('refcoco+_testA', 'refcocog_val', None)
    """
    found = _STEM.fullmatch(stem)
    if found is None or (found["by"] or "").lower() == "google":
        return None
    name = f"refcoco{_KIND[found['kind'].lower()]}_{_SPLIT[found['split'].lower()]}"
    return name if name in PUBLISHED_SIZES else None


def release_of(name: str, split: str) -> Release | None:
    """Look up a split by the names of the data set and of the split; None of what is not known."""
    if (known := _ROWS.get((name, split))) is not None:
        return known
    published = published_split(split)
    return None if published is None else Release(PUBLISHED_SIZES[published])
