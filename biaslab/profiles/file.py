"""The profile file: safetensors with one JSON string of provenance in its metadata; a readable card beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from biaslab._util.arguments import as_path
from biaslab._util.cards import card_text, table_lines
from biaslab._util.files import atomic_write, writing_to
from biaslab._util.jsonable import records
from biaslab._util.number_text import count_text, is_number
from biaslab.attention.rotary import in_words
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.profiles.fitted import check_fitted
from biaslab.profiles.hub import PROFILE_FILE, HubName, fetched
from biaslab.profiles.learned import LearnedMaps
from biaslab.profiles.quality_text import quality_lines
from biaslab.profiles.registry import ESTIMATORS, Arrays, make
from biaslab.profiles.sample_size import few_images_text

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["card", "check_replaceable", "content_of", "load", "profile_path", "save"]

_KEY = "biaslab_profile"  # of the JSON string in the safetensors metadata
_FORMAT = 1
_NOT_KNOWN = "not known"


def save(profile: LearnedMaps, path: str | Path, *, diagnostics: pd.DataFrame | None = None) -> Path:
    """Write a profile and the card ``.md`` beside it; both appear complete or not at all.

    Parameters
    ----------
    profile : Profile
        Fitted profile.
    path : str or Path
        File; ``.safetensors`` is added if missing.
    diagnostics : DataFrame, optional
        What :func:`~biaslab.profiles.variance_table` returns, for the card; default ``variance_``.

    Returns
    -------
    Path
        Of the safetensors file.

    Raises
    ------
    InputError
        Profile not fitted, or the file holds tensors that are no profile: weights are not replaced.
    RunFolderError
        The place cannot be written.

    Examples
    --------
    >>> from biaslab.profiles import MeanProfile, save
    >>> save(MeanProfile(), "demo")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    biaslab.profiles.fitted.NotFittedError: this MeanProfile is not fitted: call .fit(maps), or load one with ...
    """
    content = content_of(profile, diagnostics=diagnostics)  # before anything is written
    path = profile_path(path)
    check_replaceable(path)
    text = card(profile, name=path.name, diagnostics=diagnostics)
    with writing_to(f"the profile {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, content)  # not save_file(), which lets only the owner read the file
        atomic_write(path.with_suffix(".md"), text)
    return path


def content_of(profile: LearnedMaps, *, diagnostics: pd.DataFrame | None = None) -> bytes:
    """Give the bytes of the file that :func:`save` writes, with the variance that position explains where it is known.

    Raises
    ------
    InputError
        Profile not fitted.
    """
    check_fitted(profile)
    tensors: dict[str, np.ndarray] = {}
    # layout keys hold slashes and may hold anything: tensors are numbered, the names live in the JSON
    index = []
    for layer in profile.layers_:
        for part, named in profile.arrays_[layer].items():
            for name, values in named.items():
                index.append([layer, part, name])
                tensors[f"t{len(index) - 1}"] = np.ascontiguousarray(values, dtype=np.float32)
    head: dict[str, Any] = {
        "format": _FORMAT,
        "estimator": profile.name,
        "params": profile.provenance_["params"],
        "hash": profile.hash,
        "provenance": profile.provenance_,
        "layouts": {k: v.to_dict() for k, v in profile.layouts_.items()},
        "counts": profile.counts_,
        "index": index,
    }
    variance = profile.variance_ if diagnostics is None else diagnostics
    if len(variance):
        rows = [list(row.values()) for row in records(variance)]
        head["variance"] = {"columns": list(variance), "rows": rows}  # no part of the hash: it changes no score
    return to_bytes(tensors, metadata={_KEY: json.dumps(head, sort_keys=True)})


def profile_path(path: str | Path) -> Path:
    """Name the file that :func:`save` writes: ``.safetensors`` is added if missing."""
    path = as_path("path", path)
    return path if path.suffix == ".safetensors" else path.with_name(path.name + ".safetensors")


def check_replaceable(path: Path) -> None:
    """Refuse to write a profile over weights, or its card over another text.

    Raises
    ------
    InputError
        The file is somebody's weights (a damaged one, and what can be no safetensors file, may be replaced), or the
        Markdown file beside it is no card of a profile.
    """
    beside = path.with_suffix(".md")
    if beside.is_file() and not _is_card(beside.read_text(encoding="utf-8", errors="replace")):
        raise InputError(f"{beside} is no card of a profile and would be replaced by one: name another file as out=")
    with suppress(SafetensorError, OSError), safe_open(path, framework="numpy") as file:
        if _KEY not in (file.metadata() or {}):
            raise InputError(f"{path} holds tensors that are no profile: name another file as out=")


def load(path: str | Path, *, revision: str | None = None, token: str | bool | None = None) -> Any:
    """Read a profile written by :func:`biaslab.profiles.save` or `Profile.save`, or one of the hub.

    Parameters
    ----------
    path : str or Path
        Safetensors file, or a folder that holds ``profile.safetensors``. A text that names neither and reads as
        ``owner/name`` or ``owner/name@revision`` is a repository of the hub, to which
        :meth:`biaslab.profiles.Profile.push_to_hub` has pushed.
    revision : str, optional
        Branch, tag or commit of a repository; default its main branch.
    token : str or bool, optional
        Of the hub; default that of ``hf auth login``.

    Returns
    -------
    Profile
        Fitted, with the hash it had when it was written.

    Raises
    ------
    InputError
        Missing file, another format (pickles and checkpoints are never opened), unknown estimator, damaged
        content; a repository or revision that is not there or may not be read, or one without a profile.
    BiaslabError
        A repository that is not on this machine while the hub cannot be reached.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from biaslab import MeanProfile, TokenLayout, load_profile
    >>> from biaslab.maps.simulate import simulate
    >>> maps = simulate("u-shaped", {TokenLayout.raster(4, 4, size=(56, 56), family="demo"): 60}).maps
    >>> with TemporaryDirectory() as folder:
    ...     profile = load_profile(MeanProfile().fit(maps).save(Path(folder) / "demo"))
    >>> profile.name, profile.layers_, profile.counts_
    ('mean', [0], {'demo/4x4/tiles1x1': 60})
    """
    path = _on_this_machine(path, revision, token)
    try:
        with safe_open(path, framework="numpy") as file:
            meta = (file.metadata() or {}).get(_KEY)
            tensors = {k: file.get_tensor(k) for k in file.keys()} if meta is not None else {}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, ValueError) as err:
        raise InputError(
            f"{path} is not a safetensors file, or not a whole one ({_line(err)}): only such profiles are read; fit it "
            "again with `biaslab fit-bias`"
        ) from None
    if meta is None:
        raise InputError(f"{path} is a safetensors file but no biaslab profile: fit one with `biaslab fit-bias`")
    try:
        head = json.loads(meta)
        version, name = head["format"], head["estimator"]
    except (ValueError, KeyError, TypeError) as err:
        raise _damaged(path, err) from None
    if version != _FORMAT:
        raise InputError(f"{path} has profile format {version}, this biaslab reads {_FORMAT}: install a newer biaslab")
    if name not in ESTIMATORS:
        raise InputError(f"{path} needs the estimator {name!r}, which is not installed: known are {sorted(ESTIMATORS)}")
    try:
        arrays: dict[int, Arrays] = {}
        for i, (layer, part, array) in enumerate(head["index"]):
            values = tensors[f"t{i}"]
            if values.dtype != np.float32 or not np.isfinite(values).all():
                raise InputError(f"tensor {i} is not finite float32")
            arrays.setdefault(int(layer), {}).setdefault(part, {})[array] = values
        layouts = {k: TokenLayout.from_dict(v) for k, v in head["layouts"].items()}
        profile = make(name, **head["params"])
        profile._restore(arrays, layouts, head["counts"], head["provenance"], variance=_variance(head))
        intact = profile.hash == head["hash"] and all(k == v.key for k, v in layouts.items())
    except (KeyError, TypeError, AttributeError, ValueError) as err:
        raise _damaged(path, err) from None
    if not intact:
        raise _damaged(path, "its hash does not match its content")
    return profile


def card(
    profile: LearnedMaps,
    *,
    name: str = "",
    diagnostics: pd.DataFrame | None = None,
    use: Sequence[str] = ("Use: `profile = biaslab.profiles.load(path)`.",),
) -> str:
    """Write the profile's card in Markdown: what it is, what it was fitted on, what it may be used for.

    Parameters
    ----------
    profile : Profile
        Fitted profile.
    name : str
        Of the file, for the title.
    diagnostics : DataFrame, optional
        What :func:`~biaslab.profiles.variance_table` returns; default the profile's ``variance_``.
    use : sequence of str
        Lines that say how it is used, at the end.

    Returns
    -------
    str
        Markdown text.
    """
    p = profile.provenance_
    if diagnostics is None and len(profile.variance_):
        diagnostics = profile.variance_
    lines = [
        f"{profile.about} ({profile.name} estimator), hash `{profile.hash}`. It "
        "describes the calibration images as much as the model: what they have in common is in it too.",
        "",
    ]
    if few := few_images_text(profile.counts_, diagnostics, transports="layout" in profile.transports):
        lines += [f"**{few}**", ""]
    lines += profile.summary()
    layouts = ", ".join(f"{k} ({count_text(n, 'image')})" for k, n in profile.counts_.items())
    lines += table_lines(["", ""], {**p, **in_words(p), "layouts": layouts}.items())
    lines += ["", profile.refusals]
    if not profile.conditional:  # whose summary tells more of its heads
        lines += quality_lines(profile.quality_)
    if diagnostics is not None and len(diagnostics):
        lines += ["", "## Variance explained by position (log attention centred per image)", ""]
        lines += table_lines(
            ["layer", "head", "by this profile, on held-out images", "95 % interval",
             "by position, in the limit of many images", "95 % interval", "images"],
            [
                [r.layer, str(r.head), _share(r.r2), _ends(r.r2_lo, r.r2_hi), _share(r.r2_asymptotic),
                 _ends(r.r2_asymptotic_lo, r.r2_asymptotic_hi), r.n]
                for r in diagnostics.itertuples()
            ],
        )  # fmt: skip
    lines += ["", *use, ""]
    return card_text(f"{profile.heading} {name}", p, lines)


def _on_this_machine(path: str | Path, revision: str | None, token: str | bool | None) -> Path:
    """Find the file that is meant; what lies here goes before what the hub may have."""
    place = as_path("path", path)
    if place.is_dir() and (place / PROFILE_FILE).is_file():
        place /= PROFILE_FILE
    if place.exists():
        if revision is not None:
            raise InputError(f"revision {revision!r} is for repositories of the hub; {place} is on this machine")
        if place.is_file():
            return place
        raise InputError(f"no profile at {place}, a folder without {PROFILE_FILE}: name a profile file")
    name = HubName.read(path, revision)
    if name is None:
        raise InputError(f"no profile at {place}: fit one with `biaslab fit-bias`, or name one of the hub (owner/name)")
    if profile_path(place).is_file():
        raise InputError(f"no profile at {place}: did you mean {profile_path(place)}?")
    return fetched(name, token=token)


def _variance(head: dict[str, Any]) -> pd.DataFrame:
    """Read the table of variance explained, if the file holds one: what was not known is NaN again."""
    import pandas as pd

    known = head.get("variance", {"columns": [], "rows": []})
    table = pd.DataFrame(known["rows"], columns=known["columns"])
    shares = {name: "float64" for name in table if str(name).startswith("r2")}
    return table.astype(shares)


def _is_card(text: str) -> bool:
    return any(cls.heading in text.partition("\n")[0] for cls in ESTIMATORS.values())


def _damaged(path: Path, why: Any) -> InputError:
    return InputError(f"the profile {path} is damaged ({_line(why)}): fit it again with `biaslab fit-bias`")


def _line(err: Any) -> str:
    return " ".join(str(err).split()) or type(err).__name__


def _share(value: Any) -> str:
    return f"{value:.3f}" if is_number(value) else _NOT_KNOWN


def _ends(lo: Any, hi: Any) -> str:
    return f"{lo:.3f} to {hi:.3f}" if is_number(lo) and is_number(hi) else _NOT_KNOWN
