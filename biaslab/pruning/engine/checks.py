"""What pruning refuses because it could not be right, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from biaslab.attention.query_rows import check_rows_of_family
from biaslab.attention.rotary import frequencies
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError, UnsupportedError
from biaslab.models.generation import GenerateCall, check_call
from biaslab.models.prune_layer import check_layer
from biaslab.pruning.base import Method
from biaslab.pruning.context import FittedProfile
from biaslab.pruning.engine.query_rows import kinds_of
from biaslab.pruning.engine.vision import tower_request
from biaslab.pruning.methods.attention_method import AttentionMethod

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = [
    "attention_method", "check_cache", "check_generate", "check_positions", "check_profile", "check_setup",
    "layer_types",
]  # fmt: skip

POSITIONS = ("original", "renumber", "remap")


@runtime_checkable
class ProfileMethod(Protocol):
    """A method that reads a profile, and what decides whether the profile fits."""

    @property
    def profile(self) -> FittedProfile | None: ...

    def fits(self, layer: int, n_heads: int) -> dict[str, Any]:
        """List what the profile must have been fitted for, when tokens are dropped before ``layer``."""
        ...


def check_positions(positions: str) -> None:
    """Refuse a word that says nothing of where kept tokens stand."""
    if positions not in POSITIONS:
        raise InputError(f"positions must be one of {', '.join(POSITIONS)}; got {positions!r}")


def check_setup(vlm: VLM, method: Any, layer: Any, positions: str) -> None:
    """Refuse, before any work, a model, method and layer that do not go together.

    Raises
    ------
    InputError
        A bad argument.
    UnsupportedError
        A model whose attention cannot be pruned there, with the reason.
    """
    if not isinstance(method, Method):
        raise InputError(f"method must be a pruning method such as bl.FastV(keep=0.1), got {method!r}")
    check_layer(layer, vlm.n_layers)
    check_positions(positions)
    method.validate()
    if method.needs & {"attention", "keys", "values"} and method.layer_read(layer) < 0:
        own = " or the option reads_layer=own" if isinstance(method, AttentionMethod) else ""
        raise UnsupportedError(
            f"method {method.name!r} reads the attention of layer K - 1: at K = 0 there is none, use K >= 1{own}"
        )
    if "rotary" in method.needs and frequencies(vlm.decoder) is None:
        raise UnsupportedError(
            f"method {method.name!r} reads the rotary embedding, and this decoder has none that is the same in all "
            "layers: choose another method"
        )
    if "attention" in method.needs:
        for kind in kinds_of(method):
            check_rows_of_family(kind, vlm.family, f"method {method.name!r}")
        attention_method(method).attention_layers(layer)  # refuses a K at which a layer it reads is not there yet
    tower_request(vlm, [method])  # refuses a block of the vision tower that is not there
    config: Any = vlm.decoder.config
    method.check_width(config.hidden_size)
    if "attention" in method.needs:
        attention_method(method).check_heads(layer, config.num_attention_heads)
    implementation = getattr(config, "_attn_implementation", None) or ""
    if "flex" in implementation:
        raise UnsupportedError("flex attention masks cannot be cut: load with attn_implementation='sdpa'")
    if other := set(layer_types(config)[layer:]) - {"full_attention"}:
        raise UnsupportedError(
            f"layers at or after K = {layer} use {', '.join(sorted(other))}, which would count its window "
            "in the short sequence: choose a K behind them or another model"
        )
    deepstack = getattr(getattr(vlm.model.config, "vision_config", None), "deepstack_visual_indexes", None) or ()
    if layer < len(deepstack):
        raise UnsupportedError(
            f"this model adds image features in its first {len(deepstack)} layers: use K >= {len(deepstack)}"
        )
    if layer < vlm.family.lowest_layer:
        raise UnsupportedError(
            f"{vlm.family.name} models build their masks before the decoder: use K >= {vlm.family.lowest_layer}"
        )
    if positions != "original" and _has_sections(getattr(config, "rope_parameters", None)):
        doing = "renumbering" if positions == "renumber" else "remapping along one axis"
        raise UnsupportedError(
            f"{doing} would destroy the two-dimensional positions of M-RoPE: use positions='original'"
        )


@runtime_checkable
class AttentionReader(Protocol):
    """A method that tells what it reads of attention: an `AttentionMethod`, or one around it."""

    @property
    def score(self) -> str: ...

    @property
    def query_kinds(self) -> tuple[Any, ...]: ...

    def attention_layers(self, layer: int) -> tuple[int, ...]: ...

    def check_heads(self, layer: int, n_heads: int) -> None: ...


def attention_method(method: Method) -> AttentionReader:
    """Return the method as one that tells which layers, rows and score it reads.

    Raises
    ------
    InputError
        It needs attention and does not tell.
    """
    if not isinstance(method, AttentionReader):
        raise InputError(f"method {method.name!r} needs attention: derive its class from AttentionMethod")
    return method


def check_profile(vlm: VLM, method: Method, layer: int, layout: TokenLayout | None = None) -> None:
    """Let the method's profile refuse this model, layer, query rule, score, head reduction and layout."""
    if "profile" not in method.needs:
        return
    if not isinstance(method, ProfileMethod) or method.profile is None:
        raise InputError(f"method {method.name!r} needs a profile: pass profile=MeanProfile().fit(maps)")
    config: Any = vlm.decoder.config
    use: dict[str, Any] = {
        "model": vlm.name,
        "revision": vlm.revision,
        "fingerprint": vlm.fingerprint,
        "family": vlm.family.name,
        "layout": layout,
    }
    method.profile.check(**(use | method.fits(layer, config.num_attention_heads)))


