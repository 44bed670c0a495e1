"""A prefill on its way through the stages of a schedule: what each of them reads, and what the one before has left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from biaslab.attention.projection import Projected
from biaslab.core.frames import FramesLayout
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError, UnsupportedError
from biaslab.models.prefill import PromptIds
from biaslab.pruning.algorithms.transfer import Arriving
from biaslab.pruning.base import Method, Selection
from biaslab.pruning.engine.checks import attention_method
from biaslab.pruning.engine.cut import Cut, gathered, in_original, make_cut, shortened, with_layouts
from biaslab.pruning.engine.joint import by_image
from biaslab.pruning.engine.merging import merged
from biaslab.pruning.engine.parking import Parked, parked
from biaslab.pruning.engine.prompt import Prompt, read_prompt
from biaslab.pruning.engine.query_rows import kinds_of
from biaslab.pruning.engine.recording import are_finite, prompt_rows
from biaslab.pruning.engine.sources import VECTORS, Sources, layers_read, projected_rows
from biaslab.pruning.engine.token_batch import by_row, kept_columns, token_batch
from biaslab.pruning.engine.vision import TowerSource
from biaslab.pruning.schedule import Schedule

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = ["RowKey", "RunningPrefill", "raw_layers", "read_rows", "readers", "row_keys"]

#: layer, score, query rows
RowKey = tuple[int, str, Any]


def read_rows(method: Method) -> tuple[Any, bool]:
    """Tell which rows of a prompt a method reads: the kinds of its query rows, and whether those of the question."""
    return kinds_of(method), "text" in method.needs


def row_keys(method: Method, layer: int) -> list[RowKey]:
    """List what a method that drops tokens before ``layer`` reads of which layers."""
    if "attention" not in method.needs:
        return []
    reader = attention_method(method)
    return [(index, reader.score, read_rows(method)) for index in reader.attention_layers(layer)]


class RunningPrefill:
    """Prompts, attention rows and cuts of one prefill.

    Parameters
    ----------
    schedule : Schedule
    prompts : dict of query rows to Prompt
        Methods that read the same query rows see the same prompt.

    Attributes
    ----------
    cuts : list of Cut
        Those made so far.
    """

    def __init__(self, schedule: Schedule, prompts: dict[Any, Prompt]) -> None:
        self.schedule, self.prompts = schedule, prompts
        self.rows: dict[RowKey, Tensor] = {}  # (B, H, Q, V) of the visual tokens that are left
        self.entered = Sources()  # what is read of the decoder's own arguments, of the whole prompts
        self.raw: dict[int, Tensor] = {}  # layer -> values that are made without its norm
        self.vectors: dict[int, tuple[Tensor, Tensor]] = {}  # layer -> its keys and values, of what it sees
        self.cuts: list[Cut] = []
        self._survivors: Arriving | None = None
        self._parked: Parked | None = None  # where the next stage brings back what the latest has left out

    @classmethod
    def of(
        cls, vlm: VLM, schedule: Schedule, found: PromptIds, seed: int, *, joint: bool = False
    ) -> RunningPrefill | None:
        """Read the prompts of a first forward, the images of each as one if ``joint``; None if they hold no image.

        Raises
        ------
        UnsupportedError
            As `read_prompt`.
        InputError
            A later stage reads the query rows of visual tokens, which may be gone by then.
        """
        prompts: dict[Any, Prompt] = {}
        for rule in sorted((stage.rule for stage in schedule), key=lambda rule: not rule.needs_layout):
            if read_rows(rule) not in prompts:
                prompt = read_prompt(vlm, rule, found, seed, joint=joint)
                if prompt is None:
                    return None
                prompts[read_rows(rule)] = prompt
        for stage in schedule[1:]:
            _check_rows(stage.rule, prompts[read_rows(stage.rule)])
        return cls(schedule, prompts)

    @property
    def length(self) -> int:
        """Number of tokens of the prompt; behind a cut, of what is left."""
        return self._any.length

    @property
    def _any(self) -> Prompt:
        return next(iter(self.prompts.values()))

    def layouts(self, number: int) -> list[TokenLayout]:
        """List the layouts of the images as a stage is to see them, before any cut."""
        rows = self.prompts[read_rows(self.schedule[number].rule)].images
        return [image.layout for row in rows for image in row if image.layout is not None]

    def record(self, key: RowKey, module: Any, query: Tensor, *args: Any, **kw: Any) -> None:
        """Keep the rows of a layer, of the tokens that it sees."""
        rows = prompt_rows(key[1], self.prompts[key[2]], module, query, *args, **kw)
        if rows is not None:
            self.rows[key] = rows

    def enter(self, decoder: Any, kwargs: Mapping[str, Any]) -> None:
        """Keep what the stages read of what the decoder is called with."""
        self.entered.enter(decoder, self.schedule.needs, kwargs)

    def hear(self, index: int, key: Tensor, value: Tensor) -> None:
        """Keep a layer's keys and values where a stage reads them."""
        if any(stage.rule.layer_read(stage.layer) == index and stage.rule.needs & VECTORS for stage in self.schedule):
            self.vectors[index] = key, value

    def hear_raw(self, index: int, value: Tensor) -> None:
        """Keep values of a layer that are made without its norm."""
        self.raw[index] = value

    def reads_own(self, number: int) -> bool:
        """Whether a stage reads the layer before which it drops."""
        stage = self.schedule[number]
        return stage.layer in layers_read(stage.rule, stage.layer)

    def project(self, number: int, found: Projected) -> None:
        """Keep what a stage reads of its own layer, which has not run."""
        stage = self.schedule[number]
        for key in row_keys(stage.rule, stage.layer):
            if key[0] == stage.layer and (rows := projected_rows(key[1], self.prompts[key[2]], found)) is not None:
                self.rows[key] = rows
        self.hear(stage.layer, found.key, found.value)

    def seen(self, number: int) -> Cut | None:
        """Find the cut that has left what a stage chooses among; None where that is the whole prompt."""
        return self.cuts[-1] if self.cuts and not self.schedule[number].rule.restores else None

    def restored(self, number: int, hidden: Tensor) -> Tensor:
        """Bring back what the stage before has left out, (B, N, D), where a stage does so; else the states as given."""
        if self._parked is None or self.seen(number) is not None:
            return hidden
        held, self._parked = self._parked, None
        return held.restored(hidden, self.cuts[-1].local)

    def _sources(self, method: Method, layer: int, cut: Cut | None) -> Sources:
        """Put together what a stage reads beside attention rows."""
        found = self.entered if cut is None else self.entered.left(cut.positions)
        if (held := self.vectors.get(method.layer_read(layer))) is not None:
            found = replace(found)
            key, value = held
            found.see(method, key, self.raw[method.layer_read(layer)] if method.raw_values else value)
        return found

    def choose(
        self, number: int, hidden: Tensor, tower: TowerSource
    ) -> tuple[list[list[Selection]], list[tuple[int, Arriving]]]:
        """Select among the visual tokens that are left of every sample.

        Parameters
        ----------
        number : int
            Of the stage; all before it have cut.
        hidden : (B, M, D) Tensor
            States entering its layer.
        tower : TowerSource
            What the vision tower has shown.

        Returns
        -------
        list of list of Selection
            Of the images of each row that is no copy, positions among what is left.
        list of (int, Arriving)
            Layers that were read, and whether their rows are finite: on its way while the selection is made, nothing
            waits for it before the decoder is through.
        """
        stage = self.schedule[number]
        prompt = self.prompts[read_rows(stage.rule)]
        if hidden.shape[1] != prompt.length:
            raise UnsupportedError(f"layer {stage.layer} sees {hidden.shape[1]} of {prompt.length} prompt tokens")
        if (cut := self.seen(number)) is not None:
            known = None if self._survivors is None or not stage.rule.needs_layout else self._survivors.read().numpy()
            self.prompts[read_rows(stage.rule)] = prompt = with_layouts(prompt, known)
        attention = {key[0]: self.rows[key] for key in row_keys(stage.rule, stage.layer) if key in self.rows}
        finite = [(index, are_finite(rows)) for index, rows in attention.items()]
        sources = self._sources(stage.rule, stage.layer, cut)
        batch, owners = token_batch(prompt, stage.rule, stage.layer, hidden, attention, sources)
        batch = tower.given(batch, owners, stage.rule, repeats=prompt.repeats, device=hidden.device)
        return by_row(prompt, owners, stage.rule.select_batch(batch)), finite

    def merged(self, number: int, hidden: Tensor, chosen: Sequence[Sequence[Selection]]) -> Tensor:
        """Merge dropped tokens into kept ones, where a stage says how, and park them; before `cut` is called."""
        prompt = self.prompts[read_rows(self.schedule[number].rule)]
        states = merged(hidden, prompt, chosen)
        if self._comes_back(number):
            self._parked = parked(hidden, states, prompt, chosen)
        return states

    def _comes_back(self, number: int) -> bool:
        """Whether the next stage brings back what a stage leaves out."""
        return number + 1 < len(self.schedule) and self.schedule[number + 1].rule.restores

    def cut(self, number: int, chosen: list[list[Selection]], *, remap: bool = False) -> Cut:
        """Drop what a stage did not choose; with ``remap`` stretch positions over the image (:func:`remapped`)."""
        stage, later = self.schedule[number], self.schedule[number + 1 :]
        prompt = self.prompts[read_rows(stage.rule)]
        kept = [columns for columns in kept_columns(prompt, chosen) for _ in range(prompt.repeats)]
        cut = make_cut(stage.layer, prompt, kept, self.seen(number), chosen if remap else None)
        self.cuts.append(cut)
        if not later:
            self.rows.clear()
            self.vectors.clear()
            self.raw.clear()
            self.entered = Sources()
            return cut
        if self._comes_back(number):  # the next stage sees the whole prompt again, and reads its own layer
            self.rows.clear()
            return cut
        read = {key for other in later for key in row_keys(other.rule, other.layer)}
        self.rows = {key: gathered(rows, kept) for key, rows in self.rows.items() if key in read}
        wanted = {read_rows(other.rule) for other in later}
        self.prompts = {key: shortened(p, chosen, kept, cut) for key, p in self.prompts.items() if key in wanted}
        if any(other.rule.needs_layout for other in later):
            images = [image for row in self._any.images[:: prompt.repeats] for image in row]
            self._survivors = Arriving(torch.cat([i.survivors for i in images if i.survivors is not None]))
        return cut

    def originals(self, number: int, chosen: Sequence[Sequence[Selection]]) -> list[Selection]:
        """List what a stage chose, image after image, at positions among all tokens; before `cut` is called."""
        prompt = self.prompts[read_rows(self.schedule[number].rule)]
        images = [image for row in prompt.images[:: prompt.repeats] for image in row]
        made = [in_original(image, own) for image, own in zip(images, (s for row in chosen for s in row), strict=True)]
        return by_image([image.layout if image.whole is None else image.whole for image in images], made)

    def counts(self) -> list[int]:
        """Count the visual tokens of each image before any cut."""
        prompt, counts = self._any, []
        for image in (image for row in prompt.images[:: prompt.repeats] for image in row):
            layout = image.layout if image.whole is None else image.whole
            counts += [part.n for part in layout.parts] if isinstance(layout, FramesLayout) else [image.total]
        return counts


