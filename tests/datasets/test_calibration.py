"""Calibration sources: folders of images and null images."""

from __future__ import annotations

import pytest
import tiny
from commands import run
from PIL import Image

from biaslab.core.images import content_hash
from biaslab.datasets.calibration import calibration, source_folder
from biaslab.datasets.image_sources import blank, find_images, noise, require_images
from biaslab.errors import InputError


def save(folder, n):
    folder.mkdir(parents=True)
    for i, image in enumerate(tiny.images(n)):
        image.save(folder / f"{i}.png")


def test_images_from_a_folder(tmp_path):
    save(tmp_path / "a", 2)
    save(tmp_path / "a" / "sub", 1)
    (tmp_path / "a" / "notes.txt").write_text("x")
    found = find_images(tmp_path / "a")
    assert [str(p.relative_to(tmp_path / "a")) for p in found] == ["0.png", "1.png", "sub/0.png"]
    assert len(find_images(tmp_path / "a", n=1)) == 1
    with pytest.raises(InputError, match="no such folder"):
        find_images(tmp_path / "b")
    (tmp_path / "b").mkdir()
    for look in (find_images, require_images):
        with pytest.raises(InputError, match=r"no image in .* \(it holds no file\)"):
            look(tmp_path / "b")
    (tmp_path / "b" / "rows.jsonl").write_text("{}")
    (tmp_path / "b" / "LICENSE").write_text("")
    with pytest.raises(InputError, match=r"no image in .* \(it holds .jsonl, LICENSE\)"):
        find_images(tmp_path / "b")
    require_images(tmp_path / "a")


def test_a_single_picture_is_a_folder_of_one(tmp_path, grounder):
    save(tmp_path / "a", 1)
    one = tmp_path / "a" / "0.png"
    require_images(one)
    assert find_images(one) == calibration(grounder, one).images == [one] == [source_folder(one)]
    (tmp_path / "a" / "rows.jsonl").write_text("{}")
    for look in (find_images, require_images, source_folder):
        with pytest.raises(InputError, match="rows.jsonl"):
            look(tmp_path / "a" / "rows.jsonl")


def test_every_suffix_that_can_be_opened_is_found_and_heic_too(tmp_path):
    for name in ("a.JPG", "b.avif", "c.jp2", "d.HEIC", "e.jfif", "f.txt", "g.pdf"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in find_images(tmp_path)] == ["a.JPG", "b.avif", "c.jp2", "d.HEIC", "e.jfif"]


def test_a_folder_without_pictures_is_refused_before_the_model_is_loaded(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    model = ["--model", "internvl2.5-8b"]
    for command in (
        ["fit-bias", *model, "--images", tmp_path / "empty", "--out", tmp_path / "p"],
        ["bench", *model, "--images", tmp_path / "empty"],
        ["probe", *model, "--objects", tmp_path / "empty", "--out", tmp_path / "p"],
        ["probe", *model, "--backgrounds", tmp_path / "empty", "--out", tmp_path / "p"],
    ):
        status, out, err = run(capsys, *command)
        assert status == 2 and not out and "no image in" in err and len(err.splitlines()) == 1, (command, err)
    status, _, err = run(capsys, "probe", *model, "--objects", tmp_path / "gone", "--out", tmp_path / "p")
    assert status == 2 and "no such folder of images" in err


def test_null_images():
    greys = blank(3, (20, 10))
    assert [im.getpixel((0, 0)) for im in greys] == [(64,) * 3, (128,) * 3, (191,) * 3]
    assert all(im.size == (20, 10) and len(im.getcolors()) == 1 for im in greys)
    assert blank(1, (4, 4))[0].getpixel((0, 0)) == (128,) * 3
    first, longer = noise(2, (20, 10), seed=1), noise(4, (20, 10), seed=1)
    assert [content_hash(a) for a in first] == [content_hash(b) for b in longer[:2]]
    assert len({content_hash(im) for im in (*longer, *noise(4, (20, 10), seed=2))}) == 8
    with pytest.raises(InputError, match="n >= 1"):
        blank(0, (4, 4))
    with pytest.raises(InputError, match="positive"):
        noise(1, (0, 4))


def test_content_hash_sees_shape_and_pixels():
    a = Image.new("RGB", (4, 2), (1, 2, 3))
    assert content_hash(a) == content_hash(a.copy())
    assert content_hash(a) != content_hash(Image.new("RGB", (2, 4), (1, 2, 3)))
    b = a.copy()
    b.putpixel((0, 0), (1, 2, 4))
    assert content_hash(a) != content_hash(b)
