"""Selections of every configuration of a batch, from what one prefix has recorded; equal to those of the engine."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from biaslab.evaluation.configurations import Config
from biaslab.evaluation.sweep.prefix import Prefix
from biaslab.pruning import Method, Selection
from biaslab.pruning.batch import TokenBatch
from biaslab.pruning.engine.checks import check_profile
from biaslab.pruning.engine.prompt import Prompt
from biaslab.pruning.engine.pruned_index import PrunedIndex, make_index, remapped
from biaslab.pruning.engine.running import read_rows
from biaslab.pruning.engine.token_batch import Owner, by_row, kept_columns, token_batch
from biaslab.pruning.engine.vision import TowerSource

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = ["Chosen", "Selecting"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Chosen:
    """What one configuration keeps of a batch.

    Attributes
    ----------
    selections : list of Selection
        One per image, in the order of the prompts.
    cut : PrunedIndex
        Of the B prompts.
    """

    selections: list[Selection]
    cut: PrunedIndex


class Selecting:
    """Selects for one configuration after the other; scores and orders that they share are computed once."""

    def __init__(self, vlm: VLM, prefix: Prefix, positions: str = "original") -> None:
        self.vlm, self.prefix, self.positions = vlm, prefix, positions
        self._checked: set[tuple[str, int, Any]] = set()

    def of(self, configs: Mapping[int, Config]) -> dict[int, Chosen]:
        """Select for configurations, number -> configuration; those whose selection fails are left out of the result.

        The engine, which gets them then, reports why.
        """
        chosen: dict[int, Chosen] = {}
        for group in _alike(configs):
            method, layer = configs[group[0]].method, configs[group[0]].layer
            try:
                found = self._group([configs[i].method for i in group], layer)
                chosen.update(zip(group, found, strict=True))
            except Exception as error:
                logger.debug("%s at layer %s goes the plain way: %s", method and method.label, layer, error)
        return chosen

    def _group(self, methods: Sequence[Any], layer: Any) -> list[Chosen]:
        """Select for methods that differ in their keep ratios alone."""
        first: Method = methods[0]
        prompt = self.prefix.prompts[read_rows(first)]
        self._check(first, layer, prompt)
        hidden = self.prefix.features(layer)
        attention = self.prefix.rows(first, layer)
        batch, owners = token_batch(prompt, first, layer, hidden, attention, self.prefix.sources(first, layer))
        batch = TowerSource(self.vlm, methods).given(batch, owners, first, repeats=1, device=hidden.device)
        standing = self._standing(first, layer, batch, owners)
        distinct = sorted(set(standing))
        images = batch.only(distinct)
        budgets = [[method.budget_of(image.n) for method in methods] for image in images]
        found = dict(zip(distinct, first.select_budgets(images, budgets), strict=True))  # image -> of each method
        each = [[replace(found[i][m], info=dict(found[i][m].info)) for i in standing] for m in range(len(methods))]
        remap = self.positions == "remap"
        return [_chosen(prompt, by_row(prompt, owners, chosen), remap) for chosen in each]

    def _standing(self, method: Method, layer: int, images: TokenBatch, owners: Sequence[Owner]) -> list[int]:
        """Tell for each image the first one that a method sees as the same: it is chosen from once.

        A method that looks at the image alone sees expressions of one image so where it reads no states, and where
        their states are equal bit by bit: embeddings, or those of tokens that ran once for all of them. Elsewhere
        states have been computed apart and differ by rounding, which can turn a tie.
        """
        encoded = self.vlm.prefill.encoded
        pictures = None if encoded is None else encoded.pictures
        if pictures is None or not method.image_only or "attention" in method.needs:
            return list(range(len(owners)))
        states = self.prefix.same_states(layer) if "features" in method.needs else [0] * len(pictures)
        first: dict[Any, int] = {}
        standing = []
        for place, ((row, _), image) in enumerate(zip(owners, images, strict=True)):
            key = (pictures[row], states[row], image.layout.key, image.layout.size)
            standing.append(first.setdefault(key, place))
        return standing

    def _check(self, method: Method, layer: int, prompt: Prompt) -> None:
        """Let the method's profile refuse a layout, once for each."""
        if "profile" not in method.needs:
            return
        for layout in (image.layout for row in prompt.images for image in row if image.layout is not None):
            key = (layout.key, layer, id(getattr(method, "profile", None)))
            if key not in self._checked:
                check_profile(self.vlm, method, layer, layout)
                self._checked.add(key)


def _alike(configs: Mapping[int, Config]) -> list[list[int]]:
    """Group configurations that differ in their keep ratio alone."""
    groups: dict[Any, list[int]] = {}
    for i, config in configs.items():
        record = config.describe()
        key = (type(config.method), *(record[name] for name in ("method", "options_hash", "profile_hash", "layer")))
        groups.setdefault(key, []).append(i)
    return list(groups.values())


def _chosen(prompt: Prompt, rows: Sequence[Sequence[Selection]], remap: bool) -> Chosen:
    """Put the selections of a configuration together, a list per prompt."""
    cut = make_index(prompt, kept_columns(prompt, rows))
    return Chosen([s for row in rows for s in row], remapped(cut, prompt, rows) if remap else cut)
