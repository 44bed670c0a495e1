"""`biaslab check`: a right set-up holds, and what is wrong with a wrong one is found out and named."""

from __future__ import annotations

import json
from typing import ClassVar

import pytest
import tiny
from commands import run

import biaslab as bl
from biaslab.cli.model_options import ModelChoice
from biaslab.diagnostics import agreement
from biaslab.diagnostics.check_pictures import check_samples
from biaslab.errors import InputError
from biaslab.models.vlm import VLM
from biaslab.pruning import FastV
from biaslab.workflows.check import check

SAMPLES = check_samples()
KNOWN = {(sample.expression, sample.width, sample.height): sample.box for sample in SAMPLES}


class StandIn(VLM):
    """A model whose answers are known: the right boxes, written in a space of our choice."""

    @classmethod
    def of(cls, family, write):
        base = tiny.vlm(family)
        vlm = cls(base.model, base.processor, base.family, name="stand-in")
        vlm.write, vlm.asked = write, []
        return vlm.set_image_options(**({"max_tiles": 1} if "max_tiles" in vlm.family.options else {}))

    encoded: ClassVar[dict] = {}  # of the tests before: prompts do not depend on what is answered

    def encode_grounding(self, images, expressions, **options):
        self.asked = list(expressions)
        name = (self.family.name, *expressions, *options)
        if name not in self.encoded:
            self.encoded[name] = super().encode_grounding(images, expressions, **options)
        return self.encoded[name]

    def locate_answers(self, encoded, expressions=None, **options):
        answers = []
        for layout, resized, expression in zip(encoded.layouts, encoded.resized, self.asked, strict=True):
            (w, h), (rw, rh) = layout.size, resized
            box = KNOWN[expression, w, h].as_tuple()
            answers.append(self.write(box, w, h, rw, rh))
        return self.groundings(encoded, answers)


def scaled(x, y):
    def write(box, *sides):
        sx, sy = x(*sides), y(*sides)
        return "[{:.3f}, {:.3f}, {:.3f}, {:.3f}]".format(*(v * s for v, s in zip(box, (sx, sy, sx, sy), strict=True)))

    return write


def padded(box, w, h, rw, rh):
    side, left, top = max(w, h), (max(w, h) - w) // 2, (max(w, h) - h) // 2
    return str([round((v + o) / side, 4) for v, o in zip(box, (left, top, left, top), strict=True)])


THOUSANDTHS = scaled(lambda w, *_: 1000 / w, lambda w, h, *_: 1000 / h)
WRITERS = {
    "0-1000": THOUSANDTHS,
    "0-1": scaled(lambda w, *_: 1 / w, lambda w, h, *_: 1 / h),
    "pixels of the image": scaled(lambda *_: 1, lambda *_: 1),
    "pixels of the resized image": scaled(lambda w, h, rw, rh: rw / w, lambda w, h, rw, rh: rh / h),
    "0-1 of the padded square": padded,
}
FAMILIES = {"internvl": "0-1000", "qwen2_5_vl": "pixels of the resized image", "llava": "0-1 of the padded square"}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_stand_ins_that_answer_in_every_space(family):
    for space in WRITERS if family == "internvl" else (FAMILIES[family], "0-1000", "0-1"):
        write = WRITERS[space]
        report = check(StandIn.of(family, write), batch_size=43, progress=False)
        found, own = report.answers, FAMILIES[family]
        assert found.own == own
        if space == own:
            assert found.holds and report.holds and found.verdict.startswith(f"answers fit {space} (43 of 43)")
        else:
            assert found.holds is False and not report.holds
            assert found.verdict.startswith(f"answers fit {space} (43 of 43)"), found.verdict
            assert f"read as {own}, as this family's adapter does" in report.text()
        assert all(each.holds for each in report.agreements)
        json.dumps(report.record(), allow_nan=False)


def test_answers_without_a_box():
    report = check(StandIn.of("internvl", lambda *_: "I cannot see it."), progress=False, batch_size=43)
    assert report.answers.holds is False and "43 of 43 answers hold no box" in report.text()
    assert report.fails == [report.answers.verdict]


def test_the_model_is_left_as_it_was():
    vlm = StandIn.of("qwen2_5_vl", THOUSANDTHS)
    parts = (vlm.model.config, vlm.decoder.config, vlm.model.config.vision_config)
    before = [part._attn_implementation for part in parts]
    space, hooks = vlm.family.box_space, [len(module._forward_hooks) for module in vlm.model.modules()]
    check(vlm, SAMPLES[:8], progress=False)
    assert [part._attn_implementation for part in parts] == before and vlm.family.box_space is space
    assert [len(module._forward_hooks) for module in vlm.model.modules()] == hooks  # other tests share the model


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_capture_and_pruning_agree_on_every_family(family):
    vlm = tiny.vlm(family)
    encoded = vlm.encode_grounding(tiny.images(1), ["the red circle"])
    held = agreement.capture_agreement(vlm, encoded)
    assert held.holds and held.difference <= 1e-4
    assert agreement.pruning_agreement(vlm, encoded).difference == 0


