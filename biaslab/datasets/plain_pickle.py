"""Pickles of plain containers, as REFER's ``refs(unc).p``: nothing in them can be called."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, NoReturn

from biaslab.errors import InputError

__all__ = ["read_plain_pickle"]


class _PlainUnpickler(pickle.Unpickler):
    """Knows lists, dicts, texts and numbers, which need no name looked up; every name is refused."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it holds {module}.{name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("it refers to objects outside")


def read_plain_pickle(path: Path, content: bytes) -> list[Any]:
    """Read a pickle that holds a list of plain containers; anything else is refused before it is made.

    A pickle can name any function and have it called. This unpickler refuses every name, so that lists, dicts, tuples,
    texts, numbers, None and booleans are all that it can make.

    Parameters
    ----------
    path : Path
        For messages.
    content : bytes
        The file's.

    Returns
    -------
    list

    Raises
    ------
    InputError
        It holds anything else, or is damaged.

    Examples
    --------
    >>> import pickle
    >>> read_plain_pickle(Path("refs(unc).p"), pickle.dumps([{"ref_id": 0}], protocol=0))
    [{'ref_id': 0}]
    >>> read_plain_pickle(Path("evil.p"), pickle.dumps([print]))
    Traceback (most recent call last):
    biaslab.errors.InputError: evil.p is a Python pickle that is not opened, as it could run anything ...
    """
    try:
        value = _PlainUnpickler(io.BytesIO(content), encoding="latin-1").load()
    except pickle.UnpicklingError as error:
        if str(error).startswith("it "):
            raise InputError(
                f"{path} is a Python pickle that is not opened, as it could run anything ({error}): convert it to JSON "
                "where you trust it; pickles of plain lists and dicts, as REFER's refs(unc).p, are read"
            ) from None
        raise _damaged(path, error) from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise _damaged(path, error) from None
    if not isinstance(value, list):
        raise InputError(
            f"{path} is a Python pickle of a {type(value).__name__}, not of a list of rows, as REFER's refs(unc).p"
        )
    return value


def _damaged(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(f"{path} is a damaged Python pickle ({reason}): fetch it again")
