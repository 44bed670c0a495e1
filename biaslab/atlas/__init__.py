"""The atlas of positional bias: every measure of a model's maps on a few pages, in tables, figures and sentences."""

from __future__ import annotations

from .atlas import BiasAtlas
from .pictures import pictures_from
from .views import mean_over_heads

__all__ = ["BiasAtlas", "mean_over_heads", "pictures_from"]
