"""Exceptions of biaslab. Every message is one line and names the fix.

Examples
--------
One class catches them all; bad arguments are also a ``ValueError``:

>>> import biaslab as bl
>>> try:
...     bl.load_dataset("scenez")
... except bl.BiaslabError as error:
...     print(type(error).__name__, isinstance(error, ValueError))
InputError True
"""

from __future__ import annotations

__all__ = [
    "BiaslabError",
    "InputError",
    "ModelError",
    "ProfileMismatchError",
    "RunFolderError",
    "UnsupportedError",
]


class BiaslabError(Exception):
    """Base class: the work failed (command line exit status 1).

    Raised as itself where none of the classes below says more, such as where not one sample of a run could be answered.

    Examples
    --------
    >>> issubclass(RunFolderError, BiaslabError), issubclass(InputError, BiaslabError)
    (True, True)
    """


class InputError(BiaslabError, ValueError):
    """A bad argument (command line exit status 2).

    Raised before any work, and before a model is loaded where that can be known: an unknown name, an option out of
    range, a file that is not there or cannot be read without guessing, a row of a data set that contradicts its form.

    Examples
    --------
    >>> import biaslab as bl
    >>> bl.FastV(keep=1.5)
    Traceback (most recent call last):
    ...
    biaslab.errors.InputError: keep must be a ratio in (0, 1] or a count of tokens, such as 0.1 or 64; got 1.5
    """


class UnsupportedError(BiaslabError):
    """Refused because the result could not be right.

    Raised where a model, a kind of forward or a combination of options is one for which biaslab cannot keep its
    contracts: it refuses rather than give numbers that nobody has checked.

    Examples
    --------
    >>> import biaslab as bl
    >>> vlm = bl.load("grounder")
    >>> sample = next(iter(bl.load_dataset("scenes", split="test", n=1)))
    >>> prompt = vlm.encode_grounding([sample.image()], [sample.expression])
    >>> with bl.prune(vlm, bl.DivPrune(keep=0.1), layer=4):
    ...     try:
    ...         vlm.generate(prompt, use_cache=False)
    ...     except bl.errors.UnsupportedError as error:
    ...         print(error)
    without a KV cache every step would be a new prefill with a new selection: drop use_cache=False
    """


class ModelError(BiaslabError):
    """A checkpoint is missing, incomplete or of the wrong kind.

    Raised while a model is found and loaded: a folder without configuration, weights that are not there, tensors that
    the architecture lacks, a processor that does not fit.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import biaslab as bl
    >>> with TemporaryDirectory() as folder:
    ...     bl.load(folder)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    biaslab.errors.ModelError: ... holds no config.json: it is not a checkpoint folder
    """


class ProfileMismatchError(BiaslabError):
    """A profile does not belong to what it is used for; the message says why.

    Raised before any work: another model (by the fingerprint of its weights), layer, query rule, score, head reduction
    or layout than the profile was fitted for. Another prompt is a warning only.

    Examples
    --------
    >>> import biaslab as bl
    >>> vlm = bl.load("grounder")
    >>> scenes = bl.calibration(vlm, "scenes", n=4)
    >>> maps = bl.collect(vlm, scenes.images, prompt=scenes.prompts, layers=[3], progress=False)
    >>> profile = bl.MeanProfile().fit(maps)
    >>> with bl.prune(vlm, bl.Relative(keep=0.1, profile=profile), layer=2):  # which reads layer 1
    ...     pass  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    biaslab.errors.ProfileMismatchError: this profile holds layers [3], not 1: fit it on maps of that layer (...)
    """


class RunFolderError(BiaslabError):
    """A run folder cannot be written, or belongs to another run.

    Raised before any work where a folder holds another run, or none where one is expected; while a run goes on where it
    was moved away. What was finished stays.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import biaslab as bl
    >>> with TemporaryDirectory() as folder:
    ...     bl.report(folder)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    biaslab.errors.RunFolderError: ... is no run folder (it has no run.json): pass what evaluate wrote
    """
