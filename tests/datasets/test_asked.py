"""What calibration images are asked: several expressions, a file's, generic ones, and what is refused."""

import json
import zipfile
from collections import Counter

import numpy as np
import pytest
import tiny
from PIL import Image

from biaslab.datasets import asked as asked_module
from biaslab.datasets.asked import GENERIC, PLACES, with_places
from biaslab.datasets.calibration import calibration, source_folder
from biaslab.errors import InputError
from biaslab.maps.base import fold_of
from biaslab.maps.collect import collect
from biaslab.models.offline.geometry import geometry
from biaslab.scenes import scene


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Five images, one below."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    for name, image in zip(("a", "b", "c", "d", "more/e"), tiny.images(5), strict=True):
        image.save(folder / f"{name}.png")
    return folder


@pytest.fixture
def file(photos, tmp_path):
    """What a file says of three of them."""
    rows = [("a.png", "the cup"), ("c.png", "a cat"), ("a.png", "a dog"), ("more/e.png", "the door"), ("c.png", "it")]
    path = tmp_path / "captions.csv"
    path.write_text("image,caption\n" + "".join(f"{name},{text}\n" for name, text in rows))
    return path


def expressions(vlm, made):
    before, after = vlm.family.grounding_prompt("|").split("|")
    return [prompt.removeprefix(before).removesuffix(after) for prompt in made.prompts]


# -- several expressions of an image ------------------------------------------------------------------------------
def test_scenes_have_several_expressions_of_which_the_first_is_the_only_one_otherwise(grounder):
    one, two, all_ = (calibration(grounder, "scenes", n=9, questions=k) for k in (1, 2, 9))
    texts = [{e.text for e in scene("calibration", i).expressions} for i in range(9)]
    assert len(all_.images) == sum(map(len, texts)) > len(two.images) > len(one.images) == 9
    said: dict[str, list[str]] = {}
    for name, text in zip(all_.ids, expressions(grounder, all_), strict=True):
        said.setdefault(name.split("#")[0], []).append(text)
    assert [set(s) for s in said.values()] == texts and list(said) == one.ids
    assert [s[0] for s in said.values()] == expressions(grounder, one)
    assert [t for s in said.values() for t in s[:2]] == expressions(grounder, two)
    assert len(set(all_.ids)) == len(all_.ids) and {fold_of(i, 5) == fold_of(i.split("#")[0], 5) for i in all_.ids} == {
        True
    }
    assert all_.asked == {"prompts": "expressions", "questions": 9, "pictures": 9}
    assert all_.counted(len(all_.images)) == f"{len(all_.images)} questions on 9 images"
    assert one.counted(9) == "9 images" and one.images[0] is not one.images[1]


def test_scenes_are_rendered_when_they_are_read(grounder):
    made = calibration(grounder, "scenes", n=3, questions=3)
    shared = {name.split("#")[0]: image for name, image in zip(made.ids, made.images, strict=True)}
    assert len(set(map(id, made.images))) == len(shared) == 3
    assert not any(isinstance(held, (Image.Image, np.ndarray)) for s in shared.values() for held in vars(s).values())


