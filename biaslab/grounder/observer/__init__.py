"""The second embedded model: several tiles, boxes and short answers; trained by ``biaslab train-observer``."""

from biaslab.grounder.observer.recipe import ObserverRecipe
from biaslab.grounder.observer.train import train_observer

__all__ = ["ObserverRecipe", "train_observer"]
