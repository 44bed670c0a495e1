"""The files of a checkpoint: where they are, what is missing, what they are called in provenance. No torch here."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biaslab.errors import InputError, ModelError
from biaslab.models.checkpoints.internvl_chat.config import is_original
from biaslab.models.checkpoints.internvl_chat.files import missing_files as missing_tokenizer

if TYPE_CHECKING:
    from biaslab.models.registry import Checkpoint

__all__ = [
    "PATTERNS",
    "check_files",
    "folder_revision",
    "local_folder",
    "missing_files",
    "read_config",
    "refuse_revision",
]

logger = logging.getLogger(__name__)
#: what is fetched of a hub repository
PATTERNS = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
_PROCESSOR = (  # of a native checkpoint: any one of each
    ("preprocessor_config.json", "processor_config.json"),
    ("tokenizer.json", "tokenizer.model", "vocab.json"),
    ("tokenizer_config.json",),
)
_TIMEOUT = 10.0  # seconds for the first answer of the hub


def local_folder(checkpoint: Checkpoint, revision: str | None) -> tuple[Path, str]:
    """Find the folder with the files, and the revision for provenance (a commit, or a fingerprint of a folder)."""
    if checkpoint.folder is not None:
        refuse_revision(checkpoint, revision)
        return checkpoint.folder, folder_revision(checkpoint.folder)
    from huggingface_hub import HfApi, snapshot_download

    repo = checkpoint.hub_id or checkpoint.name  # the same
    try:
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True))
        if not missing_files(folder):
            return folder, folder.name
    except Exception as err:  # whatever the cache says, the hub is asked next
        logger.debug("no local copy of %s: %s", repo, err)
    command = f"hf download {repo}" + (f" --revision {revision}" if revision else "")
    try:
        # asked first because it answers, or fails, within seconds; the download alone would retry for minutes
        HfApi().model_info(repo, revision=revision, timeout=_TIMEOUT)
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=PATTERNS))
    except Exception as err:  # the hub client raises errors of three libraries; all mean the same here
        raise ModelError(
            f"{repo} is not on this machine and cannot be fetched ({type(err).__name__}): run `{command}` "
            "where there is a network, or give a folder"
        ) from None
    return folder, folder.name


def refuse_revision(checkpoint: Checkpoint, revision: str | None) -> None:
    """Refuse a revision of a folder, which has one version alone."""
    if checkpoint.folder is not None and revision is not None:
        raise InputError(f"revision={revision!r} is for hub models; {checkpoint.name} is a folder")


def read_config(folder: Path) -> dict[str, Any]:
    """Read ``config.json`` of a checkpoint folder.

    Raises
    ------
    ModelError
        Where there is none that can be read.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder} holds no config.json: it is not a checkpoint folder") from None
    except (OSError, ValueError) as err:
        raise ModelError(f"{path} cannot be read: {err}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds no configuration: copy the whole checkpoint")
    return config


def missing_files(folder: Path) -> list[str]:
    """List the files a checkpoint folder lacks: weights, tokenizer, image processor; nothing is loaded."""
    if not (folder / "config.json").is_file():
        return [] if (folder / "adapter_config.json").is_file() else ["config.json"]
    try:
        config = read_config(folder)
    except ModelError:
        return ["a readable config.json"]
    others = missing_tokenizer(folder, config) if is_original(config) else _missing_processor(folder)
    return _missing_weights(folder) + others


def _missing_processor(folder: Path) -> list[str]:
    """List absent processor files: of several that serve one purpose, the one to look for first."""
    return [names[0] for names in _PROCESSOR if not any((folder / name).is_file() for name in names)]


def _missing_weights(folder: Path) -> list[str]:
    """List absent weight files; beside a single file, which transformers reads first, an index means nothing."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return []
    if not index.is_file():
        names = [path.name for path in folder.glob("*.safetensors")]
        if any(re.search(r"-\d+-of-\d+\.safetensors$", name) for name in names):
            return [index.name]
        return [] if names else ["model.safetensors"]
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        return [shard for shard in shards if not (folder / shard).is_file()]
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return [f"a readable {index.name}"]


def check_files(folder: Path, checkpoint: Checkpoint) -> None:
    """Refuse a folder that lacks something, naming it and the fix."""
    missing = missing_files(folder)
    if not missing:
        return
    if any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder} holds pickled weights only, which are not loaded: convert them to safetensors")
    from biaslab.models.registry import EMBEDDED  # which imports this room's files

    if checkpoint.name in EMBEDDED:
        raise ModelError(
            f"the embedded {checkpoint.name} has no weights here (missing: {', '.join(missing[:5])}): train them with "
            f"`biaslab train-{checkpoint.name} --out FOLDER` and load FOLDER/model"
        )
    fix = f"run `hf download {checkpoint.hub_id}`" if checkpoint.hub_id else "copy the whole checkpoint"
    raise ModelError(f"incomplete checkpoint {folder}, missing: {', '.join(missing[:5])}: {fix}")


def folder_revision(folder: Path) -> str:
    """Name a folder's version as a commit names a hub model's: by its configuration, and the edges of its weight files.

    What files of earlier versions know a model by; `weights_fingerprint` tells more.
    """
    digest, edge = hashlib.sha256(), 1 << 20
    for path in [folder / "config.json", folder / "adapter_config.json", *sorted(folder.glob("*.safetensors"))]:
        if path.is_file():
            size = path.stat().st_size
            digest.update(f"{path.name}:{size}".encode())
            with path.open("rb") as stream:
                digest.update(stream.read(edge))
                stream.seek(max(0, size - edge))
                digest.update(stream.read(edge))
    return f"local-{digest.hexdigest()[:12]}"
