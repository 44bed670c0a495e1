"""Boxes in the units that models answer in."""

from biaslab.core.boxes import Box


def from_pixels(space, box, size, resized=None):
    """The four numbers of a box space for a box in original pixels, by solving what `to_pixels` makes of 0 and 1."""
    zero, one = (space.to_pixels((v,) * 4, size=size, resized=resized).as_tuple() for v in (0, 1))
    return tuple((v - a) / (b - a) for v, a, b in zip(Box(*box.as_tuple()).as_tuple(), zero, one, strict=True))
