"""Questions: read from the forms they are exported in, asked as they are, judged and counted; a run on them."""

from __future__ import annotations

import json
from functools import partial

import pytest
import tiny
import toy_grounding as toy
from commands import run as command
from PIL import Image

from biaslab.core.boxes import Box
from biaslab.datasets import Question, content_hash, load_dataset
from biaslab.datasets.base import take
from biaslab.errors import InputError
from biaslab.evaluation import question_answers
from biaslab.evaluation.results import Results
from biaslab.stats.yes_no import YesNo

PICTURE = "COCO_val2014_000000000001.jpg"


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / PICTURE)
    return tmp_path


def written(folder, rows, name="rows.jsonl"):
    (folder / name).write_text("\n".join(map(json.dumps, rows)))
    return folder / name


# -- files ----------------------------------------------------------------------------------------------------
def test_tables_of_questions_are_told_by_their_columns(folder):
    rows = [
        {"image": PICTURE, "question": "What is it?", "answer": "cat", "category": "object"},
        {"image": PICTURE, "question": "How many?", "answer": 2, "bbox": [1, 2, 30, 40]},
    ]
    data = load_dataset(written(folder, rows))
    assert data.name == "vqa" and [(s.expression, s.answers, s.expression_type) for s in data] == [
        ("What is it?", ("cat",), "object"), ("How many?", ("2",), ""),
    ]  # fmt: skip
    assert [s.has_evidence for s in data] == [False, True] and data[1].box == Box(1, 2, 30, 40)
    assert data[0].box == Box(0, 0, 64, 48) and data[0].image().size == (64, 48)
    assert data[0].prompt == "What is it?\nAnswer the question using a single word or phrase."
    several = load_dataset(written(folder, [{"image": PICTURE, "question": "?", "answers": ["a cat", "cat"]}]))
    assert several.name == "vqa-answers" and several[0].answers == ("a cat", "cat")
    rows = [
        {"image": PICTURE, "question": "?", "answer": 2.0, "category": 0, "bbox": []},
        {"image": PICTURE, "question": "?", "answer": 0.5, "category": None, "bbox": None},
        {"image": PICTURE, "question": "?", "answer": [{"answer": "net", "answer_id": 1}, {"answer": "a net"}]},
    ]
    told = [(s.answers, s.expression_type, s.has_evidence) for s in load_dataset(written(folder, rows))]
    assert told == [(("2",), "0", False), (("0.5",), "", False), (("net", "a net"), "", False)]
    row = {"question_id": 1, "image": PICTURE, "text": "Is there a cat in the image?", "label": "no"}
    pope = load_dataset(written(folder, [row], "coco_pope_random.json"))
    assert (pope.name, pope.split, pope[0].answers) == ("pope", "coco_pope_random", ("no",))
    other = written(folder, [{"file": PICTURE, "q": "red?", "a": "yes", "kind": "colour"}])
    named = load_dataset(other, columns="image=file,question=q,answer=a,category=kind")
    assert (named[0].answers, named[0].expression_type) == (("yes",), "colour")


