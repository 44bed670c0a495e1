"""Figures and tables: Display objects made by ``from_...``, drawn by ``plot(ax=None)``. No figure loads a
model.
"""

from __future__ import annotations

from .accuracy_display import AccuracyDisplay
from .attention_display import AttentionDisplay
from .dependence_display import DependenceDisplay
from .display import Display
from .heads_display import HeadsDisplay
from .kept_display import KeptTokensDisplay
from .probe_display import PlaceAccuracyDisplay, ProbeDisplay
from .profile_display import ProfileDisplay
from .reliability_display import ReliabilityDisplay
from .save import save
from .style import style
from .tables import results_latex, results_table, save_table
from .variance_display import AurocDisplay, VarianceDisplay

__all__ = [
    "AccuracyDisplay",
    "AttentionDisplay",
    "AurocDisplay",
    "DependenceDisplay",
    "Display",
    "HeadsDisplay",
    "KeptTokensDisplay",
    "PlaceAccuracyDisplay",
    "ProbeDisplay",
    "ProfileDisplay",
    "ReliabilityDisplay",
    "VarianceDisplay",
    "results_latex",
    "results_table",
    "save",
    "save_table",
    "style",
]
