"""Procedural referring-expression scenes and the embedded grounder that is trained on them."""

from biaslab.scenes.expressions import KINDS, Expression
from biaslab.scenes.scene import SPLITS, Scene, scene
from biaslab.scenes.scene_object import SceneObject

__all__ = ["KINDS", "SPLITS", "Expression", "Scene", "SceneObject", "scene"]
