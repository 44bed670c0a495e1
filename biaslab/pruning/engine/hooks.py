"""The forward hooks that prune a model, and what passes between them.

A forward of the whole model shows the token ids: is it a prefill, and with which images? Layer K - 1 yields
the attention rows, layer K the features, the method its selection; from there on, inputs are cut to the rest. With
several stages the same happens again at the next K, to what is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from biaslab.attention.hook import watch
from biaslab.attention.scores import SCORES, reads_rope
from biaslab.errors import UnsupportedError
from biaslab.models.eval_mode import check_eval_mode
from biaslab.models.generation import GenerateCall, watched
from biaslab.models.image_runs import FIX
from biaslab.models.prefill import PrunedSequence
from biaslab.models.transformers_versions import check_layer_arguments, kv_cache_of
from biaslab.pruning.algorithms.transfer import Arriving, wait_for
from biaslab.pruning.engine.checks import check_cache, check_generate, check_profile
from biaslab.pruning.engine.cut import Cut
from biaslab.pruning.engine.kv_entries import count_dropped, entries
from biaslab.pruning.engine.pruned_index import PrunedIndex
from biaslab.pruning.engine.recording import check_finite
from biaslab.pruning.engine.running import RowKey, RunningPrefill, raw_layers, readers
from biaslab.pruning.engine.short_inputs import ShortInputs
from biaslab.pruning.engine.sources import first_projection, own_projection, raw_projection
from biaslab.pruning.engine.trimming import check_kind, check_layers, trim
from biaslab.pruning.engine.vision import TowerSource

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM
    from biaslab.pruning.engine.run import PruneRun

__all__ = ["Engine"]


_FOREIGN = "this KV cache was not filled in this prune block: start from an empty cache"


class Engine:
    """The hooks on one model, and what they remember between them and between forwards."""

    def __init__(self, vlm: VLM, run: PruneRun, timed: bool) -> None:
        self.vlm, self.run, self.timed = vlm, run, timed
        self.decoder: Any = vlm.decoder  # for torch's stubs each of its attributes may be a Tensor
        self.schedule = run.schedule
        self.layer = self.schedule.layer  # the first before which tokens are dropped
        self.stages = {stage.layer: number for number, stage in enumerate(self.schedule)}
        self.trims = run.cache == "trimmed" and run.layer > 0
        self.running = False  # inside a forward of the whole model
        self.projecting = False  # inside a forward of the decoder that ends at the attention of its first layer
        self.prefill: RunningPrefill | None = None
        self.made: Sequence[Cut] = ()  # of the running forward
        self.finite: list[tuple[int, Arriving]] = []  # layer, whether its rows are finite, of the running prefill
        self.cache: Any = None  # of the running forward
        self.cuts: WeakKeyDictionary[Any, Sequence[Cut]] = WeakKeyDictionary()  # KV cache -> how it was pruned
        self.checked: set[tuple[int, str]] = set()  # stages and layouts that a profile has accepted
        self.short = ShortInputs(self.decoder, run.positions)
        self.tower = TowerSource(vlm, [stage.rule for stage in self.schedule])
        self._hooks, self._layer_hooks = ExitStack(), ExitStack()

    def attach(self, stack: ExitStack) -> None:
        """Register every hook; ``stack`` removes them."""
        model, decoder = self.vlm.model, self.decoder
        stack.enter_context(watched(model, self.vlm.prefill, self._check_generate))
        stack.callback(self.detach)
        hooks = [
            model.register_forward_pre_hook(self._begin, with_kwargs=True),
            model.register_forward_hook(self._end, always_call=True),
            decoder.register_forward_pre_hook(self._before_decoder, with_kwargs=True),
            decoder.register_forward_hook(self._after_decoder),
        ]
        for hook in hooks:
            self._hooks.callback(hook.remove)
        self.tower.attach(self._hooks)
        last = 1 if list(self.stages) == [0] else len(decoder.layers)  # cut at K = 0 alone, the decoder's hook does all
        for index in range(0 if self.trims else self.layer, last):
            hook = decoder.layers[index].register_forward_pre_hook(self._layer_hook(index), with_kwargs=True)
            self._layer_hooks.callback(hook.remove)
        for index in raw_layers(self.schedule):  # behind the hook that shortens the layer's input
            hook = decoder.layers[index].register_forward_pre_hook(self._raw_hook(index), with_kwargs=True)
            self._layer_hooks.callback(hook.remove)
        if read := readers(self.schedule):
            recorders = {index: self._recorder(index, keys) for index, keys in read.items()}
            rope = any(reads_rope(SCORES[score]) for keys in read.values() for _, score, _ in keys)
            self._layer_hooks.enter_context(watch(model, recorders, rope=rope))

    def detach(self) -> None:
        """Take the hooks off: from here on whoever runs the model hands each layer what `cuts_of` says it sees."""
        self.detach_layers()
        self._hooks.close()
        self._end()

    def detach_layers(self) -> None:
        """Take the hooks off the layers; the one on the decoder goes on bringing masks and positions to a cut there."""
        self._layer_hooks.close()

    def cuts_of(self, cache: Any) -> Sequence[Cut]:
        """List the cuts of the prompts in a KV cache, one per stage; none where nothing was dropped."""
        return self.cuts.get(cache, ())

    def seen_later(self, cache: Any) -> list[tuple[int, PrunedIndex]]:
        """List from which layer on tokens behind the prompts in a cache see which of these; of equal layers both."""
        cuts = [(cut.layer, cut.index) for cut in self.cuts_of(cache)]
        return [*((k, index) for k, index in cuts if k == 0), (0, cuts[-1][1])] if self.trims and cuts else cuts

    def narrow(self, cache: Any, rows: Tensor) -> None:
        """Go on with some rows of the prompts in a cache, (R,) int64: whoever decodes has taken the others out."""
        self.cuts[cache] = [cut.rows(rows) for cut in self.cuts[cache]]

    def _check_generate(self, call: GenerateCall) -> None:
        check_generate(call)
        if self.trims:
            check_kind(getattr(call.settings, "cache_implementation", None) == "offloaded")
        if call.has_filled_cache and call.cache not in self.cuts:
            raise UnsupportedError(_FOREIGN)

    # -- the whole model: what kind of forward is this? ------------------------------------------------------
    def _begin(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        self._end()
        self.running = True
        ids = kwargs.get("input_ids", args[0] if args else None)
        cache = kv_cache_of(kwargs)
        check_cache(cache, kwargs.get("use_cache"))
        if cache is not None and cache.get_seq_length() > 0:
            self._check_later(cache, ids, kwargs)
            return
        if cache is not None:
            self.cuts.pop(cache, None)  # of a prompt that was in it before it was emptied
        if ids is None:
            raise UnsupportedError(f"pruning cannot see the token ids of this forward (inputs_embeds?): {FIX}")
        found = self.vlm.prefill.prompt_in(ids, kwargs.get("attention_mask"))
        if found is None:
            return  # another prompt beside the one of a running generate: it is no part of this run
        check_eval_mode(model)
        if isinstance(kwargs.get("logits_to_keep"), Tensor):
            raise UnsupportedError("logits_to_keep counts positions that pruning drops: give a number of last tokens")
        self.vlm.prefill.clear()
        self.run.clear()
        prefill = RunningPrefill.of(self.vlm, self.schedule, found, self.run.seed, joint=self.run.joint)
        for number, stage in enumerate(self.schedule):
            if prefill is None or "profile" not in stage.rule.needs:
                continue
            for layout in prefill.layouts(number):
                if (number, layout.key) not in self.checked:
                    check_profile(self.vlm, stage.rule, stage.layer, layout)
                    self.checked.add((number, layout.key))
        self.prefill = prefill

    def _check_later(self, cache: Any, ids: Tensor | None, kwargs: dict) -> None:
        """Refuse a decode step or a later turn whose cache does not hold what this block pruned."""
        if cache not in self.cuts:
            raise UnsupportedError(_FOREIGN)
        cuts, several = self.cuts[cache], ids is None or ids.shape[1] > 1
        if several and ids is not None and bool((ids == self.vlm.image_token_id).any()):
            raise UnsupportedError("an image in a later turn (or chunk of a prompt) is not pruned: start a new prompt")
        if cuts and self.layer == 0:
            if several:
                raise UnsupportedError("a later turn on a cache pruned at K = 0 would misplace its tokens: use K >= 1")
            if kwargs.get("position_ids") is None:
                raise UnsupportedError("at K = 0 the cache does not tell the position: decode with generate()")
        for cut in cuts[-1:] if self.trims else cuts:
            held, whole = entries(cache.layers[cut.layer]), cache.get_seq_length(0)
            if cut.layer > 0 and held - cut.index.kept != whole - cut.index.length:
                raise UnsupportedError("the KV cache was changed since it was pruned: start from an empty cache")

    def _end(self, *_: Any) -> None:
        self.running, self.prefill, self.made, self.cache = False, None, (), None
        self.projecting = False
        self.short.clear()
        self.tower.clear()
        self.finite.clear()

    # -- the decoder: K = 0, and the cache's lengths ---------------------------------------------------------
    def _before_decoder(self, decoder: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if not self.running:
            raise UnsupportedError("inside a prune block call the whole model, not its decoder")
        cache, use_cache = kv_cache_of(kwargs), kwargs.get("use_cache")
        check_cache(cache, getattr(decoder.config, "use_cache", None) if use_cache is None else use_cache)
        later = cache is not None and cache.get_seq_length() > 0
        if later:
            self.made = self.cuts.get(cache, ())
        prefill, made = self.prefill, self.made
        if prefill is not None:
            prefill.enter(decoder, kwargs)
        if self.layer > 0 or (prefill is None and not made):
            return None
        if isinstance(kwargs.get("attention_mask"), dict):
            raise UnsupportedError("this model builds its masks before the decoder: prune at K >= 1")
        if later:
            return self._short_step(made[0].index, cache, args, dict(kwargs)) if made else None
        return None if prefill is None else self._short_prefill(prefill, args, dict(kwargs))

    def _short_prefill(self, prefill: RunningPrefill, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """K = 0: the whole decoder runs on what is left of the prompt."""
        embeds, ids, mask = (kwargs.get(name) for name in ("inputs_embeds", "position_ids", "attention_mask"))
        if embeds is None:
            tokens = kwargs.pop("input_ids") if "input_ids" in kwargs else args[0]
            embeds, args = self.decoder.embed_tokens(tokens), args[1:]
        if prefill.reads_own(0):
            self.projecting = True
            with self._clock("attention_ms", embeds.device):
                prefill.project(0, first_projection(self.vlm, args, kwargs, embeds))
            self.projecting = False
        made, embeds = self._choose(prefill, 0, embeds)
        cut = made.index
        if ids is None:
            ids = torch.arange(cut.length, device=embeds.device)[None]
        ids = cut.placed(ids, ids.ndim - 1)
        if mask is None:  # without one, gaps in the positions can be taken for packed sequences
            mask = torch.ones(1, cut.length, dtype=torch.long, device=embeds.device)
        kwargs["inputs_embeds"] = cut.gather(embeds, 1)
        kwargs["position_ids"] = ids - cut.to(ids.device).n_dropped_before if self.run.positions == "renumber" else ids
        kwargs["attention_mask"] = cut.mask(mask, prefill=True)
        return args, kwargs

    def _short_step(self, cut: PrunedIndex, cache: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """K = 0: one more token."""
        ids, mask = kwargs["position_ids"], kwargs.get("attention_mask")
        if mask is not None:
            kwargs["attention_mask"] = cut.mask(mask, prefill=False)
        elif cut.pad is not None:
            ones = torch.ones(len(cut.keep), cache.get_seq_length() + 1, dtype=torch.long, device=cut.keep.device)
            kwargs["attention_mask"] = cut.hide_fillers(ones, prefill=False)
        if self.run.positions == "renumber":
            kwargs["position_ids"] = ids - cut.to(ids.device).n_dropped
        return args, kwargs

    def _after_decoder(self, decoder: nn.Module, args: tuple, output: Any) -> None:
        finite, self.finite = self.finite, []
        check_finite(finite)
        if self.trims and self.prefill is not None and self.made:
            trim(self.cache, self.made)
            self.vlm.prefill.trim(self.run.layer)
        if self.cache is not None:
            self.run._lengths = [entries(layer) for layer in self.cache.layers]

    # -- layers >= K -----------------------------------------------------------------------------------------
    def _layer_hook(self, index: int) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
            return self._before_layer(index, args, dict(kwargs))

        return hook

    def _before_layer(self, index: int, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if self.projecting:
            return None
        cache = kv_cache_of(kwargs) if index == self.layer else None  # looked at there alone
        if index == self.layer:
            check_cache(cache, kwargs.get("use_cache"))
            if cache not in self.cuts:  # once per prompt
                layer, length = self.decoder.layers[index], -1 if self.prefill is None else self.prefill.length
                check_layer_arguments(layer, args, kwargs, length)
                if self.trims:
                    check_layers(cache, index)
            self.cache = cache
        hidden = args[0] if args else kwargs["hidden_states"]
        if self.prefill is not None and index in self.stages:
            if index > 0:
                number = self.stages[index]
                hidden = self.prefill.restored(number, hidden)
                self._read_own(self.prefill, number, args, kwargs, hidden)
                made, hidden = self._choose(self.prefill, number, hidden)
                hidden = made.local.gather(hidden, 1)
            if index == self.layer:
                self._remember(cache, self.made)
        elif index == self.layer and cache not in self.cuts:
            self._remember(cache, ())  # a prompt without an image
        cut = self._seen_by(index)
        if cut is None or cut.layer == 0:
            return None
        return self.short.of_layer(index, cut.index, args, kwargs, hidden, prefill=self.prefill is not None)

    def _seen_by(self, index: int) -> Cut | None:
        """Find the cut that has left what a layer sees."""
        if self.trims and self.prefill is None and self.made:
            return self.made[-1]
        return next((cut for cut in reversed(self.made) if cut.layer <= index), None)

    def _remember(self, cache: Any, cuts: Sequence[Cut]) -> None:
        """Note how the prompt in a cache was pruned, for later steps; cuts that follow are added."""
        self.cuts[cache] = cuts
        if self.layer > 0:
            count_dropped(cache, self.layer, cuts[0].index.length - cuts[0].index.kept if cuts else 0)

    # -- the selection ---------------------------------------------------------------------------------------
    def _recorder(self, index: int, keys: Sequence[RowKey]) -> Callable:
        """Make the function that keeps what is read of a layer at the prefill: rows of each score and kind."""

        def record(module, query, key, value, attention_mask, scaling, **kw: Any) -> None:
            if self.prefill is None:
                return
            kw |= {"attention_mask": attention_mask, "scaling": scaling}
            with self._clock("attention_ms", query.device):
                for name in keys:
                    self.prefill.record(name, module, query, key, value, **kw)
            self.prefill.hear(index, key, value)

        return record

    def _raw_hook(self, index: int) -> Callable:
        """Make the hook that keeps a layer's values as they would be without its norm."""

        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            if self.prefill is not None and not self.projecting:
                found = raw_projection(self.vlm, index, args, kwargs)
                self.prefill.hear_raw(index, found.value)

        return hook

    def _read_own(self, prefill: RunningPrefill, number: int, args: tuple, kwargs: dict, hidden: Tensor) -> None:
        """Let a stage that reads its own layer have what that layer would attend with, were nothing more dropped."""
        if not prefill.reads_own(number):
            return
        index, cut = self.schedule[number].layer, prefill.seen(number)
        if cut is not None and cut.layer > 0:
            args, kwargs = self.short.of_layer(index, cut.index, args, dict(kwargs), hidden, prefill=True)
        with self._clock("attention_ms", hidden.device):
            prefill.project(number, own_projection(self.vlm, index, args, kwargs, hidden))

    @torch.no_grad()
    def _choose(self, prefill: RunningPrefill, number: int, hidden: Tensor) -> tuple[Cut, Tensor]:
        """Select among the visual tokens that are left of every sample of the running prefill, and announce the cut.

        Also returns the states: those of tokens that take up others are merged.
        """
        run = self.run
        with self._clock("select_ms", hidden.device):
            chosen, finite = prefill.choose(number, hidden, self.tower)
            hidden = prefill.merged(number, hidden, chosen)
        self.finite += finite
        if number == 0:
            run.counts = prefill.counts()
            run.most = max([run.most, *run.counts])
        run.stages = [*run.stages, prefill.originals(number, chosen)]
        run.selections = run.stages[-1]
        announced = self.vlm.prefill.encoded
        if announced is not None and len(announced.layouts) == len(run.selections):
            for own, seen in zip(run.selections, announced.seen, strict=True):
                own.seen = seen
        cut = prefill.cut(number, chosen, remap=run.positions == "remap")
        self.made = prefill.cuts
        valid = None if cut.local.pad is None else ~cut.local.pad
        self.vlm.prefill.cut(PrunedSequence(cut.layer, cut.positions, valid))
        return cut, hidden

    @contextmanager
    def _clock(self, name: str, device: torch.device) -> Iterator[None]:
        if not self.timed:
            yield
            return
        wait_for(device)
        start = time.perf_counter()
        yield
        wait_for(device)
        self.run.times[name] = self.run.times.get(name, 0.0) + (time.perf_counter() - start) * 1e3
