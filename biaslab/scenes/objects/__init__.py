"""The objects that scenes are made of: 80 images with one-word English names, and small clutter.

They are Microsoft's Fluent Emoji 3D (MIT licence, see ``LICENSE`` in this folder).
"""

from biaslab.scenes.objects.names import CLUTTER, COLOURS, NAMES, SIZES, TINTABLE
from biaslab.scenes.objects.sprites import object_image, sprite, tinted

__all__ = ["CLUTTER", "COLOURS", "NAMES", "SIZES", "TINTABLE", "object_image", "sprite", "tinted"]