def test_a_broken_pruning_is_found_out(monkeypatch):
    vlm = StandIn.of("internvl", THOUSANDTHS)
    monkeypatch.setattr(agreement, "FastV", lambda keep: FastV(keep=0.9))  # drops what it should keep
    report = check(vlm, SAMPLES[:8], progress=False)
    pruned, captured = report.agreements
    assert pruned.holds is False and captured.holds and not report.holds
    assert "keeps all tokens = no pruning (logits): DOES NOT HOLD" in report.text()


def test_a_broken_capture_is_found_out(monkeypatch):
    from biaslab.attention import scores

    right = scores.attention_rows
    monkeypatch.setattr(scores, "attention_rows", lambda *args, **kw: right(*args, **kw).roll(1, dims=-1))
    half = bl.wrap(tiny.build("internvl").bfloat16(), tiny.processor("internvl"))
    found = agreement.capture_agreement(half, half.encode_grounding(tiny.images(1), ["the red circle"]))
    assert found.holds is False and found.difference > 2 * found.tolerance
    report = check(StandIn.of("internvl", THOUSANDTHS), SAMPLES[:8], progress=False)
    assert report.agreements[1].holds is False and "captured rows = eager attention" in report.fails[-1]


def test_what_cannot_be_compared_is_said_and_is_no_failure(monkeypatch):
    vlm = tiny.vlm("internvl")
    encoded = vlm.encode_grounding(tiny.images(1), ["the red circle"])
    monkeypatch.setattr(vlm.decoder.config, "_attn_implementation_internal", "flex_attention")
    found = agreement.capture_agreement(vlm, encoded)
    assert found.holds is None and "not checked (attention 'flex_attention' cannot be watched" in str(found)


def test_half_precision_has_its_own_tolerance():
    vlm = bl.wrap(tiny.build("internvl").bfloat16(), tiny.processor("internvl"))
    encoded = vlm.encode_grounding(tiny.images(1), ["the red circle"])
    for found in (agreement.capture_agreement(vlm, encoded), agreement.pruning_agreement(vlm, encoded)):
        assert found.holds and found.tolerance > 1e-4


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"images": "cats"}, "unknown images='cats': choose one of photographs, scenes, gallery"),
        ({"samples": SAMPLES[:8], "images": "scenes"}, "not both"),
        ({"samples": SAMPLES[:2]}, "on two images or more"),
        ({"samples": [5, 6]}, "samples must be a list of biaslab samples"),
        ({"samples": 5}, "samples must be a list of biaslab samples"),
        ({"batch_size": 0}, "batch_size must be a whole number >= 1"),
    ],
)
def test_bad_arguments(given, words):
    with pytest.raises(InputError, match=words):
        check(tiny.vlm("internvl"), progress=False, **given)


def test_the_verb_prints_it_and_its_exit_status_is_1_where_something_does_not_hold(capsys, monkeypatch):
    vlm = StandIn.of("internvl", THOUSANDTHS)
    monkeypatch.setattr(ModelChoice, "load", lambda *_: vlm)
    status, out, err = run(capsys, "check", "--images", "photographs", "--batch-size", 43)
    assert status == 0 and "answers fit 0-1000 (43 of 43)" in out and out.count(": holds (largest difference") == 2
    vlm.write = WRITERS["pixels of the image"]
    status, out, err = run(capsys, "check", "--images", "photographs", "--batch-size", 43, "--json")
    record = json.loads(out)
    assert status == 1 and "1 of 3 checks do not hold" in err
    assert record["holds"] is False and record["verdict"].startswith("answers fit pixels of the image (43 of 43)")
    assert len(record["readings"]) == 36 and len(record["answers"]) == 43


def test_refusals_come_before_the_model_is_loaded(capsys, monkeypatch):
    monkeypatch.setattr(ModelChoice, "load", lambda *_: pytest.fail("loaded"))
    for arguments, words in (
        (["--images", "cats"], "unknown --images cats"),
        (["--layer", "99"], "layer must be a decoder layer index 0 .. 9"),
        (["--layer", "1,2"], "a single layer"),
        (["--attn", "fast"], "unknown attention"),
    ):
        status, _, err = run(capsys, "check", *arguments)
        assert status == 2 and words in err and len(err.strip().splitlines()) == 1, err


@pytest.mark.slow
def test_the_grounder_on_its_scenes(capsys):
    status, out, _ = run(capsys, "check", "--json", "--device", "cpu")
    record = json.loads(out)
    assert status == 0 and record["holds"] and record["images"] == "scenes" and record["n"] == 43
    assert record["parsed"]["value"] == 1 and record["accuracy"]["value"] > 0.85
    assert record["verdict"].startswith("answers fit 0-1000 (")
    assert [each["holds"] for each in record["agreements"]] == [True, True]
