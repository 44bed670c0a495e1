"""Figures and tables: Display objects made by ``from_...``, drawn by ``plot(ax=None)``. No figure loads a model."""

from __future__ import annotations

from biaslab.figures.accuracy_display import AccuracyDisplay
from biaslab.figures.attention_display import AttentionDisplay
from biaslab.figures.dependence_display import DependenceDisplay
from biaslab.figures.display import Display
from biaslab.figures.heads_display import HeadsDisplay
from biaslab.figures.kept_display import KeptTokensDisplay
from biaslab.figures.probe_display import LocationAccuracyDisplay, ProbeDisplay
from biaslab.figures.profile_display import ProfileDisplay
from biaslab.figures.reliability_display import ReliabilityDisplay
from biaslab.figures.saving import save
from biaslab.figures.styling import style
from biaslab.figures.tables import results_latex, results_table, save_table
from biaslab.figures.variance_display import AurocDisplay, VarianceDisplay

__all__ = [
    "AccuracyDisplay",
    "AttentionDisplay",
    "AurocDisplay",
    "DependenceDisplay",
    "Display",
    "HeadsDisplay",
    "KeptTokensDisplay",
    "LocationAccuracyDisplay",
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
