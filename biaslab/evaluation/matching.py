"""Keep ratios of equal cost at several prune layers: "50 %" at K = 16 costs five times "10 %" at K = 2.

What a configuration costs is the mean over the data set's images, of which up to 64 sizes are laid out before the
run: their share of visual tokens over all decoder layers, or the FLOPs of the decoder's prefill. The cost of a keep at
the smallest layer is the target of all others. Ratios are chosen in steps of 0.0001, counts in tokens, so that rows
differ by no more than one step; every image keeps ``budget(keep, N)`` tokens as under any keep.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from biaslab.cost import decoder_flops
from biaslab.errors import InputError
from biaslab.evaluation.configurations import Config, configurations
from biaslab.evaluation.most_tokens import prompt_tokens
from biaslab.evaluation.prompts import prompt_of
from biaslab.pruning import Method, Schedule, budget
from biaslab.pruning.schedule import schedule_in

if TYPE_CHECKING:
    from biaslab.datasets.sample import Sample
    from biaslab.evaluation.configurations import Profiles
    from biaslab.models.vlm import VLM

__all__ = [
    "MATCHES",
    "PromptSizes",
    "matched_configurations",
    "matched_keeps",
    "matched_share",
    "mean_share",
    "read_match",
]

logger = logging.getLogger(__name__)

MATCHES = ("mean-share", "flops")
_STEPS = 10_000  # of a ratio
_SIZES = 64  # of images that are laid out


def mean_share(n_layers: int, layer: int | Sequence[int], tokens: Any, kept: Any) -> Any:
    """Compute the share of the visual tokens that a decoder layer sees, on average over all layers.

    Parameters
    ----------
    n_layers : int
        Decoder layers L.
    layer : int or sequence of int
        K, the tokens are dropped just before decoder layer index K; of a schedule that of each stage.
    tokens, kept : float, or arrays of one shape
        Visual tokens of the image, and those that are kept; of a schedule a sequence of these, one for each stage.

    Returns
    -------
    float or array
        ``(K N + (L - K) n) / (L N)``, and so on for every cut.

    Examples
    --------
    >>> from biaslab.evaluation.matching import mean_share
    >>> mean_share(32, 2, 1000, 100), mean_share(32, 16, 1000, 500)
    (0.15625, 0.75)
    >>> mean_share(32, [8, 16, 24], 1000, [500, 250, 125])  # PyramidDrop
    0.46875
    """
    if not isinstance(layer, Sequence):
        return (layer * tokens + (n_layers - layer) * kept) / (n_layers * tokens)
    ends = [*layer[1:], n_layers]
    held = sum((end - start) * left for start, end, left in zip(layer, ends, kept, strict=True))
    return (layer[0] * tokens + held) / (n_layers * tokens)


class PromptSizes:
    """Visual and text tokens of a data set's prompts, each with how many expressions it stands for.

    Parameters
    ----------
    vlm : VLM
        The model; one without weights will do.
    samples : iterable of Sample
        What is evaluated. Of more than 64 sizes of images 64 are laid out, spread evenly over the data set.
    """

    def __init__(self, vlm: VLM, samples: Iterable[Sample]) -> None:
        texts: dict[tuple[int, int], str] = {}
        count: Counter[tuple[int, int]] = Counter()
        for sample in samples:
            texts.setdefault((sample.width, sample.height), prompt_of(vlm.family, sample))
            count[sample.width, sample.height] += 1
        sizes = list(texts)
        sizes = [sizes[i * len(sizes) // min(len(sizes), _SIZES)] for i in range(min(len(sizes), _SIZES))]
        self.config, self.n_layers = vlm.model.config.get_text_config(), vlm.n_layers
        self.counted: Counter[tuple[int, int]] = Counter()
        why = "the data set is empty"
        for size in sizes:
            try:
                tokens = prompt_tokens(vlm, size, texts[size])
            except InputError as error:  # an image that this model cannot cut: it will be an error of the run
                why = str(error)
                continue
            self.counted[tokens] += count[size]
        if not self.counted:
            raise InputError(f"match has no image to count the tokens of: {why}")

    def cost(self, match: str) -> Callable[[float | int, int], float]:
        """Return the mean cost of a keep at a layer: a share, or TFLOPs of the decoder's prefill."""
        return lambda keep, layer: self._mean(match, [layer], lambda n: [budget(keep, n)])

    def cost_of_schedule(self, match: str) -> Callable[[Schedule], float]:
        """Return the mean cost of a schedule."""
        return lambda schedule: self._mean(match, [stage.layer for stage in schedule], schedule.kept)

    def _mean(self, match: str, layers: list[int], kept: Callable[[int], list[int]]) -> float:
        costs = 0.0
        for (n, text), times in self.counted.items():
            if match == "mean-share":
                costs += times * mean_share(self.n_layers, layers, n, kept(n))
            else:
                costs += times * decoder_flops(self.config, n, text, keep_n=kept(n), layer=layers)[0] / 1e12
        return costs / self.counted.total()

    @property
    def most(self) -> int:
        """Most visual tokens of an image."""
        return max(n for n, _ in self.counted)


