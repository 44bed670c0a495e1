"""When two runs are parts of one: what may differ between them, and the record of both together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from biaslab._util.identity import Difference, differences
from biaslab._util.model_identity import not_compared
from biaslab._util.watermark import is_rehearsal
from biaslab.datasets.base import content_hash
from biaslab.datasets.sample import Sample
from biaslab.errors import RunFolderError
from biaslab.evaluation.schema import record_key

__all__ = ["KnownSamples", "check_parts", "united"]

#: of the identity: what a run may have more of than another of the same model, data, seed and decoding
_GROWS = ("configurations", "dataset.hash", "dataset.n", "options.limit")


@dataclass(frozen=True)
class KnownSamples:
    """Which samples a run has looked at: position in the data set and hash of the content, by id.

    Attributes
    ----------
    samples : dict of str to (int, str or None)
        Id -> index and hash; None for lines of versions that did not record it.
    """

    samples: Mapping[str, tuple[int, str | None]]

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> KnownSamples:
        """List the samples of a data set."""
        return cls({sample.id: (i, content_hash([sample])) for i, sample in enumerate(samples)})

    @classmethod
    def of_lines(cls, lines: Iterable[Mapping[str, Any]]) -> KnownSamples:
        """List the samples of a log."""
        return cls({line["id"]: (line["index"], line.get("sample_hash")) for line in lines})

    def agrees(self, other: KnownSamples) -> bool:
        """Whether both have samples in common, and those are the same, at the same places."""
        places = {index: name for name, (index, _) in self.samples.items()}
        shared = [(name, entry) for name, entry in other.samples.items() if name in self.samples or entry[0] in places]
        return bool(shared) and all(self.samples.get(name) == entry and entry[1] is not None for name, entry in shared)


def check_parts(folder: Any, known: dict[str, Any], record: dict[str, Any], same_data: bool) -> None:
    """Refuse two runs that cannot be one.

    Parameters
    ----------
    folder : Path or str
        Where the known run is, for the message.
    known, record : dict
        Contents of two ``run.json``.
    same_data : bool
        Whether the samples of one are the first of the other's, where the data sets differ.

    Raises
    ------
    RunFolderError
        Model, data, seed, precision, decoding or the profile of a method differ: the message names each.
    """
    rehearsed, now = (is_rehearsal(r["identity"]["model"]) for r in (known, record))
    if rehearsed != now:
        held, wanted = ("a rehearsal", "real run") if rehearsed else ("a real run", "rehearsal")
        raise RunFolderError(f"{folder} holds {held}: choose another folder for this {wanted}")
    there, here = known["identity"], record["identity"]
    same_model = not_compared(there["model"], here["model"], "model.")
    found = differences(there, here, ignore={*_GROWS, *same_model})
    if there["dataset"]["hash"] != here["dataset"]["hash"] and not same_data:
        found += differences(there["dataset"], here["dataset"], name="dataset")
    found += _profile_differences(there["configurations"], here["configurations"])
    if found:
        raise RunFolderError(
            f"{folder} holds another run ({'; '.join(map(str, dict.fromkeys(found)))}): choose another folder, or "
            "repeat the run as it was; methods, keep ratios, layers and samples may be added to a run, these may not"
        )


def united(known: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """Make the record of two runs together; that of the known one where the other adds nothing.

    Parameters
    ----------
    known, record : dict
        Contents of two ``run.json`` that :func:`check_parts` lets pass.

    Returns
    -------
    dict
        Configurations of both, the larger data set, the profiles of both, the commands of both.
    """
    there, here = known["identity"], record["identity"]
    keys = {record_key(config) for config in there["configurations"]}
    added = [config for config in here["configurations"] if record_key(config) not in keys]
    limits = [identity["options"].get("limit") for identity in (there, here)]
    limit = None if None in limits else max(limits)
    grown = record["n_samples"] > known["n_samples"]
    longer = here if here["dataset"]["n"] > there["dataset"]["n"] else there
    if not added and not grown and longer is there and limit == limits[0]:
        return known
    settings = {**known["settings"], **({"dataset": record["settings"].get("dataset", {})} if grown else {})}
    settings["reference"] = settings.get("reference") or record["settings"].get("reference")
    return {
        **known,
        "identity": {
            **there,
            "dataset": longer["dataset"],
            "options": {**there["options"], "limit": limit},
            "configurations": [*there["configurations"], *added],
        },
        "settings": settings,
        "profiles": {**known.get("profiles", {}), **record.get("profiles", {})},
        "commands": [*known.get("commands", []), *record.get("commands", [])],
        "n_samples": max(known["n_samples"], record["n_samples"]),
    }


def _profile_differences(there: Sequence[dict[str, Any]], here: Sequence[dict[str, Any]]) -> list[Difference]:
    """Two profiles of one method would give two rows of one name."""

    def profiles(configs: Sequence[dict[str, Any]]) -> dict[tuple[str, str], str]:
        return {(c["method"], c["options_hash"]): c["profile_hash"] for c in configs}

    known, wanted = profiles(there), profiles(here)
    return [
        Difference(f"profile of {name[0]}", known[name], wanted[name])
        for name in known
        if name in wanted and known[name] != wanted[name]
    ]
