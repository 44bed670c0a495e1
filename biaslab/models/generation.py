"""What a call of ``model.generate`` is about to do, read before it does anything.

The forwards inside ``generate`` do not tell which of them is the prefill and which token of it is the last of the
prompt: without a cache every step is a whole forward, assisted decoding appends candidates to the prompt, guidance runs
a second prompt on the same model. The call itself tells. As long as `watched` lasts, a function stands in front of the
``generate`` of that one model object; nothing of its class or of another model is touched, and it goes with the block.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from biaslab.errors import UnsupportedError
from biaslab.models.transformers_versions import (
    REMOTE_MODES,
    generation_mode,
    generation_settings,
    kv_cache_of,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from biaslab.models.prefill import PrefillState

__all__ = ["GenerateCall", "check_call", "watched"]

_DOORS = ("generate", "generate_batch", "init_continuous_batching")
_LOCK = threading.RLock()  # held while a watch begins or ends


class GenerateCall:
    """A call of ``model.generate``: its prompt and its settings, defaults of the checkpoint included.

    Attributes
    ----------
    ids, padding : LongTensor (B, N), Tensor (B, N), or None
        Token ids of the prompt as they were given, and the attention mask of two dimensions.
    given : dict
        Arguments of the call by name.
    forwards : int
        Forwards of the model that this call has finished; those of calls inside it (an assistant that is the same
        model) do not count.
    """

    def __init__(self, model: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        # the signature of the class: what a user has put in front of it may hide the names
        names = inspect.signature(type(model).generate).parameters.values()
        positional = [p.name for p in names if p.kind is p.POSITIONAL_OR_KEYWORD][1:]  # without self
        self.given = given = {**dict(zip(positional, args, strict=False)), **kwargs}
        self._model = model
        ids = given["inputs"] if given.get("inputs") is not None else given.get("input_ids")
        self.ids: Tensor | None = ids if getattr(ids, "ndim", 0) == 2 else None
        mask = given.get("attention_mask")
        self.padding: Tensor | None = mask if getattr(mask, "ndim", 0) == 2 else None
        self.forwards = 0

    @cached_property
    def settings(self) -> Any:
        """What holds for this call, a GenerationConfig."""
        return generation_settings(self._model, self.given)

    @property
    def mode(self) -> str:
        """How the call generates, as transformers names it: "greedy_search", "beam_search" and so on."""
        return generation_mode(self.settings, self.given.get("assistant_model"))

    @property
    def cache(self) -> Any:
        """The KV cache that was handed in, or None."""
        return kv_cache_of(self.given)

    @property
    def has_filled_cache(self) -> bool:
        """Whether the cache that was handed in holds something already."""
        cache = self.cache
        return cache is not None and int(cache.get_seq_length()) > 0


def check_call(call: GenerateCall) -> None:
    """Refuse a call of ``generate`` whose prefill cannot be told from its other forwards.

    Raises
    ------
    UnsupportedError
        With the reason and what to leave out.
    """
    settings, given = call.settings, call.given
    if isinstance(given.get("custom_generate"), str):
        why = "custom_generate= runs code from elsewhere instead of generate: leave it out"
    elif call.mode in REMOTE_MODES:
        why = f"{call.mode.replace('_', ' ')} is no part of transformers but code from elsewhere: choose another mode"
    elif getattr(settings, "cache_implementation", None) == "paged":
        why = _CONTINUOUS
    elif given.get("inputs_embeds") is not None:
        why = "inputs_embeds hide where the image is: give input_ids"
    elif getattr(settings, "assistant_early_exit", None) is not None:
        why = "transformers cannot leave a multimodal model early: drop assistant_early_exit"
    elif getattr(settings, "token_healing", False):
        why = "token_healing rewrites the end of the prompt: leave it out"
    elif getattr(settings, "is_assistant", False):
        why = "this model runs as the assistant of another: leave the block, or make it the main model"
    elif getattr(settings, "prefill_chunk_size", None) is not None:  # before 5.23 it loses the image, too
        why = "a prefill in chunks has no single forward: drop prefill_chunk_size"
    else:
        return
    raise UnsupportedError(why)


_CONTINUOUS = "continuous batching packs prompts together: use generate with the default cache_implementation"


class _Watch:
    """What stands in front of one model's ``generate``, and who wants to know."""

    def __init__(self, model: Any) -> None:
        self.listeners: list[tuple[PrefillState, Callable[[GenerateCall], None]]] = []
        self.calls: list[GenerateCall] = []  # that are running, the outermost first
        self.original = {name: model.__dict__.get(name) for name in _DOORS if hasattr(model, name)}
        generate = model.generate

        def announced(*args: Any, **kwargs: Any) -> Any:
            call = GenerateCall(model, args, kwargs)
            with ExitStack() as stack:
                if not self.calls:
                    for _, check in self.listeners:
                        check(call)
                for state in {id(state): state for state, _ in self.listeners}.values():
                    stack.enter_context(state.generate(call))
                self.calls.append(call)
                stack.callback(self.calls.pop)
                return generate(*args, **kwargs)

        def refused(*args: Any, **kwargs: Any) -> Any:
            raise UnsupportedError(_CONTINUOUS)

        for name in self.original:
            model.__dict__[name] = announced if name == "generate" else refused
        self.hook = model.register_forward_hook(self._count, always_call=True)

    def _count(self, *_: Any) -> None:
        if self.calls:
            self.calls[-1].forwards += 1

    def remove(self, model: Any) -> None:
        self.hook.remove()
        for name, before in self.original.items():
            if before is None:
                del model.__dict__[name]
            else:
                model.__dict__[name] = before


_WATCHES: WeakKeyDictionary[nn.Module, _Watch] = WeakKeyDictionary()


@contextmanager
def watched(model: Any, state: PrefillState, check: Callable[[GenerateCall], None]) -> Iterator[None]:
    """Let ``check`` see every call of ``model.generate`` before it does anything, and tell ``state`` while it runs.

    Parameters
    ----------
    model : PreTrainedModel
    state : PrefillState
        Is told of the call for as long as it runs.
    check : callable
        Raises to refuse a call. Calls inside a call (an assistant that is the same model) are not shown to it.

    Notes
    -----
    Continuous batching, which runs without ``generate``, is refused meanwhile. Watches of one model nest and may end in
    any order.
    """
    listener = (state, check)
    with _LOCK:
        if not hasattr(model, "generate"):  # a model that only runs forwards
            watch = None
        else:
            watch = _WATCHES.get(model)
            if watch is None:
                watch = _WATCHES[model] = _Watch(model)
            watch.listeners.append(listener)
    try:
        yield
    finally:
        if watch is not None:
            with _LOCK:
                watch.listeners.remove(listener)
                if not watch.listeners:
                    _WATCHES.pop(model).remove(model)