def matched_configurations(
    vlm: VLM,
    samples: Sequence[Sample],
    methods: Any,
    keep: Any,
    layers: Any,
    profile: Profiles,
    match: str,
) -> list[Config]:
    """List every method at every layer, with keeps at which all cost the same; ``"none"`` once.

    A method of several stages costs the same at its own layers; a schedule that says its keeps costs what it says.

    Parameters
    ----------
    vlm : VLM
        The model; one without weights will do.
    samples : sequence of Sample
        What is evaluated.
    methods, keep, layers, profile
        As of :func:`~biaslab.evaluation.configurations.configurations`; the keeps are those at the smallest layer.
    match : str
        As `read_match` takes it.

    Returns
    -------
    list of Config

    Raises
    ------
    InputError
        As :func:`~biaslab.evaluation.configurations.configurations` and `matched_keeps` raise.
    """
    what, target = read_match(match)
    asked = configurations(methods, keep, layers, profile, model=vlm)  # refusals come before any image is laid out
    single = [config for config in asked if config.method is not None and not isinstance(config.method, Schedule)]
    staged = [c.method.of for c in asked if isinstance(c.method, Schedule) and c.method.of is not None]
    where = sorted({config.layer for config in single if config.layer is not None})
    if not where and (target is None or not staged):
        return asked
    rules = [config.method for config in single if isinstance(config.method, Method)] or staged
    keeps = [value for _, value in dict.fromkeys((type(rule.keep), rule.keep) for rule in rules)]
    sizes = PromptSizes(vlm, samples)
    chosen = matched_keeps(sizes, keeps, where, match) if where else {}
    aims = [sizes.cost(what)(value, where[0]) for value in keeps] if target is None else [target]
    for layer, values in chosen.items():
        logger.info("match %s: layer %d keeps %s", match, layer, ", ".join(f"{value:g}" for value in values))
    found: dict[str, Config] = {}
    for method in methods if isinstance(methods, (list, tuple)) else [methods]:
        own = configurations(method, keep, layers, profile, model=vlm)
        if isinstance(own[0].method, Schedule) and own[0].method.of is not None:
            shares = dict.fromkeys(matched_share(sizes, vlm, own[0].method.of, aim, what) for aim in aims)
            own = configurations(method, list(shares), layers, profile, model=vlm)
        elif own[0].layer is not None and own[0].method is not None and not isinstance(own[0].method, Schedule):
            own = [
                config
                for layer, values in chosen.items()
                for config in configurations(method, values, layer, profile, model=vlm)
            ]
        found |= {config.key: config for config in own}
    return list(found.values())


