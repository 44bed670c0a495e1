"""Analytic FLOPs and memory of a multimodal forward, from the configuration alone (no weights needed).

FLOPs are counted as ``torch.utils.flop_counter`` counts: 2 per multiply-accumulate, matrix products and
convolutions only (norms, softmax, activations and the pruning rule itself are left out), attention over the full
square (causality is not discounted). The formulas equal ``FlopCounterMode`` exactly under
``sdpa_kernel(SDPBackend.MATH)``; under other SDPA kernels the counter misses attention, so do not use it to
check them.

Vision tower, projector and decoder are kept apart because pruning inside the decoder touches only the last: a
reduction quoted for the decoder alone overstates what is saved.
"""

from biaslab.cost import towers
from biaslab.cost.decoder import DECODERS, decoder_flops, layer_lengths
from biaslab.cost.fastv import fastv_reduction
from biaslab.cost.flops import Flops, image_flops, prompt_flops
from biaslab.cost.memory import Parameters, kv_bytes, kv_entries, parameters
from biaslab.cost.vision import VISION, VisionInput, register_vision, vision_flops

__all__ = [
    "DECODERS",
    "VISION",
    "Flops",
    "Parameters",
    "VisionInput",
    "decoder_flops",
    "fastv_reduction",
    "image_flops",
    "kv_bytes",
    "kv_entries",
    "layer_lengths",
    "parameters",
    "prompt_flops",
    "register_vision",
    "towers",
    "vision_flops",
]
