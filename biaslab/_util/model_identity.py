"""Whether two records are of one model: by the fingerprint of its weights, where both have one; the name informs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["NAMES", "SETTINGS", "are_same_weights", "not_compared"]

#: the settings that name a model, beside what it is known by
NAMES = ("model", "name", "revision")
#: the settings of maps and probes that say which model they are of
SETTINGS = ("model", "revision", "fingerprint", "family")
# revisions that name contents: a folder's fingerprint of earlier versions, or a commit of the hub; of an adapter, both
# of itself and of its base
_CONTENTS = re.compile(r"(local-[0-9a-f]{12} on )?(local-[0-9a-f]{12}|[0-9a-f]{40})")


def are_same_weights(mine: Mapping[str, Any], other: Mapping[str, Any]) -> bool | None:
    """Say whether two models have the same weights, whatever the folder or the repository is called.

    Parameters
    ----------
    mine, other : mapping
        Records of models: "fingerprint", and "revision" as files of earlier versions have it alone.

    Returns
    -------
    bool or None
        None where the records do not tell: then names and revisions are compared as they stand.

    Examples
    --------
    >>> from biaslab._util.model_identity import are_same_weights
    >>> hub, copy = {"revision": "0" * 40, "fingerprint": "weights-1"}, {"fingerprint": "weights-1"}
    >>> are_same_weights(hub, copy), are_same_weights(hub, {"fingerprint": "weights-2"})
    (True, False)
    >>> are_same_weights(hub, {"revision": "0" * 40}), are_same_weights({"revision": "main"}, {"revision": "main"})
    (True, None)
    """
    a, b = mine.get("fingerprint"), other.get("fingerprint")
    # those of files and those of memory are of two kinds, which cannot be held against each other
    if isinstance(a, str) and isinstance(b, str) and a.partition("-")[0] == b.partition("-")[0]:
        return a == b
    revision = mine.get("revision")
    same = isinstance(revision, str) and revision == other.get("revision") and _CONTENTS.fullmatch(revision) is not None
    return True if same else None


def not_compared(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> frozenset[str]:
    """List the settings of two records in which models may differ: names, where the weights are known to be the same.

    How a model was loaded informs alone: what of it changes answers is in the fingerprint.

    Parameters
    ----------
    there, here : mapping
        Settings with the model's names and fingerprint.
    prefix : str
        Of the settings' full names, "model." or nothing.

    Returns
    -------
    frozenset of str
        For ``ignore`` of :func:`~biaslab._util.identity.differences`.

    Examples
    --------
    >>> from biaslab._util.model_identity import not_compared
    >>> sorted(not_compared({"fingerprint": "weights-1", "model": "a"}, {"fingerprint": "weights-1", "model": "b"}))
    ['fingerprint', 'loading', 'model', 'name', 'revision']
    >>> sorted(not_compared({"model": "a"}, {"fingerprint": "weights-1", "model": "a"}))
    ['fingerprint', 'loading']
    """
    same = are_same_weights(there, here)
    names = () if same is False else ("fingerprint",) if same is None else ("fingerprint", *NAMES)
    return frozenset(prefix + name for name in ("loading", *names))
