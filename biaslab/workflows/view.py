"""`view`: the viewer of reports in a notebook, of one image or of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from biaslab._util.arguments import at_least_one
from biaslab._util.number_text import count_text
from biaslab.attention.capture import capture
from biaslab.core.boxes import Box
from biaslab.core.images import load_image
from biaslab.core.layers import resolve_layers
from biaslab.errors import BiaslabError, InputError
from biaslab.evaluation.configurations import configurations
from biaslab.evaluation.kept_tokens import mask_of, token_mask
from biaslab.evaluation.metrics import grounding_iou, is_hit, kept_share, target_tokens
from biaslab.evaluation.results import Results
from biaslab.evaluation.single_image import PrunedAnswer, compare_methods
from biaslab.figures.report.attention_packing import VIEW_BYTES
from biaslab.figures.report.names import PrintNames
from biaslab.figures.report.view import View
from biaslab.figures.report.viewer_data import Shown, packed_samples, viewer_data
from biaslab.models.answering import generation_options
from biaslab.models.expected import expect_model
from biaslab.models.grounding import MAX_NEW_TOKENS
from biaslab.models.prune_layer import prune_layer
from biaslab.pruning.display_names import display_name, display_names
from biaslab.workflows.print_labels import check_labels, print_names
from biaslab.workflows.shown_profiles import check_division, check_shown_profiles, expected_maps

if TYPE_CHECKING:
    from PIL import Image

    from biaslab.datasets.base import Dataset
    from biaslab.models.vlm import VLM
    from biaslab.profiles import Profile
    from biaslab.pruning import Method

__all__ = ["view", "view_of_answers"]

_KEEP = 0.1
_ID = ""  # a line of its own for a name would say nothing


def view(
    what: VLM | Results,
    image: Any = None,
    expression: str = "",
    *,
    methods: Sequence[str | Method] | str = (),
    keep: float | int = _KEEP,
    layer: int | None = None,
    layers: int | Sequence[int] | None = None,
    profile: Profile | Sequence[Profile] | None = None,
    target: Box | None = None,
    seed: int = 0,
    max_new_tokens: int = MAX_NEW_TOKENS,
    n: int = 20,
    labels: Mapping[str, str] | None = None,
    height: int = 760,
    dataset: Dataset | None = None,
    vlm: VLM | None = None,
) -> View:
    """Look at where a model looks and what methods keep, in a notebook or a file.

    ``bl.view(vlm, image, "the cat")`` shows the attention of each head in some layers, the answer, and for each of its
    words where the model looked when it chose that word. ``bl.view(results)`` shows the samples of a run as its report
    does.

    Parameters
    ----------
    what : VLM or Results
    image : PIL image, path, or object with ``.image``
        With a VLM.
    expression : str
        With a VLM: the words, without any prompt.
    methods : sequence of str, Method or Schedule
        Shown beside the unpruned model.
    keep, layer, profile, seed, max_new_tokens
        As of :func:`biaslab.compare_methods`; attention is also shown divided by a profile of the last prompt token's
        attention, each head by its own where the profile is of single heads. One that only methods can use, as one of
        other rows, is named as such.
    layers : int or sequence of int, optional
        Whose attention is shown; by default four, evenly over the decoder, the one that methods read, and the
        profile's last where it holds none of these.
    target : Box, optional
        The true box, in pixels of the image.
    n : int
        With results: samples of each kind (:func:`biaslab.workflows.make_report.report`).
    labels : mapping of str, optional
        Method -> its name; default as papers name them. Pointing at a name shows how a command line spells it.
    height : int
        Of the frame, in pixels.
    dataset : Dataset, optional
        With results: the data set of the run, where it is not any more where ``run.json`` says.
    vlm : VLM, optional
        With results: the model of the run, whose attention in ``layers`` and the stages of schedules are then shown.

    Returns
    -------
    View
        Shown by a notebook; ``save("view.html")`` writes it to a file.

    Raises
    ------
    InputError
        No image or expression for a model, or either with results; a label for a method that is not there; a target
        that is no Box.
    ProfileMismatchError
        A profile that no method reads and attention cannot be divided by: of another model, of other rows, of none of
        the layers. Of one for other layouts the page says that it does not serve.

    Examples
    --------
    >>> import biaslab as bl
    >>> sample = next(iter(bl.load_dataset("scenes", n=1)))
    >>> bl.view(bl.load("grounder"), sample, sample.expression, methods=["fastv"], target=sample.box)
    <View: "big elephant left of the sheep", grounder, 1 sample>
    """
    at_least_one("height", height)
    if isinstance(what, Results):
        if image is not None or expression:
            raise InputError("view(results) takes no image and no expression: its samples have their own")
        own = {
            "methods": methods or None, "keep": None if keep == _KEEP else keep, "layer": layer, "profile": profile,
            "target": target, "seed": seed or None,
        }  # fmt: skip
        if wrong := [name for name, value in own.items() if value is not None]:
            raise InputError(f"view(results) shows the {wrong[0]} of the run: leave {wrong[0]} out")
        return _view_results(what, at_least_one("n", n), labels, height, dataset, vlm, layers)
    if isinstance(what, (str, Path)):
        name = json.dumps(str(what))
        raise InputError(
            f"view is of a model or of a run, not of a name: bl.Results.load({name}).view() shows a run, "
            f"bl.view(bl.load({name}), image, expression) a model"
        )
    if dataset is not None or vlm is not None:
        raise InputError("dataset and vlm are of view(results): leave them out")
    expect_model(what)
    vlm = what
    if image is None or not expression:
        raise InputError("view(vlm, image, expression) needs an image and an expression")
    if not isinstance(target, Box | None):
        raise InputError(f"target must be a Box in pixels, such as biaslab.Box(10, 20, 110, 90); got {target!r}")
    wanted = None if layers is None else resolve_layers(layers, vlm.n_layers, "the decoder")
    pixels = load_image(image.image() if callable(getattr(image, "image", None)) else image)
    words_of: list[Any] = list(methods) if isinstance(methods, (list, tuple)) else [methods]
    asked = ["none", *(m for m in words_of if m != "none")]
    called = print_names(asked, labels)
    profiles = _many(profile)
    _check_layer(vlm, layer)
    read = [own for c in configurations(asked, keep, prune_layer(vlm, layer), profile, model=vlm) for own in c.profiles]
    check_shown_profiles(vlm, profiles, read, layers=wanted)
    answers = compare_methods(
        vlm, pixels, expression, methods=asked, keep=keep, layer=layer,
        profile=profile, seed=seed, max_new_tokens=max_new_tokens,
    )  # fmt: skip
    return view_of_answers(
        vlm, pixels, expression, answers, layer=layer, layers=layers, profile=profiles, target=target,
        max_new_tokens=max_new_tokens, names=called, height=height,
    )  # fmt: skip


def view_of_answers(
    vlm: VLM,
    pixels: Image.Image,
    expression: str,
    answers: Sequence[PrunedAnswer],
    *,
    layer: int | None = None,
    layers: int | Sequence[int] | None = None,
    profile: Profile | Sequence[Profile] | None = None,
    target: Box | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    names: Mapping[str, str] | None = None,
    height: int = 760,
) -> View:
    """Look at answers that :func:`biaslab.compare_methods` has given, and at where the unpruned model looks.

    Parameters
    ----------
    vlm : VLM
    pixels : PIL image
    expression : str
    answers : sequence of PrunedAnswer
        To that image and expression.
    layer, layers, target, max_new_tokens, height
        As of :func:`view`.
    profile : Profile or sequence of these, optional
        Attention is also shown divided by the first that serves; where none does, the page says why.
    names : mapping of str, optional
        Method as the answers have it -> its name; default as papers name them.

    Returns
    -------
    View

    Examples
    --------
    >>> import biaslab as bl
    >>> vlm, sample = bl.load("grounder"), next(iter(bl.load_dataset("scenes", n=1)))
    >>> pixels = sample.image()
    >>> answers = bl.compare_methods(vlm, pixels, sample.expression, methods=["divprune"], keep=0.1)
    >>> view_of_answers(vlm, pixels, sample.expression, answers, layers=[3])
    <View: "big elephant left of the sheep", grounder, 1 sample>
    """
    profiles = _many(profile)
    chosen = _default(vlm, prune_layer(vlm, layer), profiles) if layers is None else layers
    wanted = resolve_layers(chosen, vlm.n_layers, "the decoder")
    encoded = vlm.encode_grounding([pixels], [expression])
    words, maps, of_words = _attention(vlm, encoded, wanted, max_new_tokens)
    (layout,) = encoded.layouts
    called = display_names(answer.method for answer in answers) if names is None else names
    shown = Shown(
        id=_ID,
        image_id=_ID,
        text=expression,
        image=pixels,
        size=pixels.size,
        layouts=[layout],
        target=None if target is None else target.as_tuple(),
        attention=maps,
        words=words,
        word_attention=of_words,
        stages={
            str(i): [mask_of(left.indices.cpu().numpy(), layout.n) for _, left in answer.stages]
            for i, answer in enumerate(answers)
            if answer.stages
        },
    )
    configs, lines = [], {}
    for i, answer in enumerate(answers):
        stages = [(stage.layer, called.get(stage.rule.label) or display_name(stage.rule)) for stage, _ in answer.stages]
        configs.append(
            {
                "name": called[answer.method],
                "spelled": answer.method,
                "pruned": answer.selection is not None,
                "side": 0,
                "key": str(i),
                "stages": [f"{name}, layer {before}" for before, name in stages],
            }
        )
        lines[0, _ID, str(i)] = _line(answer, target)
    expected, undivided = expected_maps(vlm, profiles, {layout.key: layout}, wanted)
    data = packed_samples(configs, lines, [shown], expected=expected, budget=VIEW_BYTES)
    return View(data, f'"{expression}", {vlm.name}', model=vlm, height=height, notes=undivided)


def _view_results(
    results: Results,
    n: int,
    labels: Mapping[str, str] | None,
    height: int,
    dataset: Dataset | None,
    vlm: VLM | None,
    layers: int | Sequence[int] | None,
) -> View:
    from biaslab.workflows.make_report import samples_with_attention

    check_labels([results], labels)
    seen = samples_with_attention(results, dataset, vlm, [layers] if isinstance(layers, int) else layers, n=n)
    model = results.run["identity"]["model"]
    return View(
        viewer_data({"": results}, seen.shown, PrintNames(results, labels=labels), expected=seen.expected),
        f"{model['name']}: {count_text(len(results.verdicts), 'line')}",
        model=model,
        height=height,
        notes=seen.missing,
    )


def _check_layer(vlm: VLM, layer: int | None) -> None:
    """Refuse a prune layer that the model does not have, also where nothing is pruned."""
    at, n = prune_layer(vlm, layer), vlm.n_layers
    if isinstance(at, bool) or not isinstance(at, Integral) or int(at) >= n:
        raise InputError(f"layer must be 0 .. {n - 1}, or -{n} .. -1 from the end; got {layer!r}")


def _many(profile: Profile | Sequence[Profile] | None) -> list[Any]:
    return [] if profile is None else list(profile) if isinstance(profile, (list, tuple)) else [profile]


def _default(vlm: VLM, layer: int, profiles: Sequence[Profile]) -> list[int]:
    chosen = {round(i * (vlm.n_layers - 1) / 3) for i in range(4)} | ({layer - 1} if layer > 0 else set())
    for profile in profiles:
        try:
            check_division(vlm, profile)
        except BiaslabError:  # what becomes of it is said where it is used
            continue
        if not chosen & set(profile.layers_):
            chosen.add(profile.layers_[-1])
    return sorted(chosen)


def _attention(vlm: VLM, encoded: Any, layers: list[int], limit: int) -> tuple[list[str], dict, dict]:
    """Generate once: the answer's words, per layer the heads' maps at the last prompt token, and maps of the words."""
    settings = generation_options(vlm, limit, {})
    recording = capture(vlm, layers=layers, heads="all", queries="generated")
    with recording as rows, vlm.running(encoded) as inputs, torch.no_grad():
        out = vlm.model.generate(**inputs, **settings)
    tokens = (out if isinstance(out, torch.Tensor) else out.sequences)[0, encoded.last + 1 :].tolist()
    ends = set(torch.as_tensor(vlm.model.generation_config.eos_token_id or []).flatten().tolist())
    shown = [token for token in tokens if token not in ends]
    words = [vlm.processor.tokenizer.decode([token]) for token in shown]
    ((first, last),) = encoded.spans
    maps, of_words = {}, {}
    for layer in layers:
        values = rows[layer].values[0, :, :, first:last].cpu().numpy()
        maps[layer] = values[:, 0]
        of_words[layer] = values.mean(0)[: len(words)]
    return words[: len(of_words[layers[0]])], maps, of_words


def _line(answer: PrunedAnswer, target: Box | None) -> dict[str, Any]:
    """Write an answer as a sample line has it."""
    layout, selection, box = answer.layout, answer.selection, answer.answer.box
    kept = np.arange(layout.n) if selection is None else selection.indices.cpu().numpy()
    line: dict[str, Any] = {
        "error": None, "hit": None, "answer": answer.answer.text, "box": None if box is None else box.as_tuple(),
        "parsed": answer.answer.parsed, "truncated": answer.answer.truncated, "tokens_kept": len(kept),
        "kept": None if selection is None else token_mask(kept, layout.n),
    }  # fmt: skip
    if target is not None:
        iou = grounding_iou(box, target)
        line |= {"hit": is_hit(iou), "iou": iou, "target_kept": kept_share(kept, target_tokens(layout, target))}
    return line
