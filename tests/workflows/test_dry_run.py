"""Plans: what a command would do, from the configuration alone, equal to what it then does."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import toy_grounding
from PIL import Image

from biaslab import cost
from biaslab.core.boxes import Box
from biaslab.datasets.calibration import Calibration, calibration
from biaslab.errors import InputError, ModelError, ProfileMismatchError, UnsupportedError
from biaslab.evaluation.configurations import configurations
from biaslab.models.grounding import MAX_NEW_TOKENS
from biaslab.models.offline.geometry import Geometry, geometry
from biaslab.models.registry import families, grounder_folder
from biaslab.workflows import dry_run as planning
from biaslab.workflows.dry_run import plan_evaluate, plan_fit, size

ALIASES = [next(iter(f.specs)) for f in families().values() if f.specs]


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    """Neither cache nor network, whatever this machine has."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", _offline)


def _offline(*_, **__):
    raise ConnectionError("no network")


@pytest.fixture
def no_weights(monkeypatch):
    """Loading a weight is an error."""
    from transformers import PreTrainedModel

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", lambda *_, **__: pytest.fail("weights loaded"))


def _geometry(family):
    vlm = tiny.vlm(family)
    return Geometry(f"tiny-{family}", vlm.family, vlm.model.config, vlm.processor)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_planned_flops_and_tokens_are_those_of_the_run(family, no_weights):
    vlm, data = tiny.vlm(family), toy_grounding.Toy(4)
    layer = max(2, len(getattr(vlm.model.config.vision_config, "deepstack_visual_indexes", ())))
    methods = ["none", "random"]
    plan = plan_evaluate(_geometry(family), data, configurations(methods, 0.5, layer), new_tokens=1)
    done = toy_grounding.run(None, vlm, data, methods, 0.5, layer, max_new_tokens=1).samples
    for row, (_, lines) in zip(plan.table.to_dict("records"), done.groupby("key", sort=False), strict=True):
        assert row["kept"] == lines["tokens_kept"].mean()
        for part in ("vision", "projector"):
            assert row[f"tflops_{part}"] == pytest.approx(lines[f"tflops_{part}"].mean())
        # one prompt per image size stands for all of that size
        assert row["tflops_decoder"] == pytest.approx(lines["tflops_decoder"].mean(), rel=0.15)
    tokens = done["tokens"].astype(int)
    assert plan.data["tokens"] == {"min": tokens.min(), "median": tokens.median(), "max": tokens.max()}
    assert plan.model["layers"] == vlm.n_layers
    assert plan.model["parameters"] == sum(p.numel() for p in vlm.model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("alias", ALIASES)
def test_published_models_are_planned_without_files(alias, no_weights):
    plan = plan_evaluate(alias, toy_grounding.Toy(2), configurations(["none", "fastv"], 0.1, 4), batch_size=2)
    assert 5e8 < plan.model["parameters"] < 1e11
    assert plan.model["weights"] == 2 * plan.model["parameters"] == plan.model["disk"]
    assert plan.model["dtype"] == "bfloat16" and "computed" in plan.model["disk_source"]
    assert "published sizes" in plan.text() and "billion parameters" in plan.text()
    full, pruned = plan.table.to_dict("records")
    assert pruned["tflops_decoder"] < full["tflops_decoder"] and pruned["kv_mib"] < full["kv_mib"]
    assert pruned["tflops_vision"] == full["tflops_vision"] > 0


def test_kv_cache_is_that_of_a_batch_of_the_longest_prompts(no_weights):
    found = _geometry("internvl")
    plan = plan_evaluate(
        found, toy_grounding.Toy(4), configurations(["random"], 0.5, 2), n=4, batch_size=3, dtype="float32"
    )
    vlm, samples = tiny.vlm("internvl"), list(toy_grounding.Toy(4))
    encoded = [vlm.encode_grounding([s.image()], [s.expression]) for s in samples]
    layout, length = max(((e.layouts[0], e.last + 1) for e in encoded), key=lambda found: found[1])
    sizes, cut = (layout.n, length - layout.n), {"keep_n": layout.n // 2, "layer": 2, "new_tokens": MAX_NEW_TOKENS}
    wanted = 3 * cost.kv_bytes(found.config.text_config, *sizes, **cut, dtype="float32") / 2**20
    assert plan.table["kv_mib"][0] == pytest.approx(wanted, rel=0.05)


def test_fitting_stops_behind_the_last_layer(no_weights):
    images = Calibration("noise", tiny.images(3), "Where?", None)
    one, all_ = (plan_fit(_geometry("internvl"), images, layers=layers) for layers in ([0], None))
    assert one.table["layers"].tolist() == ["1 of 4"] and all_.table["layers"].tolist() == ["4 of 4"]
    assert one.table["tflops_decoder"][0] == pytest.approx(all_.table["tflops_decoder"][0] / 4)
    assert one.data["count"] == "3 images" and one.data["sizes"] == 3


def test_image_options_change_the_plan(no_weights):
    sizes = [Image.new("RGB", size) for size in ((640, 480), (1200, 300))]
    images = Calibration("blank", sizes, "?")
    wide, narrow = (plan_fit("internvl2.5", images, image_options=o).table for o in ({}, {"max_tiles": 1}))
    assert narrow["kept"].tolist() == [256.0] and wide["kept"][0] > 1000
    with pytest.raises(InputError, match="no image option"):
        plan_fit("internvl2.5", images, image_options={"max_pixels": 1})


def test_room_for_maps_is_what_they_take(tmp_path, no_weights):
    from biaslab import collect

    vlm, pictures = tiny.vlm("internvl"), tiny.images(3)
    images = Calibration("noise", pictures, "Where?", ["a", "b", "c"])
    for heads in ("mean", "all"):
        out = tmp_path / str(heads)
        plan = plan_fit(_geometry("internvl"), images, layers=[1, 2], heads=heads, maps=out)
        collect(vlm, pictures, layers=[1, 2], prompt="Where?", heads=heads, out=out, progress=False, ids=images.ids)
        taken = sum(f.stat().st_size for f in out.glob("*.f32"))
        assert f"the maps folder would take {size(taken)}" in plan.notes


def test_pictures_are_not_decoded_and_broken_ones_are_counted(tmp_path, no_weights):
    for i, image in enumerate(tiny.images(2)):
        image.save(tmp_path / f"{i}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    found = _geometry("internvl")
    plan = plan_fit(found, calibration(found, tmp_path), layers=[0])
    assert plan.data["count"] == "2 images" and "1 image cannot be read" in plan.notes[0]
    header = (tmp_path / "0.png").read_bytes()[:60]
    (tmp_path / "0.png").write_bytes(header)  # no pixels left, but a size
    assert planning.readable_size(tmp_path / "0.png") == tiny.images(1)[0].size
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "x.png").write_bytes(b"")
    with pytest.raises(InputError, match="none could be read"):
        plan_fit(found, calibration(found, tmp_path / "only"), layers=[0])


def test_pictures_the_model_refuses_are_counted(no_weights):
    """The real run skips or logs such an image alone, so the plan goes on, too."""
    found, narrow = _geometry("qwen2_5_vl"), Image.new("RGB", (2000, 3))
    plan = plan_fit(found, Calibration("x", [*tiny.images(2), narrow], "Where?"), layers=[0])
    assert plan.data["count"] == "2 images" and "1 image cannot be cut or resized by this model" in plan.notes[0]
    with pytest.raises(InputError, match="no image to plan for: .*2000x3.*aspect ratio"):
        plan_fit(found, Calibration("x", [narrow], "Where?"), layers=[0])
    data = toy_grounding.Toy(4)
    data.samples[1] = replace(data.samples[1], width=2000, height=3, box=Box(5, 0, 40, 3))
    plan = plan_evaluate(found, data, configurations(["none"], 0.5, 1))
    assert "1 expression on images that this model cannot cut or resize" in plan.notes[-1]
    assert plan.notes[0].startswith("3 x 1 = 3 answers") and plan.data["count"].startswith("4 expressions")


def test_size_on_disk(monkeypatch, tmp_path, no_weights):
    import huggingface_hub

    from biaslab.models.registry import resolve

    embedded = plan_fit("grounder", Calibration("noise", tiny.images(1), "Where?"))
    files = grounder_folder().glob("*.safetensors")
    assert embedded.model["disk"] == sum(f.stat().st_size for f in files)
    assert embedded.model["disk_source"] == "on this machine"
    listed = {"a.safetensors": 3, "b.safetensors": 4, "c.bin": 9}
    files = [SimpleNamespace(rfilename=name, size=n) for name, n in listed.items()]
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: SimpleNamespace(siblings=files))
    plan = plan_fit(ALIASES[0], Calibration("noise", tiny.images(1), "Where?"), layers=[0])
    assert (plan.model["disk"], plan.model["name"]) == (7, resolve(ALIASES[0]).hub_id)
    assert "hub" in plan.model["disk_source"]


def test_what_the_run_would_refuse_the_plan_refuses(no_weights):
    found, data = _geometry("internvl"), toy_grounding.Toy(2)
    with pytest.raises(InputError, match="layer must be"):
        plan_evaluate(found, data, configurations(["random"], 0.5, 99))
    with pytest.raises(UnsupportedError, match="K = 0"):
        plan_evaluate(found, data, configurations(["fastv"], 0.5, 0))
    with pytest.raises(ProfileMismatchError, match="fitted for model"):
        plan_evaluate("grounder", data, configurations(["relative"], 0.5, 2, toy_grounding.profile()))
    with pytest.raises(InputError, match="dtype"):
        plan_evaluate(found, data, configurations(["none"], 0.5, 2), dtype="int3")
    with pytest.raises(ModelError, match="hf download a/b"):
        plan_evaluate("a/b", data, configurations(["none"], 0.5, 2))


def test_a_tower_of_unknown_cost_is_planned_without_flops(monkeypatch, no_weights):
    monkeypatch.setattr(cost.vision, "VISION", {})
    plan = plan_fit(_geometry("internvl"), Calibration("noise", tiny.images(1), "Where?"), layers=[0])
    assert np.isnan(plan.table["tflops_vision"][0]) and plan.table["kept"][0] > 0
    assert plan.record()["rows"][0]["tflops_vision"] is None
    assert geometry("grounder").folder is not None


def test_sizes_in_words():
    assert [size(n) for n in (0, 1000, 1536, 15 * 2**30, 3 * 2**40)] == ["0 B", "1000 B", "1.5 KiB", "15 GiB", "3 TiB"]
