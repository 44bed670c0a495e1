"""
Bias of an image cut into tiles
===============================

InternVL cuts an image into tiles of 448 pixels and adds a thumbnail. Here the plant grows from tile to tile, as
attention that prefers what comes late in the sequence does. The profile of layouts of one tiling serves that tiling;
``factorised`` serves others too.
"""

import biaslab as bl
from biaslab.maps.simulate import simulate

layout = bl.TokenLayout.tiled(2, 3, (6, 6), size=(1344, 896), family="internvl", thumbnail=True)
planted = simulate("tile-ordered", {layout: 40})

bl.ProfileDisplay.from_profile(bl.MeanProfile().fit(planted.maps)).plot()
