"""How much attention each frame draws: planted and found, against sums over single prompts, and on prompts alone."""

from __future__ import annotations

import numpy as np
import pytest

from biaslab.core.frames import frames_layout, parts_of_frames
from biaslab.core.layout import TokenLayout
from biaslab.diagnostics import diagnose
from biaslab.diagnostics.measures.frame_mass import frame_mass
from biaslab.diagnostics.measures.frame_order import frame_order
from biaslab.diagnostics.measures.frame_top import frame_top
from biaslab.errors import InputError
from biaslab.maps.base import ImageRecord
from biaslab.maps.simulate import Content, simulate
from biaslab.maps.stored import StoredMaps

pytestmark = pytest.mark.slow

ONE = TokenLayout.raster(4, 4, size=(64, 64), family="internvl")
VIDEO = {n: frames_layout([ONE] * n) for n in (2, 4, 8)}
QUIET = Content(amplitude=0.2, target=0.5)


def test_a_planted_trend_is_found_and_none_where_none_is():
    made = simulate("bottom-heavy", {VIDEO[4]: 60, VIDEO[8]: 60, ONE: 10}, frames=2.0, content=QUIET)
    row = frame_order(made.maps).iloc[0]
    x, y = [], []  # the slope of the planted truth itself
    for n in (4, 8):
        place = (np.arange(n) + 0.5) / n
        level = np.array([made.truth[VIDEO[n].key][at].mean() for _, at in parts_of_frames(VIDEO[n])])
        x.append(place - place.mean())
        y.append(level - level.mean())
    want = np.concatenate(x) @ np.concatenate(y) / (np.concatenate(x) ** 2).sum()
    assert row["slope_lo"] < want < row["slope_hi"] and row["slope"] == pytest.approx(want, abs=0.1)
    assert row["n"] == 120 and row["per_video"] == pytest.approx(np.exp(row["slope"]))
    flat = frame_order(simulate("bottom-heavy", {VIDEO[4]: 60}, content=QUIET).maps).iloc[0]
    assert flat["slope_lo"] < 0 < flat["slope_hi"]


def test_mass_is_the_ratio_of_sums_over_prompts(tmp_path):
    rng = np.random.default_rng(0)
    settings = {"layers": [2], "heads": "all", "folds": 3, "model": "tiny"}
    maps, attention = StoredMaps.create(tmp_path / "maps", settings), {2: [], 4: []}
    with maps.writing():
        for i in range(30):
            n = 2 if i % 3 == 0 else 4
            values = rng.random((1, 2, VIDEO[n].n)).astype(np.float32) * (1 + VIDEO[n].frame)
            maps.add(ImageRecord(f"v{i}", VIDEO[n], str(i)), values)
            attention[n].append(values[0])
    table = frame_mass(maps)
    assert len(table) == 2 * (2 + 4)
    for n, prompts in attention.items():
        total = np.sum(prompts, axis=0)  # (heads, N)
        for head in range(2):
            rows = table[(table["frames"] == n) & (table["head"] == str(head))]
            share = np.array([total[head, at].sum() / total[head].sum() for _, at in parts_of_frames(VIDEO[n])])
            np.testing.assert_allclose(rows["share"], share, rtol=1e-6)
            np.testing.assert_allclose(rows["ratio"], share * n, rtol=1e-6)
            assert (rows["ratio_lo"] < rows["ratio"]).all() and (rows["n"] == len(prompts)).all()


def test_intervals_cover_an_even_share_about_as_often_as_they_say():
    covered = []
    for seed in range(30):
        table = frame_mass(simulate("none", {VIDEO[4]: 40}, seed=seed, content=QUIET).maps)
        covered += ((table["ratio_lo"] <= 1) & (table["ratio_hi"] >= 1)).tolist()
    assert 0.88 <= np.mean(covered) <= 0.99


def test_single_images_have_no_frames():
    maps = simulate("none", {ONE: 12}).maps
    for run in (frame_order, frame_mass):
        with pytest.raises(InputError, match="needs prompts of several frames: collect with frames=True"):
            run(maps)
    tables, skipped = diagnose(maps)
    assert not {"frame_order", "frame_mass"} & (set(tables) | set(skipped))
    tables, skipped = diagnose(simulate("none", {VIDEO[2]: 12}).maps)
    assert {"frame_order", "frame_mass", "mass"} <= set(tables)
    assert "frame_order" in diagnose(maps, names=["frame_order"])[1]


def videos(tmp_path, layouts, bias=lambda layout: 0.0, seed=0, heads=1, name="videos"):
    """Stored maps of videos whose frames have content of their own, and a bias over frames."""
    rng = np.random.default_rng(seed)
    settings = {"layers": [2], "heads": "mean" if heads == 1 else "all", "folds": 5, "model": "tiny"}
    maps = StoredMaps.create(tmp_path / name, settings)
    with maps.writing():
        for k, (layout, n) in enumerate(layouts):
            for i in range(n):
                logs = rng.standard_normal((1, heads, layout.n)) + bias(layout) + rng.normal()
                maps.add(ImageRecord(f"{k}-{i}", layout, f"{k}-{i}"), np.exp(logs).astype(np.float32))
    return maps


def looped_shares(values, layout, top):
    """Which frames the most attended tokens of one prompt lie in, token by token."""
    order = sorted(range(layout.n), key=lambda token: -values[token])[: max(1, round(top * layout.n))]
    return np.bincount([layout.frame[token] for token in order], minlength=layout.n_frames) / len(order)


