"""The gallery: images of many sizes, styles and backgrounds, with expressions and questions about them."""

from biaslab.scenes.gallery.canvas import TILE, grid_of, picture_size, visual_tiles
from biaslab.scenes.gallery.pictures import DOMAINS, Picture, picture
from biaslab.scenes.gallery.questions import CATEGORIES, Question
from biaslab.scenes.gallery.thing import Thing

__all__ = [
    "CATEGORIES", "DOMAINS", "TILE", "Picture", "Question", "Thing", "grid_of", "picture", "picture_size",
    "visual_tiles",
]  # fmt: skip
