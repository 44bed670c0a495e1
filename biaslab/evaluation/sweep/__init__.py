"""A batch of prompts through every configuration, what they have in common computed once.

`shared.py` is the way through; `prefix.py` runs the layers below K, with `image_plan.py` and `image_prefix.py` on the
tokens of an image once for all its expressions; `selections.py` selects for each configuration, `short_prefill.py` runs
the layers from K on; `biaslab.evaluation.decoding` decodes the answers of many configurations as one batch.
"""
