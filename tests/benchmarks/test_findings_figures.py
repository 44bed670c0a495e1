"""The figures of docs/findings.md show the numbers of the tables."""

import matplotlib.pyplot as plt
import pytest

from benchmarks.report import interval
from tools.findings_figures import claims_figure, depth_figure, gap_figure

CELL = "{:+.1f} [{:+.1f}, {:+.1f}]"


def cell(value):
    return CELL.format(value, value - 2, value + 3)


@pytest.fixture(scope="module")
def results():
    gap = [
        {"method": "divprune", "place": "0", "boxes": cell(70), "questions": cell(90)},
        {"method": "fastv", "place": "1", "boxes": cell(40), "questions": cell(95)},
        {"method": "fastv, each task", "place": "1, 2", "boxes": cell(50), "questions": cell(96)},
    ]
    depth = [
        {"k": k, "boxes": cell(3), "questions": cell(k), "boxes_explained": 0.3, "questions_explained": 0.4}
        for k in (1, 2)
    ]
    tables = {"FLOPs of 10% before K = 2": gap, "10% kept before layer K: kept": depth}
    return {"tables": [{"caption": caption, "rows": rows} for caption, rows in tables.items()]}


@pytest.fixture(scope="module")
def claims():
    of_model = [
        {"model": model, "k": k, "explained": k / 10, "auroc": cell(50 + k), "gain": cell(-k)}
        for model in ("grounder", "observer") for k in (1, 2)
    ]  # fmt: skip
    pairs = [{"what": f"`{name}`", "first": cell(10), "boxes": cell(-5), "questions": cell(0)} for name in "ab"]
    tables = {"what is worth how much, in points": pairs, "debiasing by layer, 10% kept": of_model}
    return {"tables": [{"caption": caption, "rows": rows} for caption, rows in tables.items()]}


def drawn(axis, along):
    """Values of the bars by their label."""
    return {bars.get_label(): list(bars.lines[0].get_data()[along]) for bars in axis.containers}


def test_what_is_kept_stands_in_the_order_of_the_table_from_the_top(results):
    (axis,) = gap_figure(results).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["fastv (1)", "divprune (0)"]
    assert drawn(axis, 0) == {"boxes": [40, 70], "questions": [95, 90]}
    low, high = axis.containers[0].lines[1][0].get_xdata()[0], axis.containers[0].lines[1][1].get_xdata()[0]
    assert (low, high) == (38, 43)
    plt.close("all")


def test_depths_and_claims_of_both_models(results, claims):
    explained, auroc, gain = depth_figure(results, claims).axes
    assert list(gain.get_xticks()) == [1, 2]  # layers are whole
    assert [list(line.get_ydata()) for line in explained.lines] == [[10, 20], [30, 30], [40, 40]]
    assert drawn(auroc, 1) == {"grounder, boxes": [51, 52], "observer, boxes": [51, 52]}
    of_task = {"grounder, boxes": [-1, -2], "observer, boxes": [3, 3], "observer, questions": [1, 2]}
    assert drawn(gain, 1) == of_task
    (axis,) = claims_figure(claims).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["b", "a"]
    assert drawn(axis, 0)["observer, boxes"] == [-5, -5]
    plt.close("all")


def test_a_cell_without_an_interval_is_refused():
    with pytest.raises(ValueError, match="no value with an interval"):
        interval("12.0")
