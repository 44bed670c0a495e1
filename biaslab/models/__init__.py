"""Model families and how to load them. Names load on first use: listing aliases must not import torch."""

from importlib import import_module

_HOME = {
    "Encoded": "encoded",
    "Grounding": "grounding",
    "VLM": "vlm",
    "aliases": "registry",
    "families": "registry",
    "known_models": "listing",
    "load": "loading",
    "resolve": "registry",
    "wrap": "loading",
}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
