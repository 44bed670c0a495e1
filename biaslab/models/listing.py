"""The models that have a short name: what `biaslab models` shows."""

from __future__ import annotations

from .registry import GROUNDER, families, grounder_folder

__all__ = ["known_models"]


def known_models() -> list[dict[str, str]]:
    """One row per alias: alias, checkpoint, family and whether its weights are on this machine (nothing is loaded)."""
    embedded = grounder_folder()
    rows = [{"alias": GROUNDER, "checkpoint": "embedded", "family": "internvl",
             "on disk": "yes" if (embedded / "model.safetensors").exists() else "no"}]  # fmt: skip
    for family in families().values():
        rows += [
            {"alias": alias, "checkpoint": hub_id, "family": family.name, "on disk": "yes" if _cached(hub_id) else "no"}
            for alias, hub_id in sorted(family.aliases.items())
        ]
    return rows


def _cached(hub_id: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(hub_id, "config.json"), str)
