"""Several scenes as frames of one prompt of the grounder: measured, fitted, debiased and pruned, end to end."""

from __future__ import annotations

import numpy as np
import pytest

import biaslab as bl
from biaslab.core.frames import frames_layout
from biaslab.diagnostics.measures.frame_mass import frame_mass
from biaslab.diagnostics.measures.frame_order import frame_order
from biaslab.errors import ProfileMismatchError
from biaslab.profiles import FactorisedProfile
from biaslab.pruning import FastV, make

FRAMES, PROMPTS, LAYER = 3, 16, 1


@pytest.fixture(scope="module")
def asked():
    """The grounder, prompts of three scenes each, the question about one of them, and which."""
    first = {}
    for sample in bl.load_dataset("scenes", split="validation", n=130):
        first.setdefault(sample.image_id, sample)
    scenes = list(first.values())[: FRAMES * PROMPTS]
    groups = [scenes[i : i + FRAMES] for i in range(0, len(scenes), FRAMES)]
    which = [i % FRAMES for i in range(len(groups))]
    vlm = bl.load("grounder")
    texts = [vlm.family.grounding_prompt(g[w].expression) for g, w in zip(groups, which, strict=True)]
    return vlm, [[scene.image() for scene in group] for group in groups], texts, which


@pytest.fixture(scope="module")
def maps(asked):
    vlm, images, texts, _ = asked
    ids = [f"video-{i}" for i in range(len(images))]
    return bl.collect(vlm, images, prompt=texts, layers=[LAYER - 1], frames=True, ids=ids, progress=False)


@pytest.mark.slow
def test_what_frames_draw_is_measured_and_expected_by_a_profile(asked, maps):
    vlm = asked[0]
    (key,) = maps.layouts
    assert key == "internvl/16x16/tiles1x1/frames3" and maps.n == PROMPTS
    row, mass = frame_order(maps).iloc[0], frame_mass(maps)
    assert row["slope_hi"] < 0  # in its first layer the grounder's later frames draw less
    with pytest.warns(UserWarning, match="16 images"):
        profile = FactorisedProfile().fit(maps)
    expected = profile.predict(maps.layouts[key])[0]
    share = np.array([expected[maps.layouts[key].frame == k].sum() for k in range(FRAMES)]) / expected.sum()
    np.testing.assert_allclose(FRAMES * share, mass["ratio"], atol=0.05)
    assert profile.provenance_["frames"] and profile.provenance_["image_options"] == {"max_tiles": 1}
    longer = frames_layout([maps.layouts[key].parts[0]] * 5)
    profile.check(layout=longer, fingerprint=vlm.fingerprint, layer=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*16 images")
def test_the_frame_that_is_asked_about_gets_more_than_its_even_share(asked, maps):
    vlm, images, texts, which = asked
    shares = {}
    profile = FactorisedProfile().fit(maps)
    for name, rule in {
        "similarity": make("adatp", keep=0.1, temperature=0.02),
        "profile": make("adatp", keep=0.1, relevance="profile", profile=profile),
    }.items():
        own = []
        for i in range(0, len(images), 8):
            encoded = vlm.encode(images[i : i + 8], texts[i : i + 8], frames=True)
            with bl.prune(vlm, rule, LAYER) as run:
                vlm.forward(encoded)
            counts = np.array([len(s.indices) for s in run.selections]).reshape(-1, FRAMES)
            assert (counts.sum(1) == 76).all()  # a tenth of 768 together
            own += (counts[np.arange(len(counts)), which[i : i + 8]] / 76).tolist()
        shares[name] = np.mean(own)
    assert shares["similarity"] > 0.4
    assert 0.25 < shares["profile"] < 0.45
    fitted = bl.MeanProfile().fit(maps)
    with (
        pytest.raises(ProfileMismatchError, match="not 'internvl/16x16/tiles1x1'"),
        bl.prune(vlm, make("relative", profile=fitted), LAYER, budget="separate"),
    ):
        vlm.forward(vlm.encode(images[:1], texts[:1], frames=True))


def test_of_a_single_scene_it_keeps_what_fastv_keeps():
    vlm, sample = bl.load("grounder"), next(iter(bl.load_dataset("scenes", n=1)))
    encoded = vlm.encode_grounding([sample.image()], [sample.expression])
    kept = []
    for rule in (FastV(keep=0.1), make("adatp", keep=0.1)):
        with bl.prune(vlm, rule, 4) as run:
            vlm.forward(encoded)
        kept.append(run.selections[0].indices.tolist())
    assert kept[0] == kept[1]
    options = {"methods": ["fastv", "adatp"], "keep": [0.1], "layer": 4, "progress": False}
    samples = bl.evaluate(vlm, bl.load_dataset("scenes", n=2), **options).samples
    answers = samples.groupby("index")["answer"].nunique()
    assert len(samples) == 4 and (answers == 1).all()
