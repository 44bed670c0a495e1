"""Attention positional bias in multimodal LLMs.

Capture text-to-vision attention inside unmodified transformers models, fit and remove positional bias profiles,
prune visual tokens with the debiased scores, and measure the remaining localization accuracy.

Public names and the rooms (subpackages) are loaded on first use, so that ``import biaslab`` stays light. Type checkers
and editors see the same names in the block below that is never run.

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

TYPE_CHECKING = False  # importing it from typing would take longer than all the rest
if TYPE_CHECKING:
    from biaslab import atlas as atlas
    from biaslab import attention as attention
    from biaslab import cost as cost
    from biaslab import datasets as datasets
    from biaslab import diagnostics as diagnostics
    from biaslab import errors as errors
    from biaslab import evaluation as evaluation
    from biaslab import figures as figures
    from biaslab import grounder as grounder
    from biaslab import maps as maps
    from biaslab import models as models
    from biaslab import profiles as profiles
    from biaslab import pruning as pruning
    from biaslab import scenes as scenes
    from biaslab import workflows as workflows
    from biaslab.atlas import BiasAtlas as BiasAtlas
    from biaslab.attention.capture import capture as capture
    from biaslab.core.boxes import Box as Box
    from biaslab.core.layout import TokenLayout as TokenLayout
    from biaslab.datasets import load_dataset as load_dataset
    from biaslab.datasets.calibration import calibration as calibration
    from biaslab.diagnostics import probe as probe
    from biaslab.diagnostics.probe import ProbeDesign as ProbeDesign
    from biaslab.diagnostics.probe import ProbeResult as ProbeResult
    from biaslab.diagnostics.ranking import score_ranking as score_ranking
    from biaslab.errors import BiaslabError as BiaslabError
    from biaslab.evaluation import Results as Results
    from biaslab.evaluation import compare_methods as compare_methods
    from biaslab.evaluation import evaluate as evaluate
    from biaslab.evaluation import merge_runs as merge_runs
    from biaslab.figures import AccuracyDisplay as AccuracyDisplay
    from biaslab.figures import AttentionDisplay as AttentionDisplay
    from biaslab.figures import AurocDisplay as AurocDisplay
    from biaslab.figures import DependenceDisplay as DependenceDisplay
    from biaslab.figures import HeadsDisplay as HeadsDisplay
    from biaslab.figures import KeptTokensDisplay as KeptTokensDisplay
    from biaslab.figures import LocationAccuracyDisplay as LocationAccuracyDisplay
    from biaslab.figures import ProbeDisplay as ProbeDisplay
    from biaslab.figures import ProfileDisplay as ProfileDisplay
    from biaslab.figures import ReliabilityDisplay as ReliabilityDisplay
    from biaslab.figures import VarianceDisplay as VarianceDisplay
    from biaslab.maps.base import AttentionMaps as AttentionMaps
    from biaslab.maps.collect import collect as collect
    from biaslab.maps.stored import load_maps as load_maps
    from biaslab.models import VLM as VLM
    from biaslab.models import load as load
    from biaslab.models import wrap as wrap
    from biaslab.models.offline.rehearsal import rehearse as rehearse
    from biaslab.profiles import LocalizationHeadsProfile as LocalizationHeadsProfile
    from biaslab.profiles import LookaheadProfile as LookaheadProfile
    from biaslab.profiles import MeanProfile as MeanProfile
    from biaslab.profiles import TileProfile as TileProfile
    from biaslab.profiles import debias as debias
    from biaslab.profiles import load_profile as load_profile
    from biaslab.profiles import variance_explained as variance_explained
    from biaslab.pruning import DART as DART
    from biaslab.pruning import IVC as IVC
    from biaslab.pruning import MMR as MMR
    from biaslab.pruning import CDPruner as CDPruner
    from biaslab.pruning import D2Pruner as D2Pruner
    from biaslab.pruning import DirectionOnly as DirectionOnly
    from biaslab.pruning import DivPrune as DivPrune
    from biaslab.pruning import ExternalScore as ExternalScore
    from biaslab.pruning import FastV as FastV
    from biaslab.pruning import FlashVLM as FlashVLM
    from biaslab.pruning import GreedyPrune as GreedyPrune
    from biaslab.pruning import IDSelection as IDSelection
    from biaslab.pruning import LayerRatio as LayerRatio
    from biaslab.pruning import LocalizationHeads as LocalizationHeads
    from biaslab.pruning import Lookahead as Lookahead
    from biaslab.pruning import PriorTR as PriorTR
    from biaslab.pruning import Protected as Protected
    from biaslab.pruning import Quota as Quota
    from biaslab.pruning import Random as Random
    from biaslab.pruning import Relative as Relative
    from biaslab.pruning import Scope as Scope
    from biaslab.pruning import SparseVLM as SparseVLM
    from biaslab.pruning import Stage as Stage
    from biaslab.pruning import Stagewise as Stagewise
    from biaslab.pruning import Uniform as Uniform
    from biaslab.pruning.engine.prune import prune as prune
    from biaslab.pruning.listing import methods as methods
    from biaslab.workflows.bench import bench as bench
    from biaslab.workflows.check import check as check
    from biaslab.workflows.make_report import report as report
    from biaslab.workflows.view import view as view

__version__ = "0.1.0"

_HOME = {
    "load": "models", "wrap": "models", "VLM": "models", "rehearse": "models.offline.rehearsal",
    "bench": "workflows.bench", "check": "workflows.check",
    "report": "workflows.make_report", "view": "workflows.view",
    "capture": "attention.capture",
    "collect": "maps.collect", "load_maps": "maps.stored",
    "AttentionMaps": "maps.base",
    "Box": "core.boxes",
    "TokenLayout": "core.layout",
    "LookaheadProfile": "profiles", "LocalizationHeadsProfile": "profiles",
    "MeanProfile": "profiles", "TileProfile": "profiles", "load_profile": "profiles", "debias": "profiles",
    "variance_explained": "profiles",
    "prune": "pruning.engine.prune", "methods": "pruning.listing",
    "Random": "pruning", "Uniform": "pruning", "FastV": "pruning", "Relative": "pruning",
    "Stage": "pruning", "Stagewise": "pruning",
    "DivPrune": "pruning", "D2Pruner": "pruning", "LayerRatio": "pruning", "Lookahead": "pruning",
    "MMR": "pruning", "CDPruner": "pruning", "Scope": "pruning", "GreedyPrune": "pruning", "IDSelection": "pruning",
    "FlashVLM": "pruning", "ExternalScore": "pruning",
    "LocalizationHeads": "pruning",
    "PriorTR": "pruning", "SparseVLM": "pruning", "DirectionOnly": "pruning", "DART": "pruning", "IVC": "pruning",
    "Protected": "pruning", "Quota": "pruning",
    "ProbeDesign": "diagnostics.probe", "ProbeResult": "diagnostics.probe",
    "ProbeDisplay": "figures", "LocationAccuracyDisplay": "figures",
    "evaluate": "evaluation", "compare_methods": "evaluation", "merge_runs": "evaluation",
    "score_ranking": "diagnostics.ranking",
    "Results": "evaluation", "load_dataset": "datasets", "calibration": "datasets.calibration",
    "ProfileDisplay": "figures", "AttentionDisplay": "figures", "KeptTokensDisplay": "figures",
    "AccuracyDisplay": "figures", "VarianceDisplay": "figures", "AurocDisplay": "figures",
    "HeadsDisplay": "figures", "ReliabilityDisplay": "figures", "DependenceDisplay": "figures",
    "BiasAtlas": "atlas",
    "BiaslabError": "errors",
}  # fmt: skip

_ROOMS = {  # name -> where it lies
    "atlas": "atlas", "attention": "attention", "cost": "cost", "datasets": "datasets", "diagnostics": "diagnostics",
    "errors": "errors", "evaluation": "evaluation", "figures": "figures", "grounder": "grounder", "maps": "maps",
    "models": "models", "probe": "diagnostics.probe", "profiles": "profiles", "pruning": "pruning",
    "scenes": "scenes", "workflows": "workflows",
}  # fmt: skip

__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> object:
    if name in _ROOMS:
        value = import_module(f".{_ROOMS[name]}", __name__)
    elif name in _HOME:
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    else:
        raise AttributeError(f"module 'biaslab' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_ROOMS])
