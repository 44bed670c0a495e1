"""What the controls of look-ahead are fitted on."""

import numpy as np
import pytest
import torch

import biaslab as bl
from benchmarks.control_fits import Chosen, Control, fit, join, rotation
from benchmarks.controls import controls, ids_of
from benchmarks.oracle import Oracle
from benchmarks.scene_pool import expressions, pictures
from biaslab.maps.stored import StoredMaps
from biaslab.pruning.base import TokenContext


@pytest.fixture(scope="module")
def folders(grounder, tmp_path_factory):
    """Maps of eight calibration scenes in two folders of four."""
    out = tmp_path_factory.mktemp("maps")
    shown = pictures("calibration", 8, 1)
    for start in (0, 4):
        part = shown[start : start + 4]
        bl.collect(
            grounder, [p.image() for p in part], prompt=[grounder.family.grounding_prompt(p.expression) for p in part],
            ids=[p.id for p in part], queries="last", heads="all", layers=[2, 3], features=True,
            out=out / str(start), progress=False,
        )  # fmt: skip
    return [out / "0", out / "4"], [p.id for p in shown]


def test_parts_are_joined_and_some_chosen(folders, tmp_path):
    parts, ids = folders
    join(parts, tmp_path / "all")
    whole, second = StoredMaps(tmp_path / "all"), StoredMaps(parts[1])
    assert whole.ids() == ids
    some = Chosen(tmp_path / "all", ids[5:7])
    assert some.ids() == ids[5:7] and some.n == 2
    for i, j in ((0, 1), (1, 2)):
        assert (some.values(i) == second.values(j)).all()
        assert (some.features.visual(ids[5 + i]) == second.features.visual(ids[5 + i])).all()


def test_a_student_of_rotated_embeddings_serves_the_model_as_it_is(folders):
    parts, ids = folders
    turn = rotation(192)
    assert np.allclose(turn @ turn.T, np.eye(192), atol=1e-5)
    control = Control("rotated", rotated=True, options={"epochs": 1, "batch_size": 2})
    profile = fit(control, parts[0], ids[:4], "cpu")
    plain = bl.LookaheadProfile(**control.options).fit(Chosen(parts[0], ids[:4], turn))
    maps = StoredMaps(parts[0])
    visual, text = (torch.from_numpy(f(ids[0]).astype(np.float32)) for f in (maps.features.visual, maps.features.text))
    layout = maps.record(0).layout
    served = profile.relevance(visual, text, layout)
    taught = plain.relevance(visual, text @ torch.from_numpy(turn), layout)
    assert torch.allclose(served, taught, atol=1e-4) and served.std() > 1e-3


def test_controls_are_of_the_pictures_they_say():
    shown = pictures("calibration", 60, 1)
    unseen = next(c for c in controls(40) if c.without)
    ids = ids_of(unseen, shown)
    said = {p.id: p.expression for p in shown}
    assert not any(name in said[i].split() for i in ids for name in unseen.without)
    assert len({c.slug for c in controls(10_000)}) == len(controls(10_000))


def test_the_oracle_keeps_what_shows_the_target(grounder):
    (sample,) = expressions("test", 0, 1, 1)
    oracle = Oracle.of([sample])
    encoded = grounder.encode_grounding([sample.image()], [sample.expression])
    seed = next(iter(oracle.targets))
    ctx = TokenContext(encoded.layouts[0], budget=40, seed=seed)
    kept = oracle.select(ctx)
    target = torch.from_numpy(encoded.layouts[0].overlap(sample.box) > 0)
    assert (kept.scores[target] == 1).all()
    assert kept.scores[kept.indices].mean() > 2 * kept.scores.mean()
