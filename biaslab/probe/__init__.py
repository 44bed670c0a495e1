"""The causal probe: the same object at every place of the picture, and what its tokens draw there.

A profile fitted on photographs or scenes mixes the model's preference for places with what tends to stand there.
Here the picture is ours: every object is shown at every place of the same background, so what is left when its
mean is taken off can only come from the place.
"""

from __future__ import annotations

from .compare import compare
from .measure import measure
from .nulls import spectral_test
from .result import ProbeResult
from .run import Probed, probe
from .sources import Cutouts
from .stimuli import ProbeDesign, Stimulus, design_for

__all__ = [
    "Cutouts", "ProbeDesign", "ProbeResult", "Probed", "Stimulus", "compare", "design_for", "measure", "probe",
    "spectral_test",
]  # fmt: skip
