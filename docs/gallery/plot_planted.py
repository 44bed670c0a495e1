"""
A bias that is known, found again
=================================

Synthetic maps with a planted U: the middle draws less than the border. Two estimators on the same 24 images; the one
on the right smooths.
"""

import matplotlib.pyplot as plt

import biaslab as bl
from biaslab.maps.simulate import simulate
from biaslab.profiles import SmoothProfile

layout = bl.TokenLayout.raster(12, 12, size=(448, 448), family="internvl")
planted = simulate("u-shaped", {layout: 24})

figure, axes = plt.subplots(1, 2, figsize=(6.5, 3), layout="constrained")
for ax, estimator in zip(axes, [bl.MeanProfile(), SmoothProfile()], strict=True):
    bl.ProfileDisplay.from_profile(estimator.fit(planted.maps)).plot(ax)
    ax.set_title(type(estimator).__name__)
