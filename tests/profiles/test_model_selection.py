"""Choosing an estimator: the two criteria against brute force over images, and their favourites."""

import json
import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import mean_gamma_deviance

from biaslab.cli.app import main
from biaslab.core.layout import TokenLayout
from biaslab.datasets.calibration import calibration
from biaslab.errors import InputError
from biaslab.maps.base import ImageRecord, fold_of
from biaslab.maps.moments import centred_log
from biaslab.maps.streamed import StreamedMaps
from biaslab.profiles import MeanProfile, SmoothProfile, TileProfile, load, select_estimator
from biaslab.profiles.registry import positional_names
from biaslab.workflows.fit_bias import fit_bias

ONE = TokenLayout.raster(4, 4, size=(64, 64), family="internvl")
TILED = TokenLayout.tiled(1, 2, (4, 4), size=(128, 64), family="internvl", thumbnail=True)
RARE = TokenLayout.tiled(2, 2, (4, 4), size=(128, 128), family="internvl", thumbnail=True)


def make_maps(images, noise=1.0, heads=1, layers=(0,), seed=0, draw=None):
    rng = np.random.default_rng(seed)
    maps = StreamedMaps({"layers": list(layers), "folds": 5, "heads": "all", "family": "internvl"})
    rows = []
    for layout, n in images:
        bias = 2 * layout.centers[:, 1]
        for i in range(n):
            shape = (len(layers), heads, layout.n)
            x = np.exp(bias + noise * rng.standard_normal(shape)) if draw is None else np.exp(bias) * draw(rng, shape)
            name = f"{layout.key}-{i}"
            maps.add(ImageRecord(name, layout, name), (x / 1000).astype(np.float32))
            rows.append((layout, fold_of(name, 5), (x / 1000).astype(np.float32).astype(np.float64)))
    return maps, rows


def value(found, name, criterion, column="value"):
    t = found.table
    return t[(t["estimator"] == name) & (t["criterion"] == criterion)][column].item()


def test_both_criteria_equal_brute_force_over_images():
    maps, rows = make_maps([(ONE, 23), (TILED, 14)], heads=2, layers=(0, 4))
    found = select_estimator(maps, candidates=["mean", "geometric"], layers=[4])
    gain, total, saved, tokens = (np.zeros(5) for _ in range(4))
    for layout, fold, x in rows:
        rest = [y[1] for other, f, y in rows if other.key == layout.key and f != fold]
        logs, predicted = centred_log(x[1]), centred_log(np.mean(rest, axis=0))
        total[fold] += (logs**2).sum()
        gain[fold] += (logs**2).sum() - ((logs - predicted) ** 2).sum()
        mean = np.mean(rest, axis=0)
        flat = np.broadcast_to(mean.mean(axis=1, keepdims=True), mean.shape)
        for head in range(2):
            loss = [mean_gamma_deviance(x[1, head], m[head]) for m in (flat, mean)]
            saved[fold] += layout.n * (loss[0] - loss[1])
        tokens[fold] += mean.size
    assert value(found, "mean", "r2") == pytest.approx(gain.sum() / total.sum(), rel=1e-5)
    assert value(found, "mean", "deviance") == pytest.approx(saved.sum() / tokens.sum(), rel=1e-5)
    out = (gain.sum() - gain) / (total.sum() - total)
    half = stats.t.ppf(0.975, 4) * np.sqrt(4 / 5 * ((out - out.mean()) ** 2).sum())
    lo, hi = (value(found, "mean", "r2", c) for c in ("value_lo", "value_hi"))
    assert hi - lo == pytest.approx(2 * half, rel=1e-5)
    assert (found.table["n"] == 37).all() and found.unseen == 0


def test_each_criterion_has_its_favourite():
    def skewed(rng, shape):  # the lower half is at times a sink: its mean lies far above its geometric mean
        low = np.arange(shape[-1]) >= shape[-1] // 2
        return np.exp(np.where(low, 1.5, 0.1) * rng.standard_normal(shape))

    maps, _ = make_maps([(ONE, 400)], draw=skewed)
    by_log, by_deviance = (
        select_estimator(maps, candidates=[MeanProfile(), "geometric"], criterion=c) for c in ("r2", "deviance")
    )
    assert by_log.best == "geometric" and by_deviance.best == "mean"
    for found, other in ((by_log, "mean"), (by_deviance, "geometric")):  # the interval of the difference is clear of 0
        assert value(found, other, found.criterion, "behind_lo") > 0


def test_the_right_estimator_is_chosen_and_can_be_fitted():
    maps, _ = make_maps([(ONE, 12)], noise=2.0)
    found = select_estimator(maps, candidates=["geometric", SmoothProfile()])
    assert found.best == "smooth" and found.estimator.fit(maps).layers_ == [0]
    behind = found.table[found.table["criterion"] == "r2"]
    assert behind["behind"].tolist()[0] == 0 and (behind["behind"] >= 0).all()
    assert list(found.table["criterion"].unique()) == ["r2", "deviance"] and "best='smooth'" in repr(found)
    # on one tile `tile` and `mean` are the same: the one that transports is taken
    assert select_estimator(maps, candidates=["mean", "tile"]).best == "tile"
    # two settings of one class keep apart
    two = select_estimator(maps, candidates=[SmoothProfile(strength=0), SmoothProfile(strength=10.0)])
    assert two.estimator.strength == 10.0 and "strength=10.0" in two.best