def matched_share(sizes: PromptSizes, model: Any, method: Method, aim: float, what: str) -> float:
    """Choose the keep at which a method of several stages costs as much as is asked for.

    Parameters
    ----------
    sizes : PromptSizes
        Of the model and the data set.
    model : VLM or Geometry
        Whose depth the stages are scaled to.
    method : Method
        One that cuts at layers of its own.
    aim : float
        The cost.
    what : {"mean-share", "flops"}
        Unit of the cost.

    Returns
    -------
    float
        Share of the tokens behind the last stage.

    Raises
    ------
    InputError
        A cost that the method cannot have; the message says what can be had.
    """
    cost = sizes.cost_of_schedule(what)

    def of_keep(keep: float | int) -> float:
        schedule = schedule_in(model, method.with_keep(keep))
        assert schedule is not None
        return cost(schedule)

    keep = float(_nearest(of_keep, 1.0, aim, sizes.most, what, method.name))
    logger.info("match %s: %s keeps %g in the end", what, method.name, keep)
    return keep


def read_match(match: str) -> tuple[str, float | None]:
    """Split ``"mean-share"``, ``"flops"`` or either with ``=NUMBER`` into what is matched and the target.

    Raises
    ------
    InputError
        Anything else, and a target that is not positive.

    Examples
    --------
    >>> from biaslab.evaluation.matching import read_match
    >>> read_match("flops"), read_match("mean-share=0.2")
    (('flops', None), ('mean-share', 0.2))
    """
    what, given, number = str(match).partition("=")
    try:
        target = float(number) if given else None
    except ValueError:
        target = -1.0
    if what not in MATCHES or (target is not None and not 0 < target < float("inf")):
        raise InputError(
            f"match {match!r}: choose mean-share or flops, or name the cost as mean-share=0.2 (a share) or flops=1.5 "
            "(TFLOPs of the decoder's prefill)"
        )
    return what, target


def matched_keeps(
    sizes: PromptSizes, keeps: Sequence[float | int], layers: Sequence[int], match: str
) -> dict[int, list[float | int]]:
    """Choose keeps of equal cost for every layer.

    Parameters
    ----------
    sizes : PromptSizes
        Of the model and the data set.
    keeps : sequence of float or int
        Ratios or counts at the smallest layer; with a target in `match` only whether they are counts matters.
    layers : sequence of int
        Prune layers K.
    match : str
        As `read_match` takes it.

    Returns
    -------
    dict of int to list
        Layer -> a keep for each of `keeps` (for a target: one), of the same kind.

    Raises
    ------
    InputError
        A layer whose cost is above the target even with a single token, or below it with all of them: the message says
        what can be had.
    """
    what, target = read_match(match)
    cost, reference = sizes.cost(what), min(layers)
    targets = [(keep, cost(keep, reference)) for keep in keeps] if target is None else [(keeps[0], target)]
    chosen: dict[int, list[float | int]] = {layer: [] for layer in layers}
    for keep, aim in targets:
        for layer in layers:
            if target is None and layer == reference:
                chosen[layer].append(keep)
                continue
            at_layer = partial(_swapped, cost, layer)
            chosen[layer].append(_nearest(at_layer, keep, aim, sizes.most, what, f"layer {layer}"))
    return chosen


def _swapped(cost: Callable[[float | int, int], float], layer: int, keep: float | int) -> float:
    return cost(keep, layer)


def _nearest(
    cost: Callable[[float | int], float], like: float | int, aim: float, most: int, what: str, who: str
) -> float | int:
    """Find the keep whose cost is nearest to the target; it grows with the keep."""
    counts = isinstance(like, int)
    steps = most if counts else _STEPS

    def keep(step: int) -> float | int:
        return step if counts else step / _STEPS

    def at(step: int) -> float:
        return cost(keep(step))

    least, all_of_them = at(1), at(steps)
    unit = "" if what == "mean-share" else " TFLOPs"
    if not least <= aim * (1 + 1e-12) or not aim <= all_of_them * (1 + 1e-12):
        low, high = f"{least:.4g}{unit}", f"{all_of_them:.4g}{unit}"
        problem = (
            f"costs at least {low}, with a single token: leave it out, or raise the keep"
            if aim < least
            else f"costs {high} with all tokens: lower the target"
        )
        raise InputError(f"match {what}: {who} cannot cost {aim:.4g}{unit}: it {problem}")
    below, above = 1, steps
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if at(middle) <= aim else (below, middle)
    return keep(min((below, above), key=lambda step: abs(at(step) - aim)))
