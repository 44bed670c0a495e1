"""biaslab: attention positional bias in multimodal LLMs.

Capture text-to-vision attention inside unmodified transformers models, fit and remove positional bias profiles,
prune visual tokens with the debiased scores, and measure what is left of localization accuracy.

Names are loaded on first use, so that ``import biaslab`` stays light.
"""

from __future__ import annotations

from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "load": "models", "wrap": "models", "VLM": "models", "rehearse": "models.offline.rehearsal",
    "bench": "workflows.bench",
    "capture": "attention.capture",
    "collect": "maps.collect", "load_maps": "maps.stored",
    "AttentionMaps": "maps.base",
    "Box": "core.boxes",
    "TokenLayout": "core.layout",
    "MeanProfile": "profiles", "TileProfile": "profiles", "load_profile": "profiles", "debias": "profiles",
    "variance_explained": "profiles",
    "prune": "pruning.engine.prune",
    "Random": "pruning", "Uniform": "pruning", "FastV": "pruning", "Relative": "pruning",
    "DivPrune": "pruning", "D2Pruner": "pruning", "LayerRatio": "pruning",
    "ProbeDesign": "probe", "ProbeResult": "probe", "ProbeDisplay": "figures", "PlaceAccuracyDisplay": "figures",
    "evaluate": "evaluation", "compare_methods": "evaluation", "score_ranking": "diagnostics.ranking",
    "Results": "evaluation", "load_dataset": "datasets",
    "ProfileDisplay": "figures", "AttentionDisplay": "figures", "KeptTokensDisplay": "figures",
    "AccuracyDisplay": "figures", "VarianceDisplay": "figures", "AurocDisplay": "figures",
    "HeadsDisplay": "figures", "ReliabilityDisplay": "figures", "DependenceDisplay": "figures",
    "BiasAtlas": "atlas",
    "BiaslabError": "errors",
}  # fmt: skip

__all__ = [*_HOME, "__version__"]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'biaslab' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
