"""Samples, questions, data sets, calibration images and boxes in notebooks."""

from __future__ import annotations

from itertools import islice
from typing import Any

from markupsafe import Markup

from biaslab._util.notebook import Drawing, draws
from biaslab._util.number_text import count_text
from biaslab.core.boxes import Box
from biaslab.core.images import load_image
from biaslab.errors import InputError
from biaslab.figures.inline.parts import MOST, drawn, figure, line, row, with_box
from biaslab.figures.styling import COLORS

_BOX_SIDE = 60  # pixels of the drawing of a box


@draws("Sample")
def sample(one: Any) -> Drawing:
    """Draw the image with the target, and what is asked below it."""
    return drawn(_sample(one, 224))


def _sample(one: Any, width: int) -> Markup:
    asked = Markup("<b>{}</b><br>{}").format(one.expression, _about(one))
    try:
        uri = with_box(one.image(), [one.box] if one.has_target else [])
    except InputError as error:
        return Markup('<div style="display: inline-block; width: {}px">{}<br>{}</div>').format(width, asked, error)
    alt = f"image {one.image_id}" + (f", target {_corners(one.box)}" if one.has_target else "")
    return figure(uri, asked, width=width, alt=alt)


def _about(one: Any) -> Markup:
    answers = " or ".join(getattr(one, "answers", ()))
    return line(f"answer: {answers}" if answers else "", one.expression_type, one.object_size, one.id)


@draws("ShownDataset")
def dataset(data: Any) -> Drawing:
    """Draw the first samples of a data set, one of each image."""
    first: dict[str, Any] = {}
    for one in islice(data, 10 * MOST):
        first.setdefault(one.image_id, one)
        if len(first) == MOST:
            break
    head = line(
        Markup("<b>{}</b>").format(data.name), f"split {data.split}", count_text(len(data), data.unit), data.hash
    )
    return drawn(row(head, [_sample(one, 150) for one in first.values()], left_out=max(0, len(data) - len(first))))


@draws("Calibration")
def calibration(images: Any) -> Drawing:
    """Draw the first calibration images with what is asked of them."""
    count, shown = len(images.images), []
    for i, entry in enumerate(images.images[:MOST]):
        prompt = images.prompts if isinstance(images.prompts, str) else images.prompts[i]
        picture = load_image(entry[0] if isinstance(entry, (list, tuple)) else entry)
        shown.append(figure(with_box(picture, []), prompt, width=150, alt=f"calibration image {i}"))
    return drawn(
        row(line(Markup("<b>{}</b>").format(images.name), images.counted(count)), shown, left_out=count - len(shown))
    )


@draws("Box")
def box(one: Box) -> Drawing:
    """Draw the shape of a box beside its numbers."""
    scale = _BOX_SIDE / max(one.width, one.height, 1e-9)
    if not one.area:
        return drawn(Markup('<span style="">{}, no area</span>').format(_corners(one)))
    shape = Markup(
        '<span style="display: inline-block; border: 2px solid {}; vertical-align: middle; margin-right: 8px; '
        'width: {:.0f}px; height: {:.0f}px"></span>{}, {:.4g} x {:.4g} pixels'
    )
    return drawn(shape.format(COLORS[2], one.width * scale, one.height * scale, _corners(one), one.width, one.height))


def _corners(one: Box) -> str:
    return "({:.4g}, {:.4g}) to ({:.4g}, {:.4g})".format(*one.as_tuple())
