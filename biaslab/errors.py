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
    """Base class: the work failed (command line exit status 1)."""


class InputError(BiaslabError, ValueError):
    """A bad argument (command line exit status 2)."""


class UnsupportedError(BiaslabError):
    """Refused because the result could not be right."""


class ModelError(BiaslabError):
    """A checkpoint is missing, incomplete or of the wrong kind."""


class ProfileMismatchError(BiaslabError):
    """A profile does not belong to what it is used for; the message says why."""


class RunFolderError(BiaslabError):
    """A run folder cannot be written, or belongs to another run."""
