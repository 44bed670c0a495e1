"""Greedy decoding after a prefill: as ``generate`` does it, or by a step whose shapes and tensors stay the same.

`greedy.py` is the way in; `ways.py` names the ways and tells what a model is refused for. `observed.py` finds out what
the model hands its layers, `static_state.py` holds the tensors of a static step and runs it, `fixed_layer.py` its KV
cache, `step_graph.py` lets a CUDA graph repeat it, `static_loop.py` goes from token to token; `dynamic_loop.py` is the
reference. `one_generate.py` puts a prefill in front, for a single configuration.
"""
