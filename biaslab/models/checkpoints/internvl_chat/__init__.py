"""InternVL checkpoints in their original layout (``model_type: internvl_chat``), read without their remote code.

InternVL 2.5 is published this way: a configuration, a tokenizer and a model of its own, with fused query, key and
value projections. Config, weights, tokenizer and chat template are mapped to transformers' own InternVL, so that the
result is the same object as for a native checkpoint.

Served: the decoders InternLM2, Qwen2, Qwen3 and Llama with the ``v2`` pixel shuffle (InternVL 2, 2.5, 3 and 3.5).
Refused, by name: other decoders (Phi-3, InternLM3, mixtures of experts), quantised weights, LoRA that is not merged.
"""