@pytest.mark.parametrize(("top", "ends"), [(0.1, None), (0.25, 3)])
def test_the_most_attended_tokens_are_counted_prompt_by_prompt(tmp_path, top, ends):
    bias = lambda layout: 0.0 if layout is ONE else 0.8 * (layout.frame >= layout.n_frames - 2)  # noqa: E731
    maps = videos(tmp_path, [(VIDEO[8], 12), (VIDEO[2], 9), (ONE, 3)], bias, heads=2)
    table = frame_top(maps, top=top, ends=ends)
    assert len(table) == 2 * 2 * 2
    for n, count in ((8, 12), (2, 9)):
        found = [i for i in range(maps.n) if maps.record(i).layout.key == VIDEO[n].key]
        span = min(n, ends or 1)
        for head in range(2):
            shares = np.mean([looped_shares(maps.image(i, 2)[head], VIDEO[n], top) for i in found], axis=0)
            rows = table[(table["frames"] == n) & (table["head"] == str(head))].set_index("end")
            assert rows.loc["first", "share"] == pytest.approx(shares[:span].sum())
            assert rows.loc["last", "share"] == pytest.approx(shares[n - span :].sum())
            assert rows["even"].tolist() == pytest.approx([span / n] * 2) and (rows["span"] == span).all()
            np.testing.assert_allclose(rows["ratio"], rows["share"] * n / span)
            assert (rows["n"] == count).all() and (rows["share_lo"] <= rows["share"]).all()
            assert (rows["share"] <= rows["share_hi"]).all()


def test_a_planted_bias_to_the_last_frames_is_recovered(tmp_path):
    """Of 32 frames the last four draw most, as published; where that is taken away a uniform share is left."""
    small = frames_layout([TokenLayout.raster(3, 3, size=(48, 48), family="internvl")] * 32)
    bias = lambda layout: 3.0 * (layout.frame >= 28)  # noqa: E731
    rows = frame_top(videos(tmp_path, [(small, 40)], bias)).set_index("end")
    # what the same bias gives in 2,000 other prompts
    logs = np.random.default_rng(1).standard_normal((2000, small.n)) + bias(small)
    most = np.argsort(-logs, axis=1)[:, : round(0.1 * small.n)]
    want = (small.frame[most] >= 28).mean()
    assert 0.8 < want < 0.95 and rows.loc["last", "span"] == 4
    assert rows.loc["last", "share_lo"] < want < rows.loc["last", "share_hi"]
    assert rows.loc["last", "ratio"] == pytest.approx(8 * rows.loc["last", "share"])
    assert rows.loc["first", "share_hi"] < 0.125 < rows.loc["last", "share_lo"]
    slope = frame_order(videos(tmp_path, [(small, 40)], bias, name="again")).iloc[0]
    assert slope["share"] < 0.5  # a line over all frames sees less than half of it
    covered = []
    for seed in range(12):
        flat = frame_top(videos(tmp_path, [(VIDEO[8], 25)], seed=seed, name=f"flat{seed}"), n_resamples=400)
        covered += ((flat["share_lo"] <= flat["even"]) & (flat["share_hi"] >= flat["even"])).tolist()
    assert 0.85 <= np.mean(covered) <= 1


def test_questions_on_one_video_are_drawn_together_and_ties_count_in_part(tmp_path):
    rng = np.random.default_rng(0)
    settings = {"layers": [0], "heads": "mean", "folds": 3, "model": "tiny"}
    alone, again = (StoredMaps.create(tmp_path / name, settings) for name in ("alone", "again"))
    for maps in (alone, again):
        with maps.writing():
            for i in range(12):
                values = np.exp(rng.standard_normal(VIDEO[4].n))[None, None].astype(np.float32)
                for k in range(1 if maps is alone else 3):  # the same answer three times tells no more
                    maps.add(ImageRecord(f"v{i}" + (f"#{k + 1}" if k else ""), VIDEO[4], f"{i}-{k}"), values)
        rng = np.random.default_rng(0)
    one, three = frame_top(alone), frame_top(again)
    assert three["n"].tolist() == [36, 36]
    for column in ("share", "share_lo", "share_hi"):
        np.testing.assert_allclose(three[column], one[column])
    equal = StoredMaps.create(tmp_path / "equal", settings)
    with equal.writing():
        for i in range(3):
            equal.add(ImageRecord(f"v{i}", VIDEO[4], str(i)), np.ones((1, 1, VIDEO[4].n), np.float32))
    np.testing.assert_allclose(frame_top(equal)["share"], 0.25)


def test_options_of_the_most_attended_frames_are_checked(tmp_path):
    maps = videos(tmp_path, [(VIDEO[2], 6)])
    for options, said in (({"top": 0}, "top is a share"), ({"top": 1.0}, "top is a share"), ({"ends": 0}, "ends")):
        with pytest.raises(InputError, match=said):
            frame_top(maps, **options)
    with pytest.raises(InputError, match="reads single images: collect with out='FOLDER'"):
        frame_top(simulate("none", {VIDEO[2]: 6}).maps)
    with pytest.raises(InputError, match="need prompts of several frames: collect with frames=True"):
        frame_top(videos(tmp_path, [(ONE, 6)], name="single"))
