"""The atlas of positional bias: every measure of a model's maps on a few pages, in tables, figures and sentences."""

from __future__ import annotations

from biaslab.atlas.atlas import BiasAtlas
from biaslab.atlas.images import images_behind
from biaslab.maps.views import mean_over_heads

__all__ = ["BiasAtlas", "mean_over_heads", "images_behind"]