def test_layouts_that_others_lack_are_flat_for_those_that_do_not_transport():
    maps, rows = make_maps([(ONE, 30), (RARE, 1)], noise=0.3)
    found = select_estimator(maps, candidates=["mean", "tile"])
    assert found.unseen == 1 and (found.table["n"] == 31).all()
    total = sum((centred_log(x) ** 2).sum() for _, _, x in rows)
    alone = select_estimator(make_maps([(ONE, 30)], noise=0.3)[0], candidates=["mean"])
    seen = sum((centred_log(x) ** 2).sum() for layout, _, x in rows if layout is ONE)
    assert value(found, "mean", "r2") == pytest.approx(value(alone, "mean", "r2") * seen / total, rel=1e-6)
    assert value(found, "tile", "r2") > value(found, "mean", "r2")


def test_layers_together_and_apart():
    maps, _ = make_maps([(ONE, 25)], layers=(2, 5))
    found = select_estimator(maps)
    fitting = set(positional_names()) - {"rope"}  # the maps do not tell how the model turns positions
    assert set(found.table["estimator"]) == fitting and len(found.table) == 2 * len(fitting)
    with pytest.raises(InputError, match="'rope' needs the model's rotary embedding"):
        select_estimator(maps, candidates=["mean", "rope"])
    assert list(found.by_layer["layer"].unique()) == [2, 5] and len(found.by_layer) == 2 * len(found.table)
    apart = select_estimator(maps, layers=[5]).table
    same = found.by_layer[found.by_layer["layer"] == 5].drop(columns="layer").reset_index(drop=True)
    assert same.equals(apart)
    for c in ("r2", "deviance"):
        mean = found.by_layer[(found.by_layer["criterion"] == c) & (found.by_layer["estimator"] == "mean")]["value"]
        assert mean.min() <= value(found, "mean", c) <= mean.max()


def test_bad_input_is_one_clear_line():
    maps, _ = make_maps([(ONE, 20)])
    for options, reason in [
        ({"criterion": "aic"}, "r2, deviance"),
        ({"candidates": []}, "no candidates"),
        ({"candidates": ["median"]}, "median"),
        ({"layers": [7]}, "layers=.7"),
        ({"layers": []}, "layers"),
        ({"confidence": 95}, "confidence"),
    ]:
        with pytest.raises(InputError, match=reason):
            select_estimator(maps, **options)
    with pytest.raises(InputError, match="two folds"):
        select_estimator(make_maps([(ONE, 1)])[0], candidates=[TileProfile()])


# -- fit-bias --estimator auto -----------------------------------------------------------------------------------
@pytest.mark.slow
def test_auto_fits_the_estimator_chosen_and_records_it(grounder, tmp_path):
    made = calibration(grounder, "scenes", n=16)
    fitted = fit_bias(grounder, made, estimator="auto", layers=[1, 3], progress=False, criterion="deviance")
    found = fitted.selection
    assert found.criterion == "deviance" and fitted.profile.name == found.best
    again = select_estimator(fitted.maps, criterion="deviance")
    assert again.best == found.best and again.table.equals(found.table)
    selected = load(fitted.profile.save(tmp_path / "auto")).provenance_["selected"]
    assert selected == {"by": "deviance", "among": positional_names()}
    assert fit_bias(grounder, made, estimator="mean", layers=[1], progress=False).selection is None
    with pytest.raises(InputError, match="r2, deviance"):
        fit_bias(grounder, made, estimator="auto", layers=[1], criterion="aic")


def test_auto_with_too_few_images_takes_the_mean_and_says_so(grounder):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fitted = fit_bias(grounder, calibration(grounder, "scenes", n=1), estimator="auto", layers=[1], progress=False)
    assert any("'mean' is used" in str(w.message) for w in said)
    assert fitted.profile.name == "mean" and fitted.selection is None


@pytest.mark.slow
def test_auto_on_the_command_line(tmp_path, capsys):
    common = ["fit-bias", "--n", "12", "--layers", "1", "--estimator", "auto", "--out", str(tmp_path / "p.safetensors")]
    with pytest.raises(SystemExit) as done:
        main(common)
    assert done.value.code in (0, None)
    out = capsys.readouterr().out
    assert "chosen by r2" in out and all(name in out for name in positional_names())
    with pytest.raises(SystemExit):
        main([*common, "--json"])
    out = capsys.readouterr().out
    found = json.loads(out)["selection"]
    assert found["best"] in positional_names() and len(found["table"]) == 2 * len(positional_names())
