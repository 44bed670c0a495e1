"""Attention rows from text to image tokens, recorded while a model runs as usual.

`capture` is the context manager for users; `attention_rows` and `watch` (also reachable from here) are the
pure computation and the low-level hook it shares with the pruning engine. Capture and pruning nest in any
order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from biaslab.attention.generated import decode_rows
from biaslab.attention.heads import check_heads
from biaslab.attention.hook import attention_rows, row_options, watch
from biaslab.attention.query_rows import check_queries, check_rows_of_family, null_rows, query_rows
from biaslab.attention.rater_rows import rater_rows, rating
from biaslab.attention.rows import CapturedRows, Places, PromptPositions, Rows
from biaslab.attention.scores import no_rope, reads_rope, resolve, score_name
from biaslab.core.layers import resolve_layers
from biaslab.errors import InputError, UnsupportedError
from biaslab.models.encoded import positions
from biaslab.models.eval_mode import check_eval_mode
from biaslab.models.expected import expect_model
from biaslab.models.generation import GenerateCall, check_call, watched
from biaslab.models.prefill import PrunedSequence
from biaslab.models.transformers_versions import kv_cache_of

if TYPE_CHECKING:
    from biaslab.core.seen import SeenImage
    from biaslab.models.vlm import VLM

__all__ = ["CapturedRows", "PromptPositions", "Rows", "attention_rows", "capture", "no_rope", "watch"]


class _Prefill:
    """The running prefill: its query rows and visual columns as each layer sees them.

    ``length`` counts all tokens of the forward, candidates of assisted decoding behind the prompt included; ``cached``
    tells whether a KV cache, known to have been empty, may hand out more keys than those.
    """

    def __init__(self, prompt: PromptPositions, length: int, cached: bool) -> None:
        self.prompt, self.length, self.cached = prompt, length, cached
        self.cache: dict[tuple[PrunedSequence | None, torch.device], Places] = {}

    def at(self, device: torch.device, cut: PrunedSequence | None) -> Places:
        """Places of rows and columns for a layer on ``device`` that sees ``cut``."""
        name = (cut, device)
        if name not in self.cache:
            prompt = self.prompt
            whole = Places(
                prompt.queries, prompt.query_mask, prompt.visual, prompt.visual_mask, None, prompt.row_of
            )  # fmt: skip
            self.cache[name] = (whole if cut is None else self._short(cut)).to(device)
        return self.cache[name]

    def _short(self, cut: PrunedSequence) -> Places:
        prompt = self.prompt
        where = cut.positions.to(prompt.visual.device)
        batch, n_short = where.shape
        # one spare slot takes the fillers, so that they overwrite nothing
        valid = None if cut.valid is None else cut.valid.to(where.device)
        target = where if valid is None else where.masked_fill(~valid, self.length)
        short_of = where.new_full((batch, self.length + 1), -1)
        short_of.scatter_(1, target, torch.arange(n_short, device=where.device).expand(batch, -1))
        short_of[:, self.length] = -1
        rows, cols = short_of.gather(1, prompt.queries), short_of.gather(1, prompt.visual)
        original, mask = positions((cols >= 0) & prompt.visual_mask)
        cols = cols.gather(1, original).masked_fill(~mask, 0)
        row_of = None if prompt.row_of is None else prompt.row_of.gather(1, original)
        return Places(rows.clamp(min=0), prompt.query_mask & (rows >= 0), cols, mask, original, row_of)


@contextmanager
def capture(
    vlm: VLM,
    layers: int | Iterable[int] | None = None,
    *,
    heads: str = "all",
    queries: str | Tensor = "last",
    score: str | Callable = "attention",
) -> Iterator[CapturedRows]:
    """Record text-to-image attention rows while the model runs as usual, forward or generate, under SDPA.

    Works around ``vlm.ask`` / ``locate`` / ``generate`` and around plain ``vlm.model(**inputs)`` and
    ``vlm.model.generate(**inputs)``: visual tokens are found in the ``input_ids`` the model is called with.
    Decode steps are left alone, cached or not, unless the rows of generated tokens are asked for; each new prefill
    replaces the rows of the one before. Outside ``generate`` every forward is a prefill.

    Parameters
    ----------
    vlm : VLM
        The model, of `biaslab.load` or `biaslab.wrap`.
    layers : int, iterable of int, or None for all
        Decoder layers; negative ones count from the end.
    heads : "all" or "mean"
        Keep every head, or their mean.
    queries : "last", "text", "null", "raters", "generated", or LongTensor (Q,) or (B, Q)
        The last prompt token; every token after the image (question, end of turn, answer header); or absolute
        positions in the padded prompt (negative: from its end). "null": the first token behind the image (a newline, an
        end-of-image token), which has seen the image and nothing of the question; of several images behind each its
        own (row i of the prompt belongs to image i, ``Rows.row_of``), of frames of a video behind the last. "raters":
        those of "text" that the image speaks to (:func:`biaslab.attention.raters.raters`, by what the decoder is
        given; others count as fillers), of prompts of one image or of frames.
        "generated": the rows that the tokens of the answer are chosen from, one per token: that of the last prompt
        token, then at each decode step that of the token before. It needs a greedy or sampled ``generate`` with a KV
        cache; rows behind the end of an answer are fillers.
    score : name of one in `biaslab.attention.scores.SCORES`, or callable
        "attention", "no_rope", "value_norm", "rope_corrected"; or ``score(query, key, value, cos, sin, *, rows, cols,
        scaling, attention_mask, is_causal, sliding_window, softcap) -> (B, H, Q, V) float32``, with the arguments of
        `attention_rows`, the value before heads are repeated, and the rotary cosines and sines (B or 1, Q, D).

    Yields
    ------
    CapturedRows
        ``rows[layer]`` -> `Rows`, and ``rows.per_image(encoded)`` -> one map per image; still readable after the
        block.

    Raises
    ------
    InputError
        A layer the decoder does not have, or a bad value of ``heads``, ``queries`` or ``score``; before the block runs.
    UnsupportedError
        An attention implementation that cannot be watched, a call without ``input_ids``, a prefill on a filled
        cache, or a way to generate that has no single prefill. "null" of a model in which every token of the prompt
        sees the question, "raters" of a prompt with several images.

    Examples
    --------
    >>> import biaslab as bl
    >>> vlm = bl.load("grounder")
    >>> (sample,) = bl.load_dataset("scenes", split="test", n=1)
    >>> encoded = vlm.encode_grounding([sample.image()], [sample.expression])
    >>> with bl.capture(vlm, layers=[3, -1]) as rows:
    ...     _ = vlm.forward(encoded)
    >>> rows[3].values.shape  # prompts, heads, query rows, visual tokens
    torch.Size([1, 4, 1, 256])
    >>> layout, maps = rows.per_image(encoded)[0]
    >>> layout.grid, maps.shape  # layers, heads, visual tokens
    ((16, 16), torch.Size([2, 4, 256]))

    Notes
    -----
    Inside a pruned forward the rows of layers >= K have one column per token that was kept, with
    ``Rows.kept`` the map to the original tokens; the engine tells of the cut through ``vlm.prefill``.

    Under FlashAttention the attention function itself is wrapped, for the whole process: while the block lasts, other
    models that use it run through the wrapper as well. Their numbers stay the same, and nothing of them is recorded.
    Under SDPA and eager attention only the decoder of ``vlm`` is switched. Blocks may be entered and left from several
    threads, each around a model of its own; one model must not run in two threads at a time.
    """
    with recorded(vlm, layers, heads=heads, queries=queries, score=score) as captured:
        yield captured


@contextmanager
def recorded(
    vlm: VLM,
    layers: int | Iterable[int] | None,
    *,
    heads: str,
    queries: str | Tensor,
    score: str | Callable,
    reduce: Callable[[Rows], Rows] | None = None,
) -> Iterator[CapturedRows]:
    """Do what `capture` does, but keep of every layer only what ``reduce`` makes of its rows.

    It is called inside the layer's attention, on the layer's device: of the rows themselves no more than those of the
    running layer are ever held.
    """
    expect_model(vlm)
    layers = sorted(resolve_layers(layers, vlm.n_layers, "the decoder"))
    check_heads(heads)
    check_queries(queries)
    check_rows_of_family(queries, vlm.family)
    score_of = resolve(score)
    captured = CapturedRows(layers)
    generated = isinstance(queries, str) and queries == "generated"
    if generated and reads_rope(score_of):
        raise InputError(
            f"score {score_name(score)!r} turns the keys of the whole prompt back, which a decode step cannot: take "
            "another score for generated tokens"
        )
    state = _State(vlm, "last" if generated else queries, captured)

    def record(layer: int) -> Callable:
        def callback(
            module: nn.Module,
            query: Tensor,
            key: Tensor,
            value: Tensor,
            attention_mask: Tensor | None,
            scaling: float,
            **kw: Any,
        ) -> None:
            prefill = state.prefill_for(query, key)
            if prefill is None:
                return
            at = prefill.at(query.device, vlm.prefill.seen_by(layer))
            # a static cache hands out all its slots, the empty ones behind those of the prompt
            key, value = key[:, :, : query.shape[2]], value[:, :, : query.shape[2]]
            options = row_options(module, kw)
            options.update(rows=at.rows, cols=at.cols, scaling=scaling, attention_mask=attention_mask)
            values = score_of(query, key, value, kw.get("cos"), kw.get("sin"), **options).float()
            values = values.masked_fill(~(at.rows_mask[:, None, :, None] & at.cols_mask[:, None, None, :]), 0.0)
            values = values.mean(1, keepdim=True) if heads == "mean" else values
            rows = Rows(values, at.cols_mask, at.rows_mask, at.original, at.row_of, state.seen)
            captured._seen[layer] = (at, query.shape[2])
            captured._rows[layer] = rows if reduce is None else reduce(rows)

        return callback

    with ExitStack() as stack:
        stack.enter_context(watched(vlm.model, vlm.prefill, _check_call))
        stack.enter_context(watch(vlm.model, {i: record(i) for i in layers}, rope=reads_rope(score_of)))
        stack.callback(vlm.model.register_forward_pre_hook(state.begin, with_kwargs=True).remove)
        stack.callback(vlm.model.register_forward_hook(state.end, always_call=True).remove)
        if state.rates:
            stack.callback(vlm.decoder.register_forward_pre_hook(state.rate, with_kwargs=True).remove)
        if generated:
            stack.enter_context(decode_rows(vlm, captured, score_of, heads))
        yield captured


class _State:
    """Follows the forward passes of the whole model, where the token ids are still visible."""

    def __init__(self, vlm: VLM, queries: str | Tensor, captured: CapturedRows) -> None:
        self.vlm, self.queries, self.captured = vlm, queries, captured
        self.rates = isinstance(queries, str) and queries == "raters"
        self.running = False
        self.prefill: _Prefill | None = None
        self.seen: Sequence[SeenImage] = ()

    def begin(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        self.running, self.prefill = ids is not None, None
        if ids is None or ids.shape[1] < 2:
            return
        cache = kv_cache_of(kwargs)
        if cache is not None and int(cache.get_seq_length()) > 0:
            if self.vlm.prefill.generating:
                return  # candidates of assisted decoding: a filled cache from outside is refused at the call
            raise UnsupportedError(_FILLED)
        found = self.vlm.prefill.prompt_in(ids, kwargs.get("attention_mask"))
        if found is None:
            return
        check_eval_mode(model)
        is_image = found.ids == self.vlm.image_token_id
        visual, visual_mask = self.vlm.visual_tokens(found.ids) if bool(is_image.any()) else positions(is_image)
        if visual.shape[1] == 0:
            return  # a prompt without an image: nothing to record
        if isinstance(self.queries, str) and self.queries == "null":
            asked = null_rows(self.vlm, found.ids, is_image, visual)
        elif self.rates:
            asked = rater_rows(self.vlm, is_image, found.padding)
        else:
            asked = query_rows(self.queries, is_image, found.padding)
        prompt = PromptPositions(is_image, visual, visual_mask, *asked)
        encoded = self.vlm.prefill.encoded
        self.seen = () if encoded is None else encoded.seen
        self.prefill = _Prefill(prompt, ids.shape[1], cache is not None)
        self.captured._start(prompt)

    def rate(self, decoder: nn.Module, args: tuple, kwargs: dict) -> None:
        """Before the first layer runs: of the rows behind the image only those that rate are no fillers."""
        if self.running and self.prefill is not None:
            before = self.prefill
            prompt = replace(before.prompt, query_mask=rating(before.prompt, before.length, kwargs))
            self.prefill = _Prefill(prompt, before.length, before.cached)
            self.captured._start(prompt)

    def end(self, *_: Any) -> None:
        self.running, self.prefill = False, None

    def prefill_for(self, query: Tensor, key: Tensor) -> _Prefill | None:
        if query.shape[2] == 1:
            return None  # a decode step
        if not self.running:
            raise UnsupportedError(
                "capture cannot see the token ids of this forward: call the whole model with input_ids, "
                "not its decoder and not with inputs_embeds"
            )
        if self.prefill is None:
            return None
        if key.shape[2] < query.shape[2] or (key.shape[2] > query.shape[2] and not self.prefill.cached):
            raise UnsupportedError(_FILLED)
        if query.shape[2] != self.prefill.length and not self.vlm.prefill.pruned:
            raise UnsupportedError(
                f"a layer sees {query.shape[2]} of {self.prefill.length} tokens and nothing in vlm.prefill "
                "says which: prune with bl.prune"
            )
        return self.prefill


_FILLED = "capture records a first prefill only: start without a filled cache"


def _check_call(call: GenerateCall) -> None:
    """Refuse a call of ``generate`` that has no prefill to be captured."""
    check_call(call)
    if call.has_filled_cache:
        raise UnsupportedError(_FILLED)
