"""The layers below K of a batch, once for every configuration: hidden states, KV entries, attention rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from biaslab.attention.hook import watch
from biaslab.attention.scores import SCORES, reads_rope
from biaslab.errors import UnsupportedError
from biaslab.evaluation.configurations import Config
from biaslab.evaluation.sweep.generation import Generation
from biaslab.evaluation.sweep.image_plan import image_plan
from biaslab.evaluation.sweep.image_prefix import run_images
from biaslab.evaluation.sweep.kv_cache import fresh
from biaslab.evaluation.sweep.layer_input import LayerInput
from biaslab.evaluation.sweep.recorders import Recorders
from biaslab.evaluation.sweep.swapped_layers import Stop, logits_of, swapped_layers
from biaslab.models.prefill import PromptIds
from biaslab.models.transformers_versions import check_layer_arguments, kv_cache_of
from biaslab.pruning.algorithms.transfer import Arriving
from biaslab.pruning.base import Method
from biaslab.pruning.engine.checks import check_cache
from biaslab.pruning.engine.prompt import Prompt, read_prompt
from biaslab.pruning.engine.recording import check_finite
from biaslab.pruning.engine.running import RowKey, read_rows, row_keys
from biaslab.pruning.engine.sources import Sources, layers_read

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = ["Prefix", "run_prefix"]


@dataclass(eq=False)
class Prefix:
    """What the configurations of a batch share.

    Attributes
    ----------
    prompts : dict of query rows to Prompt
        Methods that read the same query rows see the same prompt.
    inputs : dict of int to LayerInput
        K -> what enters it.
    attention : dict of (layer, score, query rows) to Tensor (B, H, Q, V)
    finite : dict of the same to Arriving
        Whether the rows are finite.
    cache : DynamicCache
        Entries of the whole prompt, of every layer that has run.
    empty : DynamicCache
        As ``generate`` made it.
    logits : (B, 1, vocabulary) Tensor or None
        After all layers; None where only those below the largest K have run.
    embeds : (B, N, D) Tensor or None
        What the decoder is given; None where nothing is dropped at K = 0 and no method reads it.
    entered : Sources
        What methods read of the decoder's own arguments.
    begins_as : list of int or None
        For each row the one whose tokens up to the image ran for it; None where whole rows ran.
    """

    prompts: dict[Any, Prompt]
    cache: Any
    empty: Any
    inputs: dict[int, LayerInput] = field(default_factory=dict)
    attention: dict[RowKey, Tensor] = field(default_factory=dict)
    finite: dict[RowKey, Arriving] = field(default_factory=dict)
    logits: Tensor | None = None
    embeds: Tensor | None = None
    entered: Sources = field(default_factory=Sources)
    begins_as: list[int] | None = None

    def features(self, layer: int) -> Tensor:
        """Find the (B, N, D) states that a method reads when tokens are dropped before ``layer``."""
        if layer > 0:
            return self.inputs[layer].hidden
        if self.embeds is None:
            raise UnsupportedError("at K = 0 the decoder must be given embeddings by name")
        return self.embeds  # which a decoder may scale before its first layer

    def same_states(self, layer: int) -> list[int]:
        """Give rows one number whose visual tokens enter ``layer`` as one tensor's, if they show the same image."""
        n = len(next(iter(self.prompts.values())))
        if layer == 0:
            return [0] * n
        return list(range(n)) if self.begins_as is None else self.begins_as

    def sources(self, method: Method, layer: int) -> Sources:
        """Find what else a method reads when tokens are dropped before ``layer``.

        Keys and values are a layer's entries in the KV cache.

        Raises
        ------
        UnsupportedError
            The cache does not hold all of them (a sliding window).
        """
        entered, needs = self.entered, method.needs
        found = Sources(embeds=entered.embeds if "embeddings" in needs else None)
        if "rotary" in needs:
            found.theta, found.positions = entered.theta, entered.positions
        if method.raw_values:
            raise UnsupportedError("values that are made without the norm are recorded by the engine alone")
        if needs & {"keys", "values"}:
            held = self.cache.layers[method.layer_read(layer)]
            length = next(iter(self.prompts.values())).length
            if held.keys is None or held.keys.shape[2] != length:
                raise UnsupportedError("the KV cache does not hold all keys of the layer that is read")
            found.see(method, held.keys, held.values)
        return found

    def rows(self, method: Method, layer: int) -> dict[int, Tensor]:
        """Find the attention that a method reads when tokens are dropped before ``layer``: layer -> rows.

        Raises
        ------
        ModelError
            It is not finite.
        """
        if "attention" not in method.needs:
            return {}
        keys = {key[0]: key for key in row_keys(method, layer)}
        check_finite([(index, self.finite[key]) for index, key in keys.items()])
        return {index: self.attention[key] for index, key in keys.items()}


