"""What biaslab costs, measured on this machine by ``make bench`` or by one of its parts.

    python -m benchmarks.capture      attention rows against plain SDPA and against eager attention
    python -m benchmarks.selection    D2Pruner's selection against a lazy sequential greedy
    python -m benchmarks.launches     what a selection asks of a device, per image and in a batch
    python -m benchmarks.sweep        a sweep of methods and keep ratios with and without shared work
    python -m benchmarks.expressions  that sweep on several expressions of each image: images once against whole rows
    python -m benchmarks.maps         moments of a batch against single images, and the rows held in a forward
    python -m benchmarks.pictures     the host's work for an image, what is sent, and threads ahead of the model
    python -m benchmarks.prefill      pruned prefill against unpruned and against the limit set by FLOPs

each of which prints its tables and writes them to ``benchmarks/results``. Everything runs on the CPU with random
weights: what is measured is time and memory, which do not depend on what a model has learned. What only a GPU can tell
is measured by ``make gpu``:

    python -m benchmarks.gpu          contracts, capture, an answer's parts, selection, sweep, attention kernels
"""
