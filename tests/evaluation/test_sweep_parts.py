"""Parts of the shared sweep: the cache with room, short sequences of several lengths."""

from __future__ import annotations

import torch
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor
from transformers.cache_utils import DynamicCache, DynamicLayer

from biaslab.evaluation.sweep.kv_cache import RoomyLayer, Rows, narrowed, wide_cache
from biaslab.models.transformers_versions import processors_of_rows
from biaslab.pruning.engine.pruned_index import PrunedIndex, stacked, whole


def states(rows, tokens, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 2, tokens, 4, generator=g), torch.randn(rows, 2, tokens, 4, generator=g)


def test_a_layer_with_room_is_a_dynamic_layer():
    ours, theirs = RoomyLayer(*states(3, 9), 5), DynamicLayer()
    theirs.update(*(x[:, :, :5] for x in states(3, 9)))
    for step in range(60):  # beyond its room
        new = states(len(ours.keys), 1 + (step == 3), step + 1)
        for a, b in zip(ours.update(*new), theirs.update(*new), strict=True):
            assert torch.equal(a, b)
        if step == 20:
            for layer in (ours, theirs):
                layer.batch_select_indices(torch.tensor([2, 0]))
        if step == 30:
            for layer in (ours, theirs):
                layer.crop(-2)
        if step == 40:
            for layer in (ours, theirs):
                layer.reorder_cache(torch.tensor([1, 0]))
        assert ours.get_seq_length() == theirs.get_seq_length()
        assert ours.get_mask_sizes(1) == theirs.get_mask_sizes(1)


def test_a_wide_cache_has_the_rows_of_its_parts():
    prefix, short = DynamicCache(), DynamicCache()
    for layer in range(2):
        prefix.update(*states(2, 6, layer), layer)
    short.update(*states(4, 3, 7), 1)  # two configurations of two prompts, from layer 1 on
    wide = wide_cache(prefix, [Rows(1, 2, None), Rows(2, 1, short)], 6)
    low, high = (layer.keys for layer in wide.layers)
    assert torch.equal(low, prefix.layers[0].keys[torch.tensor([0, 1, 0, 1, 0, 1])])
    assert torch.equal(high[:2], prefix.layers[1].keys)
    assert torch.equal(high[2:, :, 3:], short.layers[1].keys) and not high[2:, :, :3].any()
    narrowed(wide, torch.tensor([5, 0]))
    assert torch.equal(wide.layers[0].keys, prefix.layers[0].keys[torch.tensor([1, 0])])


def test_stacked_indices():
    a = PrunedIndex(6, torch.tensor([[0, 3, 5]]), None, torch.tensor([[0, 2, 3]]), torch.tensor([[3]]))
    b = whole(2, 6, torch.device("cpu"))
    both = stacked([a, b])
    assert both.keep.tolist() == [[0, 0, 0, 0, 3, 5], [*range(6)], [*range(6)]]
    assert both.pad.tolist() == [[True] * 3 + [False] * 3, [False] * 6, [False] * 6]
    assert both.n_dropped.tolist() == [[3], [0], [0]]
    mask = torch.ones(3, 8, dtype=torch.long)
    assert both.mask(mask, prefill=False).tolist() == [[0, 0, 0, 1, 1, 1, 1, 1], [1] * 8, [1] * 8]
    picked = both.rows(torch.tensor([2, 0]))
    assert picked.keep.tolist() == [[*range(6)], [0, 0, 0, 0, 3, 5]] and picked.n_dropped.tolist() == [[0], [3]]
    assert stacked([a]).pad is None and stacked([a, a]).pad is None


def test_logits_processors_of_rows():
    penalty = RepetitionPenaltyLogitsProcessor(1.5, prompt_ignore_length=torch.tensor([0, 2]))
    both, rows = LogitsProcessorList([lambda ids, scores: scores + 1, penalty]), torch.tensor([1, 0, 1])
    ids = torch.tensor([[3, 1, 2], [0, 0, 1]])
    scores = torch.arange(8.0).reshape(2, 4)
    picked = processors_of_rows(both, rows)
    assert torch.equal(picked(ids[rows], scores[rows].clone()), both(ids, scores.clone())[rows])
    assert penalty.prompt_ignore_length.tolist() == [0, 2] and both[1] is penalty
    assert processors_of_rows(None, rows) is None
