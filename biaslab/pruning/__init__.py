"""Which visual tokens to keep, and how to drop the others inside a model.

A pruning method is one file in ``methods/``: a subclass of :class:`Method` decorated with :func:`register`.
The folder is scanned, so nothing else needs to change; an installed package brings methods with an entry point of the
group ``biaslab.methods``, which names the module that registers them. Methods are pure tensor code;
:mod:`biaslab.pruning.engine` runs them in a model.

Examples
--------
>>> [name for name in METHODS if "prune" in name]  # `biaslab methods` lists all of them
['cdpruner', 'd2pruner', 'divprune', 'greedyprune', 'hiprune', 'vispruner']
>>> "d2pruner" in METHODS  # in alphabetical order; those from outside follow
True
>>> METHODS["fastv"].option_names()
['keep', 'queries', 'score', 'reads_layer', 'heads', 'profile', 'sink_dims']
"""

from __future__ import annotations

from typing import Any

from biaslab.pruning.base import Method, Selection, TokenContext, budget
from biaslab.pruning.batch import TokenBatch
from biaslab.pruning.external import ExternalScore
from biaslab.pruning.methods.adatp import AdaTP
from biaslab.pruning.methods.cdpruner import CDPruner
from biaslab.pruning.methods.d2pruner import D2Pruner
from biaslab.pruning.methods.dart import DART
from biaslab.pruning.methods.direction_only import DirectionOnly
from biaslab.pruning.methods.divprune import DivPrune
from biaslab.pruning.methods.fastv import FastV
from biaslab.pruning.methods.flashvlm import FlashVLM
from biaslab.pruning.methods.greedyprune import GreedyPrune
from biaslab.pruning.methods.hiprune import HiPrune
from biaslab.pruning.methods.idselection import IDSelection
from biaslab.pruning.methods.ivc import IVC
from biaslab.pruning.methods.layer_ratio import LayerRatio
from biaslab.pruning.methods.localization_heads import LocalizationHeads
from biaslab.pruning.methods.lookahead import Lookahead
from biaslab.pruning.methods.mmr import MMR
from biaslab.pruning.methods.pore import PoRe
from biaslab.pruning.methods.priortr import PriorTR
from biaslab.pruning.methods.protected import Protected
from biaslab.pruning.methods.quota import Quota
from biaslab.pruning.methods.random import Random
from biaslab.pruning.methods.relative import Relative
from biaslab.pruning.methods.scope import Scope
from biaslab.pruning.methods.sparsevlm import SparseVLM
from biaslab.pruning.methods.stagewise import Stagewise
from biaslab.pruning.methods.swiftvlm import SwiftVLM
from biaslab.pruning.methods.uniform import Uniform
from biaslab.pruning.methods.visionzip import VisionZip
from biaslab.pruning.methods.vispruner import VisPruner
from biaslab.pruning.methods.vscan import VScan
from biaslab.pruning.registry import METHODS, make, parse, register
from biaslab.pruning.schedule import Schedule, Stage, parse_schedule

__all__ = [
    "DART",
    "IVC",
    "METHODS",
    "MMR",
    "AdaTP",
    "CDPruner",
    "D2Pruner",
    "DirectionOnly",
    "DivPrune",
    "ExternalScore",
    "FastV",
    "FlashVLM",
    "GreedyPrune",
    "IDSelection",
    "HiPrune",
    "LayerRatio",
    "LocalizationHeads",
    "Lookahead",
    "Method",
    "PriorTR",
    "Protected",
    "PoRe",
    "PruneRun",
    "Quota",
    "Random",
    "Relative",
    "Schedule",
    "Scope",
    "Selection",
    "Stage",
    "Stagewise",
    "SparseVLM",
    "SwiftVLM",
    "TokenBatch",
    "TokenContext",
    "Uniform",
    "VScan",
    "VisPruner",
    "VisionZip",
    "budget",
    "make",
    "parse",
    "parse_schedule",
    "prune",
    "register",
]


def __getattr__(name: str) -> Any:
    if name == "prune":  # the engine pulls in transformers
        from biaslab.pruning.engine.prune import prune

        return prune
    if name == "PruneRun":
        from biaslab.pruning.engine.run import PruneRun

        return PruneRun
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
