"""The causal probe: the same object at every place of the picture, and what its tokens draw there.

A profile fitted on photographs or scenes mixes the model's preference for places with what tends to stand there.
Here the picture is ours: every object is shown at every place of the same background, so what is left when its
mean is taken off can only come from the place.
"""

from __future__ import annotations

from biaslab.probe.compare import compare
from biaslab.probe.measure import measure
from biaslab.probe.result import ProbeResult
from biaslab.probe.sources import Cutouts
from biaslab.probe.stimuli import ProbeDesign, Stimulus, design_for
from biaslab.stats.spatial import spectral_test

__all__ = [
    "Cutouts", "ProbeDesign", "ProbeResult", "Stimulus", "compare", "design_for", "measure",
    "spectral_test",
]  # fmt: skip
