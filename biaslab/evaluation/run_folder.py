"""The folder of a run: ``run.json`` with its identity, and whether it may be continued."""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biaslab._util.command_line import current_command
from biaslab._util.files import atomic_write, writing_to
from biaslab._util.jsonable import plain
from biaslab.datasets.base import content_hash
from biaslab.datasets.sample import Sample
from biaslab.errors import RunFolderError
from biaslab.evaluation.configurations import Config
from biaslab.evaluation.extending import KnownSamples, check_parts, united
from biaslab.evaluation.sample_log import log_files, sample_lines

if TYPE_CHECKING:
    from biaslab.datasets import Dataset
    from biaslab.models.vlm import VLM
    from biaslab.profiles import Profile

RUN_FILE = "run.json"
_HOW = ("batch_size", "processes", "engine", "gpus_per_process")  # options that change no result


def run_record(
    vlm: VLM,
    dataset: Dataset,
    configs: Sequence[Config],
    options: dict[str, Any],
    settings: dict[str, Any],
    command: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Make the content of ``run.json``: ``identity`` decides whether a folder belongs to a run, the rest informs.

    Parameters
    ----------
    vlm, dataset, configs
        What is evaluated.
    options : dict
        What changes answers (seed, limit, new tokens, ...): part of the identity.
    settings : dict
        What does not (batch size, processes, reference, ...).
    command : mapping, optional
        The command line, as ``line``, and its ``options`` by name.
    """
    parameter = next(vlm.model.parameters())
    profiles = {
        name: {"file": profile_file(name), "provenance": profile.provenance_}
        for name, profile in profiles_of(configs).items()
    }
    identity = {
        "model": {
            "name": vlm.name,
            "revision": vlm.revision,
            "fingerprint": vlm.fingerprint,
            "family": vlm.family.name,
            "dtype": str(parameter.dtype).removeprefix("torch."),
            **vlm.watermark,
        },
        "dataset": {"name": dataset.name, "split": dataset.split, "hash": dataset.hash, "n": len(dataset)},
        "options": options,
        "configurations": [
            {**config.describe(), "options": {} if config.method is None else config.method.options()}
            for config in configs
        ],
    }
    return plain(
        {
            "identity": identity,
            "settings": {
                **settings,
                "device": str(parameter.device),
                **vlm.loading,
                "dataset": getattr(dataset, "recipe", {}),
            },
            "profiles": profiles,
            "commands": [] if command is None else [dict(command)],
            # of another verb, such as demo, which no --config of evaluate repeats
            "made_by": None if command is not None else current_command(),
            "environment": environment(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )


def profiles_of(configs: Sequence[Config]) -> dict[str, Profile]:
    """Collect the profiles that methods of a run use, by their hash."""
    return {profile.hash: profile for config in configs for profile in config.profiles}


def profile_file(name: str) -> str:
    """Name the file of a run folder that holds the profile with this hash."""
    return f"profile-{name}.safetensors"


def prepare_folder(
    folder: str | Path,
    record: dict[str, Any],
    profiles: Mapping[str, Profile] | None = None,
    samples: Sequence[Sample] = (),
) -> dict[str, Any]:
    """Make the folder ready for a run, new, to be continued or to be extended; returns the ``run.json`` that holds.

    The profiles are written beside it: without them nobody could repeat the run.

    Parameters
    ----------
    folder : str or Path
    record : dict
        Of :func:`run_record`, with ``n_samples``.
    profiles : mapping of str to Profile, optional
        Of :func:`profiles_of`.
    samples : sequence of Sample
        What is evaluated.

    Raises
    ------
    RunFolderError
        If it cannot be written, or belongs to a run that this one cannot be a part of: the message names what differs.
    """
    folder = Path(folder)
    with writing_to(f"the run folder {folder}", "choose another one"):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        known = None
        if (folder / RUN_FILE).exists():
            known = read_run(folder)
            check_parts(folder, known, record, _same_data(folder, known, record, samples))
            record = united(known, record)
        elif log_files(folder):
            raise RunFolderError(f"{folder} holds samples without a {RUN_FILE}: choose another folder")
        elif (folder / "results.csv").exists():
            raise RunFolderError(f"{folder} holds a results.csv that is of no run: choose another folder")
        if record is known:
            return record
        for name, profile in (profiles or {}).items():
            profile.save(folder / profile_file(name))
        atomic_write(folder / RUN_FILE, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return record


def note_command(folder: Path, run: dict[str, Any], command: Mapping[str, Any] | None) -> dict[str, Any]:
    """Add a command that has work to do to a run that knows its configurations and samples; returns the record.

    It may ask for pairs of both that no command before it did, and ``--config`` repeats what commands asked for.
    """

    def asked(other: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in other.get("options", {}).items() if name not in _HOW}

    new = plain(dict(command or {}))
    if command is None or any(asked(known) == asked(new) for known in run.get("commands", [])):
        return run
    run = {**run, "commands": [*run.get("commands", []), new]}
    with writing_to(f"the run folder {folder}", "choose another one"):
        atomic_write(folder / RUN_FILE, json.dumps(run, indent=1, ensure_ascii=False) + "\n")
    return run


def _same_data(folder: Path, known: dict[str, Any], record: dict[str, Any], samples: Sequence[Sample]) -> bool:
    """Whether a run's samples are the first of a larger data set, or the other way round."""
    there, here = known["identity"]["dataset"], record["identity"]["dataset"]
    if there["hash"] == here["hash"]:
        return True
    if len(samples) >= there["n"] and content_hash(samples[: there["n"]]) == there["hash"]:
        return True
    return KnownSamples.of(samples).agrees(KnownSamples.of_lines(sample_lines(folder)))


def read_run(folder: str | Path) -> dict[str, Any]:
    """Read the ``run.json`` of a run folder.

    Raises
    ------
    RunFolderError
        There is none, or it is damaged.
    """
    path = Path(folder) / RUN_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunFolderError(_no_run(Path(folder))) from None
    except NotADirectoryError:
        shown = "; `biaslab inspect` shows a profile" if path.parent.suffix == ".safetensors" else ""
        raise RunFolderError(f"{folder} is a file, no run folder: pass the folder that evaluate wrote{shown}") from None
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read ({error}): restore it, or choose another folder") from error
    identity = record.get("identity") if isinstance(record, dict) else None
    missing = {"configurations", "dataset", "model", "options"} - set(identity if isinstance(identity, dict) else ())
    if missing:
        raise RunFolderError(f"{path} lacks {', '.join(sorted(missing))}: restore it, or choose another folder")
    return record


def _no_run(folder: Path) -> str:
    if not folder.exists():
        return f"{folder} does not exist: pass the run folder that evaluate wrote"
    below = sorted(str(file.parent) for pattern in ("*", "*/*") for file in folder.glob(f"{pattern}/{RUN_FILE}"))
    meant = f" (did you mean {' or '.join(below[:3])}?)" if below else ""
    return f"{folder} is no run folder (it has no {RUN_FILE}): pass what evaluate wrote{meant}"


def environment() -> dict[str, str]:
    """Give the versions of what runs here, and the machine."""
    versions = {"python": platform.python_version(), "machine": platform.platform()}
    for package in ("biaslab", "torch", "transformers", "numpy"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "uninstalled"
    return versions
