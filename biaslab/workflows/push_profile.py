"""Push a profile to the hub: the file, a model card, its image, and whatever else belongs to it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from biaslab._util.arguments import as_path
from biaslab.errors import BiaslabError, InputError
from biaslab.figures import ProfileDisplay, save
from biaslab.profiles.file import content_of
from biaslab.profiles.hub import PROFILE_FILE, HubName
from biaslab.workflows.hub_card import front_matter, hub_card, merged

if TYPE_CHECKING:
    import pandas as pd
    from huggingface_hub import CommitInfo

    from biaslab.profiles.learned import LearnedMaps

__all__ = ["push_profile"]

_CARD, _PICTURE = "README.md", "profile.png"
_OURS = {PROFILE_FILE, _CARD, _PICTURE}
_PANELS = 6  # layers drawn at most


def push_profile(
    profile: LearnedMaps,
    repo_id: str,
    *,
    files: str | Path | Iterable[str | Path] = (),
    diagnostics: pd.DataFrame | None = None,
    card: str | Path | None = None,
    base_model: str | None = None,
    datasets: str | Sequence[str] = (),
    license: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    token: str | bool | None = None,
) -> CommitInfo:
    """Push a fitted profile to a repository of the hub, which is made where there is none, in one commit.

    It becomes ``profile.safetensors``, with a model card (``README.md``) and ``profile.png``. A card that is there
    keeps its settings (such as a licence) and the text around ours.

    Parameters
    ----------
    profile : Profile
        Fitted, of any kind.
    repo_id : str
        ``owner/name``; ``owner/name@branch`` as with ``revision``.
    files : path or iterable of paths
        Pushed along: files, and folders with all that is in them but hidden files, such as a run's ``tables``.
    diagnostics : DataFrame, optional
        What :func:`~biaslab.profiles.variance_table` returns, for the card.
    card : str or Path, optional
        The card that was saved beside the profile, which tells what ``diagnostics`` does: taken in place of a new one.
    base_model : str, optional
        Id on the hub of the model; default its name, where that is an id.
    datasets : str or sequence of str
        Ids on the hub of the calibration images.
    license : str, optional
        Of the repository; none is assumed.
    private : bool, optional
        Whether a repository that is made can be seen by its owner alone; default as the owner has set.
    revision : str, optional
        Branch to push to, made where there is none; default the main branch.
    commit_message : str, optional
        Default names the profile's hash.
    create_pr : bool
        Open a pull request instead.
    token : str or bool, optional
        Of the hub; default that of ``hf auth login``.

    Returns
    -------
    huggingface_hub.CommitInfo
        ``oid`` is the revision to name in a paper.

    Raises
    ------
    InputError
        Not fitted, no such name or file, two files of one name, a repository of something else: before anything is
        sent.
    BiaslabError
        The hub cannot be reached, or refuses.

    Examples
    --------
    What needs an account is skipped as a test:

    >>> from biaslab import MeanProfile, TokenLayout
    >>> from biaslab.maps.simulate import simulate
    >>> from biaslab.workflows.push_profile import push_profile
    >>> maps = simulate("u-shaped", {TokenLayout.raster(4, 4, size=(56, 56), family="demo"): 60}).maps
    >>> profile = MeanProfile().fit(maps)
    >>> push_profile(profile, "me/internvl2.5-8b-bias", files=["runs/k4/tables"]).oid  # doctest: +SKIP
    >>> push_profile(profile, "bias")
    Traceback (most recent call last):
    biaslab.errors.InputError: 'bias' is no repository of the hub: give owner/name
    """
    name = HubName.read(repo_id, revision)
    if name is None:
        raise InputError(f"{repo_id!r} is no repository of the hub: give owner/name")
    content: dict[str, bytes | Path] = {PROFILE_FILE: content_of(profile)}
    others = _files(files)
    datasets = [datasets] if isinstance(datasets, str) else list(datasets)
    written = None if card is None else _own_card(profile, as_path("card", card))
    said = front_matter(profile, base_model=base_model, datasets=datasets, license=license)
    text = hub_card(profile, name, picture=_PICTURE, diagnostics=diagnostics, files=sorted(others), written=written)
    content |= others
    from huggingface_hub import CommitOperationAdd, HfApi, errors

    api = HfApi(token=token, library_name="biaslab")
    try:
        api.create_repo(name.repo, private=private, exist_ok=True)
        _refuse_others(name.repo, api.list_repo_files(name.repo))
        if name.revision is not None and not create_pr:
            api.create_branch(name.repo, branch=name.revision, exist_ok=True)
        content[_CARD] = merged(text, said, _card_of(api, name)).encode()
        content[_PICTURE] = _picture(profile)  # takes seconds: after the hub has agreed
        return api.create_commit(
            name.repo,
            [CommitOperationAdd(path_in_repo=path, path_or_fileobj=what) for path, what in content.items()],
            commit_message=commit_message or f"{profile.name} profile {profile.hash}",
            revision=name.revision,
            create_pr=create_pr,
        )
    except BiaslabError:
        raise
    except errors.HFValidationError as error:
        raise InputError(f"{name.repo} can be no repository of the hub ({_line(error)}): choose another name") from None
    except Exception as error:  # the hub client raises errors of three libraries
        raise BiaslabError(_why(name, error)) from None


def _files(files: str | Path | Iterable[str | Path]) -> dict[str, bytes | Path]:
    """Name what is pushed along, by its path in the repository."""
    found: dict[str, bytes | Path] = {}
    for given in [files] if isinstance(files, (str, os.PathLike)) else files:
        path = as_path("files", given)
        if not path.exists():
            raise InputError(f"no file {path} to push along: check files=")
        top = path.resolve().parent
        inside = sorted(path.resolve().rglob("*")) if path.is_dir() else [path.resolve()]
        for file in inside:
            place = file.relative_to(top)
            if not file.is_file() or (path.is_dir() and any(part.startswith(".") for part in place.parts[1:])):
                continue
            if str(place) in _OURS or place.as_posix() in found:
                taken = "of the profile's own" if str(place) in _OURS else "that two of files= have"
                raise InputError(f"{path} would be pushed as {place.as_posix()}, a name {taken}: rename it")
            found[place.as_posix()] = file
    return found


def _own_card(profile: LearnedMaps, path: Path) -> str:
    """Read the card of this profile, and refuse another text."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    if f"hash `{profile.hash}`" not in text:
        raise InputError(f"{path} is no card of the profile {profile.hash}: leave card= out, or save the profile again")
    return text


