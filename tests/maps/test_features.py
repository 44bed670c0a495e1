"""What enters the decoder, kept beside the maps: the values, one copy an image, and what a kill leaves."""

import numpy as np
import pytest
import tiny
import torch

from biaslab.errors import InputError, RunFolderError
from biaslab.maps.collect import collect
from biaslab.maps.features import Features
from biaslab.maps.stored import load_maps
from biaslab.models.prune_layer import lowest_prune_layer

FAMILIES = pytest.mark.parametrize("family", tiny.CROSSED)


def gather(vlm, out, n=5, prompt=None, **options):
    """Two questions on each image but the last."""
    pictures = [picture for picture in tiny.images(3) for _ in range(2)][:n]
    ids = [f"i{k}" for k in range(n)]
    prompt = prompt or [f"{text} {k}" for k, text in enumerate(tiny.texts(n))]
    options |= {"ids": ids, "heads": "all", "features": True, "out": out, "progress": False}
    return collect(vlm, pictures, prompt=prompt, **options)


def entering(vlm, images, text):
    """Hidden states of one prompt at the door, by a hook of the test's own."""
    door, seen = lowest_prune_layer(vlm.model.config, vlm.family), {}
    enc = vlm.encode(images, [text])
    hook = vlm.decoder.layers[door].register_forward_pre_hook(
        lambda m, args, kwargs: seen.update(h=args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    vlm.forward(enc)
    hook.remove()
    visual = enc.visual[0, enc.visual_mask[0]]
    return seen["h"][0, visual], seen["h"][
        0, int(torch.where(enc.inputs["input_ids"][0] == vlm.image_token_id)[0][-1]) + 1 :
    ]


@FAMILIES
def test_they_are_what_enters_the_layer(family, tmp_path):
    vlm = tiny.vlm(family)
    maps = gather(vlm, tmp_path / "maps", batch_size=3)
    assert maps.settings["features"] == {"layer": lowest_prune_layer(vlm.model.config, vlm.family), "width": 64}
    pictures = [picture for picture in tiny.images(3) for _ in range(2)]
    for k in range(5):
        visual, text = entering(vlm, [pictures[k]], f"{tiny.texts(5)[k]} {k}")
        got = maps.features.visual(f"i{k}"), maps.features.text(f"i{k}")
        for values, want in zip(got, (visual, text), strict=True):
            assert values.shape == want.shape and values.dtype == np.float16
            np.testing.assert_allclose(values, want, atol=2e-2, rtol=2e-3)
    assert len(maps.features) == 5 and load_maps(tmp_path / "maps").features.place("i0") == maps.features.place("i0")


def test_a_picture_is_kept_once(tmp_path):
    maps = gather(tiny.vlm("internvl"), tmp_path / "maps")
    places = [maps.features.place(f"i{k}") for k in range(5)]
    assert [p.visual for p in places] == [0, 0, places[2].visual, places[2].visual, places[4].visual]
    assert len({p.text for p in places}) == 5 and len({p.picture for p in places}) == 3
    rows = (tmp_path / "maps" / "visual.f16").stat().st_size // 2 // 64
    assert rows == sum(places[k].n for k in (0, 2, 4))


@pytest.mark.parametrize("seed", range(6))
def test_it_goes_on_after_a_kill_at_any_byte(tmp_path, seed):
    vlm, rng = tiny.vlm("internvl"), np.random.default_rng(seed)
    options = {"batch_size": 1, "prompt": "Where is it?"}
    whole = gather(vlm, tmp_path / "whole", **options)
    gather(vlm, tmp_path / "cut", n=3, **options)
    for name in rng.permutation(["images.jsonl", "features.jsonl", "visual.f16", "text.f16"])[:2]:
        path = tmp_path / "cut" / name
        data = path.read_bytes()
        path.write_bytes(data[: int(rng.integers(len(data) + 1))])
    found = gather(vlm, tmp_path / "cut", **options)
    assert found.n == len(found.features) == 5
    for k in range(5):
        assert np.array_equal(found.features.visual(f"i{k}"), whole.features.visual(f"i{k}"))
        assert np.array_equal(found.features.text(f"i{k}"), whole.features.text(f"i{k}"))


def test_refusals(tmp_path):
    vlm = tiny.vlm("internvl")
    with pytest.raises(InputError, match="pass out=folder with features=True"):
        collect(vlm, tiny.images(1), features=True, progress=False)
    bare = collect(vlm, tiny.images(2), heads="all", out=tmp_path / "bare", progress=False)
    with pytest.raises(InputError, match="collect them with features=True"):
        _ = bare.features
    with pytest.raises(RunFolderError, match="features"):
        collect(vlm, tiny.images(2), heads="all", out=tmp_path / "bare", features=True, progress=False)
    maps = gather(vlm, tmp_path / "maps")
    with pytest.raises(InputError, match="no features of 'other'"):
        maps.features.visual("other")
    with pytest.raises(InputError, match="read-only here"):
        maps.features.add("x", "y", np.zeros((1, 64)), np.zeros((1, 64)))
    with pytest.raises(InputError, match="width"), Features(tmp_path, 8).writing() as features:
        features.add("x", "y", np.zeros((1, 9)), np.zeros((1, 8)))
