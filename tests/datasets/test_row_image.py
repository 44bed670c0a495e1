"""Which way up a row means its image, and data sets without a usable one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from commands import run
from PIL import Image

from biaslab.datasets.base import check_pictures
from biaslab.datasets.opening import open_annotations
from biaslab.errors import InputError

STORED = np.zeros((40, 64, 3), np.uint8)
STORED[2:12, 3:23] = (250, 0, 0)  # the target, in pixels of what is stored
BOX = (3, 2, 23, 12)
#: tag -> the target's box in the upright image, written out by hand for a stored image of 64 x 40
UPRIGHT_BOX = {
    1: (3, 2, 23, 12), 2: (41, 2, 61, 12), 3: (41, 28, 61, 38), 4: (3, 28, 23, 38),
    5: (2, 3, 12, 23), 6: (28, 3, 38, 23), 7: (28, 41, 38, 61), 8: (2, 41, 12, 61),
}  # fmt: skip


def data_set(folder, tag, box, size, *, name="phone", array=STORED, **fields):
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.fromarray(array).save(folder / "a.png", exif=exif)
    row = {"image": "a.png", "sent": "red", "bbox": box, "width": size[0], "height": size[1], **fields}
    (folder / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    return open_annotations(folder / f"{name}.jsonl")


def shows_the_target(sample):
    """Whether the red pixels of the image are those of the sample's box."""
    red = np.asarray(sample.image())[..., 0] > 128
    x0, y0, x1, y1 = map(int, sample.box.as_tuple())
    assert (sample.image().width, sample.image().height) == (sample.width, sample.height)
    return red.sum() == red[y0:y1, x0:x1].sum() == (x1 - x0) * (y1 - y0)


@pytest.mark.parametrize("tag", [5, 6, 7, 8])
def test_the_rows_size_says_stored_or_upright(tag, tmp_path):
    assert shows_the_target(data_set(tmp_path, tag, BOX, (64, 40))[0]), "COCO's convention"
    assert shows_the_target(data_set(tmp_path, tag, UPRIGHT_BOX[tag], (40, 64))[0])
    wrong = data_set(tmp_path, tag, (0, 0, 9, 9), (64, 41))[0]
    for check in (wrong.image, wrong.check_image):
        with pytest.raises(InputError, match="is 40x64, its row says 64x41"):
            check()


@pytest.mark.parametrize("tag", [2, 3, 4])
def test_where_both_fit_the_row_has_to_say(tag, tmp_path):
    with pytest.raises(InputError, match=f"EXIF orientation {tag}.* write .orientation.: .upright. or .stored."):
        data_set(tmp_path, tag, BOX, (64, 40))[0].image()
    assert shows_the_target(data_set(tmp_path, tag, BOX, (64, 40), orientation="stored")[0])
    assert shows_the_target(data_set(tmp_path, tag, UPRIGHT_BOX[tag], (64, 40), orientation="upright")[0])
    coco = data_set(tmp_path, tag, BOX, (64, 40), name="refcoco_testB")  # COCO's own images
    assert shows_the_target(coco[0])


def test_a_square_picture_is_ambiguous_at_every_turn(tmp_path):
    square = np.zeros((40, 40, 3), np.uint8)
    square[2:12, 3:23] = (250, 0, 0)
    with pytest.raises(InputError, match="fits it upright and as it is stored"):
        data_set(tmp_path, 6, BOX, (40, 40), array=square)[0].image()
    assert shows_the_target(data_set(tmp_path, 6, BOX, (40, 40), array=square, orientation="stored")[0])
    assert shows_the_target(data_set(tmp_path, 6, (28, 3, 38, 23), (40, 40), array=square, orientation="upright")[0])
    assert shows_the_target(data_set(tmp_path, 1, BOX, (40, 40), array=square)[0])


@pytest.mark.slow
def test_a_phones_pictures_score_as_the_same_scenes_do(grounder, tmp_path):
    """Scenes as photographs held sideways, boxes upright: the same answers as without the tag."""
    from biaslab.datasets import load_dataset

    exif, rows, plain = Image.Exif(), [], []
    exif[0x0112] = 6
    for i, sample in enumerate(load_dataset("scenes", n=4)):
        wide = sample.image().crop((0, 0, 224, 200)) if sample.box.y1 <= 200 else sample.image()
        wide.transpose(Image.Transpose.ROTATE_90).save(tmp_path / f"{i}.png", exif=exif)
        plain.append((wide, sample.expression))
        rows.append({"image": f"{i}.png", "sent": sample.expression, "bbox": sample.box.as_tuple(),
                     "width": wide.width, "height": wide.height, "orientation": "upright"})  # fmt: skip
    (tmp_path / "phone.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = open_annotations(tmp_path / "phone.jsonl")
    answers = grounder.locate([s.image() for s in data], [s.expression for s in data])
    assert answers == grounder.locate(*map(list, zip(*plain, strict=True)))
    assert answers == grounder.locate([tmp_path / f"{i}.png" for i in range(4)], [s.expression for s in data])
    assert np.mean([answer.iou(s.box) > 0.5 for answer, s in zip(answers, data, strict=True)]) > 0.7


def rows_without_pictures(folder, n):
    row = {"sent": "red", "bbox": BOX, "width": 64, "height": 40}
    path = folder / "x.jsonl"
    path.write_text("".join(json.dumps({**row, "image": f"coco/{i}.png"}) + "\n" for i in range(n)))
    return path


def test_a_wrong_image_root_is_noticed_before_the_model_is_loaded(capsys, tmp_path):
    path = rows_without_pictures(tmp_path, 7)
    command = ["evaluate", "--model", "internvl2.5-8b", "--dataset", path, "--methods", "none", "--out", tmp_path / "o"]
    status, out, err = run(capsys, *command, "--image-root", tmp_path / "nowhere")
    assert status == 2 and not out and len(err.splitlines()) == 1 and not (tmp_path / "o").exists()
    for word in ("none of the first 7 images", str(tmp_path / "nowhere/coco/0.png"), "--image-root", "--data-root"):
        assert word in err, err
    Image.fromarray(STORED[1:]).save(tmp_path / "0.png")
    status, _, err = run(capsys, *command, "--image-root", tmp_path)
    assert status == 2 and "is 64x39, its row says 64x40" in err  # found, and of another size, as all that are there


def test_one_usable_picture_is_enough(tmp_path):
    path = rows_without_pictures(tmp_path, 120)
    with pytest.raises(InputError, match="none of the first 100 images"):
        check_pictures(open_annotations(path))
    (tmp_path / "coco").mkdir()
    Image.fromarray(STORED).save(tmp_path / "coco" / "50.png")
    check_pictures(open_annotations(path))
    with pytest.raises(InputError, match="the only image cannot be used: image not found: coco/0.png"):
        check_pictures(open_annotations(rows_without_pictures(tmp_path, 1)))
