"""Whether a short answer is right, and what is counted of answers to yes/no questions."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

__all__ = ["is_right", "normalised", "said_yes", "yes_no_answers"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NUMBERS = ("none", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {"none": "0", **{word: str(i) for i, word in enumerate(_NUMBERS[1:])}}
_APART = re.compile(r"(?<!\d),|,(?!\d)|[;/\[\]\"{}()=+\\_\-><@`?!:*]")
_FULL_STOPS = re.compile(r"(?<!\d)\.|\.(?!\d)")
_WORDS = re.compile(r"[\w']+")
_YES, _NO = frozenset({"yes", "yeah", "yep"}), frozenset({"no", "not", "none", "nope", "nothing", "cannot"})


def normalised(answer: str) -> str:
    """Bring a short answer into the form in which it is compared.

    As VQA v2's evaluation does: lower case, no articles, no punctuation but within numbers, the numbers up to ten as
    digits. Apostrophes are dropped, which makes one of a contraction with and without its own. Before that, Unicode's
    compatible forms and quotation marks become plain ones, which the evaluation leaves apart. What would be nothing,
    as the answer "A" or "?", stays as it is.

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
    >>> normalised("U.S."), normalised("A"), normalised("\u201cred\u201d")
    ('us', 'a', 'red')
    """
    plain = _plain(answer)
    text = re.sub(r"(?<=\d),(?=\d)", "", plain.replace("'", ""))
    text = _ARTICLES.sub(" ", _APART.sub(" ", _FULL_STOPS.sub("", text)))
    words = " ".join(_DIGITS.get(word, word) for word in text.split())
    return words or " ".join(plain.split())


def _plain(answer: str) -> str:
    """Write a text in lower case, with ASCII apostrophes and a blank for other punctuation that is not ASCII."""
    text = unicodedata.normalize("NFKC", answer).lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return "".join(
        " " if character > "\x7f" and unicodedata.category(character).startswith("P") else character
        for character in text
    )


def said_yes(answer: str) -> bool | None:
    """Tell whether an answer says yes or no, by the first word that says either; None where there is none.

    No is said by "no", "not", "none", "nope", "nothing", "cannot" and contractions with "n't", yes by "yes", "yeah" and
    "yep". Differs from POPE's evaluation, which takes every answer without "no" or "not" in its first sentence for a
    yes: here what says neither is an unparsed miss.

    Examples
    --------
    >>> said_yes("Yes, there is."), said_yes("There is no cat, yes."), said_yes("A cat.")
    (True, False, None)
    >>> said_yes("There isn't any."), said_yes("Note the cat"), said_yes("Yeah")
    (False, None, True)
    """
    for word in _WORDS.findall(_plain(answer)):
        bare = word.strip("'")
        if bare in _YES:
            return True
        if bare in _NO or bare.endswith("n't"):
            return False
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
    return bool(found) and found in known, bool(found)


def yes_no_answers(
    answers: Iterable[str], truths: Iterable[Sequence[str]]
) -> tuple[list[bool | None], list[bool]] | None:
    """Read answers to yes/no questions; None where there are none, or not all are.

    Parameters
    ----------
    answers : iterable of str
        Of the model.
    truths : iterable of sequences of str
        The right ones of each.

    Returns
    -------
    said, right : list of bool
        Whether the model said yes (None: it said neither), and whether yes is right; or None.

    Examples
    --------
    >>> yes_no_answers(["Yes", "yes", "well"], [["yes"], ["no"], ["no"]])
    ([True, True, None], [True, False, False])
    >>> yes_no_answers(["red"], [["red"]]) is None
    True
    """
    said, right = [], []
    for answer, truth in zip(answers, truths, strict=True):
        known = {normalised(one) for one in truth}
        if known not in ({"yes"}, {"no"}):
            return None
        right.append(known == {"yes"})
        said.append(said_yes(answer))
    return (said, right) if right else None