@pytest.mark.parametrize(
    ("row", "columns", "match"),
    [
        ({"image": PICTURE, "question": "?", "answer": ""}, None, "line 1: answer is"),
        ({"image": PICTURE, "question": "?", "answer": None}, None, "line 1: answer is null"),
        ({"image": PICTURE, "question": "?", "answer": float("nan")}, None, "line 1: answer is NaN"),
        ({"image": PICTURE, "question": "?", "answer": True}, None, 'write "yes" or "no"'),
        ({"image": PICTURE, "question": "?", "answers": ["a", {"text": "b"}]}, None, "line 1: answers is"),
        ({"image": PICTURE, "question": "?", "answer": "a", "category": ["x"]}, None, "category is"),
        ({"question_id": 1, "image": PICTURE, "text": "?", "label": "maybe"}, None, "label is .maybe.: POPE's is yes"),
        ({"image": PICTURE, "question": " ", "answer": "a"}, None, "line 1: question is"),
        ({"image": PICTURE, "question": "?", "answers": []}, None, "line 1: answers is empty"),
        ({"image": PICTURE, "question": "?", "answer": "a", "bbox": [1, 2, 300, 4]}, None, "bbox"),
        ({"image": "gone.jpg", "question": "?", "answer": "a"}, None, "gone.jpg"),
        ({"f": PICTURE, "q": "?", "a": "b"}, "image=f,question=q", "lacks answer"),
        ({"f": PICTURE, "q": "?", "a": "b"}, "image=f,expression=q,box=xyxy:b,answer=a", "without question="),
        ({"f": PICTURE, "q": "?", "a": "b"}, "image=f,question=q,answer=a,expression=q", "drop one"),
    ],
)
def test_what_is_no_question_is_refused_in_one_line(folder, row, columns, match):
    with pytest.raises(InputError, match=match) as caught:
        data = load_dataset(written(folder, [row]), columns=columns)
        next(iter(data)).image()  # an image that is not there is the run's error
    assert "\n" not in str(caught.value)


def test_answers_are_part_of_the_content():
    one, other = (ask("a", answers) for answers in ("yes", "no"))
    assert content_hash([one]) != content_hash([other]) == content_hash([ask("a", "no")])
    assert content_hash([one]) != content_hash([ask("a", "yes", instruction="")])
    with pytest.raises(InputError, match="1 of 2 samples are questions"):
        take([one, toy.Toy().samples[0]], None)


def ask(name, answers, **more):
    white = partial(Image.new, "RGB", (64, 48), "white")
    return Question.about(white, "is it red?", answers, id=name, image_id="i", size=(64, 48), **more)


# -- answers --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("answer", "answers", "right"),
    [
        ("A red car.", ["red car"], True), ("three", ["3"], True), ("3", ["three"], True), ("3.5", ["3 5"], False),
        ("1,000", ["1000"], True), ("red", ["blue", "red"], True), ("dark red", ["red"], False), ("No.", ["no"], True),
        ("No, there is no cat, yes", ["no"], True), ("There is not", ["yes"], False), ("I see a cat", ["no"], False),
        ("do not walk", ["don't walk"], False), ("dont walk", ["don't walk"], True), ("yes", ["yes", "no"], True),
        ("STOP!", ["stop"], True), ("", ["stop"], False), ("A", ["A"], True), ("B.", ["A"], False), ("", ["A"], False),
        ("the", ["A"], False), ("US", ["U.S."], True), ("10 a.m.", ["10 am"], True), ("\u201cred\u201d", ["red"], True),
        ("cafe\u0301", ["caf\u00e9"], True), ("2.", ["2"], True),
        ("There isn't one", ["no"], True), ("Nope", ["no"], True),
        ("Yeah", ["yes"], True), ("Not\u00e9", ["no"], False), ("", ["yes"], False), ("?", ["-"], False),
    ],
)  # fmt: skip
def test_a_right_answer_is_equal_after_the_usual_normalisation(answer, answers, right):
    assert question_answers.is_right(answer, answers)[0] is right


def test_f1_is_that_of_plain_counting():
    said, right = [True, True, False, None, False, True], [True, False, False, True, True, True]
    pairs = list(zip([bool(x) for x in said], right, strict=True))
    precision = sum(s and r for s, r in pairs) / sum(s for s, _ in pairs)
    recall = sum(s and r for s, r in pairs) / sum(r for _, r in pairs)
    counts = YesNo.of(said, right)
    assert (counts.precision, counts.recall) == (precision, recall) and counts.yes_share == 0.5
    assert counts.f1 == pytest.approx(2 * precision * recall / (precision + recall))
    hit_twice, counted = YesNo.f1_parts(said, right)
    assert hit_twice.sum() / counted.sum() == pytest.approx(counts.f1)
    assert question_answers.yes_no_answers(["yes", "red"], [["yes"], ["red"]]) is None


