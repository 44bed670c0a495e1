"""Calibration sources: folders of pictures and null images."""

from __future__ import annotations

import pytest
import tiny
from PIL import Image

from biaslab.core.images import content_hash
from biaslab.datasets.image_sources import blank, find_images, noise
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
    with pytest.raises(InputError, match="no picture in"):
        find_images(tmp_path / "b")


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
