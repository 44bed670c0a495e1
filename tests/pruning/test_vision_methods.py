"""Methods that read the vision tower: their rules as plain loops, and inside models of every family."""

from __future__ import annotations

import pytest
import tiny
import torch
from methods import RASTER, TILED, context
from pruned import dropped_positions, lowest_layer, oracle, run
from sweeps import check, expressions, untouched
from torch.nn.functional import cosine_similarity

from biaslab.attention.vision import watch_tower
from biaslab.attention.vision_record import TowerShape, VisionRequest
from biaslab.errors import InputError, UnsupportedError
from biaslab.evaluation.configurations import configurations
from biaslab.evaluation.run_once import GenerationOptions
from biaslab.pruning import HiPrune, Method, VisionZip, VisPruner, VScan, budget, parse, parse_schedule, prune
from biaslab.pruning.engine.vision import with_tower

NAMES = ("hiprune", "visionzip", "vispruner", "vscan:merge=false", "scope:by=vision")
PAIRS = [(family, NAMES[i % len(NAMES)]) for i, family in enumerate(tiny.FAMILIES)]
PAIRS += [("internvl", name) for name in NAMES if ("internvl", name) not in PAIRS]
OPTIONS = GenerationOptions(max_new_tokens=4)


# -- rules ---------------------------------------------------------------------------------------------------
def loop_vispruner(attention, features, n, important):
    """The published rule, token by token."""
    order = sorted(range(len(attention)), key=lambda i: (-attention[i], i))
    first = order[: max(1, int(n * important))]
    left = order[len(first) :] if n > len(first) else []
    while len(first) + len(left) > n:
        even, odd = left[::2], left[1::2]
        like = {i: max(float(cosine_similarity(features[i], features[j], 0)) for j in odd) for i in even}
        worst = sorted(even, key=lambda i: -like[i])[: min(8, len(first) + len(left) - n)]
        left = [i for i in left if i not in worst]
    return sorted(first + left)


@pytest.mark.parametrize("n", [1, 2, 9, 40, 95, 96])
@pytest.mark.parametrize("important", [0.2, 0.5])
def test_vispruner_is_its_loop(n, important):
    ctx = context(RASTER, n)
    record = ctx.vision
    want = loop_vispruner(record.cls[2].mean(0).tolist(), record.features[2].double(), n, important)
    assert VisPruner(important=important).select(ctx).indices.tolist() == want


def test_vispruner_with_nothing_diverse_ranks():
    ctx = context(TILED, 30)
    top = ctx.vision.cls[2].mean(0).topk(30).indices.sort().values
    assert torch.equal(VisPruner(important=1).select(ctx).indices, top)
    assert torch.equal(VisionZip(contextual=0).select(ctx).indices, top)


def loop_hiprune(layout, middle, last, n, alpha, flat):
    def beside(i):
        if flat:
            return [j for j in (i - layout.grid[1], i + layout.grid[1], i - 1, i + 1) if 0 <= j < layout.n]
        at = lambda j: (layout.tile[j], layout.row[j], layout.col[j])  # noqa: E731
        t, r, c = at(i)
        return [j for j in range(layout.n) if at(j) in ((t, r - 1, c), (t, r + 1, c), (t, r, c - 1), (t, r, c + 1))]

    best = sorted(range(layout.n), key=lambda i: (-last[i], i))
    anchors = sorted(range(layout.n), key=lambda i: (-middle[i], i))[: round(n * alpha / 5)]
    kept = list(anchors)
    for i in anchors:
        kept += [j for j in sorted(beside(i), key=best.index) if j not in kept]
    kept += [i for i in best if i not in kept]
    return sorted(kept[:n])


@pytest.mark.parametrize("neighbours", ["grid", "flat"])
@pytest.mark.parametrize(("n", "alpha"), [(1, 1.0), (7, 1.0), (40, 0.5), (64, 0.1), (25, 0.0)])
@pytest.mark.parametrize("layout", [RASTER, TILED])
def test_hiprune_is_its_loop(layout, n, alpha, neighbours):
    ctx = context(layout, n)
    middle, last = (ctx.vision.received[i].tolist() for i in (1, 3))
    found = HiPrune(alpha=alpha, neighbours=neighbours).select(ctx)
    assert found.indices.tolist() == loop_hiprune(layout, middle, last, n, alpha, neighbours == "flat")
    assert found.info == {"anchors": round(n * alpha / 5)}