# -- a run ----------------------------------------------------------------------------------------------------
class Asked(toy.Toy):
    """Questions about noise; with ``evidence`` every other one says where to look."""

    @property
    def samples(self):
        return [
            Question.about(
                s.loader, f"question {i}?", ("yes", "no")[i % 2], id=s.id, image_id=s.image_id,
                size=(s.width, s.height), category=("random", "popular")[i // 2 % 2], evidence=s.box if i % 2 else None,
            )
            for i, s in enumerate(super().samples)
        ]  # fmt: skip


def test_a_run_on_questions_counts_right_answers(tmp_path, monkeypatch):
    vlm, data = tiny.vlm("internvl"), Asked()
    asked = []
    encode = vlm.family.encode
    monkeypatch.setattr(vlm.family, "encode", lambda p, i, texts, o: asked.extend(texts) or encode(p, i, texts, o))
    results = toy.run(tmp_path / "run", vlm, data, ["none", "random"], 0.5, 2)
    assert set(asked) == {sample.prompt for sample in data}
    lines = results.samples
    assert lines["box"].isna().all() and lines["iou"].isna().all() and not lines["hit"].any()  # noise
    assert lines["target"].notna().tolist() == lines["target_kept"].notna().tolist() == [False, False, True, True] * 3
    assert [info["answers"] for info in lines["info"]] == [["yes"], ["yes"], ["no"], ["no"]] * 3
    table = results.table
    assert "acc50" not in table and table["accuracy"].tolist() == [0.0] * 6 and table["yes_share"].notna().all()
    assert set(table["expression_type"]) == {"all", "random", "popular"}
    # what the answers say, judged by hand
    samples = lines.assign(answer=["Yes.", "no", "No", "no", "Yes", "yes", "no", "yes", "Yes!", "no", "no", "No"])
    samples["hit"] = [
        question_answers.is_right(a, i["answers"])[0] for a, i in zip(samples.answer, samples["info"], strict=True)
    ]
    run = Results(samples, results.run)
    rows = run.table.set_index(["expression_type", "method"])
    assert rows.loc[("all", "none"), "accuracy"] == pytest.approx(1.0)
    assert rows.loc[("all", "random"), "accuracy"] == pytest.approx(3 / 6)
    assert rows.loc[("all", "random"), "retention"] == pytest.approx(3 / 6)
    assert rows.loc[("all", "none"), "yes_f1"] == 1 and rows.loc[("all", "none"), "yes_share"] == 0.5
    random = rows.loc[("all", "random")]
    assert random["yes_f1"] == pytest.approx(2 * 1 / (2 * 1 + 1 + 2))
    assert (random["yes_precision"], random["yes_recall"]) == pytest.approx((1 / 2, 1 / 3))
    assert 0 <= random["yes_f1_lo"] <= random["yes_f1"] <= random["yes_f1_hi"] <= 1
    assert list(run.summary()["accuracy"]) == [1.0, 0.5] and len(run.differences("none")) == 1
    with pytest.raises(InputError, match="this run asked questions"):
        results.to_coco()
    again = toy.run(tmp_path / "run", vlm, data, ["none", "random"], 0.5, 2)
    assert again.table.equals(results.table)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["identity"]["dataset"]["task"] == "questions"


@pytest.mark.slow
def test_the_commands_take_questions(folder, capsys):
    rows = [{"image": PICTURE, "question": "Is it red?", "answer": answer} for answer in ("yes", "no")]
    path = written(folder, rows)
    asked = ["evaluate", "--model", "grounder", "--dataset", path, "--methods", "none,random", "--keep", "0.5"]
    status, out, error = command(capsys, *asked, "--out", folder / "run")
    assert status == 0 and "accuracy" in out and "acc50" not in out, error
    status, out, error = command(capsys, "figures", folder / "run")
    assert status == 0 and (folder / "run" / "figures" / "accuracy-keep.pdf").exists(), error
    assert "accuracy" in (folder / "run" / "tables" / "accuracy.tex").read_text()
    status, out, _ = command(capsys, *asked, "--out", folder / "other", "--dry-run")
    assert status == 0 and "random" in out
