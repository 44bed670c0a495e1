"""The default prune layer is one that every model allows, and layers count from the end alike everywhere."""

from __future__ import annotations

import pytest
import tiny

import biaslab as bl
from biaslab.errors import InputError
from biaslab.evaluation.configurations import configurations
from biaslab.models import families
from biaslab.models.offline.geometry import geometry
from biaslab.models.prune_layer import default_prune_layer, lowest_prune_layer, prune_layer, prune_layers

ALIASES = [alias for family in families().values() for alias in family.specs]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_default_is_allowed_in_every_family(family):
    vlm = tiny.vlm(family)
    with bl.prune(vlm, "fastv") as run:
        pass
    assert run.layer == prune_layer(vlm, None) and 1 <= run.layer < vlm.n_layers
    with bl.prune(vlm, "fastv", -1) as run:
        pass
    assert run.layer == vlm.n_layers - 1


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_methods_made_for_it_run_before_the_decoder(family):
    vlm = tiny.vlm(family)
    lowest = lowest_prune_layer(vlm.model.config, vlm.family)
    with bl.prune(vlm, "vispruner") as run:
        pass
    assert run.layer == lowest
    with bl.prune(vlm, "vispruner", 3) as run:
        pass
    assert run.layer == 3
    configs = configurations(["fastv", "vispruner"], 0.5, prune_layers(vlm, [None, 3]))
    default = default_prune_layer(vlm.model.config, vlm.family)
    want = [("fastv", default), ("fastv", 3), ("vispruner", lowest), ("vispruner", 3)]
    assert [(c.method.name, c.layer) for c in configs] == want and all(type(c.layer) is int for c in configs)


def test_published_models_are_pruned_where_the_papers_do(grounder):
    chosen = {}
    for alias in ALIASES[::4]:
        model = geometry(alias)
        chosen[alias] = default_prune_layer(model.config, model.family)
    assert {k for name, k in chosen.items() if "qwen3" not in name} == {2}
    assert default_prune_layer(geometry("qwen3-vl-8b").config, families()["qwen3_vl"]) == 3  # behind its deep features
    assert prune_layer(grounder, None) == prune_layer(geometry("grounder"), None) == 4


def test_windows_come_before_the_layer():
    config = tiny.config("internvl", "qwen2", layers=6)
    config.text_config.layer_types = ["sliding_attention"] * 3 + ["full_attention"] * 3
    assert default_prune_layer(config, families()["internvl"]) == 3


def test_layers_count_from_the_end(grounder):
    assert prune_layers(grounder, [-1, 0, -10, 3]) == [9, 0, 0, 3] and prune_layers(grounder, range(2)) == [0, 1]
    with pytest.raises(InputError, match="0 .. 9, or -10 .. -1 from the end; got -11"):
        prune_layer(grounder, -11)
    scenes = bl.load_dataset("scenes", n=1)
    table = bl.evaluate(grounder, scenes, methods="random", keep=0.5, layer=[None, -1], progress=False).table
    assert set(table["layer"]) == {4, 9}
