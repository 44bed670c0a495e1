"""Training the embedded grounder from scratch on two CPU cores: ``biaslab train-grounder``."""

from .recipe import Recipe
from .run import train_grounder

__all__ = ["Recipe", "train_grounder"]
