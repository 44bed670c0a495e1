"""Images of every kind, through every door: what comes out is upright 8-bit RGB, or one line says why not.

The oracles are numpy's and hand-written: EXIF orientations as array operations, pixel values by the table in
``docs/data.md``.
"""

from __future__ import annotations

import io
import struct
import sys
import types
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from biaslab.core.images import image_name, image_orientation, image_size, load_image, load_rgba
from biaslab.core.picture_files import as_stored, suffixes
from biaslab.errors import InputError

GRID = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3
#: orientation tag -> what stored pixels look like upright, as EXIF 2.3 words it, in numpy
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tagged(tag, kind, image=None, **options):
    exif = Image.Exif()
    exif[0x0112] = tag
    return saved(Image.fromarray(GRID) if image is None else image, kind, exif=exif, **options)


def png(depth, colour, row, clear=None, width=2):
    """A PNG of one row, written by hand."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0))]
    parts += [chunk(b"tRNS", clear)] if clear else []
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IDAT", zlib.compress(b"\0" + row)), chunk(b"IEND", b"")])


def pixels(source):
    image = load_image(source)
    assert image.mode == "RGB" and np.asarray(image).dtype == np.uint8
    return np.asarray(image)[0].tolist()


def refusal(source):
    with pytest.raises(InputError) as error:
        load_image(source)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG", "AVIF"])
@pytest.mark.parametrize("tag", range(1, 9))
def test_the_orientation_tag_is_obeyed_once(kind, tag, tmp_path):
    if kind == "AVIF" and ".avif" not in suffixes():
        pytest.skip("this Pillow has no AVIF")
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind in ("JPEG", "AVIF") else {}
    flat = np.asarray(Image.fromarray(GRID).resize((48, 32), Image.Resampling.BICUBIC))  # smooth: survives JPEG
    content = tagged(tag, kind, Image.fromarray(flat), **options)
    path = tmp_path / f"phone.{kind.lower()}"
    path.write_bytes(content)
    expected = UPRIGHT[tag](flat)
    for source in (path, content, Image.open(path)):
        image = load_image(source)
        assert image.size == expected.shape[1::-1]
        assert abs(np.asarray(image, float) - expected).mean() < 6, (kind, tag)
        assert load_image(image) is image, "turned twice"
    assert image_size(path) == expected.shape[1::-1]
    assert image_orientation(path) == tag
    assert as_stored(load_image(path), tag).size == (48, 32)
    assert abs(np.asarray(as_stored(load_image(path), tag), float) - flat).mean() < 6


def test_nonsense_orientations_and_damaged_metadata_change_nothing():
    for content in (tagged(0, "PNG"), tagged(9, "PNG"), saved(Image.fromarray(GRID), "PNG", exif=b"Exif\0\0MM\0*\xff")):
        assert (np.asarray(load_image(content)) == GRID).all()


#: mode -> (pixel, what comes out); the numbers are worked out by hand from the table in docs/data.md
MODES = {
    "1": (255, [255, 255, 255]),
    "L": (77, [77, 77, 77]),
    "LA": ((100, 51), [224, 224, 224]),  # 100 * .2 + 255 * .8
    "La": ((20, 51), [224, 224, 224]),  # the same, multiplied beforehand
    "P": (3, [30, 60, 90]),
    "PA": ((3, 0), [255, 255, 255]),
    "RGB": ((1, 2, 3), [1, 2, 3]),
    "RGBA": ((100, 0, 255, 51), [224, 204, 255]),
    "RGBa": ((20, 0, 51, 51), [224, 204, 255]),
    "RGBX": ((1, 2, 3, 0), [1, 2, 3]),
    "CMYK": ((255, 0, 0, 0), [0, 255, 255]),
    "YCbCr": ((128, 128, 128), [128, 128, 128]),
    "LAB": ((255, 128, 128), [255, 255, 255]),
    "HSV": ((0, 255, 255), [255, 0, 0]),
    "I": (40_000, [156, 156, 156]),
    "I;16": (40_000, [156, 156, 156]),
    "I;16L": (40_000, [156, 156, 156]),
    "I;16B": (40_000, [156, 156, 156]),
    "I;16N": (40_000, [156, 156, 156]),
    "F": (0.5, [128, 128, 128]),
}


@pytest.mark.parametrize("mode", MODES)
def test_modes(mode):
    colour, expected = MODES[mode]
    image = Image.new(mode, (3, 2), colour)
    if mode in ("P", "PA"):
        image.putpalette(_palette())
    got = load_image(image)
    assert got.mode == "RGB" and got.size == (3, 2)
    assert np.abs(np.subtract(got.getpixel((2, 1)), expected)).max() <= (1 if mode in ("La", "RGBa", "LAB") else 0)
    assert load_rgba(image).mode == "RGBA" and load_rgba(image).size == (3, 2)
    assert image.mode == mode, "the caller's image was changed"


def _palette():
    return [value for i in range(256) for value in (10 * i % 256, 20 * i % 256, 30 * i % 256)]


@pytest.mark.parametrize(
    ("values", "depth"), [([0, 9, 255], 8), ([0, 256, 4095], 12), ([0, 4096, 65_535], 16), ([0, 0, 0], 8)]
)
def test_greys_of_more_than_eight_bits_are_scaled_by_their_depth(values, depth):
    expected = [[value >> (depth - 8)] * 3 for value in values]
    wide = np.array([values], np.uint16)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for kind in ("PNG", "TIFF"):
            assert pixels(saved(Image.fromarray(wide), kind)) == expected
        assert pixels(wide) == expected
        assert pixels(np.array([values], ">u2")) == expected
    assert bool(said) == (depth < 16 and any(values)) and all("16-bit greys" in str(w.message) for w in said)
    assert pixels(np.array([values], np.int32)) == pixels(Image.fromarray(np.array([values], np.int32))) == expected


def test_transparent_colours_become_white():
    """The tRNS chunk of grey and RGB images, at every depth; a hidden colour is never shown."""
    white, two = [255] * 3, struct.pack
    assert pixels(png(8, 0, bytes([5, 9]), two(">H", 5))) == [white, [9] * 3]
    assert pixels(png(1, 0, bytes([0x40]), two(">H", 0))) == [white, white]
    assert pixels(png(2, 0, bytes([0x60]), two(">H", 1))) == [white, [170] * 3]  # grey levels 1 and 2 of 3
    assert pixels(png(4, 0, bytes([0x3E]), two(">H", 3))) == [white, [238] * 3]
    assert pixels(png(16, 0, two(">2H", 0x1234, 0x8000), two(">H", 0x1234))) == [white, [128] * 3]
    assert pixels(png(8, 2, bytes([1, 2, 3, 4, 5, 6]), two(">3H", 1, 2, 3))) == [white, [4, 5, 6]]
    assert pixels(png(16, 4, two(">4H", 0, 0, 0x6400, 0xFFFF))) == [white, [100] * 3]
    assert pixels(png(16, 6, two(">8H", 0, 0, 0, 0, 1 << 8, 2 << 8, 3 << 8, 0xFFFF))) == [white, [1, 2, 3]]
    colour = png(16, 2, two(">6H", 1 << 8, 2 << 8, 3 << 8, 4 << 8, 5 << 8, 6 << 8), two(">3H", 256, 512, 768))
    assert "transparent colour" in refusal(colour)
    palette = Image.new("P", (2, 1), 3)
    palette.putpalette(_palette())
    assert pixels(saved(palette, "PNG", transparency=3)) == [white, white]
    assert pixels(saved(palette, "PNG", transparency=b"\xff\xff\xff\x33")) == [[210, 216, 222]] * 2
    assert pixels(saved(palette, "GIF")) == [[30, 60, 90]] * 2
    again = load_image(png(8, 2, bytes([1, 2, 3, 255, 255, 254]), two(">3H", 1, 2, 3)))
    assert load_image(again) is again


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 200]], np.uint8), [[0] * 3, [200] * 3]),
        (np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8), [[1, 2, 3], [4, 5, 6]]),
        (np.array([[[1, 2, 3, 0], [4, 5, 6, 255]]], np.uint8), [[255] * 3, [4, 5, 6]]),
        (np.array([[[7], [8]]], np.uint8), [[7] * 3, [8] * 3]),
        (np.array([[False, True]]), [[0] * 3, [255] * 3]),
        (np.array([[0.0, 0.5]]), [[0] * 3, [128] * 3]),
        (np.array([[0.0, 1.0005]], np.float16), [[0] * 3, [255] * 3]),
        (np.array([[0.0, 200.0]]), [[0] * 3, [200] * 3]),
        (np.zeros((3, 1, 2), np.uint8) + np.array([1, 2, 3], np.uint8)[:, None, None], [[1, 2, 3]] * 2),
        (torch.tensor([[[0.0, 1.0]], [[0.5, 0.0]], [[0.0, 0.2]]]), [[0, 128, 0], [255, 0, 51]]),
        (torch.tensor([[0.0, 1.0]], dtype=torch.bfloat16, requires_grad=True), [[0] * 3, [255] * 3]),
    ],
)
def test_arrays_and_tensors(values, expected):
    assert pixels(values) == expected


def test_the_channels_of_an_array_come_last_and_of_a_tensor_first_where_both_would_do():
    values = np.arange(3 * 2 * 3, dtype=np.uint8).reshape(3, 2, 3)
    assert load_image(values).size == (2, 3) and load_image(torch.from_numpy(values)).size == (3, 2)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((2, 4, 4, 3)), "batch"),
        (np.zeros((5, 5, 2)), "no image"),
        (np.zeros(5), "no image"),
        (np.zeros((0, 5)), "no pixels"),
        (np.full((2, 2), np.nan), "NaN"),
        (np.full((2, 2), np.inf), "NaN"),
        (np.full((2, 2), -0.5), "normalised"),
        (np.full((2, 2), 1.5), "floats in 0..1"),
        (np.full((2, 2), 256.0), "floats in 0..1"),
        (np.full((2, 2), -1), "0..65535"),
        (np.full((2, 2), 70_000), "0..65535"),
        (np.array([["a"]]), "type"),
        (np.zeros((2, 2), complex), "type"),
        (Image.new("F", (2, 2), 3.7), "floats in 0..1"),
        (Image.new("I", (2, 2), -7), "0..65535"),
    ],
)
def test_values_of_unknown_scale_are_refused(values, words):
    assert words in refusal(values)


def test_every_door_gives_the_same_pixels(tmp_path, monkeypatch):
    path = tmp_path / "ein Bild ü #1.png"
    Image.fromarray(GRID).save(path)
    content = path.read_bytes()
    monkeypatch.setenv("HOME", str(tmp_path))
    sample = types.SimpleNamespace(image=lambda: Image.fromarray(GRID))
    with open(path, "rb") as binary:
        doors = [
            path, str(path), path.as_uri(), f"~/{path.name}", content, bytearray(content), memoryview(content),
            io.BytesIO(content), binary, GRID, torch.from_numpy(GRID).movedim(2, 0), sample,
            types.SimpleNamespace(image=path),
        ]  # fmt: skip
        for door in doors:
            assert (np.asarray(load_image(door)) == GRID).all(), door
            assert (np.asarray(load_image(door)) == GRID).all(), "a second time"
    assert image_name(path) == path.name and image_name(content) == image_name(GRID) == image_name(sample)


def test_what_is_no_picture_is_refused_in_one_line(tmp_path):
    (tmp_path / "zero.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("hello")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    whole = saved(Image.fromarray(noise), "JPEG")
    (tmp_path / "torn.jpg").write_bytes(whole[: len(whole) // 2])
    bomb = png(8, 0, b"", width=2**30)
    for source, words in [
        ("https://example.com/a.png", "download it first"),
        ("s3://bucket/a.png", "download it first"),
        ("file://server/a.png", "download it first"),
        ("data:image/png;base64,AAAA", "b64decode"),
        (tmp_path, "is a folder"),
        (tmp_path / "gone.png", "image not found"),
        ("a\0b", "image not found"),
        ("x" * 5000, "image not found"),
        (tmp_path / "zero.png", "zero.png (no known format)"),
        (tmp_path / "text.png", "text.png (no known format)"),
        (tmp_path / "torn.jpg", "torn.jpg cannot be read"),
        (whole[: len(whole) // 2], "the image cannot be read"),
        (bomb, "decompression bomb"),
        (Image.new("RGB", (0, 5)), "is empty"),
        (io.StringIO("x"), "mode 'rb'"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no known format"),
        (None, "got NoneType"),
        (7, "got int"),
    ]:
        message = refusal(source)
        assert words in message and len(message) < 500, (source, message)


def test_the_first_frame_of_an_animation_is_used_and_said():
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        content = saved(frames[0], kind, save_all=True, append_images=frames[1:])
        with pytest.warns(UserWarning, match="3 frames: only the first"):
            red, green, _ = load_image(content).getpixel((2, 2))
        assert red > 240 and green < 10, kind
    chosen = Image.open(io.BytesIO(content))
    chosen.seek(1)  # whoever chose a frame gets it, and no warning
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(chosen).getpixel((2, 2))[1] > 240
        stereo = saved(frames[0], "MPO", save_all=True, append_images=frames[1:])  # a phone's two views
        assert load_image(stereo).getpixel((2, 2))[0] > 240


def test_a_heic_picture_names_its_plug_in_and_is_opened_by_it(tmp_path, monkeypatch):
    content = b"\0\0\0\x18ftypheic" + bytes(100)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # not installed
    assert "pip install pillow-heif" in refusal(content)
    (tmp_path / "IMG_1.HEIC").write_bytes(content)
    assert "IMG_1.HEIC" in (message := refusal(tmp_path / "IMG_1.HEIC")) and "pillow-heif" in message
    assert {".heic", ".heif"} <= suffixes()

    class Heic(ImageFile.ImageFile):
        format = "HEIF"

        def _open(self):
            self._mode, self._size, self.tile = "RGB", (4, 3), []
            self.im = Image.new("RGB", (4, 3), "red").im

    def register():
        Image.register_open("HEIF", Heic, lambda head: head[4:12] == b"ftypheic")
        Image.register_extension("HEIF", ".heic")

    for name in ("ID", "OPEN", "EXTENSION"):
        monkeypatch.setattr(Image, name, type(getattr(Image, name))(getattr(Image, name)))
    monkeypatch.setitem(sys.modules, "pillow_heif", types.SimpleNamespace(register_heif_opener=register))
    assert load_image(content).size == (4, 3)


def test_the_list_of_suffixes_is_what_can_be_opened():
    known = suffixes()
    assert {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jp2", ".mpo"} <= known
    assert not known & {".pdf", ".eps", ".ps", ".mpg", ".h5", ".txt", ".json", ""}
    for suffix in (".png", ".jpg", ".webp", ".bmp", ".gif", ".tiff", ".ppm", ".tga", ".pcx", ".ico", ".qoi", ".jp2"):
        try:
            content = saved(Image.new("RGB", (16, 16), "red"), Image.registered_extensions()[suffix])
        except (OSError, KeyError):
            continue  # this build of Pillow cannot write it
        assert load_image(content).size == (16, 16), suffix
