"""What a checkpoint is known by, wherever it lies: its configuration and samples of every weight. No torch here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["weights_fingerprint"]

_SAMPLE = 4096  # bytes at each place: a page, the least that a disk reads
#: of a configuration: where a copy came from and who wrote it; they change no answer
_INFORMATION = {"_name_or_path", "_commit_hash", "transformers_version", "base_model_name_or_path", "revision"}


def weights_fingerprint(folder: Path) -> str | None:
    """Hash what a checkpoint computes with; the same for every copy of it, in a hub cache or in a folder.

    Read are the configuration (without the names of its origin) and, of every tensor, name, dtype, shape and three
    pages of 4 KiB, at its start, middle and end; how the tensors are spread over files does not count. That is 12 KiB
    a tensor, whatever its size: of 16 GB in 800 tensors 10 MB, in at most 2,400 reads, 0.04 s where the system has them
    in memory. Reading all would take as long as loading. What it does not see is a change that spares all three pages
    of every tensor, such as of a single row of an embedding; training, merging an adapter, quantising and converting
    change all entries of the tensors that they touch.

    Parameters
    ----------
    folder : Path
        A checkpoint folder, a snapshot of the hub's cache, or an adapter folder.

    Returns
    -------
    str or None
        "weights-" and 16 hex digits; None where the folder's files cannot be read: loading will say why.

    Examples
    --------
    >>> from biaslab.models.checkpoints.fingerprint import weights_fingerprint
    >>> from biaslab.models.registry import grounder_folder
    >>> weights_fingerprint(grounder_folder())  # doctest: +ELLIPSIS
    'weights-...'
    """
    digest = hashlib.sha256()
    try:
        for name in ("config.json", "adapter_config.json"):
            if (folder / name).is_file():
                settings = _without_origin(json.loads((folder / name).read_text(encoding="utf-8")))
                digest.update(json.dumps([name, settings], sort_keys=True).encode())
        tensors = {name: value for path in _weight_files(folder) for name, value in _tensors(path)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if not tensors:
        return None
    for name in sorted(tensors):
        digest.update(f"{name}:{tensors[name]}\n".encode())
    return f"weights-{digest.hexdigest()[:16]}"


def _weight_files(folder: Path) -> list[Path]:
    """List the files that are loaded: one file before an index, an index before whatever else lies there."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if index.is_file():
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return [folder / shard for shard in sorted(shards)]
    return sorted(folder.glob("*.safetensors"))


def _tensors(path: Path) -> Iterator[tuple[str, str]]:
    """Names and digests of a file's tensors, in the order in which they lie there."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= path.stat().st_size - 8:
            raise ValueError(f"{path} has no safetensors header")
        header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            start, end = entry["data_offsets"]
            digest = hashlib.sha256(f"{entry['dtype']}{entry['shape']}".encode())
            last = max(start, end - _SAMPLE)
            for at in sorted({start, (start + last) // 2, last}):
                stream.seek(8 + length + at)
                digest.update(stream.read(min(_SAMPLE, end - at)))
            yield name, digest.hexdigest()


def _without_origin(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_origin(part) for key, part in value.items() if key not in _INFORMATION}
    return [_without_origin(part) for part in value] if isinstance(value, list) else value
