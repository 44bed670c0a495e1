"""In what two runs differ."""

from __future__ import annotations

from biaslab._util.identity import Difference, differences

THERE = {"model": {"name": "a", "dtype": "float32"}, "seed": 0, "layers": [1, 2], "rotary": 1.5}


def test_equal_settings_do_not_differ():
    assert differences(THERE, dict(reversed(THERE.items()))) == []
    assert differences({"a": None}, {}) == differences({}, {"a": None}) == []


def test_all_differences_are_named_in_full():
    here = {"model": {"name": "b", "dtype": "float32"}, "seed": 0, "layers": [1], "more": True}
    found = differences(THERE, here, ignore={"rotary"})
    assert found == [("layers", [1, 2], [1]), ("model.name", "a", "b"), ("more", None, True)]
    assert str(found[1]) == "model.name: 'a' there, 'b' here"


def test_only_the_setting_of_that_full_name_is_ignored():
    inner = {"model": {"rotary": 1}}, {"model": {"rotary": 2}}
    assert differences(*inner, ignore={"rotary"}) == [Difference("model.rotary", 1, 2)]
    assert differences(*inner, ignore={"model.rotary"}) == differences(*inner, ignore={"model"}) == []


def test_what_is_no_settings_at_all_differs():
    assert differences([1], {"a": 1}) == [Difference("", [1], {"a": 1})]
