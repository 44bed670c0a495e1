"""A batch of prompts through every configuration, what they have in common computed once.

`shared.py` is the way through; `prefix.py` runs the layers below K, `selections.py` selects for each configuration,
`short_prefill.py` runs the layers from K on; `biaslab.evaluation.decoding` decodes the answers of many configurations
as one batch.
"""
