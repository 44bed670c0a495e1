"""What the vision tower shows, handed to the methods that read it.

The tower runs inside a forward or a ``generate``, or before them, where features are computed once for many
configurations (`VLM.vision`): `with_tower` keeps what methods read beside the features.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

from biaslab.attention.vision import TowerWatch, tower_shape, watch_tower
from biaslab.attention.vision_record import VisionRecord, VisionRequest, joined
from biaslab.core.frames import FramesLayout
from biaslab.errors import InputError, UnsupportedError
from biaslab.models.image_runs import FIX
from biaslab.pruning.base import Method
from biaslab.pruning.batch import TokenBatch
from biaslab.pruning.methods.vision_method import ReadsTower
from biaslab.pruning.methods.wrapper import Wrapper
from biaslab.pruning.schedule import Schedule

if TYPE_CHECKING:
    import torch

    from biaslab.models.encoded import Encoded
    from biaslab.models.vlm import VLM
    from biaslab.pruning.engine.token_batch import Owner

__all__ = ["TowerSource", "tower_request", "with_tower"]


def tower_request(vlm: VLM, methods: Iterable[Method | Schedule | None]) -> VisionRequest | None:
    """Tell what some methods read of a model's vision tower; None if none of them reads it.

    Raises
    ------
    InputError
        A block that the tower does not have, or a method that does not tell.
    UnsupportedError
        A model whose tower is not known.
    """
    each = (method for method in methods if method is not None)
    rules = (
        rule for method in each for rule in ([s.rule for s in method] if isinstance(method, Schedule) else [method])
    )
    inside = (rule.innermost if isinstance(rule, Wrapper) else rule for rule in rules)
    reading = [rule for rule in inside if "vision" in rule.needs]
    if not reading:
        return None
    shape = tower_shape(vlm.model)
    asked = []
    for method in reading:
        if not isinstance(method, ReadsTower):
            raise InputError(f"method {method.name!r} needs the vision tower: derive its class from VisionMethod")
        asked.append(method.reads(shape).resolved(shape))
    return reduce(or_, asked)


def with_tower(
    vlm: VLM, encoded: Encoded, methods: Iterable[Method | Schedule | None], pictures: Sequence[Hashable] | None = None
) -> Encoded:
    """Compute the image features as `VLM.vision` does, and keep of the tower what methods read.

    Parameters
    ----------
    vlm : VLM
    encoded : Encoded
        With pixels.
    methods : iterable of Method, Schedule or None
        Those that will be run on the result.
    pictures : sequence, optional
        As of `VLM.vision`.

    Returns
    -------
    Encoded

    Examples
    --------
    >>> import biaslab as bl
    >>> from biaslab.pruning import VisPruner
    >>> from biaslab.scenes import scene
    >>> vlm = bl.load("grounder")
    >>> encoded = vlm.encode([scene("test", 0).image], ["Where is the cat?"])
    >>> [sorted(record.features) for record in with_tower(vlm, encoded, [VisPruner()]).tower]
    [[1]]
    """
    request = tower_request(vlm, methods)
    if request is None or "pixel_values" not in encoded.inputs:
        return vlm.vision(encoded, pictures=pictures)
    with watch_tower(vlm, request, announced=False) as tower:
        seen = vlm.vision(encoded, pictures=pictures)
        return replace(seen, tower=tower.records(seen, seen.pictures))


class TowerSource:
    """The records of the images of running prompts, for the methods of one prune block that read them.

    Parameters
    ----------
    vlm : VLM
    methods : iterable of Method
    """

    def __init__(self, vlm: VLM, methods: Iterable[Method]) -> None:
        self.vlm = vlm
        self.request = tower_request(vlm, methods)
        self._watch: TowerWatch | None = None
        self._records: Sequence[VisionRecord] = ()  # of the running prefill

    def attach(self, stack: ExitStack) -> None:
        """Hear the tower, if anybody wants to know; ``stack`` ends it."""
        if self.request is not None:
            self._watch = stack.enter_context(watch_tower(self.vlm, self.request))

    def clear(self) -> None:
        """Forget the running prefill."""
        self._records = ()

    def given(
        self, batch: TokenBatch, owners: Sequence[Owner], method: Method, *, repeats: int, device: torch.device
    ) -> TokenBatch:
        """Add the records of its images to a batch, where the method reads them.

        Parameters
        ----------
        batch : TokenBatch
        owners : sequence of (int, int)
            Row of the prefill and image of each context.
        method : Method
        repeats : int
            Consecutive rows that are copies of one sample.
        device : torch.device
            Where the choice is made.

        Returns
        -------
        TokenBatch

        Raises
        ------
        UnsupportedError
            The tower is not known to have shown these images: prompts that nobody announced, or features that came
            without it.
        """
        if "vision" not in method.needs:
            return batch
        encoded = self.vlm.prefill.encoded
        if encoded is None:
            raise UnsupportedError(f"method {method.name!r} must know whose images the vision tower sees: {FIX}")
        if not self._records:
            self._records = self._found(encoded, method)
        each: dict[int, list[VisionRecord]] = {}
        for sample, record in zip(encoded.owners, self._records, strict=True):
            each.setdefault(sample, []).append(record)
        waiting = {sample: iter(records) for sample, records in each.items()}
        images = []
        for ctx, (row, _) in zip(batch, owners, strict=True):
            layout = ctx.whole_layout  # of one image, or of all of a prompt that are one pool
            n = len(layout.parts) if isinstance(layout, FramesLayout) else 1
            record = joined([next(waiting[row // repeats]) for _ in range(n)]).to(device)
            images.append(replace(ctx, vision=record if ctx.survivors is None else record.at(ctx.survivors)))
        return TokenBatch(images, batch.stack, batch.starts)

    def _found(self, encoded: Encoded, method: Method) -> Sequence[VisionRecord]:
        """Find the records of announced prompts: kept when their features were computed, or just heard."""
        if encoded.tower is not None and self.request is not None and encoded.tower[0].holds(self.request):
            return encoded.tower
        if self._watch is not None and self._watch.encoded is encoded:
            return self._watch.records(encoded)
        raise UnsupportedError(
            f"method {method.name!r} reads the vision tower, which has not run for these prompts: hand over those of "
            "vlm.encode(...) with their pixels, not features that were computed before"
        )
