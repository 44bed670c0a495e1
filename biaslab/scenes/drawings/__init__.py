"""The objects of the scenes as five sets of openly licensed emoji draw them (see ``LICENSE`` in this folder).

Every set is one sheet, ``STYLE.webp``: cells of 144 px, ten to a row, in the order of
`biaslab.scenes.objects.NAMES` (``tools/build_drawings.py`` makes them).
"""

from biaslab.scenes.drawings.sheets import COLOURLESS, STYLES, UNFAMILIAR_STYLE, drawing, placed_drawing

__all__ = ["COLOURLESS", "STYLES", "UNFAMILIAR_STYLE", "drawing", "placed_drawing"]
