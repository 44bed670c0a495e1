"""Dropping visual tokens inside an unmodified model, at the prefill, in front of one decoder layer or several.

Only forward hooks are used. Layers below K run on the whole prompt and keep its whole KV cache (or what the last cut
has left: `biaslab/pruning/engine/trimming.py`); layer K and those after it see text and kept tokens, at their original
positions; further stages drop more at later layers. Nothing changes at decode, where only a padding mask, if there is
one, has to lose the columns of the dropped tokens: every cache layer knows its own length, and the positions of new
tokens come from ``generate``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from torch import nn

from biaslab.errors import InputError, UnsupportedError
from biaslab.models.expected import expect_model
from biaslab.models.prune_layer import DefaultLayer, prune_layer
from biaslab.pruning.base import Method
from biaslab.pruning.engine.checks import check_profile, check_setup
from biaslab.pruning.engine.hooks import Engine
from biaslab.pruning.engine.run import PruneRun
from biaslab.pruning.engine.trimming import check_trimming
from biaslab.pruning.keep_counts import warn_of_counts
from biaslab.pruning.registry import parse
from biaslab.pruning.schedule import Schedule, Stage, is_schedule, parse_schedule, schedule_in

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = ["PruneRun", "engaged", "is_joint", "prune"]

_ACTIVE: WeakSet[nn.Module] = WeakSet()  # decoders that are being pruned


@contextmanager
def prune(
    vlm: VLM,
    method: Method | str | None = None,
    layer: int | None = None,
    *,
    schedule: Schedule | Sequence[Stage] | str | None = None,
    positions: str = "original",
    seed: int = 0,
    timed: bool = False,
    budget: str | None = None,
    cache: str = "full",
) -> Iterator[PruneRun]:
    """Prune the visual tokens of every prompt that ``vlm`` runs inside the block.

    Parameters
    ----------
    vlm : VLM
    method : Method or str
        What to keep; a name may have options, as on the command line ("fastv:score=no_rope"). Attention that it
        needs is that of layer K - 1 in the same forward.
    layer : int, optional
        K: tokens are dropped just before this decoder layer, -1 the last; 0 drops them before the decoder, which only
        methods without attention can do. Default: from the model's geometry
        (:func:`biaslab.models.prune_layer.default_prune_layer`); a method of several stages, such as "pyramiddrop",
        then cuts at its own layers, scaled to the depth, and one that is made for it before the decoder, or before the
        first layer that the model allows.
    schedule : sequence of Stage, or str
        In the place of method and layer: several cuts in one prefill, each among the tokens that the one before has
        left, by what the model shows of these. A stage's keep is a share of the image's ORIGINAL tokens. As a word
        "divprune@0.4@2+d2pruner@0.06@4" (:func:`biaslab.pruning.parse_schedule`).
    positions : "original", "renumber" or "remap"
        Kept tokens keep their position ids; or close ranks, text behind them included; or stretch over the positions
        that their image had, as Nuwa does: the j-th of m kept ones takes the position of token
        ``round(j (n - 1) / (m - 1))`` of n. In layers >= K; the last two of 1-D rotary positions alone, the last of
        one cut.
    seed : int
        Of the run; every sample derives its own from this and its sample id (its row where it has none).
    timed : bool
        Measure scoring and selection; waits for the device.
    budget : "separate" or "joint", optional
        Of a prompt with several images (frames of a video): each keeps its own share, or all are one pool, in which
        tokens of one image stand against those of another; the method then sees a layout of frames
        (`biaslab.core.frames.FramesLayout`). Default: as the method wants it (`Method.joint`), else "separate".
    cache : "full" or "trimmed"
        Layers below K keep the whole prompt in the KV cache; or, once the prefill is through, what the last cut has
        left, as PriorTR and IVC-Prune do: the same in every layer. Prompt tokens have seen all there, generated ones
        then see kept tokens alone, and are made faster. Not with renumbered positions, sliding windows below K, or
        tokens that come back.

    Yields
    ------
    PruneRun
        The selections of the latest prefill; readable after the block.

    Raises
    ------
    InputError, UnsupportedError, ProfileMismatchError
        Before any work, for what cannot be right; from inside the forward, before it starts, where only the
        forward shows it (no KV cache, a later turn at K = 0, a cache filled elsewhere, unknown layout).

    Warns
    -----
    UserWarning
        When the block ends, if a count of tokens to keep was more than any of its images has.

    Notes
    -----
    Selections are made once, at the prefill, for all samples at once; none depends on another. Further turns on the
    same cache are possible for K >= 1; images in them are refused. A later stage reads the rows of the short sequence,
    and those of layers below an earlier cut at the tokens that are left; a positional profile is evaluated on the whole
    layout. Under pruning a forward returns logits for the short sequence only: index the text from the right.

    Examples
    --------
    >>> import biaslab as bl
    >>> vlm, sample = bl.load("grounder"), next(iter(bl.load_dataset("scenes", n=1)))
    >>> encoded = vlm.encode_grounding([sample.image()], [sample.expression])
    >>> with bl.prune(vlm, bl.FastV(keep=0.1), layer=4) as run:
    ...     answers = vlm.generate(encoded)
    >>> len(run.selections[0].indices), run.counts
    (25, [256])
    >>> lengths = run.kv_lengths()
    >>> lengths[3] - lengths[4]  # layers below 4 keep the whole prompt
    231

    Two stages, half of the tokens before the decoder and a tenth before layer 4:

    >>> with bl.prune(vlm, schedule="divprune@0.5@0+fastv@0.1@4") as run:
    ...     answers = vlm.generate(encoded)
    >>> [len(stage[0].indices) for stage in run.stages], round(run.mean_share(), 4)
    ([128, 25], 0.2586)
    """
    options: Any = {"schedule": schedule, "positions": positions, "seed": seed, "timed": timed, "budget": budget}
    with engaged(vlm, method, layer, **options, cache=cache) as engine:
        run = engine.run
        yield run
    if run.most:
        warn_of_counts([stage.rule.keep for stage in run.schedule], run.most, stacklevel=3)  # of the block


@contextmanager
def engaged(
    vlm: VLM,
    method: Method | str | None = None,
    layer: int | None = None,
    *,
    schedule: Schedule | Sequence[Stage] | str | None = None,
    positions: str,
    seed: int,
    timed: bool = False,
    budget: str | None = None,
    cache: str = "full",
) -> Iterator[Engine]:
    """Do as `prune`, for callers whose run is more than this block, who warn of counts and may decode themselves.

    Parameters
    ----------
    vlm, method, layer, schedule, positions, seed, timed, budget, cache
        As of `prune`.

    Yields
    ------
    Engine
    """
    expect_model(vlm)
    stages = _stages(vlm, method, layer, schedule, positions)
    check_trimming(vlm.decoder.config, stages, positions, cache)
    for stage in stages:
        check_profile(vlm, stage.rule, stage.layer)
    if vlm.decoder in _ACTIVE:
        raise UnsupportedError("this model is being pruned already: leave the outer prune block first")
    run = PruneRun(stages, positions, seed, vlm.n_layers, is_joint(stages, budget), cache)
    engine = Engine(vlm, run, timed)
    with ExitStack() as stack:
        _ACTIVE.add(vlm.decoder)
        stack.callback(_ACTIVE.discard, vlm.decoder)
        stack.callback(vlm.prefill.clear)
        engine.attach(stack)
        yield engine


def is_joint(stages: Iterable[Stage], budget: str | None) -> bool:
    """Tell whether the images of a prompt are one pool, which they then are for every stage.

    Raises
    ------
    InputError
        ``budget`` is neither "separate" nor "joint" nor None.

    Examples
    --------
    >>> from biaslab.pruning import AdaTP
    >>> is_joint([Stage(2, AdaTP())], None), is_joint([Stage(2, AdaTP())], "separate"), is_joint([], None)
    (True, False, False)
    """
    if budget not in (None, "separate", "joint"):
        raise InputError(f"budget must be 'separate' or 'joint', got {budget!r}")
    return budget == "joint" or (budget is None and any(stage.rule.joint for stage in stages))


def _stages(vlm: VLM, method: Any, layer: Any, schedule: Any, positions: str) -> Schedule:
    """Make the schedule of a block out of one method at one layer, or of what says it all; refuse what cannot be."""
    if schedule is None and is_schedule(method):
        schedule, method = method, None
    if schedule is None:
        if method is None:
            raise InputError("prune needs a method, such as bl.FastV(keep=0.1), or schedule=[bl.Stage(...), ...]")
        rule = parse(method) if isinstance(method, str) else method
        own = schedule_in(vlm, rule) if layer is None and isinstance(rule, Method) else None
        if own is None:
            layer = prune_layer(vlm, layer)
            if isinstance(layer, DefaultLayer) and isinstance(rule, Method):
                layer = layer.for_method(rule)
            check_setup(vlm, rule, layer, positions)
            return Schedule([Stage(layer, rule)])
        schedule, method = own, None
    if method is not None or layer is not None:
        raise InputError("a schedule has its own methods and layers: leave out method and layer")
    if not isinstance(schedule, Schedule):
        schedule = parse_schedule(schedule) if isinstance(schedule, str) else Schedule(schedule)
    stages: Schedule = schedule
    if positions == "remap" and len(stages) > 1:
        raise UnsupportedError("positions are remapped once: use positions='original' for several stages")
    for stage in stages:
        check_setup(vlm, stage.rule, stage.layer, positions)
    return stages
