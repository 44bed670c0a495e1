"""Make ``data/sample``: scenes as JPEG pictures, and their expressions in every annotation form that biaslab reads.

python tools/build_sample_data.py

Another form is one more function in ``ANNOTATIONS``.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

from biaslab.scenes import EXPRESSION_TYPES, Scene, scene

SPLIT, N = "validation", 30
IMAGES = "images"
TARGET = Path(__file__).parents[1] / "data" / "sample"

README = """# The sample data set

{n} pictures of 224 x 224 pixels with {n_expressions} referring expressions ({types}),
to try things on and to test with. They are biaslab's own scenes, the first {n} of the {split} split, as JPEG;
`python tools/build_sample_data.py` writes this folder again. The object pictures are Microsoft's Fluent Emoji 3D
(MIT, `biaslab/data/objects/LICENSE`).

| what | form | entries |
|---|---|---|
| `{images}/` | pictures, also a set to calibrate on | {n} |
{rows}

```bash
biaslab evaluate --dataset sample/refcoco_sample.jsonl --data-root data \\
    --methods none,divprune --keep 0.1 --layer 4 --out runs/sample
biaslab fit-bias --images data/sample/images --out sample.safetensors
```

An accuracy on {n} pictures says that all is in place; its interval is too wide for more.
"""


def refcoco_jsonl(scenes: Sequence[Scene]) -> bytes:
    """Write the form of the InternVL and Qwen-VL evaluations: a row per expression, boxes as corners in pixels."""
    rows = [
        {
            "image": f"{IMAGES}/{picture_name(made)}",
            "sent": expression.text,
            "bbox": [round(v) for v in made.objects[expression.target].box.as_tuple()],
            "width": made.image.width,
            "height": made.image.height,
        }
        for made in scenes
        for expression in made.expressions
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


# File -> its form in words, and the function that makes its content.
ANNOTATIONS: dict[str, tuple[str, Callable[[Sequence[Scene]], bytes]]] = {
    "refcoco_sample.jsonl": ("RefCOCO jsonl of InternVL and Qwen-VL", refcoco_jsonl),
}


def picture_name(made: Scene) -> str:
    """Name a scene's picture file."""
    return f"{made.id}.jpg"


def jpeg(made: Scene) -> bytes:
    """Encode the scene's picture as it is written: about 15 kB."""
    buffer = BytesIO()
    made.image.save(buffer, "JPEG", quality=88, optimize=True)
    return buffer.getvalue()


def build() -> dict[str, bytes]:
    """Path below the sample folder -> content, for every file in it."""
    scenes = [scene(SPLIT, index) for index in range(N)]
    pictures = {f"{IMAGES}/{picture_name(made)}": jpeg(made) for made in scenes}
    annotations = {name: content(scenes) for name, (_, content) in ANNOTATIONS.items()}
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
