"""Make ``data/sample``: scenes as JPEG images, and their expressions in every annotation form that biaslab reads.

python -m tools.build_sample_data

The forms are those of `tools.annotation_forms`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from biaslab.scenes import EXPRESSION_TYPES, Scene, scene
from tools.annotation_forms import ANNOTATIONS, IMAGES, Labelled

SPLIT, N = "validation", 30
TARGET = Path(__file__).parents[1] / "data" / "sample"

README = """# The sample data set

{n} images of 224 x 224 pixels with {n_expressions} referring expressions ({types}),
to try things on and to test with. They are biaslab's own scenes, the first {n} of the {split} split, as JPEG;
`python -m tools.build_sample_data` writes this folder again. The object images are Microsoft's Fluent Emoji 3D
(MIT, `biaslab/scenes/objects/LICENSE`).

| what | form | entries |
|---|---|---|
| `{images}/` | images, also a set to calibrate on | {n} |
{rows}

```bash
biaslab evaluate --dataset sample/refcoco_sample.jsonl --data-root data \\
    --methods none,divprune --keep 0.1 --layer 4 --out runs/sample
biaslab fit-bias --images data/sample/images --out sample.safetensors
```

An accuracy on {n} images says that all is in place; its interval is too wide for more.
"""


def labelled(scenes: Sequence[Scene]) -> list[Labelled]:
    """List the expressions of scenes with their targets."""
    found: list[Labelled] = []
    for number, made in enumerate(scenes):
        for expression in made.expressions:
            x, y, right, bottom = (round(v) for v in made.objects[expression.target].box.as_tuple())
            found.append(
                Labelled(
                    picture_name(made),
                    number,
                    *made.image.size,
                    expression.text,
                    100 * number + expression.target,
                    (x, y, right, bottom),
                )  # fmt: skip
            )
    return found


def picture_name(made: Scene) -> str:
    """Name a scene's image file."""
    return f"{made.id}.jpg"


def jpeg(made: Scene) -> bytes:
    """Encode the scene's image as it is written: about 15 kB."""
    buffer = BytesIO()
    made.image.save(buffer, "JPEG", quality=88, optimize=True)
    return buffer.getvalue()


def build() -> dict[str, bytes]:
    """Path below the sample folder -> content, for every file in it."""
    scenes = [scene(SPLIT, index) for index in range(N)]
    pictures = {f"{IMAGES}/{picture_name(made)}": jpeg(made) for made in scenes}
    rows = labelled(scenes)
    annotations = {name: content(rows) for name, (_, content) in ANNOTATIONS.items()}
    types = Counter(expression.expression_type for made in scenes for expression in made.expressions)
    readme = README.format(
        n=N,
        n_expressions=types.total(),
        split=SPLIT,
        images=IMAGES,
        types=", ".join(f"{types[name]} by {name}" for name in EXPRESSION_TYPES),
        rows="\n".join(f"| `{name}` | {form} | {types.total()} |" for name, (form, _) in ANNOTATIONS.items()),
    )
    return {"README.md": readme.encode(), **annotations, **pictures}


def main(target: Path = TARGET) -> None:
    """Write the sample folder."""
    for name, content in build().items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(content)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