def _picture(profile: Any) -> bytes:
    """Draw the profile as a PNG: of many layers a few, from the first to the last."""
    layers = profile.layers_
    if len(layers) > _PANELS:
        layers = [layers[round(i * (len(layers) - 1) / (_PANELS - 1))] for i in range(_PANELS)]
    with TemporaryDirectory() as folder:
        files = save(ProfileDisplay.from_profile(profile, layers=layers), Path(folder) / _PICTURE, close=True)
        return next(file for file in files if file.name == _PICTURE).read_bytes()


def _refuse_others(repo: str, there: Sequence[str]) -> None:
    """Refuse a repository of something else than a profile."""
    others = [file for file in there if file not in _OURS and not file.startswith(".")]
    if others and PROFILE_FILE not in there:
        named = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise InputError(f"{repo} holds no profile but {named}: push to a repository of its own")


def _card_of(api: Any, name: HubName) -> str | None:
    """Read the card that is there."""
    if _CARD not in api.list_repo_files(name.repo, revision=name.revision):
        return None
    path = api.hf_hub_download(name.repo, _CARD, revision=name.revision)
    return Path(path).read_text(encoding="utf-8", errors="replace")


def _why(name: HubName, error: Exception) -> str:
    from huggingface_hub.errors import LocalTokenNotFoundError

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, LocalTokenNotFoundError) or status == 401:
        return f"the hub does not know who pushes {name}: run `hf auth login`, or give token="
    if status in (403, 404):
        return f"this account may not write to {name}: check the name, or take a token with the right to write"
    library = type(error).__module__.partition(".")[0]
    if isinstance(error, (ConnectionError, TimeoutError)) or (status is None and library.startswith("http")):  # httpx
        return f"{name} cannot be pushed, the hub cannot be reached ({_line(error)}): push where there is a network"
    return f"the hub does not take {name} ({type(error).__name__}: {_line(error)}): mend what it names, or try later"


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
