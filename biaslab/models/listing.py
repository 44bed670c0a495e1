"""The models that have a short name: what `biaslab models` shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biaslab.models.checkpoints.files import missing_files
from biaslab.models.registry import EMBEDDED, embedded_folder, families

if TYPE_CHECKING:
    from biaslab.models.offline_spec import ModelSpec

__all__ = ["known_models"]


def known_models() -> list[dict[str, Any]]:
    """List the models that have an alias; nothing is loaded.

    Returns
    -------
    list of dict
        One row per alias: alias, checkpoint, family, decoder layers, most visual tokens of an image and whether the
        weights are on this machine ("yes", "partly", "no"). What is not known without the checkpoint's files is None.

    Examples
    --------
    >>> from biaslab.models import known_models
    >>> row = known_models()[0]
    >>> row["alias"], row["layers"], row["most tokens per image"], row["on disk"]
    ('grounder', 10, 256, 'yes')
    """
    rows = [_row(name, "embedded", "internvl", embedded_folder(name), None) for name in EMBEDDED]
    for family in families().values():
        for alias, hub_id in sorted(family.aliases.items()):
            rows.append(_row(alias, hub_id, family.name, _cached(hub_id), family.specs.get(alias)))
    return rows


def _row(alias: str, checkpoint: str, family: str, folder: Path | None, spec: ModelSpec | None) -> dict[str, Any]:
    config = _config(folder)
    layers = (config.get("text_config") or config.get("llm_config") or config).get("num_hidden_layers")
    tokens = _embedded_tokens(config, folder) if alias in EMBEDDED and folder is not None else None
    if spec is not None:
        layers, tokens = layers or spec.layers, families()[family].most_tokens(spec)
    return {"alias": alias, "checkpoint": checkpoint, "family": family, "layers": layers,
            "most tokens per image": tokens, "on disk": _on_disk(folder)}  # fmt: skip


def _cached(hub_id: str) -> Path | None:
    """Find the folder of the newest snapshot in the hub's cache that has a configuration."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(hub_id, "config.json")
    return Path(path).parent if isinstance(path, str) else None


def _on_disk(folder: Path | None) -> str:
    if folder is None or not folder.is_dir():
        return "no"
    return "partly" if missing_files(folder) else "yes"


def _embedded_tokens(config: dict[str, Any], folder: Path) -> int | None:
    """Count the tokens of the most tiles of an image, and of the thumbnail beside several."""
    per_tile = config.get("image_seq_length")
    tiles = _json(folder / "processor_config.json").get("image_processor", {}).get("max_patches", 1)
    return None if per_tile is None else per_tile * (tiles + (tiles > 1))


def _config(folder: Path | None) -> dict[str, Any]:
    return {} if folder is None else _json(folder / "config.json")


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
