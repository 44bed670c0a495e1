"""The causal probe: the same object at every location of the image, and the attention that its tokens draw there.

This is a causal placement test, no linear probe: nothing is trained on hidden states; the object is moved and the
attention on it measured.

A profile fitted on photographs or scenes mixes the model's preference for locations with what tends to stand there.
Here the image is ours: every object is shown at every location of the same background, so that differences from its
mean can only come from the location.
"""

from __future__ import annotations

from biaslab.diagnostics.probe.comparison import compare
from biaslab.diagnostics.probe.measuring import measure
from biaslab.diagnostics.probe.result import ProbeResult
from biaslab.diagnostics.probe.sources import Cutouts
from biaslab.diagnostics.probe.stimuli import ProbeDesign, Stimulus, design_for
from biaslab.stats.spatial import spectral_test

__all__ = [
    "Cutouts", "ProbeDesign", "ProbeResult", "Stimulus", "compare", "design_for", "measure",
    "spectral_test",
]  # fmt: skip
