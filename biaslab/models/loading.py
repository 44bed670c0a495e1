"""`load` a checkpoint by name, `wrap` a model you already have."""

from __future__ import annotations

import hashlib
import json
import logging
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError, ModelError
from .registry import Checkpoint, family_of, resolve
from .vlm import VLM

__all__ = ["load", "wrap"]

logger = logging.getLogger(__name__)
_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
_TIMEOUT = 10.0  # seconds for the first answer of the hub


def load(
    name: str | Path,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = "auto",
    device_map: Any = None,
    attn_implementation: str = "sdpa",
    revision: str | None = None,
    **kw: Any,
) -> VLM:
    """Load a multimodal model and its processor.

    Parameters
    ----------
    name : str or Path
        An alias (``biaslab models`` lists them; "grounder" is embedded and needs no network), a hub id, or a
        folder.
    device : optional
        Default: the first CUDA device, else the CPU. Leave it out with ``device_map``.
    dtype : "auto", a name such as "bfloat16", or a torch dtype
        "auto" takes the checkpoint's own, but float32 for float16 on a CPU, where half precision is slow and
        coarse.
    device_map, attn_implementation, **kw
        Passed to ``from_pretrained`` (``quantization_config`` and so on).
    revision : str, optional
        Branch, tag or commit of a hub model.

    Raises
    ------
    InputError
        For a name or option that means nothing.
    ModelError
        For a checkpoint that is missing (the message has the command that fetches it), incomplete, or not
        safe.
    """
    if device is not None and device_map is not None:
        raise InputError("give device or device_map, not both")
    checkpoint = resolve(name)
    folder, revision = _local(checkpoint, revision)
    family = family_of(_config(folder).get("model_type", "unknown"))
    _check_weights(folder, checkpoint)
    device = _device(device) if device_map is None else None
    with _quiet():
        processor = _read(folder, "processor", lambda: family.load_processor(str(folder), local_files_only=True))
        model = _model(folder, _dtype(dtype, folder, device), device_map, attn_implementation, kw)
    if device is not None and "quantization_config" not in kw:
        model = model.to(device)
    return VLM(model.eval().requires_grad_(False), processor, family, checkpoint.name, revision)


def wrap(model: Any, processor: Any, name: str | None = None, revision: str | None = None) -> VLM:
    """A VLM around a transformers model (fine-tuned, quantised) and its processor, used as they are.

    ``name`` and ``revision`` go into the provenance of profiles; by default the model's ``name_or_path``.
    """
    family = family_of(getattr(model.config, "model_type", "unknown"))
    if getattr(processor, "image_token_id", None) is None:
        raise InputError(f"{type(processor).__name__} has no image token: give the processor, not the tokenizer")
    name = name or getattr(model.config, "_name_or_path", "") or type(model).__name__
    revision = revision or getattr(model.config, "_commit_hash", None)
    return VLM(model, processor, family, name, revision)


# ------------------------------------------------------------------------------------------ the checkpoint's
# files
def _local(checkpoint: Checkpoint, revision: str | None) -> tuple[Path, str]:
    """Folder with the files, and the revision for provenance (a commit, or a fingerprint of a folder)."""
    if checkpoint.folder is not None:
        if revision is not None:
            raise InputError(f"revision={revision!r} is for hub models; {checkpoint.name} is a folder")
        return checkpoint.folder, _fingerprint(checkpoint.folder)
    from huggingface_hub import HfApi, snapshot_download

    repo = checkpoint.hub_id
    try:
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True))
        if not _missing_files(folder):
            return folder, folder.name
    except Exception as err:  # whatever the cache says, the hub is asked next
        logger.debug("no local copy of %s: %s", repo, err)
    command = f"hf download {repo}" + (f" --revision {revision}" if revision else "")
    try:
        # asked first because it answers, or fails, within seconds; the download alone would retry for minutes
        HfApi().model_info(repo, revision=revision, timeout=_TIMEOUT)
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=_FILES))
    except Exception as err:  # the hub client raises errors of three libraries; all mean the same here
        raise ModelError(
            f"{repo} is not on this machine and cannot be fetched ({type(err).__name__}): run `{command}` "
            "where there is a network, or give a folder"
        ) from None
    return folder, folder.name


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder} holds no config.json: it is not a checkpoint folder") from None
    except (OSError, ValueError) as err:
        raise ModelError(f"{path} cannot be read: {err}") from None


