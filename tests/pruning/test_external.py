"""Scores from outside: the matrices of a published scorer in a file, and functions."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from safetensors.torch import save_file

import biaslab as bl
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.pruning import MMR, ExternalScore, TokenContext, parse
from biaslab.pruning.methods.importance_method import VISIONSELECTOR
from biaslab.pruning.works import IDPRUNER

WIDTH, D, N = 6, 10, 9
LAYOUT = TokenLayout.raster(3, 3, size=(90, 90), family="toy")


def matrices(width=WIDTH, d=D, bias=True, prefix=""):
    g = torch.Generator().manual_seed(0)
    out = {f"{p}_proj.weight": torch.randn(width, d, generator=g) for p in "qk"}
    out |= {f"{p}_proj.bias": torch.randn(width, generator=g) for p in "qk"} if bias else {}
    return {f"{prefix}{name}": weight for name, weight in out.items()}


@pytest.fixture
def features():
    return torch.randn(N, D, generator=torch.Generator().manual_seed(1))


def file(tmp_path, tensors, name="selector.safetensors"):
    path = tmp_path / name
    save_file(tensors, path)
    return path


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("prefix", ["", "visual.importance_scorer.", "module.", "model.visual.importance_scorer."])
def test_it_is_the_mean_over_all_pairs(tmp_path, features, bias, prefix):
    tensors = matrices(bias=bias, prefix=prefix)
    others = {"model.layers.0.self_attn.q_proj.weight": torch.zeros(2, 2), "lm_head.weight": torch.zeros(1)}
    got = ExternalScore(file(tmp_path, tensors | others))(features, LAYOUT)
    own, x = matrices(bias=bias), features.double()
    q, k = (x @ own[f"{p}_proj.weight"].double().T + own.get(f"{p}_proj.bias", torch.zeros(WIDTH)) for p in "qk")
    want = (q @ k.T).mean(1) / math.sqrt(WIDTH)
    torch.testing.assert_close(got.double(), want, atol=1e-5, rtol=1e-5)
    assert got.dtype == torch.float32 and want.std() > 0.1


def test_a_folder_with_one_file_will_do_and_equal_weights_are_one_score(tmp_path, features):
    path = file(tmp_path, matrices())
    (tmp_path / "hub").mkdir()
    other = file(tmp_path / "hub", {n: w.double() for n, w in matrices().items()}, "model.safetensors")
    here, there = ExternalScore(path), ExternalScore(other.parent)
    assert torch.equal(here(features, LAYOUT), there(features, LAYOUT))
    one, two = MMR(by=f"external:{path}"), MMR(by=f"external:{other.parent}")
    assert one.options_hash == two.options_hash != MMR().options_hash
    changed = matrices() | {"q_proj.bias": torch.zeros(WIDTH)}
    assert MMR(by=f"external:{file(tmp_path, changed, 'b.safetensors')}").options_hash != one.options_hash
    file(tmp_path / "hub", matrices(), "second.safetensors")
    with pytest.raises(InputError, match="holds 2 safetensors files: name the one"):
        MMR(by=f"external:{other.parent}").validate()


def test_it_is_one_word_on_a_command_line_and_back(tmp_path):
    path = file(tmp_path, matrices(), "my selector=1.safetensors")
    method = parse(f"mmr:by=external:{path}:lam=0.7")
    assert (method.lam, method.kind) == (0.7, "external")
    assert method.label == f"mmr:lam=0.7:by=external:{path}" or method.label == f"mmr:by=external:{path}:lam=0.7"
    assert parse(method.label).options_hash == method.options_hash == method.with_keep(0.5).options_hash
    assert pickle.loads(pickle.dumps(method)).options_hash == method.options_hash
    assert method.citations() == (IDPRUNER, VISIONSELECTOR) and MMR().citations() == (IDPRUNER,)
    for word in ("mmr:by=external", "mmr:by=external:"):
        with pytest.raises(InputError, match=r"by must be one of attention, .*, or external:PATH"):
            parse(word)
    with pytest.raises(InputError, match="option 'lam' .* has no value"):
        parse(f"mmr:by=external:{path}:lam")


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"q_proj.weight": torch.zeros(2, 3)}, "it lacks k_proj.weight"),
        ({"model.layers.0.self_attn.q_proj.weight": torch.zeros(2, 3)}, "it lacks q_proj.weight and k_proj.weight"),
        ({"q_proj.weight": torch.zeros(2, 3), "k_proj.weight": torch.zeros(2, 4)}, "do not fit each other"),
        (matrices() | {"q_proj.bias": torch.zeros(5)}, r"do not fit each other .*q_proj.bias \(5,\)"),
        (matrices() | {"q_proj.bias": torch.full((WIDTH,), torch.nan)}, "values that are not finite"),
    ],
)
def test_what_is_no_scorer_is_refused_in_one_line(tmp_path, tensors, said):
    method = MMR(by=f"external:{file(tmp_path, tensors)}")
    with pytest.raises(InputError, match=said) as error:
        method.validate()
    assert "\n" not in str(error.value)


def test_what_is_no_file_is_refused_before_any_work(tmp_path):
    vlm, missing = bl.load("grounder"), MMR(by=f"external:{tmp_path / 'none.safetensors'}")
    with pytest.raises(InputError, match="the file does not exist"), bl.prune(vlm, missing, layer=0):
        pytest.fail("was not refused")
    (tmp_path / "text.safetensors").write_text("no safetensors")
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        bl.evaluate(vlm, bl.load_dataset("scenes", n=1), methods=f"mmr:by=external:{tmp_path}", keep=0.1, layer=0)


def test_weights_of_another_model_are_refused_before_any_work(tmp_path, features):
    method = MMR(by=f"external:{file(tmp_path, matrices())}")
    said = r"reads features of width 10, and this model's have \d+: use the weights that were trained for this model"
    with pytest.raises(InputError, match=said), bl.prune(bl.load("grounder"), method, layer=0):
        pytest.fail("was not refused")
    with pytest.raises(InputError, match="reads features of width 10, and this model's have 4"):
        method.select(TokenContext(LAYOUT, 3, features=features[:, :4]))


def test_the_published_scorer_prunes_a_model_before_its_decoder(tmp_path):
    vlm = bl.load("grounder")
    path = file(tmp_path, matrices(d=vlm.decoder.config.hidden_size))
    results = bl.evaluate(
        vlm, bl.load_dataset("scenes", n=2), methods=["none", f"mmr:by=external:{path}"], keep=0.3, layer=0,
        progress=False,
    )  # fmt: skip
    assert results.summary()["errors"].tolist() == [0, 0]
    assert f"mmr:by=external:{path}" in results.summary()["method"].tolist()
    assert "visionselector2025" in results.citations()


# -- functions -------------------------------------------------------------------------------------------------
def right_first(features, layout):
    return torch.from_numpy(layout.centers_px[:, 0].copy())


def test_a_function_sees_features_and_layout(features):
    method = MMR(by=right_first, lam=1.0)
    assert method.needs == {"features"} and method.needs_layout and method.image_only
    assert method.select(TokenContext(LAYOUT, 3, features=features)).indices.tolist() == [2, 5, 8]
    assert method.options()["by"] == f"external:{__name__}.right_first"
    assert method.options_hash == MMR(by=ExternalScore(right_first), lam=1.0).options_hash
    assert method.options_hash != MMR(by=lambda features, layout: features[:, 0], lam=1.0).options_hash
    assert method.citations() == (IDPRUNER,)


def test_what_is_no_number_comes_last(features):
    def odd(own, layout):
        return torch.tensor([1.0, torch.nan, 5.0, torch.inf, -torch.inf, 2.0, 0.0, 0.0, 0.0])

    for name in ("mmr:lam=1.0", "scope", "greedyprune", "idselection", "cdpruner"):
        rule = parse(name)
        method = type(rule)(by=odd, **({"lam": 1.0} if name.startswith("mmr") else {}))
        kept = method.select(TokenContext(LAYOUT, 7, features=features)).indices.tolist()
        assert sorted({*range(9)} - {1, 4}) == kept


@pytest.mark.parametrize("found", [torch.zeros(N, 1), torch.zeros(N - 1), [0.0] * N])
def test_a_function_that_gives_something_else_is_refused(features, found):
    method = MMR(by=lambda features, layout: found)
    with pytest.raises(InputError, match=rf"must give a tensor of shape \({N},\), got"):
        method.select(TokenContext(LAYOUT, 3, features=features))
