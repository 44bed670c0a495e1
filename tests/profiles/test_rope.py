"""The analytic prior of rotary embedding: against the cosines and sines that real models hand to their attention."""

import json
import re
import shutil
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from transformers import Gemma3TextConfig, Gemma3TextModel, GPT2Config, GPT2Model, Phi3Config, Phi3Model
from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb

from biaslab import profiles
from biaslab.attention.capture import capture
from biaslab.attention.rotary import in_words, ones_logits, rotary_of
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.maps.base import ImageRecord
from biaslab.maps.collect import collect
from biaslab.maps.simulate import simulate
from biaslab.maps.stored import StoredMaps
from biaslab.maps.streamed import StreamedMaps
from biaslab.models.loading import wrap
from biaslab.profiles import ExponentialProfile, RopeProfile, select_estimator, variance_explained

FAMILIES = pytest.mark.parametrize("family", tiny.FAMILIES)


@cache
def steep(family, **rope):
    """A tiny model of low rotary base: every frequency makes a difference between the few tokens of tiny images."""
    own = tiny.config(family).text_config.rope_parameters
    sections = {k: own[k] for k in ("mrope_section", "mrope_interleaved") if k in own}
    model = tiny.build(family, rope_parameters={"rope_type": "default", "rope_theta": 100.0, **sections, **rope})
    return wrap(model, tiny.processor(family), name=f"steep-{family}", revision="0")


def all_ones(query, key, value, cos, sin, *, rows, cols, scaling, **_):
    """A score for `capture`: the logits of all-ones queries and keys, turned as the model turns its own."""
    cos, sin = cos.double(), sin.double()
    half = cos.shape[-1] // 2
    sign = torch.ones(2 * half, dtype=torch.float64)
    sign[:half] = -1  # rotate_half of ones
    turned = (cos + sign * sin).expand(len(query), -1, -1)
    rest = torch.ones(*turned.shape[:2], query.shape[-1] - 2 * half, dtype=torch.float64)
    turned = torch.cat([turned, rest], -1)
    q, k = (turned.gather(1, at[..., None].expand(-1, -1, turned.shape[-1])) for at in (rows, cols))
    return (q @ k.transpose(1, 2) * scaling)[:, None].float()


def logits(rotary, layout, after):
    """(N,) of the module under test, for one distance or several of equal share."""
    after = np.atleast_1d(after)
    axes = np.full(len(rotary["inv_freq"]), -1) if rotary["axes"] is None else np.array(rotary["axes"])
    b = ones_logits(
        layout,
        inv_freq=np.array(rotary["inv_freq"]),
        axes=axes,
        query_distance=after,
        shares=np.full(len(after), 1 / len(after)),
    )
    return b * rotary["scaling"] * rotary["attention_scaling"] ** 2


def compare(vlm, images, prompts, tmp_path, queries="last"):
    """b of every image against the model's own, in one left-padded batch; the distances."""
    enc = vlm.encode(images, prompts)
    with capture(vlm, [0], queries=queries, score=all_ones) as rows:
        vlm.forward(enc)
    kw = {"queries": queries, "prompt": prompts, "batch_size": len(images), "progress": False}
    maps = collect(vlm, images, layers=[0], out=tmp_path / "maps", ids=[str(i) for i in range(len(images))], **kw)
    assert maps.settings["rotary"] == rotary_of(vlm)
    after = [maps.record(i).query_distance for i in range(maps.n)]
    for i, (layout, owner, (first, last)) in enumerate(zip(enc.layouts, enc.owners, enc.spans, strict=True)):
        want = rows[0].values[owner, 0, 0, first:last].double().numpy()
        found = logits(maps.settings["rotary"], layout, after[i])
        if layout.family == "idefics3":  # text stands between its tiles, which is not counted
            keep = layout.tile == layout.tile.max()
            want, found = want[keep], found[keep]
        np.testing.assert_allclose(found - found.mean(), want - want.mean(), atol=1e-5)
        assert want.std() > 0.03, "the model's logits vary, so that agreement means something"
    return after


