"""Selections of every configuration of a batch, from what one prefix has recorded; equal to those of the engine."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from biaslab.attention.precision import full_precision
from biaslab.errors import ModelError
from biaslab.evaluation.configurations import Config
from biaslab.evaluation.sweep.prefix import Prefix, queries_of
from biaslab.pruning import (
    D2Pruner,
    DivPrune,
    FastV,
    LayerRatio,
    Method,
    Random,
    Relative,
    Selection,
    TokenContext,
    budget,
)
from biaslab.pruning.engine.checks import check_profile
from biaslab.pruning.engine.prompt import Prompt, PromptImage
from biaslab.pruning.engine.pruned_index import PrunedIndex, make_index

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = ["Chosen", "Selecting"]

# Exact classes: a subclass may look at the budget where these do not.
#: `pick` lists for a budget first what it lists for any smaller one
_NESTED = (FastV, LayerRatio, Relative, DivPrune, Random)
#: `importance` is the same for every budget
_ONE_SCORE = (*_NESTED, D2Pruner)

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

    def __init__(self, vlm: VLM, prefix: Prefix) -> None:
        self.vlm, self.prefix = vlm, prefix
        self._checked: set[tuple[str, int, Any]] = set()
        self._features: dict[tuple[int, int, int], Tensor] = {}

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
        prompt = self.prefix.prompts[queries_of(first)]
        self._check(first, layer, prompt)
        hidden = self.prefix.inputs[layer].hidden
        attention = self.prefix.rows(first, layer)
        for index, rows in attention.items():
            if not bool(torch.isfinite(rows).all()):
                raise ModelError(f"attention of layer {index} is not finite: load the model in another dtype")
        picked: list[list[list[Selection]]] = [[] for _ in methods]  # method, row, image
        for row, images in enumerate(prompt.images):
            per_image = [self._image(methods, layer, prompt, row, image, hidden, attention) for image in images]
            for m, rows_of_method in enumerate(picked):
                rows_of_method.append([selections[m] for selections in per_image])
        return [
            Chosen([s for row in rows for s in row], make_index(prompt, _columns(rows, prompt.images)))
            for rows in picked
        ]

    def _image(
        self,
        methods: Sequence[Method],
        layer: int,
        prompt: Prompt,
        row: int,
        image: PromptImage,
        hidden: Tensor,
        attention: Mapping[int, Tensor],
    ) -> list[Selection]:
        """Select among the tokens of one image: a selection per method."""
        if image.n == 0 or image.layout is None:
            return [Selection(torch.empty(0, dtype=torch.long)) for _ in methods]
        own = slice(image.first, image.last)
        earlier = {
            index: rows[row, :, : prompt.row_counts[row], own].to(hidden.device) for index, rows in attention.items()
        }
        last = earlier.pop(layer - 1, None)
        features = None
        if "features" in methods[0].needs:
            key = (layer, row, image.first)
            if key not in self._features:
                self._features[key] = hidden[row, prompt.visual[row, own].to(hidden.device)]
            features = self._features[key]
        budgets = [budget(method.keep, image.n) for method in methods]
        context = TokenContext(image.layout, max(budgets), image.seed, layer, last, features, earlier)
        return select_nested(methods, budgets, context)

    def _check(self, method: Method, layer: int, prompt: Prompt) -> None:
        """Let the method's profile refuse a layout, once for each."""
        if "profile" not in method.needs:
            return
        for layout in (image.layout for row in prompt.images for image in row if image.layout is not None):
            key = (layout.key, layer, id(getattr(method, "profile", None)))
            if key not in self._checked:
                check_profile(self.vlm, method, layer, layout)
                self._checked.add(key)


def select_nested(methods: Sequence[Method], budgets: Sequence[int], context: TokenContext) -> list[Selection]:
    """Select the tokens of one image by methods that differ in their keep ratios alone.

    Parameters
    ----------
    methods : sequence of Method
    budgets : sequence of int
        Tokens that each of them keeps.
    context : TokenContext
        With the largest budget.

    Returns
    -------
    list of Selection
        What ``method.select`` gives for each: from one score and one order where the method's class allows.

    Examples
    --------
    >>> from biaslab.core.layout import TokenLayout
    >>> context = TokenContext(TokenLayout.raster(2, 3, size=(300, 200), family="toy"), budget=3, seed=1)
    >>> [s.indices.tolist() for s in select_nested([Random(keep=1), Random(keep=3)], [1, 3], context)]
    [[5], [1, 2, 5]]
    """
    kind, first = type(methods[0]), methods[0]
    if len(methods) == 1 or kind not in _ONE_SCORE:
        return [m.select(replace(context, budget=n)) for m, n in zip(methods, budgets, strict=True)]
    first.validate()
    with full_precision():
        scores = first.importance(context)
        if kind in _NESTED:
            order, info = first.pick(context, scores)
            return [Selection(order[:n].sort().values, scores, dict(info)) for n in budgets]
        picked = [m.pick(replace(context, budget=n), scores) for m, n in zip(methods, budgets, strict=True)]
    return [Selection(positions.sort().values, scores, info) for positions, info in picked]


def _alike(configs: Mapping[int, Config]) -> list[list[int]]:
    """Group configurations that differ in their keep ratio alone."""
    groups: dict[Any, list[int]] = {}
    for i, config in configs.items():
        record = config.describe()
        key = (type(config.method), *(record[name] for name in ("method", "options_hash", "profile_hash", "layer")))
        groups.setdefault(key, []).append(i)
    return list(groups.values())


def _columns(rows: Sequence[Sequence[Selection]], images: Sequence[Sequence[PromptImage]]) -> list[Tensor]:
    """List the columns of ``Prompt.visual`` that every row keeps."""
    return [
        torch.cat([s.indices + image.first for s, image in zip(row, its, strict=True)])
        for row, its in zip(rows, images, strict=True)
    ]