def test_published_object_blocks():
    llava, qwen = TowerShape(24, True, tuple(range(24))), TowerShape(32, False, (7, 15, 23, 31))
    assert HiPrune().reads(llava).received == (8, -1) and HiPrune().reads(qwen).received == (15, -1)
    assert HiPrune(object_layer=3).reads(qwen).received == (3, -1)


def test_visionzip_keeps_every_so_manyth_of_the_rest():
    ctx = context(RASTER, 64)
    kept = VisionZip().select(ctx)
    order = ctx.vision.cls[2].mean(0).argsort(descending=True).tolist()
    rest = sorted(order[54:])
    assert kept.indices.tolist() == sorted(order[:54] + rest[:: 42 // 10][:10]) and kept.info == {"contextual": 10}


@pytest.mark.parametrize("layout", [RASTER, TILED])
@pytest.mark.parametrize(("n", "local", "side"), [(1, 0.5, 4), (40, 0.5, 4), (63, 1.0, 5), (50, 0.0, 4)])
def test_vscan_is_its_loop(layout, n, local, side):
    ctx = context(layout, n)
    shallow, late = (ctx.vision.cls[i].mean(0).tolist() for i in (1, 2))
    kept = sorted(range(layout.n), key=lambda i: (-late[i], i))[: n - int(local * n)]
    windows = {}
    for i in sorted(range(layout.n), key=lambda i: (-shallow[i], i)):
        if i not in kept:
            windows.setdefault((layout.tile[i], layout.row[i] // side, layout.col[i] // side), []).append(i)
    while len(kept) < n:
        turn = sorted((w.pop(0) for w in windows.values() if w), key=lambda i: (-shallow[i], i))
        kept += turn[: n - len(kept)]
    method = VScan(local=local, window=side)
    chosen = method.select(ctx)
    assert chosen.indices.tolist() == sorted(kept) and method.reads(ctx.vision.tower).cls == (1, 2)
    assert torch.allclose(chosen.merge.sum(1), torch.ones(n)) and chosen.sizes.sum() == layout.n
    features = ctx.vision.features[2].double()
    for i in set(range(layout.n)) - set(kept):
        like = {j: float(cosine_similarity(features[i], features[j], 0)) for j in kept}
        assert chosen.merge[:, i].nonzero().item() == sorted(kept).index(max(kept, key=like.get))


def test_vscan_reads_published_blocks():
    llava, qwen = TowerShape(24, True, tuple(range(24))), TowerShape(32, False, (7, 15, 23, 31))
    assert VScan().reads(llava) == VisionRequest(cls=(5, 22), features=(22,))
    assert VScan(merge=False).reads(qwen) == VisionRequest(received=(7, 31))
    assert VScan(global_layer=-3, local_layer=0).reads(qwen).received == (0, 29)


def test_a_tower_without_a_class_token_is_read_by_what_is_received():
    ctx = context(RASTER, 20)
    record = ctx.vision
    record.__dict__["cls"] = None
    for method in (VisPruner(important=1), VisionZip(contextual=0)):
        assert torch.equal(method.select(ctx).scores, record.received[2])
        assert method.reads(TowerShape(4, False, (0, 1, 2, 3))).received == (-2,)


def test_bad_options_and_records_are_refused():
    for make_it, match in (
        (lambda: VisPruner(important=2), "important must be a number in"),
        (lambda: VisionZip(contextual=1.0), "contextual must be a number in"),
        (lambda: HiPrune(alpha=-1), "alpha must be a number in"),
        (lambda: HiPrune(neighbours="near"), "neighbours must be one of grid, flat"),
        (lambda: VScan(local=2), "local must be a number in"),
        (lambda: VScan(window=0), "window must be at least 1 token"),
        (lambda: VScan(window=2.5), "window must be a whole number or None"),
        (lambda: VScan(merge="added"), "merge must be true or false"),
        (lambda: HiPrune(object_layer="middle"), "object_layer must be a block of the vision tower or None"),
        (lambda: VisPruner().select(context(RASTER, 5, vision=None)), "needs vision"),
        (lambda: VisPruner().select(context(RASTER, 5, vision=context(TILED, 5).vision)), "does not fit 96 visual"),
        (lambda: VisPruner(layer=9).select(context(RASTER, 5)), "the vision tower holds layers 0 to 3, not"),
    ):
        with pytest.raises(InputError, match=match):
            make_it()


# -- inside models -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("family", "name"), [tiny.quick(*pair) for pair in PAIRS])
def test_contracts(family, name):
    """Keep-all is identical; cached and pruned is masked and recomputed; at K = 0 or the first allowed layer."""
    vlm = tiny.vlm(family)
    enc = tiny.encoded(vlm, 3)
    tokens, plain = run(vlm, enc)
    layer = lowest_layer(vlm)
    with prune(vlm, parse(name).with_keep(1.0), layer) as state:
        same = run(vlm, enc)
    assert state.layer == layer and torch.equal(same[0], tokens) and (same[1] - plain).abs().max() == 0
    method = parse(name).with_keep(0.4)
    with prune(vlm, method, layer) as state:
        answer, logits = run(vlm, enc)
    assert [len(s.indices) for s in state.selections] == [budget(0.4, x.n) for x in enc.layouts]
    want = oracle(vlm, enc.inputs, answer, dropped_positions(enc, state.selections), layer)
    assert (logits - want).abs().max() <= 1e-4 < (logits - plain).abs().max()
    with watch_tower(vlm, method.reads(state_shape(vlm))) as tower:
        vlm.forward(enc)
        records = tower.records(enc)
    assert all(
        torch.equal(method.importance(ctx_of(r)), s.scores) for r, s in zip(records, state.selections, strict=True)
    )
    assert untouched(vlm)


def state_shape(vlm):
    from biaslab.attention.vision import tower_shape

    return tower_shape(vlm.model)


def ctx_of(record):
    ctx = context(RASTER, 1)
    ctx.vision = record
    return ctx


@pytest.mark.parametrize("name", NAMES)
def test_several_images_and_beams(name):
    vlm, pictures = tiny.vlm("internvl"), tiny.images(3)
    both = vlm.encode([pictures[:2], pictures[2:]], tiny.texts(2), sample_ids=["a", "b"])
    with prune(vlm, parse(name).with_keep(0.4), 0) as state:
        vlm.forward(both)
        together = [s.indices.tolist() for s in state.selections]
        vlm.generate(both, max_new_tokens=2, num_beams=2)
        assert [s.indices.tolist() for s in state.selections] == together
        for picture, kept in zip(pictures, together, strict=True):
            vlm.forward(vlm.encode([picture], ["?"]))
            assert state.selections[0].indices.tolist() == kept


@pytest.mark.slow
@pytest.mark.parametrize("family", tiny.CROSSED)
def test_a_sweep_of_repeated_pictures_is_one_run_each(family):
    """Features computed once for each image, with what the tower shows beside them."""
    vlm = tiny.vlm(family)
    layers = [lowest_layer(vlm), 3]
    words = [f"{name}@{keep}@{layer}" for name in NAMES for layer in layers for keep in (0.5, 0.2)]
    configs = configurations([*words, "none"], 0.5, None)
    prompts = expressions(vlm)
    pixels = vlm.encode([tiny.images(3)[i] for i in prompts.pictures], ["?"] * 6, sample_ids=list("abcdef"))
    ready = with_tower(vlm, pixels, [config.method for config in configs], prompts.pictures)
    assert ready.pictures == prompts.pictures and len({id(r) for r in ready.tower}) == 3
    runs = check(vlm, ready, configs, OPTIONS)
    for i, config in enumerate(configs):
        if config.method is None:
            continue
        with prune(vlm, config.method, config.layer) as state:
            vlm.forward(pixels)  # the tower sees every image of the batch
        for mine, theirs in zip(runs[i].selections, state.selections, strict=True):
            torch.testing.assert_close(mine.scores, theirs.scores, rtol=1e-4, atol=1e-6)


def test_what_does_not_show_the_tower_is_refused():
    vlm = tiny.vlm("internvl")
    enc = tiny.encoded(vlm, 2)
    fix = "hand over those of vlm.encode"
    with prune(vlm, VisPruner()):
        with pytest.raises(UnsupportedError, match=fix):
            vlm.forward(vlm.vision(enc))
        with pytest.raises(UnsupportedError, match="must know whose images"):
            vlm.model(**enc.inputs)
        with pytest.raises(UnsupportedError, match=fix):  # kept for another method
            vlm.forward(with_tower(vlm, enc, [HiPrune()]))
        vlm.forward(with_tower(vlm, enc, [HiPrune(), VisPruner()]))
    for method, error, match in (
        (VisPruner(layer=7), InputError, "the vision tower holds layers 0 to 1, not"),
        (Vague(), InputError, "derive its class from VisionMethod"),
    ):
        with pytest.raises(error, match=match), prune(vlm, method):
            pytest.fail("was not refused before any work")
    assert untouched(vlm)


class Vague(Method):
    """Asks for the tower, and does not tell of which blocks."""

    name = "vague"
    needs = frozenset({"vision"})


@pytest.mark.parametrize("name", [*NAMES, "vscan"])
def test_images_that_are_one_pool_are_read_one_after_the_other(name):
    vlm, pictures = tiny.vlm("internvl"), tiny.images(3)
    enc = vlm.encode([pictures[:2], pictures[2:]], tiny.texts(2))
    with prune(vlm, parse(name).with_keep(0.4), 0, budget="joint") as state:
        vlm.forward(enc)
        counts = [len(s.indices) for s in state.selections]
    totals = [layout.n for layout in enc.layouts]
    assert counts[0] + counts[1] == budget(0.4, totals[0] + totals[1]) and counts[2] == budget(0.4, totals[2])
    with prune(vlm, VisPruner(keep=0.4, important=1), budget="joint") as state:
        vlm.forward(enc)
    with watch_tower(vlm, VisionRequest(cls=(0,))) as tower:
        vlm.forward(enc)
        first, second, _ = (record.cls[0].mean(0) for record in tower.records(enc))
    best = torch.cat([first, second]).argsort(descending=True)[: budget(0.4, totals[0] + totals[1])].sort().values
    assert state.selections[0].indices.tolist() == best[best < totals[0]].tolist()
    assert state.selections[1].indices.tolist() == (best[best >= totals[0]] - totals[0]).tolist()


def test_a_schedule_reads_the_tower_at_what_is_left():
    """Equal to one stage at the later layer where the first keeps all; records of survivors where it does not."""
    vlm = tiny.vlm("qwen2_5_vl")
    enc = tiny.encoded(vlm, 3)
    answers = []
    for given in ({"schedule": "hiprune@1.0@0+vispruner@0.3@2"}, {"method": VisPruner(keep=0.3), "layer": 2}):
        with prune(vlm, **given) as state:
            answers.append((run(vlm, enc)[1], [s.indices.tolist() for s in state.selections]))
    assert (answers[0][0] - answers[1][0]).abs().max() <= 1e-5 and answers[0][1] == answers[1][1]
    word = "random@0.6@0+visionzip:contextual=0@0.3@2"
    with prune(vlm, schedule=word) as state:
        vlm.forward(with_tower(vlm, enc, [parse_schedule(word)]))
        kept = [s.indices.tolist() for s in state.selections]
        vlm.forward(enc)
        assert [s.indices.tolist() for s in state.selections] == kept
    with watch_tower(vlm, VisionRequest(received=(-2,))) as tower:
        vlm.forward(enc)
        for record, first, second in zip(tower.records(enc), *state.stages, strict=True):
            own = record.received[0][first.indices]
            best = first.indices[own.argsort(descending=True)[: len(second.indices)]]
            assert second.indices.tolist() == sorted(best.tolist())


def test_requests_of_several_methods_are_one():
    both = VisPruner().reads(state_shape(tiny.vlm("llava"))) | VisionRequest(received=(1,))
    assert both == VisionRequest(cls=(-2,), features=(-2,), received=(1,))