@FAMILIES
def test_logits_are_those_of_the_models_own_cosines(family, tmp_path):
    vlm = steep(family)
    prompts = tiny.texts(4)
    after = compare(vlm, tiny.images(4), prompts, tmp_path)
    for i, image in enumerate(tiny.images(4)):  # alone, without padding; the distance counted by hand
        ids = vlm.encode([image], [prompts[i]]).inputs["input_ids"][0].tolist()
        last = max(k for k, t in enumerate(ids) if t == vlm.image_token_id)
        assert after[i] == len(ids) - 1 - last
    assert len(set(after)) > 1


@FAMILIES
def test_several_images_have_their_own_distances(family, tmp_path):
    pictures = tiny.images(6, seed=3)
    after = compare(steep(family), [pictures[:3], pictures[3:5], pictures[5:]], tiny.texts(3), tmp_path)
    assert after[0] > after[1] > after[2] and after[3] > after[4]


def test_a_chosen_query_row(tmp_path):
    for family in ("internvl", "qwen3_vl"):
        last = compare(steep(family), tiny.images(2), tiny.texts(2), tmp_path / f"{family}0")
        earlier = compare(steep(family), tiny.images(2), tiny.texts(2), tmp_path / f"{family}3", torch.tensor([-4]))
        assert [a - b for a, b in zip(last, earlier, strict=True)] == [3, 3]


def test_several_query_rows_count_as_their_mean(tmp_path):
    kw = {"prompt": tiny.texts(3), "batch_size": 3, "progress": False}
    vlm = tiny.vlm("qwen2_vl")
    last, text = (collect(vlm, tiny.images(3), layers=[0], queries=q, out=tmp_path / q, **kw) for q in ("last", "text"))
    for i in range(3):  # rows 1 .. n after the image
        assert text.record(i).query_distance == round((last.record(i).query_distance + 1) / 2)
    ends = collect(vlm, tiny.images(3), layers=[0], queries=torch.tensor([-1, -3]), **kw).provenance["after"]
    assert [length for length, _ in ends] == sorted({last.record(i).query_distance - 1 for i in range(3)})


def test_scaled_and_partial_embeddings(tmp_path):
    vlm = steep("internvl", rope_type="yarn", factor=4.0, original_max_position_embeddings=1024)
    assert rotary_of(vlm)["attention_scaling"] > 1.1
    compare(vlm, tiny.images(3), tiny.texts(3), tmp_path)
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    size = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 1}
    phi = Phi3Model(Phi3Config(**size, intermediate_size=32, vocab_size=8, pad_token_id=0, rope_parameters=rope))
    found = rotary_of(SimpleNamespace(decoder=phi))
    assert len(found["inv_freq"]) == 4 and found["head_dim"] == 16 and found["axes"] is None
    cos, sin = phi.rotary_emb(torch.zeros(1), torch.arange(30)[None])
    q, k = apply_rotary_pos_emb(torch.ones(1, 1, 30, 16), torch.ones(1, 1, 30, 16), cos, sin)
    want = (q[0, 0, -1] @ k[0, 0, 3:23].T * 16**-0.5).double().numpy()
    got = logits(found, TokenLayout.raster(4, 5, size=(9, 9), family="x"), 29 - 22)
    np.testing.assert_allclose(got - got.mean(), want - want.mean(), atol=1e-5)


def test_sections_are_read_off_the_embedding():
    published = {
        "qwen2_vl": [0] * 16 + [1] * 24 + [2] * 24,
        "qwen3_vl": [0, 1, 2] * 20 + [0] * 4,
    }
    for family, want in published.items():
        vlm = tiny.vlm(family, hidden=256, heads=2, kv=2, layers=1)
        assert rotary_of(vlm)["axes"] == want and rotary_of(vlm)["head_dim"] == 128
        assert json.loads(json.dumps(rotary_of(vlm))) == rotary_of(vlm)


def test_no_embedding_or_one_per_layer_type_is_none():
    size = {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 8}
    gemma = Gemma3TextModel(Gemma3TextConfig(**size, intermediate_size=32, num_hidden_layers=2))
    for decoder in (gemma, GPT2Model(GPT2Config(n_embd=8, n_head=2, n_layer=1, vocab_size=8))):
        assert rotary_of(SimpleNamespace(decoder=decoder)) is None


