"""biaslab: attention positional bias in multimodal LLMs.

Capture text-to-vision attention inside unmodified transformers models, fit and remove positional bias profiles,
prune visual tokens with the debiased scores, and measure what is left of localization accuracy.

Names are loaded on first use, so that ``import biaslab`` stays light.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"

_HOME = {
    "load": "models", "wrap": "models", "VLM": "models", "rehearse": "models.rehearsal",
    "bench": "bench",
    "capture": "capture",
    "collect": "collect",
    "AttentionMaps": "maps",
    "Box": "boxes",
    "TokenLayout": "layout",
    "MeanProfile": "profiles", "TileProfile": "profiles", "load_profile": "profiles", "debias": "profiles",
    "variance_explained": "profiles",
    "prune": "pruning.engine",
    "Random": "pruning", "Uniform": "pruning", "FastV": "pruning", "Relative": "pruning",
    "DivPrune": "pruning", "D2Pruner": "pruning", "LayerRatio": "pruning",
    "ProbeDesign": "probe", "ProbeResult": "probe", "ProbeDisplay": "figures", "PlaceAccuracyDisplay": "figures",
    "evaluate": "grounding", "locate_pruned": "grounding", "score_ranking": "grounding",
    "Results": "grounding", "dataset": "grounding",
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


class _Package(ModuleType):
    """`capture` and `collect` name a module and the function in it: the function is what `bl.capture` means.

    Importing such a module would put it in the function's place here, whoever imports it.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
