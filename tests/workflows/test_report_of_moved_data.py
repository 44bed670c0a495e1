"""`report` and `view` of a run whose images have moved, and options that cannot apply."""

import json
import shutil

import pytest
from commands import run as command

import biaslab as bl
from biaslab.errors import InputError
from biaslab.workflows.make_report import samples_with_attention

pytestmark = pytest.mark.slow

SCHEDULE = "divprune@0.4@2+fastv@0.06@4"


@pytest.fixture(scope="module")
def moved(tmp_path_factory, grounder):
    where = tmp_path_factory.mktemp("moved")
    (where / "photos").mkdir()
    rows = []
    for i, sample in enumerate(bl.load_dataset("scenes", n=2)):
        sample.image().save(where / "photos" / f"{i}.png")
        box = list(sample.box.as_tuple())
        rows.append({"image": f"{i}.png", "sent": sample.expression, "bbox": box, "width": 224, "height": 224})
    (where / "cats.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = bl.load_dataset(where / "cats.jsonl", images=where / "photos")
    bl.evaluate(grounder, data, methods=[SCHEDULE], keep=0.1, reference=None, progress=False, out=where / "run")
    shutil.move(where / "photos", where / "elsewhere")
    return where


def images_in(page):
    text = page.read_text(encoding="utf-8")
    data = json.loads(text.partition('id="biaslab-data">')[2].partition("</script>")[0])
    return data["images"], text


def test_image_root_alone_is_where_the_images_are(moved, capsys, tmp_path):
    status, _, _ = command(capsys, "report", moved / "run", "--out", tmp_path / "a.html")
    images, text = images_in(tmp_path / "a.html")
    assert status == 0 and not images and text.count("--image-root") == 1
    status, _, err = command(
        capsys, "report", moved / "run", "--image-root", moved / "elsewhere", "--out", tmp_path / "b.html"
    )
    images, text = images_in(tmp_path / "b.html")
    assert status == 0 and len(images) == 2 and "--image-root" not in text, err
    assert "DivPrune 40 % at 2 + FastV 6 % at 4 locates " in text  # the one accuracy there is


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--device", "cpu"], "--device is where the model of --attention loads"),
        (["--split", "val"], "has the split cats, not val: leave out --split"),
        (["--image-root", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--out", "x.txt"], "name a file that ends in .html, not x.txt"),
    ],
)
def test_what_cannot_apply_is_refused_in_a_line(moved, capsys, tmp_path, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    status, _, err = command(capsys, "report", moved / "run", *options)
    assert status == 2 and says in err and len(err.strip().splitlines()) == 1, err
    assert not list(tmp_path.iterdir())


def test_a_view_says_what_it_cannot_show_and_can_be_told(moved, grounder):
    results = bl.Results.load(moved / "run")
    assert "--image-root" in results.view().html
    data = bl.load_dataset(moved / "cats.jsonl", images=moved / "elsewhere")
    page = results.view(dataset=data, vlm=grounder, layers=[3]).html
    found = json.loads(page.partition('id="biaslab-data">')[2].partition("</script>")[0])
    assert len(found["images"]) == 2 and "--image-root" not in page
    for sample in found["samples"]:
        assert list(sample["attention"]) == ["3"] and len(sample["runs"][0]["stages"]) == 2
    for wrong in ({"layers": [3]}, {"vlm": "grounder"}, {"height": "a"}, {"labels": 3}):
        with pytest.raises(InputError) as caught:
            results.view(**wrong)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="leave methods out"):
        bl.view(results, methods="fastv")
    with pytest.raises(InputError, match="give vlm= too"):
        samples_with_attention(results, None, None, [3], n=1)


def test_a_view_of_an_image_shows_the_stages_of_a_schedule(grounder):
    sample = next(iter(bl.load_dataset("scenes", n=1)))
    page = bl.view(grounder, sample, sample.expression, methods=[SCHEDULE, "pyramiddrop", "fastv"], layers=[3]).html
    data = json.loads(page.partition('id="biaslab-data">')[2].partition("</script>")[0])
    _, staged, own, plain = data["configs"]
    assert staged["stages"] == ["DivPrune, layer 2", "FastV, layer 4"] and len(own["stages"]) > 1
    assert plain["stages"] == []
    runs = data["samples"][0]["runs"]
    assert [len(each.get("stages", [])) for each in runs] == [0, 2, len(own["stages"]), 0]
    assert all(runs[i]["stages"][-1] == runs[i]["mask"] for i in (1, 2))


def test_a_wrapped_model_tells_where_its_tokens_lie(grounder):
    own = bl.wrap(grounder.model, grounder.processor, name="my fine-tuned model")  # no folder and no hub id
    data = bl.load_dataset("scenes", n=2)
    results = bl.evaluate(own, data, methods=["none", "random"], keep=0.2, layer=4, progress=False)
    seen = samples_with_attention(results, data, None, None, n=2)
    (sentence,) = seen.missing
    assert "results.view(vlm=model) shows it" in sentence and all(one.layouts == [None] for one in seen.shown)
    seen = samples_with_attention(results, data, own, None, n=2)
    assert not seen.missing and all(one.layouts[0].n == 256 for one in seen.shown)
