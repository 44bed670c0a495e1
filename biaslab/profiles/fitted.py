"""Whether a profile is fitted, asked in one place."""

from __future__ import annotations

from typing import Any

from sklearn.exceptions import NotFittedError as SklearnNotFittedError

from biaslab.errors import InputError

__all__ = ["NotFittedError", "check_fitted"]


class NotFittedError(InputError, SklearnNotFittedError):
    """A profile is used before it is fitted: a bad argument here, and scikit-learn's error for whoever expects that.

    Examples
    --------
    >>> import sklearn.exceptions
    >>> from biaslab import MeanProfile
    >>> try:
    ...     MeanProfile().hash
    ... except sklearn.exceptions.NotFittedError as error:
    ...     print(type(error).__name__)
    NotFittedError
    """


def check_fitted(profile: Any) -> None:
    """Refuse a profile that is not fitted.

    ``sklearn.utils.validation.check_is_fitted`` answers alike, but reads the estimator's tags first: too slow for what
    is asked at every layer of every prefill.

    Parameters
    ----------
    profile : Profile
        Fitted or not.

    Raises
    ------
    InputError
        What is no profile.
    NotFittedError
        With the fix.
    """
    if not hasattr(profile, "arrays_"):
        if not hasattr(profile, "fit"):
            kind = type(profile).__name__
            raise InputError(f"profile must be a fitted profile, got {kind}: fit one, or biaslab.load_profile(path)")
        raise NotFittedError(
            f"this {type(profile).__name__} is not fitted: call .fit(maps), or load one with biaslab.load_profile(path)"
        )
