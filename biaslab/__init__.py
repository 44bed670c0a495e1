"""Attention positional bias in multimodal LLMs.

Capture text-to-vision attention inside unmodified transformers models, fit and remove positional bias profiles,
prune visual tokens with the debiased scores, and measure the remaining localization accuracy.

Public names and the rooms (subpackages) are loaded on first use, so that ``import biaslab`` stays light. Type checkers
and editors find the same names in ``__init__.pyi``.

Examples
--------
Fit a profile of the embedded grounder on a few calibration scenes:

>>> import biaslab as bl
>>> vlm = bl.load("grounder")
>>> scenes = bl.calibration(vlm, "scenes", n=4)
>>> maps = bl.collect(vlm, scenes.images, layers=[3], prompt=scenes.prompts, progress=False)
>>> profile = bl.MeanProfile().fit(maps)
>>> maps.n, profile.layers_
(4, [3])

Locate an object with a tenth of the visual tokens, chosen by debiased attention and diversity:

>>> sample = next(iter(bl.load_dataset("scenes", split="test", n=1)))
>>> with bl.prune(vlm, bl.D2Pruner(keep=0.1, profile=profile), layer=4) as run:
...     box = vlm.locate(sample.image(), sample.expression)
>>> len(run.selections[0].indices)
25
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
    "ProbeDesign": "probe", "ProbeResult": "probe", "ProbeDisplay": "figures", "LocationAccuracyDisplay": "figures",
    "evaluate": "evaluation", "compare_methods": "evaluation", "score_ranking": "diagnostics.ranking",
    "Results": "evaluation", "load_dataset": "datasets", "calibration": "datasets.calibration",
    "ProfileDisplay": "figures", "AttentionDisplay": "figures", "KeptTokensDisplay": "figures",
    "AccuracyDisplay": "figures", "VarianceDisplay": "figures", "AurocDisplay": "figures",
    "HeadsDisplay": "figures", "ReliabilityDisplay": "figures", "DependenceDisplay": "figures",
    "BiasAtlas": "atlas",
    "BiaslabError": "errors",
}  # fmt: skip

_ROOMS = (
    "atlas", "attention", "cost", "datasets", "diagnostics", "errors", "evaluation", "figures", "grounder", "maps",
    "models", "probe", "profiles", "pruning", "scenes", "workflows",
)  # fmt: skip

__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> object:
    if name in _ROOMS:
        return import_module(f".{name}", __name__)  # which also sets the attribute
    if name not in _HOME:
        raise AttributeError(f"module 'biaslab' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_ROOMS])