def test_data_sets_give_the_different_expressions_of_each_picture(photos, tmp_path):
    vlm = tiny.vlm("llava")
    rows = [("a", "cup"), ("b", "door"), ("a", "cat"), ("a", "cup"), ("c", "man"), ("a", "dog"), ("b", "red door")]
    lines = [
        {"image": f"{name}.png", "sent": said, "bbox": [1, 1, 20, 20], "width": w, "height": h}
        for name, said in rows
        for w, h in [dict(zip("abc", (i.size for i in tiny.images(3)), strict=True))[name]]
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    made = calibration(vlm, tmp_path / "rows.jsonl", images=photos, n=2, questions=2)
    assert expressions(vlm, made) == ["cup", "cat", "door", "red door"]
    assert [s.image_id for s in made.images] == ["a.png", "a.png", "b.png", "b.png"]
    maps = collect(vlm, made.images, prompt=made.prompts, layers=[0], out=tmp_path / "maps", progress=False)
    assert [maps.record(i).id for i in range(4)] == ["a.png", "a.png#2", "b.png", "b.png#2"]
    first = calibration(vlm, tmp_path / "rows.jsonl", images=photos)
    assert expressions(vlm, first) == ["cup", "door", "man"]
    generic = calibration(vlm, tmp_path / "rows.jsonl", images=photos, prompts="generic")
    assert expressions(vlm, generic) == list(GENERIC[:3])


# -- images without expressions ------------------------------------------------------------------------------------
def test_generic_expressions_take_turns(grounder, photos):
    made = calibration(grounder, photos, prompts="generic", questions=3)
    asked = expressions(grounder, made)
    assert asked == [GENERIC[i % 8] for i in range(15)] and len({*asked[:3]}) == 3
    assert [path.name for path in made.images[::3]] == ["a.png", "b.png", "c.png", "d.png", "e.png"]
    assert made.asked == {"prompts": "generic", "questions": 3, "pictures": 5}
    assert expressions(grounder, calibration(grounder, "scenes", n=2, prompts="generic")) == list(GENERIC[:2])
    assert len(calibration(grounder, "blank", n=2, prompts="generic", questions=8).ids) == 16


def test_a_file_says_what_is_asked_and_n_counts_its_pictures(grounder, photos, file):
    with pytest.warns(UserWarning, match="2 images in .* without a caption: left out"):
        made = calibration(grounder, photos, prompts=file)
    assert [p.name for p in made.images] == ["a.png", "c.png", "e.png"]
    assert expressions(grounder, made) == ["the cup", "a cat", "the door"]
    made = calibration(grounder, photos, prompts=str(file), n=2, questions=5)
    assert expressions(grounder, made) == ["the cup", "a dog", "a cat", "it"]
    assert made.asked["pictures"] == 2 and made.asked["prompts"].startswith("captions.csv (")
    file.write_text(file.read_text().replace("a cat", "a bat"))
    assert calibration(grounder, photos, prompts=file, n=2).asked["prompts"] != made.asked["prompts"]
    file.write_text(file.read_text().replace("image,caption", "Photo,Says"))
    made = calibration(grounder, photos, prompts=file, columns="image=Photo,expression=Says", n=1)
    assert expressions(grounder, made) == ["the cup"]


def test_archives_and_single_pictures_have_captions_too(grounder, photos, file, tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in sorted(photos.rglob("*.png")):
            archive.write(path, path.relative_to(photos))
    with pytest.warns(UserWarning, match="without a caption"):
        made = calibration(grounder, tmp_path / "photos.zip", prompts=file)
    assert [p.member for p in made.images] == ["a.png", "c.png", "more/e.png"]
    with pytest.warns(UserWarning, match="2 images of the captions not in"):
        made = calibration(grounder, photos / "a.png", prompts=file, questions=2)
    assert expressions(grounder, made) == ["the cup", "a dog"]


def test_names_become_grounding_questions(photos, monkeypatch, tmp_path):
    vlm, given = tiny.vlm("llava"), {}

    def name_objects(vlm, pictures, **options):
        given.update(options, pictures=list(pictures))
        return {"b.png": ["cup", "cat", "dog"], "more/e.png": ["door"]}

    monkeypatch.setattr(asked_module, "name_objects", name_objects)
    made = calibration(vlm, photos, prompts="named", questions=2, batch_size=3, named=tmp_path / "log.jsonl")
    # every other name has a place, and images take turns: b.png is number 1, more/e.png number 4
    assert expressions(vlm, made) == ["cup on the left", "cat", "door"] and [p.name for p in made.images] == [
        "b.png",
        "b.png",
        "e.png",
    ]
    assert given == {
        "batch_size": 3, "log": tmp_path / "log.jsonl", "progress": False,
        "pictures": ["a.png", "b.png", "c.png", "d.png", "more/e.png"],
    }  # fmt: skip
    assert made.asked == {"prompts": "named", "questions": 2, "pictures": 2}
    calibration(vlm, photos, prompts="named", n=2)
    assert given["pictures"] == ["a.png", "b.png"]


def test_half_of_the_names_have_each_place_as_often():
    said = [with_places(["cup", "cat", "door", "man"], i) for i in range(400)]
    assert all(len(set(each)) == 4 for each in said)
    for k, name in enumerate(["cup", "cat", "door", "man"]):
        at = Counter(each[k].removeprefix(name).strip() for each in said)
        assert at == {"": 200, **dict.fromkeys(PLACES, 50)}


def test_a_plan_takes_generic_words_for_names(photos):
    made = calibration(geometry("internvl2.5-1b"), photos, prompts="named", questions=3)
    assert len(made.images) == 15
    with pytest.raises(InputError, match="the grounder answers nothing but boxes"):
        calibration(geometry("grounder"), photos, prompts="named")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"questions": 2}, "come without expressions to ask several of: say what is asked by prompts"),
        ({"prompts": "expressions"}, "come without expressions: say what is asked by prompts"),
        ({"prompts": "generic", "questions": 9}, "there are 8 generic questions, not 9"),
        ({"prompts": "genric"}, "'genric': no such file, and none of expressions, generic, named"),
        ({"prompts": ""}, "an empty path"),
        ({"prompts": 3}, "must be a path"),
        ({"questions": 0}, "questions must be a whole number >= 1"),
        ({"questions": 1.5}, "questions must be a whole number >= 1"),
        ({"prompt": "What?", "prompts": "generic"}, "one text for every image"),
        ({"prompt": "What?", "questions": 2}, "one text for every image"),
        ({"source": "scenes", "prompts": "FILE"}, "captions are for a folder or archive of images"),
        ({"source": "noise", "prompts": "FILE"}, "captions are for a folder or archive of images"),
        ({"source": "noise", "prompts": "expressions"}, "the images of noise come without expressions"),
        ({"columns": "image=a,expression=b"}, "is no data set: leave columns out"),
        ({"prompts": "named"}, "the grounder answers nothing but boxes"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(options, why, grounder, photos, file):
    options = {name: file if value == "FILE" else value for name, value in options.items()}
    source = options.pop("source", photos)
    with pytest.raises(InputError) as caught:
        calibration(grounder, source, **options)
    assert why in str(caught.value) and len(str(caught.value).splitlines()) == 1, caught.value
    if options != {"prompts": "named"}:  # and without a model
        with pytest.raises(InputError) as early:
            source_folder(source, **options)
        assert str(early.value) == str(caught.value)


def test_a_file_is_checked_without_a_model(photos, file, tmp_path, recwarn):
    assert source_folder(photos, prompts=file) == photos and not recwarn.list
    (tmp_path / "other.json").write_text('{"z.png": "a cat"}')
    for prompts, why in (
        (tmp_path / "other.json", "none of the 1 image named is in"),
        (photos / "a.png", "is an image"),
    ):
        with pytest.raises(InputError, match=why):
            source_folder(photos, prompts=prompts)
