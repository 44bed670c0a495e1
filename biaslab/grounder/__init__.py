"""Training the embedded grounder from scratch on two CPU cores: ``biaslab train-grounder``."""

from biaslab.grounder.recipe import Recipe
from biaslab.grounder.train import train_grounder

__all__ = ["Recipe", "train_grounder"]
