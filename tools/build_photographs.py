"""Make the photographs in ``biaslab/scenes/gallery/photographs`` from those of scikit-image and of ``biaslab check``.

pip download --no-deps scikit-image   (0.26; unpack it)
python tools/build_photographs.py FOLDER/skimage/data
"""

import sys
from pathlib import Path

from PIL import Image

# what is cut away would show an object that the scenes have a word for
PARTS: dict[str, tuple[str, tuple[int, int, int, int] | None]] = {
    "brick": ("brick.png", None), "grass": ("grass.png", None), "gravel": ("gravel.png", None),
    "moon": ("moon.png", None), "tissue": ("ihc.png", None), "stars": ("hubble_deep_field.jpg", (0, 0, 872, 872)),
    "coffee": ("coffee.png", None), "coins": ("coins.png", None), "retina": ("retina.jpg", None),
    "astronaut": ("astronaut.png", (0, 0, 330, 512)),
}  # fmt: skip
OWN_PARTS: dict[str, tuple[int, int, int, int] | None] = {"raccoon": None, "stairs": (0, 0, 372, 230)}
SIDE = 420


def main(source: Path, target: Path, own: Path) -> None:
    """Cut, shrink and write every photograph."""
    files = {name: (source / file, box) for name, (file, box) in PARTS.items()}
    files |= {name: (own / f"{name}.jpg", box) for name, box in OWN_PARTS.items()}
    for name, (path, box) in files.items():
        image = Image.open(path).convert("RGB")
        image = image.crop(box) if box else image
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        image.save(target / f"{name}.jpg", quality=84)


if __name__ == "__main__":
    biaslab = Path(__file__).parents[1] / "biaslab"
    main(Path(sys.argv[1]), biaslab / "scenes" / "gallery" / "photographs", biaslab / "diagnostics" / "pictures")