def _missing_files(folder: Path) -> list[str]:
    """Names of files a checkpoint folder lacks."""
    if not (folder / "config.json").is_file():
        return ["config.json"]
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [] if any(folder.glob("*.safetensors")) else ["model.safetensors"]
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError):
        return ["a readable model.safetensors.index.json"]
    return [shard for shard in shards if not (folder / shard).is_file()]


def _check_weights(folder: Path, checkpoint: Checkpoint) -> None:
    missing = _missing_files(folder)
    if not missing:
        return
    if any(folder.glob("*.bin")):
        raise ModelError(f"{folder} holds pickled weights only, which are not loaded: convert them to safetensors")
    fix = f"run `hf download {checkpoint.hub_id}`" if checkpoint.hub_id else "copy the whole checkpoint"
    raise ModelError(f"incomplete checkpoint {folder}, missing: {', '.join(missing[:5])}: {fix}")


def _fingerprint(folder: Path) -> str:
    """A name for the contents of a folder: config, and size, header and tail of every weight file.

    Reading all of a large checkpoint would take minutes; two models that differ in their weights alone differ
    in the first or last megabyte.
    """
    digest, edge = hashlib.sha256(), 1 << 20
    for path in [folder / "config.json", *sorted(folder.glob("*.safetensors"))]:
        if path.is_file():
            size = path.stat().st_size
            digest.update(f"{path.name}:{size}".encode())
            with path.open("rb") as stream:
                digest.update(stream.read(edge))
                stream.seek(max(0, size - edge))
                digest.update(stream.read(edge))
    return f"local-{digest.hexdigest()[:12]}"


# ------------------------------------------------------------------------------------------ reading
def _read(folder: Path, what: str, read: Any) -> Any:
    from safetensors import SafetensorError

    try:
        return read()
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ImportError,
        RuntimeError,
        SafetensorError,
    ) as err:
        first = (str(err).strip().splitlines() or [type(err).__name__])[0]
        raise ModelError(f"the {what} in {folder} cannot be loaded: {first}") from err


def _model(folder: Path, dtype: Any, device_map: Any, attn_implementation: str, kw: dict[str, Any]) -> Any:
    from transformers import AutoModelForImageTextToText

    def read():
        return AutoModelForImageTextToText.from_pretrained(
            str(folder),
            dtype=dtype,
            device_map=device_map,
            attn_implementation=attn_implementation,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **kw,
        )

    model, info = _read(folder, "model", read)
    missing = sorted(info["missing_keys"])
    if missing:  # transformers would go on with random weights
        raise ModelError(f"{folder} lacks {len(missing)} weights, such as {missing[0]}: the checkpoint is incomplete")
    return model


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise InputError(f"unknown device {device!r}: use 'cpu', 'cuda' or 'cuda:0'") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise InputError("no CUDA device here: use device='cpu'")
    return found


def _dtype(dtype: str | torch.dtype, folder: Path, device: torch.device | None) -> Any:
    if dtype == "auto":
        config = _config(folder)
        texts = (config, config.get("text_config") or {})
        own = next((c[key] for c in texts for key in ("dtype", "torch_dtype") if c.get(key)), None)
        on_cpu = device is not None and device.type == "cpu"
        return torch.float32 if on_cpu and own == "float16" else "auto"
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise InputError(f"unknown dtype {dtype!r}: use 'auto', 'float32', 'bfloat16' or 'float16'")
    return found


@contextmanager
def _quiet():
    """Loading shows no progress bar of its own; the callers that are long say so themselves."""
    from transformers.utils import logging as hf_logging

    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()
