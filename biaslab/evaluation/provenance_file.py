"""``provenance.json``: where the numbers of a folder come from that is no run, as ``run.json`` says it of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biaslab._util.command_line import current_command
from biaslab._util.files import atomic_write, writing_to
from biaslab._util.jsonable import finite, plain
from biaslab.evaluation.run_folder import environment
from biaslab.pruning.citation import Citation, bibtex
from biaslab.pruning.registry import METHODS
from biaslab.pruning.works import D2PRUNER, PORE

if TYPE_CHECKING:
    from biaslab.profiles import Profile

__all__ = ["PROVENANCE_FILE", "write_provenance"]

PROVENANCE_FILE = "provenance.json"
_METHOD_OF = {"rope": "sparsevlm"}  # estimator -> the method whose work it is of
_WORKS = {"mean": D2PRUNER, "tile": D2PRUNER, "exponential": PORE}


def write_provenance(folder: str | Path, settings: Mapping[str, Any], *, profile: Profile | None = None) -> Path:
    """Write which command, versions, model and settings made the files of a folder, and what to cite.

    Parameters
    ----------
    folder : str or Path
        It is there.
    settings : mapping
        Of what was measured: model, revision, fingerprint, seeds and what else it records.
    profile : Profile, optional
        That was drawn or compared with.

    Returns
    -------
    Path
        Of the file.

    Raises
    ------
    RunFolderError
        The folder cannot be written.

    Examples
    --------
    >>> import json
    >>> from tempfile import TemporaryDirectory
    >>> from biaslab.evaluation.provenance_file import write_provenance
    >>> with TemporaryDirectory() as folder:
    ...     known = json.loads(write_provenance(folder, {"model": "grounder", "seed": 0}).read_text())
    >>> known["command"], known["settings"], "torch" in known["environment"], known["bibtex"].splitlines()[0]
    (None, {'model': 'grounder', 'seed': 0}, True, '@software{biaslab,')
    """
    versions = environment()
    record = {
        "command": current_command(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": versions,
        "settings": dict(settings),
        "profile": None if profile is None else {"hash": profile.hash, **profile.provenance_},
        "bibtex": _cited(versions["biaslab"], profile),
    }
    file = Path(folder) / PROVENANCE_FILE
    with writing_to(file):
        atomic_write(file, json.dumps(finite(plain(record)), indent=1, ensure_ascii=False) + "\n")
    return file


def _cited(version: str, profile: Profile | None) -> str:
    """Give the entries of biaslab itself and of the work that the profile's estimator is from."""
    own = [
        "  title = {{biaslab: attention positional bias in multimodal LLMs}},",
        "  author = {{The biaslab authors}},",
        f"  version = {{{version}}},",
    ]
    entries = ["\n".join(["@software{biaslab,", *own, "}"])]
    if profile is not None and (work := _work_of(profile.name)) is not None:
        entries.append(bibtex([work]))
    return "\n\n".join(entries)


def _work_of(estimator: str) -> Citation | None:
    if estimator in _METHOD_OF:
        return METHODS[_METHOD_OF[estimator]].source
    return _WORKS.get(estimator)