def _check_rows(method: Method, prompt: Prompt) -> None:
    """Refuse query positions at visual tokens, for a stage behind another one."""
    if prompt.rows is None or isinstance(getattr(method, "queries", None), str):
        return
    counts = prompt.visual.new_tensor(prompt.counts)[:, None]
    real = torch.arange(prompt.visual.shape[1], device=counts.device) < counts
    if bool(((prompt.rows[:, :, None] == prompt.visual[:, None]) & real[:, None]).any()):
        raise InputError(
            f"queries {getattr(method, 'queries', None)} of {method.name!r} are visual tokens, which an earlier stage "
            "may drop: choose positions of text"
        )


def readers(schedule: Iterable[Any]) -> dict[int, list[RowKey]]:
    """List what is read of each layer that has run by then: layer -> keys, each once; none where keys are not rows."""
    found: dict[int, list[RowKey]] = {}
    for stage in schedule:
        for index in layers_read(stage.rule, stage.layer):
            keys = found.setdefault(index, []) if index < stage.layer else []
            keys += [key for key in row_keys(stage.rule, stage.layer) if key[0] == index and key not in keys]
    return found


def raw_layers(schedule: Iterable[Any]) -> set[int]:
    """List the layers of which a stage reads values that are made without the norm."""
    return {stage.rule.layer_read(stage.layer) for stage in schedule if stage.rule.raw_values}
