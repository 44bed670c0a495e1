"""Every pruning method in a table: what it reads, from which layer on, what it costs, where it is from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from biaslab.errors import InputError
from biaslab.pruning.registry import METHODS

if TYPE_CHECKING:
    import pandas as pd

    from biaslab.pruning.base import Method

__all__ = ["methods"]

_COLUMNS = ("method", "reads", "from_layer", "profile", "cost", "source", "verified")
_DEEPEST = 64  # layers tried for the first K that a method allows


def methods() -> pd.DataFrame:
    """List the registered pruning methods as they are by default, those of plug-ins included.

    Returns
    -------
    DataFrame
        method : str
            Name on the command line.
        reads : str
            What it looks at, joined by "+": attention, features (states of the visual tokens entering layer K), text
            (those of the tokens behind the image), keys and values of a layer, embeddings (what the decoder is given),
            rotary (frequencies and positions), vision (the tower); empty where positions decide alone.
        from_layer : int
            Smallest layer K before which it can drop tokens: 0 is before the decoder, which only methods without
            attention can do.
        profile : str
            "positional", "conditional" or "heads" where it needs a fitted one, else empty.
        cost : str
            What a choice costs beside the forward.
        source : str
            Key of the work (:meth:`biaslab.pruning.Method.citations` gives it); empty for what is ours.
        verified : str
            How well the rule is known to be its source's.

    Examples
    --------
    >>> table = methods().query("method in ['divprune', 'd2pruner']").reset_index(drop=True)
    >>> table[["method", "reads", "from_layer", "source"]]
         method               reads  from_layer        source
    0  d2pruner  attention+features           1  d2pruner2026
    1  divprune            features           0  divprune2025
    """
    import pandas as pd

    return pd.DataFrame([_row(name, cls) for name, cls in METHODS.items()], columns=_COLUMNS)


def _row(name: str, cls: type[Method]) -> tuple[str, str, int, str, str, str, str]:
    kind = cls.profile_kind
    return (
        name,
        "+".join(sorted(cls.needs - {"profile"})),
        _from_layer(cls),
        kind if "profile" in cls.needs else "",
        cls.cost,
        "" if cls.source is None else cls.source.key,
        cls.verified,
    )


def _from_layer(cls: type[Method]) -> int:
    """Find the smallest K at which all that the method reads by default is there."""
    if not cls.needs & {"attention", "keys", "values"}:
        return 0
    method = cls()
    read = getattr(method, "attention_layers", None)
    for layer in range(_DEEPEST):
        try:
            if method.layer_read(layer) < 0:
                continue
            if read is not None:
                read(layer)
        except InputError:
            continue
        return layer
    return _DEEPEST