# ------------------------------------------------------------------------------------------ the estimator
FLAT = rotary_of(steep("internvl"))
GRIDS = rotary_of(steep("qwen2_5_vl"))
SCALED = {**FLAT, "attention_scaling": 1.2}
TILED = [
    TokenLayout.tiled(r, c, (4, 4), size=(64 * c, 64 * r), family="internvl", thumbnail=r * c > 1)
    for r, c in ((1, 1), (1, 2), (2, 2))
]
RASTERS = [TokenLayout.raster(*grid, size=(64, 64), family="qwen2_5_vl") for grid in ((16, 20), (24, 9), (12, 12))]
CASES = pytest.mark.parametrize(("rotary", "layouts"), [(FLAT, TILED), (SCALED, TILED), (GRIDS, RASTERS)])


def planted(rotary, layouts, scales=(0.5, -1.5), noise=0.0, n=12, after=(7, 30), seed=0, **settings):
    """Maps of one layer whose log attention is scale * b plus noise, b averaged over the distances in turn."""
    rng = np.random.default_rng(seed)
    known = {"model": "m", "family": layouts[0].family, "heads": "all", "layers": [2], "folds": 4, "rotary": rotary}
    maps = StreamedMaps({**known, **settings})
    for layout in layouts:
        b = np.array(scales)[:, None] * logits(rotary or FLAT, layout, after)
        for i in range(n):
            x = np.exp(b + noise * rng.standard_normal(b.shape) - 4 + rng.standard_normal())
            maps.add(ImageRecord(f"{layout.key}{i}", layout, f"{layout.key}{i}", after[i % len(after)]), x[None])
    return maps


def centred(profile, layout, layer=2):
    values = profile.expected(layout, layer).double().log().numpy()
    return values - values.mean(axis=1, keepdims=True)


@CASES
def test_a_planted_scale_is_recovered_and_carried_to_other_layouts(rotary, layouts, tmp_path):
    maps = planted(rotary, layouts[:2])
    profile = RopeProfile().fit(maps)
    np.testing.assert_allclose(profile.arrays_[2]["curve"]["scale"], [0.5, -1.5], rtol=1e-4)
    loaded = profiles.load(profile.save(tmp_path / "p"))
    for layout in layouts:
        b = logits(rotary, layout, (7, 30))
        np.testing.assert_allclose(centred(profile, layout)[0], 0.5 * (b - b.mean()), atol=1e-3)
        assert torch.equal(loaded.expected(layout, 2), profile.expected(layout, 2))
    noisy = planted(rotary, layouts[:2], noise=1.0, n=300)
    np.testing.assert_allclose(RopeProfile().fit(noisy).arrays_[2]["curve"]["scale"], [0.5, -1.5], atol=0.05)


@CASES
def test_a_given_scale_is_the_prior_as_it_stands(rotary, layouts):
    maps = planted(rotary, layouts[:1], noise=1.0)
    profile = RopeProfile(scale=1.0).fit(maps)
    b = logits(rotary, layouts[2], (7, 30))
    np.testing.assert_allclose(centred(profile, layouts[2]), np.tile(b - b.mean(), (2, 1)), atol=1e-5)
    half = RopeProfile(scale=0.5).fit(maps)
    np.testing.assert_allclose(centred(half, layouts[2]), centred(profile, layouts[2]) / 2, atol=1e-5)


def test_logits_are_the_mean_over_the_distances_and_their_numbers():
    maps = planted(FLAT, TILED[:1], n=3, after=(4, 4, 50))
    assert maps.provenance["after"] == [[4, 2], [50, 1]]
    b = (2 * logits(FLAT, TILED[2], 4) + logits(FLAT, TILED[2], 50)) / 3
    np.testing.assert_allclose(centred(RopeProfile(scale=1).fit(maps), TILED[2])[0], b - b.mean(), atol=1e-5)


