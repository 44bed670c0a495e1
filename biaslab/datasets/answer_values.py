"""Right answers as the rows of a table state them: texts, numbers, lists of these, VQA's records."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np

from biaslab._util.text import as_written
from biaslab.errors import InputError

__all__ = ["category_of", "right_answers"]


def right_answers(value: Any, field: str, where: str) -> tuple[str, ...]:
    """Read the right answers of a question, any of which is right.

    Parameters
    ----------
    value
        A text, a number, a list of these, or VQA v2's list of ``{"answer": ...}``. Whole numbers are read without a
        point, as tables write 2 as 2.0 where a row of the column is empty.
    field, where : str
        The column and the row, for messages.

    Returns
    -------
    tuple of str

    Raises
    ------
    InputError
        Anything else; it says what to write.

    Examples
    --------
    >>> right_answers(2.0, "answer", "row 1"), right_answers([{"answer": "net"}, {"answer": "a net"}], "a", "row 2")
    (('2',), ('net', 'a net'))
    >>> right_answers(True, "answer", "row 1")
    Traceback (most recent call last):
    biaslab.errors.InputError: row 1: answer is true: write "yes" or "no"
    """
    values = list(value) if isinstance(value, (list, tuple, np.ndarray)) else [value]
    if not values:
        raise InputError(f"{where}: {field} is empty: give at least one right answer, or leave the question out")
    return tuple(_told(one.get("answer") if isinstance(one, Mapping) else one, field, where) for one in values)


def _told(value: Any, field: str, where: str) -> str:
    if isinstance(value, (bool, np.bool_)):
        raise InputError(f'{where}: {field} is {as_written(bool(value))}: write "yes" or "no"')
    if isinstance(value, Real) and np.isfinite(float(value)):
        number = float(value)
        return str(int(number)) if number.is_integer() else str(value)
    if not isinstance(value, str) or not value.strip():
        raise InputError(
            f"{where}: {field} is {as_written(value)}, not a text that says something, a number, or a list of such"
        )
    return value


def category_of(value: Any, where: str) -> str:
    """Read the category of a question: a text or a number; nothing where there is none.

    Examples
    --------
    >>> category_of("colour", "row 1"), category_of(0, "row 1"), category_of(None, "row 1")
    ('colour', '0', '')
    """
    if value is None or (isinstance(value, Real) and not np.isfinite(float(value))):
        return ""
    if not isinstance(value, (str, Real)):
        raise InputError(f"{where}: category is {as_written(value)}, not a text: name one category")
    if isinstance(value, Real) and not isinstance(value, bool) and float(value).is_integer():
        return str(int(float(value)))
    return str(value)
