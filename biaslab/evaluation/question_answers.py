"""Whether a short answer is right, and what is counted of answers to yes/no questions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from biaslab.stats.yes_no import YesNo

__all__ = ["is_right", "normalised", "said_yes", "yes_no_counts"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NUMBERS = ("none", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {"none": "0", **{word: str(i) for i, word in enumerate(_NUMBERS[1:])}}
_APART = re.compile(r"(?<!\d)[.,](?!\d)|[;/\[\]\"{}()=+\\_\-><@`?!:*]")
_WORDS = re.compile(r"[a-z0-9]+")


def normalised(answer: str) -> str:
    """Bring a short answer into the form in which it is compared.

    As VQA v2's evaluation does: lower case, no articles, no punctuation but within numbers, the numbers up to ten as
    digits. Apostrophes are dropped, which makes one of a contraction with and without its own.

    Parameters
    ----------
    answer : str

    Returns
    -------
    str

    References
    ----------
    Antol et al., VQA, ICCV 2015; its ``vqaEval.py``.

    Examples
    --------
    >>> normalised("The Cat."), normalised("two"), normalised("1,000.5 m"), normalised("T-shirt"), normalised("don't")
    ('cat', '2', '1000.5 m', 't shirt', 'dont')
    """
    text = answer.lower().replace("'", "").replace("\N{RIGHT SINGLE QUOTATION MARK}", "")
    text = re.sub(r"(?<=\d),(?=\d)", "", text)
    text = _ARTICLES.sub(" ", _APART.sub(" ", text))
    return " ".join(_DIGITS.get(word, word) for word in text.split())


def said_yes(answer: str) -> bool | None:
    """Tell whether an answer says yes or no, by the first of these words; None where it says neither.

    Differs from POPE's evaluation, which takes every answer without "no" or "not" in its first sentence for a yes:
    here what says neither is an unparsed miss.

    Examples
    --------
    >>> said_yes("Yes, there is."), said_yes("There is no cat, yes."), said_yes("A cat.")
    (True, False, None)
    """
    for word in _WORDS.findall(answer.lower()):
        if word in ("yes", "no", "not"):
            return word == "yes"
    return None


def is_right(answer: str, answers: Sequence[str]) -> tuple[bool, bool]:
    """Judge an answer.

    Parameters
    ----------
    answer : str
        Of the model.
    answers : sequence of str
        Any of which is right. Where all are yes or no, what the answer says decides, whatever it adds.

    Returns
    -------
    right, parsed : bool
        Not parsed is an empty answer, and one to a yes/no question that says neither.

    Examples
    --------
    >>> is_right("Two.", ["2"]), is_right("Yes, it is", ["yes"]), is_right("maybe", ["no"]), is_right("", ["red"])
    ((True, True), (True, True), (False, False), (False, False))
    """
    known = [normalised(one) for one in answers]
    if set(known) <= {"yes", "no"}:
        said = said_yes(answer)
        return said is not None and ("yes" if said else "no") in known, said is not None
    found = normalised(answer)
    return found in known, bool(found)


def yes_no_counts(answers: Iterable[str], truths: Iterable[Sequence[str]]) -> YesNo | None:
    """Count answers to yes/no questions; None where there are none, or not all are.

    Parameters
    ----------
    answers : iterable of str
        Of the model.
    truths : iterable of sequences of str
        The right ones of each.

    Returns
    -------
    YesNo or None

    Examples
    --------
    >>> counts = yes_no_counts(["Yes", "yes", "No"], [["yes"], ["no"], ["no"]])
    >>> counts.f1, counts.yes_share
    (0.6666666666666666, 0.6666666666666666)
    >>> yes_no_counts(["red"], [["red"]]) is None
    True
    """
    said, wanted = [], []
    for answer, truth in zip(answers, truths, strict=True):
        known = {normalised(one) for one in truth}
        if known not in ({"yes"}, {"no"}):
            return None
        wanted.append(known == {"yes"})
        said.append(said_yes(answer))
    return YesNo.of(said, wanted) if wanted else None
