"""Procedural referring-expression scenes and the embedded grounder that is trained on them."""

from biaslab.scenes.expressions import EXPRESSION_TYPES, Expression
from biaslab.scenes.rendering import SPLITS, Scene, scene
from biaslab.scenes.scene_object import SceneObject

__all__ = ["EXPRESSION_TYPES", "SPLITS", "Expression", "Scene", "SceneObject", "scene"]
