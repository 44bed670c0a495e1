"""Names that somebody gives to methods in print: each is of a method that is there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from biaslab.errors import InputError
from biaslab.evaluation.results import Results
from biaslab.pruning.base import Method
from biaslab.pruning.display_names import display_name, display_names, told_apart
from biaslab.pruning.registry import parse
from biaslab.pruning.schedule import Schedule, is_schedule, parse_schedule

__all__ = ["check_labels", "print_names"]


def check_labels(runs: Sequence[Results], labels: Mapping[str, str] | None) -> None:
    """Refuse a name for a method that no run has, which would be passed over in silence, and what is no text to print.

    Parameters
    ----------
    runs : sequence of Results
    labels : mapping of str, optional
        Method, its label with options, options hash or name in print -> name.

    Raises
    ------
    InputError
        Says which methods there are, or which name cannot be printed.
    """
    known: set[str] = set()
    for results in runs:
        known |= {*results.labels, *results.verdicts["method"].unique()}
    _refuse_unknown(labels, {word for results in runs for word in results.labels.values()}, known)


def _refuse_unknown(labels: Mapping[str, str] | None, words: Iterable[str], other: Iterable[str] = ()) -> None:
    """Refuse keys of `labels` that are no word of a command line, no name in print of one, and none of the others.

    Raises
    ------
    InputError
    """
    if labels is not None and not isinstance(labels, Mapping):
        raise InputError(f"labels must map methods to names, such as {{'fastv': 'FastV'}}; got {labels!r}")
    for key, name in (labels or {}).items():
        if not isinstance(name, str) or not name.strip() or not _is_unicode(name):
            raise InputError(f"the name of {key!r} in print must be a text of Unicode characters, got {name!r}")
    spelled = sorted({*words} - {"none"})
    known = {"none", *spelled, *other}
    known |= {display_name(word) for word in known}
    if unknown := next((key for key in labels or {} if key not in known), None):
        raise InputError(f"no method {unknown!r} to name: choose from {', '.join(['none', *spelled])}")


def print_names(methods: Iterable[str | Method | Schedule], labels: Mapping[str, str] | None = None) -> dict[str, str]:
    """Name methods that belong to no run: label -> as somebody wants it, else as papers do.

    Raises
    ------
    InputError
        As of `check_labels`, or a word that is no method.

    Examples
    --------
    >>> from biaslab.workflows.print_labels import print_names
    >>> print_names(["none", "fastv", "d2pruner"], {"d2pruner": "Ours"})
    {'none': 'no pruning', 'fastv': 'FastV', 'd2pruner': 'Ours'}
    """
    given = list(methods)
    words = [_label(method) for method in given]
    shown = display_names(words)
    _refuse_unknown(labels, words, [method for method in given if isinstance(method, str)])
    wanted = dict(labels or {})
    named = {}
    for method, word in zip(given, words, strict=True):  # a word may say an option that is the default, its label not
        keys = [key for key in (method, word, shown[word]) if isinstance(key, str) and key in wanted]
        named[word] = wanted[keys[0]] if keys else shown[word]
    return told_apart(named, {word: word for word in named})


def _label(method: str | Method | Schedule) -> str:
    if isinstance(method, str):
        method = parse_schedule(method) if is_schedule(method) else parse(method)
    if not isinstance(method, (str, Method, Schedule)):
        raise InputError(f"methods must be names or Method instances, got {method!r}")
    return method if isinstance(method, str) else method.label


def _is_unicode(text: str) -> bool:
    """Whether no byte of a command line was left undecoded in the text."""
    return not any("\ud800" <= sign <= "\udfff" for sign in text)