def test_it_explains_held_out_what_it_is_made_for():
    for rotary, layouts in ((FLAT, TILED), (GRIDS, RASTERS)):
        maps = planted(rotary, layouts, scales=(1.0, 0.0), noise=0.7, n=40)
        found = variance_explained(maps, estimator="rope")
        assert found.per_head_r2[0] > 0.1 and abs(found.per_head_r2[1]) < 0.01 and found.n == 120
    chosen = select_estimator(planted(FLAT, TILED, noise=0.7, n=40))
    assert chosen.best == "rope" and isinstance(chosen.estimator, RopeProfile)


def test_what_cannot_be_fitted_is_one_clear_line():
    for maps, words in [
        (planted(None, TILED), "rotary embedding, which these maps do not tell: collect them again, or use"),
        (without_distances(), "how far the query is"),
        (simulate("none", [(TILED[0], 20)]).maps, "rotary embedding"),
    ]:
        chosen = lambda m: select_estimator(m, candidates=["mean", "rope"])  # noqa: E731
        for act in (RopeProfile().fit, lambda m: variance_explained(m, estimator="rope"), chosen):
            with pytest.raises(InputError, match=words) as caught:
                act(maps)
            assert "\n" not in str(caught.value)
        assert "rope" not in set(select_estimator(maps).table["estimator"])
        assert RopeProfile.refuses(maps.provenance) and ExponentialProfile.refuses(maps.provenance) is None
    for scale in ("much", None, True, float("nan")):
        with pytest.raises(InputError, match="scale must be 'fit' or a finite number"):
            RopeProfile(scale=scale).fit(planted(FLAT, TILED))
    with pytest.raises(InputError, match="single rasters"):
        logits(GRIDS, TILED[1], 5)


def without_distances():
    maps = planted(FLAT, TILED)
    maps._query_distances.clear()
    return maps


def test_simulated_maps_can_say_how_a_model_turns():
    maps = simulate("none", [(TILED[0], 20)], rotary=FLAT, query_distance=9).maps
    assert maps.provenance["rotary"] == FLAT and maps.provenance["after"] == [[9, 20]]
    assert "rope" in set(select_estimator(maps).table["estimator"])


def test_the_card_is_short(tmp_path):
    path = RopeProfile().fit(planted(GRIDS, RASTERS)).save(tmp_path / "p")
    card = path.with_suffix(".md").read_text()
    assert "| rotary | 8 frequencies from 1 to " in card and ": time 2, height 3, width 3 |" in card
    assert "| after | 7 to 30 tokens from the image to the query, mean 18.5 |" in card
    assert not re.search(r"0\.\d+, 0\.\d+", card) and in_words({"model": "m", "rotary": None}) == {}


# ------------------------------------------------------------------------------------------ folders of maps
def run(folder, n=5):
    kw = {"prompt": "Where is it?", "batch_size": 2, "progress": False}
    return collect(tiny.vlm("internvl"), tiny.images(n), layers=[0], out=folder, **kw)


def test_folders_keep_the_distance_and_go_on(tmp_path):
    whole = run(tmp_path / "whole")
    folder = shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    lines = (folder / "images.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "images.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:-9])
    assert StoredMaps(folder).n == 2
    again = run(folder)
    assert again.provenance == StoredMaps(folder).provenance == whole.provenance
    assert sum(count for _, count in whole.provenance["after"]) == 5
    assert (folder / "images.jsonl").read_bytes() == b"".join(lines)
    assert RopeProfile().fit(StoredMaps(folder)).hash == RopeProfile().fit(whole).hash


def test_older_folders_open_and_go_on(tmp_path):
    run(tmp_path / "maps", n=3)
    settings = json.loads((tmp_path / "maps/maps.json").read_text())
    settings.pop("rotary")
    (tmp_path / "maps/maps.json").write_text(json.dumps(settings))
    index = tmp_path / "maps/images.jsonl"
    records = [json.loads(line) for line in index.read_text().splitlines()]
    index.write_text("".join(json.dumps({k: v for k, v in r.items() if k != "after"}) + "\n" for r in records))
    older = StoredMaps(tmp_path / "maps")
    assert older.n == 3 and "after" not in older.provenance and older.record(0).query_distance is None
    more = run(tmp_path / "maps")
    assert more.n == 5 and sum(count for _, count in more.provenance["after"]) == 2
    with pytest.raises(InputError, match="rotary embedding"):
        RopeProfile().fit(more)
