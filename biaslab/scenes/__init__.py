"""Procedural referring-expression scenes and the embedded grounder that is trained on them."""

from .expressions import KINDS, Expression
from .scene import SPLITS, Scene, SceneObject, scene

__all__ = ["KINDS", "SPLITS", "Expression", "Scene", "SceneObject", "scene"]
