"""One minute on whether a model is set up right: its answers, keep-all pruning, captured rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from biaslab._util.arguments import at_least_one
from biaslab._util.jsonable import plain, records
from biaslab._util.progress import phase, progress_bar
from biaslab.datasets.drawn import embedded_data
from biaslab.datasets.loading import load_dataset
from biaslab.datasets.sample import Sample
from biaslab.diagnostics.agreement import Agreement, capture_agreement, pruning_agreement
from biaslab.diagnostics.answer_check import AnswerCheck, answer_check
from biaslab.diagnostics.check_pictures import check_samples
from biaslab.errors import InputError
from biaslab.models.expected import expect_model
from biaslab.models.grounding import MAX_NEW_TOKENS, Grounding
from biaslab.models.registry import EMBEDDED

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = ["IMAGES", "CheckReport", "check", "pictures_for"]

#: what a model may be checked on
IMAGES = ("photographs", "scenes", "gallery")
_SCENES = 43  # expressions, as many as there are on the photographs
_SMALL = 224  # pixels a side of the image that eager attention is computed for


@dataclass(frozen=True)
class CheckReport:
    """What `check` found.

    Attributes
    ----------
    model : dict
        Name, revision, fingerprint, family, dtype and device.
    images : str
        "photographs", "scenes", "gallery" or "samples" (the caller's own).
    answers : AnswerCheck
        Of the localization answers.
    agreements : list of Agreement
        Keep-all pruning against none, captured rows against eager attention.

    Examples
    --------
    >>> import biaslab as bl
    >>> samples = list(bl.load_dataset("scenes", n=4))
    >>> report = bl.check(bl.load("grounder", device="cpu"), samples, progress=False)
    >>> report.holds, report.images, report.answers.own
    (True, 'samples', '0-1000')
    """

    model: dict[str, Any]
    images: str
    answers: AnswerCheck
    agreements: list[Agreement]

    @property
    def fails(self) -> list[str]:
        """What does not hold, in words."""
        wrong = [self.answers.verdict] if self.answers.holds is False else []
        return wrong + [str(each) for each in self.agreements if each.holds is False]

    @property
    def holds(self) -> bool:
        """Whether nothing was found that does not hold; what could not be told does not count."""
        return not self.fails

    def text(self) -> str:
        """Return all of it as lines of text."""
        found, n = self.answers, len(self.answers.answers)
        rows = found.answers
        cut = int((rows["truncated"] & ~rows["parsed"]).sum())
        lines = [
            f"{self.model['name']} ({self.model['family']}, {self.model['dtype']}, {self.model['device']}), "
            f"{n} expressions on {rows['image'].nunique()} images ({self.images})",
            f"parsed   {_share(found.parsed)}" + (f", {cut} cut before a box" if cut else ""),
            f"Acc@0.5  {_share(found.accuracy)}, read as {found.own}",
            "",
            f"hits of {n}, had the answers been meant otherwise:",
            found.grid().to_string(index=False),
            "",
            ("DOES NOT HOLD: " if found.holds is False else "") + found.verdict,
            *map(str, self.agreements),
        ]
        return "\n".join(lines)

    def record(self) -> dict[str, Any]:
        """Return all of it, JSON-ready."""
        found = self.answers
        return plain({
            "model": self.model, "images": self.images, "n": len(found.answers), "holds": self.holds,
            "parsed": dict(zip(("value", "lo", "hi"), found.parsed, strict=True)),
            "accuracy": dict(zip(("value", "lo", "hi"), found.accuracy, strict=True)),
            "read_as": found.own, "answers_hold": found.holds, "verdict": found.verdict,
            "readings": records(found.readings), "answers": records(found.answers),
            "agreements": [
                {"what": a.what, "difference": a.difference, "tolerance": a.tolerance, "measure": a.measure,
                 "holds": a.holds, "why_not": a.why_not}
                for a in self.agreements
            ],
        })  # fmt: skip


def pictures_for(model: str, images: str | None = None) -> str:
    """Say what a model is checked on: an embedded one, which knows nothing else, on images of its own kind.

    Raises
    ------
    InputError
        Not one of `IMAGES`.

    Examples
    --------
    >>> from biaslab.workflows.check import pictures_for
    >>> pictures_for("grounder"), pictures_for("observer"), pictures_for("internvl2.5")
    ('scenes', 'gallery', 'photographs')
    """
    if images is None:
        return embedded_data(model) if model.strip().lower() in EMBEDDED else "photographs"
    if images not in IMAGES:
        raise InputError(f"unknown images={images!r}: choose one of {', '.join(IMAGES)}")
    return images


def check(
    vlm: VLM,
    samples: Sequence[Sample] | None = None,
    *,
    images: str | None = None,
    layer: int | None = None,
    layers: Sequence[int] | None = None,
    batch_size: int = 8,
    max_new_tokens: int = MAX_NEW_TOKENS,
    progress: bool = True,
) -> CheckReport:
    """Check that a model is set up right, before anything is measured on it.

    Its answers to easy expressions are read in every coordinate space, not only in its family's: an adapter, a prompt
    or a checkpoint that do not belong together cost accuracy without a message. Pruning that keeps all tokens must
    leave the logits as they are, and captured rows must be those of eager attention. For diagnosis alone: the
    images are no data set, and the space in which a model's answers are read is never changed.

    Parameters
    ----------
    vlm : VLM
    samples : sequence of Sample, optional
        Expressions of your own, with boxes, on two images or more.
    images : "photographs", "scenes" or "gallery", optional
        43 expressions on 12 images, or on procedural ones. Default: photographs; of an embedded model its own kind.
    layer : int, optional
        Prune layer K of the comparison; by default the model's own.
    layers : sequence of int, optional
        Decoder layers whose captured rows are compared; default the first, the middle and the last.
    batch_size, max_new_tokens : int
    progress : bool

    Returns
    -------
    CheckReport

    Raises
    ------
    InputError
        Samples and images at once, or fewer than two images.

    Examples
    --------
    >>> import biaslab as bl
    >>> samples = list(bl.load_dataset("scenes", n=4))  # your own, or none: the images that come with biaslab
    >>> report = bl.check(bl.load("grounder", device="cpu"), samples, progress=False)
    >>> [each.holds for each in report.agreements]
    [True, True]
    """
    expect_model(vlm)
    if samples is not None and images is not None:
        raise InputError("give samples or images=, not both")
    at_least_one("batch_size", batch_size)
    kind = "samples" if samples is not None else pictures_for(vlm.name, images)
    if samples is None:
        samples = check_samples() if kind == "photographs" else list(load_dataset(kind, split="validation", n=_SCENES))
    samples = list(samples) if isinstance(samples, Iterable) else [samples]
    if not all(isinstance(sample, Sample) for sample in samples):
        raise InputError("samples must be a list of biaslab samples, such as list(bl.load_dataset(...))")
    if len({sample.image_id for sample in samples}) < 2:
        raise InputError("a check needs expressions on two images or more")
    found: list[Grounding] = []
    resized: list[tuple[int, int]] = []
    with ExitStack() as stack:
        advance = stack.enter_context(progress_bar("check", total=len(samples), done=0, show=progress))
        rest = iter(samples)
        while batch := list(islice(rest, batch_size)):
            encoded = vlm.encode_grounding([s.image() for s in batch], [s.expression for s in batch])
            found += vlm.locate_answers(encoded, max_new_tokens=max_new_tokens)
            resized += encoded.resized
            advance(len(batch))
    answers = answer_check(samples, found, resized, vlm.family.box_space)
    with phase("compare", show=progress):
        encoded = _small_prompt(vlm, samples)
        agreements = [pruning_agreement(vlm, encoded, layer), capture_agreement(vlm, encoded, layers)]
    return CheckReport(_model(vlm), kind, answers, agreements)


def _small_prompt(vlm: VLM, samples: Sequence[Sample]) -> Any:
    """Encode the smallest image, with as few visual tokens as the family's options allow: eager holds all pairs."""
    sample = min(samples, key=lambda s: s.width * s.height)
    options = {"max_tiles": 1, "max_pixels": _SMALL * _SMALL}
    few: dict[str, Any] = {name: value for name, value in options.items() if name in vlm.family.options}
    low: dict[str, Any] = {
        name.replace("max_", "min_"): 1 for name in few if name.replace("max_", "min_") in vlm.image_options
    }
    return vlm.encode_grounding([sample.image()], [sample.expression], **few, **low)


def _model(vlm: VLM) -> dict[str, Any]:
    parameter = next(vlm.model.parameters())
    return {
        "name": vlm.name, "revision": vlm.revision, "fingerprint": vlm.fingerprint, "family": vlm.family.name,
        "dtype": str(parameter.dtype).removeprefix("torch."), "device": str(vlm.device),
        "image_options": json.loads(json.dumps(vlm.image_options)), **vlm.loading, **vlm.watermark,
    }  # fmt: skip


def _share(interval: Any) -> str:
    return f"{interval.value:.3f} [{interval.lo:.2f}, {interval.hi:.2f}]"