def run_prefix(vlm: VLM, generation: Generation, configs: Sequence[Config], seed: int) -> Prefix:
    """Run the layers that the configurations share: all of them if the unpruned model is among them.

    Parameters
    ----------
    vlm : VLM
        Its announced prompts (``vlm.prefill``) are those of the generation.
    generation : Generation
        On an empty KV cache, before its first step.
    configs : sequence of Config
    seed : int
        Of the run.

    Returns
    -------
    Prefix

    Raises
    ------
    UnsupportedError
        What pruning refuses of a forward, or a prompt without an image.
    """
    decoder: Any = vlm.decoder
    pruned = [(stage.rule, stage.layer) for config in configs for stage in config.stages]  # of no schedule
    cache = kv_cache_of(generation.kwargs)
    check_cache(cache, generation.kwargs.get("use_cache"))
    if cache is None:
        raise UnsupportedError("generate has made no KV cache")
    found = PromptIds(generation.ids, generation.kwargs.get("attention_mask"), 1)
    prefix = Prefix(_prompts(vlm, [method for method, _ in pruned], found, seed), cache, fresh(cache))
    layers = {layer for _, layer in pruned}
    whole = len(pruned) < len(configs)
    wanted = {key for method, layer in pruned for key in row_keys(method, layer)}
    heard = [index + 1 for method, layer in pruned for index in layers_read(method, layer)]
    n_layers = len(decoder.layers) if whole else max([*layers, *heard])
    recorders = Recorders(prefix.prompts, wanted)
    prefix.attention, prefix.finite = recorders.attention, recorders.finite
    with ExitStack() as stack:
        needs = {need for method, _ in pruned for need in method.needs}
        if 0 in layers or needs & {"embeddings", "rotary"}:
            remember = _remember_arguments(prefix, needs)
            stack.callback(decoder.register_forward_pre_hook(remember, with_kwargs=True).remove)
        rope = any(reads_rope(SCORES[score]) for _, score, _ in wanted)
        stack.enter_context(watch(vlm.model, recorders.by_layer(), rope=rope))
        plan = image_plan(vlm, generation, prefix.prompts.values(), n_layers)
        states = None if plan is None else run_images(vlm, generation, plan, layers, n_layers, recorders)
        if plan is None or states is None:
            _run_rows(prefix, decoder, generation, layers, n_layers)
            prefix.logits = prefix.logits if whole else None
            return prefix
    prefix.inputs, prefix.begins_as = states.inputs, plan.stands
    if whole:
        prefix.logits = logits_of(vlm, generation, states.last, prefix.empty)
    return prefix


def _run_rows(prefix: Prefix, decoder: Any, generation: Generation, layers: set[int], n_layers: int) -> None:
    """Run the layers on the whole rows."""
    whole, length = n_layers == len(decoder.layers), generation.ids.shape[1]
    modules = list(decoder.layers) if whole else [*decoder.layers[:n_layers], Stop()]
    with ExitStack() as stack:
        for layer in layers:
            remember = _remember(prefix, layer, decoder.layers[layer], length)
            stack.callback(modules[layer].register_forward_pre_hook(remember, with_kwargs=True).remove)
        if not whole:
            stack.enter_context(swapped_layers(decoder, modules))
        outputs = generation.step(first=True)
    if whole:
        prefix.logits = outputs.logits[:, -1:]


def _prompts(vlm: VLM, methods: Sequence[Method], found: PromptIds, seed: int) -> dict[Any, Prompt]:
    """Read the prompts once for every kind of rows that are read."""
    prompts: dict[Any, Prompt] = {}
    for method in methods:
        if read_rows(method) not in prompts:
            prompt = read_prompt(vlm, method, found, seed)
            if prompt is None:
                raise UnsupportedError("a prompt without an image")
            prompts[read_rows(method)] = prompt
    return prompts


def _remember(prefix: Prefix, layer: int, module: nn.Module, length: int) -> Callable:
    def hook(_: nn.Module, args: tuple, kwargs: dict) -> None:
        check_cache(kv_cache_of(kwargs), kwargs.get("use_cache"))
        check_layer_arguments(module, args, kwargs, length)
        given = LayerInput(args, dict(kwargs))
        if given.hidden.shape[1] != length:
            raise UnsupportedError(f"layer {layer} sees {given.hidden.shape[1]} of {length} prompt tokens")
        prefix.inputs[layer] = given

    return hook


def _remember_arguments(prefix: Prefix, needs: Collection[str]) -> Callable:
    def hook(decoder: nn.Module, args: tuple, kwargs: dict) -> None:
        prefix.embeds = kwargs.get("inputs_embeds")
        prefix.entered.enter(decoder, needs, kwargs)

    return hook