def check_generate(call: GenerateCall) -> None:
    """Refuse a call of ``generate`` that pruning would get wrong, before it does anything.

    Raises
    ------
    UnsupportedError
        With the reason and what to leave out.
    """
    check_call(call)
    settings = call.settings
    check_cache(call.cache, settings.use_cache)
    kind = getattr(settings, "cache_implementation", None)
    if kind not in (None, "dynamic", "offloaded"):
        raise UnsupportedError(
            f"a {kind} cache cannot hold layers of different lengths: drop cache_implementation={kind!r}"
        )
    if call.mode == "assisted_generation":
        raise UnsupportedError(
            "assisted decoding would prune its candidates along with the prompt: drop assistant_model, "
            "prompt_lookup_num_tokens and the like"
        )
    if getattr(settings, "guidance_scale", None) not in (None, 1):
        raise UnsupportedError("guidance mixes in a second prompt, which is not pruned: drop guidance_scale")


def check_cache(cache: Any, use_cache: Any) -> None:
    """Refuse a forward without a KV cache, and caches whose layers cannot have lengths of their own."""
    if use_cache is False:
        raise UnsupportedError(
            "without a KV cache every step would be a new prefill with a new selection: drop use_cache=False"
        )
    from transformers import DynamicCache

    if cache is not None and not isinstance(cache, DynamicCache):
        raise UnsupportedError(
            f"{type(cache).__name__} cannot hold layers of different lengths: use the default DynamicCache "
            "(drop cache_implementation)"
        )


def layer_types(config: Any) -> list[str]:
    """List the kind of attention of every decoder layer, as its configuration names it."""
    types = getattr(config, "layer_types", None)
    if types:
        return list(types)
    window = getattr(config, "sliding_window", None)
    return ["sliding_attention" if window else "full_attention"] * config.num_hidden_layers


def _has_sections(rope: Any) -> bool:
    """Whether rotary parameters, flat or per layer type, give height and width sections of their own."""
    if not isinstance(rope, dict):
        return False
    return "mrope_section" in rope or any(_has_sections(v) for v in rope.values())
