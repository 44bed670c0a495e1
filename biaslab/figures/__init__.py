"""Figures and tables: Display objects made by ``from_...``, drawn by ``plot(ax=None)``. No figure loads a model."""

from __future__ import annotations

from biaslab.figures.accuracy_display import AccuracyDisplay
from biaslab.figures.attention_display import AttentionDisplay
from biaslab.figures.dependence_display import DependenceDisplay
from biaslab.figures.display import Display
from biaslab.figures.frame_mass_display import FrameMassDisplay
from biaslab.figures.head_rating_display import HeadRatingDisplay
from biaslab.figures.heads_display import HeadsDisplay
from biaslab.figures.kept_display import KeptTokensDisplay
from biaslab.figures.kept_frames_display import KeptFramesDisplay
from biaslab.figures.learned_places_display import LearnedPlacesDisplay
from biaslab.figures.learning_curve_display import LearningCurveDisplay
from biaslab.figures.probe_display import LocationAccuracyDisplay, ProbeDisplay
from biaslab.figures.profile_display import ProfileDisplay
from biaslab.figures.relevance_display import RelevanceDisplay
from biaslab.figures.reliability_display import ReliabilityDisplay
from biaslab.figures.saving import save
from biaslab.figures.styling import style
from biaslab.figures.tables import results_latex, results_table, save_table
from biaslab.figures.variance_display import AurocDisplay, VarianceDisplay
from biaslab.figures.word_weights_display import WordWeightsDisplay

__all__ = [
    "AccuracyDisplay",
    "AttentionDisplay",
    "AurocDisplay",
    "DependenceDisplay",
    "Display",
    "FrameMassDisplay",
    "HeadRatingDisplay",
    "HeadsDisplay",
    "KeptFramesDisplay",
    "KeptTokensDisplay",
    "LearnedPlacesDisplay",
    "LearningCurveDisplay",
    "LocationAccuracyDisplay",
    "ProbeDisplay",
    "ProfileDisplay",
    "RelevanceDisplay",
    "ReliabilityDisplay",
    "VarianceDisplay",
    "WordWeightsDisplay",
    "results_latex",
    "results_table",
    "save",
    "save_table",
    "style",
]
