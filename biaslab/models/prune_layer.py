"""The layer K before which tokens are dropped unless somebody says otherwise, and layers counted from the end."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

from biaslab.errors import InputError

if TYPE_CHECKING:
    from biaslab.models.family import Family

__all__ = [
    "DefaultLayer", "check_layer", "default_prune_layer", "layer_count", "lowest_prune_layer", "prune_layer",
    "prune_layers",
]  # fmt: skip

_PUBLISHED = 2  # of FastV and D2Pruner, on decoders of 24 layers or more
_SHALLOW = 16  # layers up to which a decoder counts as shallow
_SHARE = 0.4  # of a shallow decoder's layers: 4 of the grounder's 10, chosen on its validation split


class DefaultLayer(int):
    """The layer K of a model where nobody has asked for one.

    Attributes
    ----------
    lowest : int
        The first that the model allows: where methods drop tokens that are made to do so before the decoder.

    Examples
    --------
    >>> from biaslab.models.offline.geometry import geometry
    >>> layer = prune_layer(geometry("qwen3-vl-4b"), None)
    >>> layer, layer.lowest
    (3, 3)
    """

    lowest: int

    @classmethod
    def of(cls, config: Any, family: Family) -> DefaultLayer:
        """Choose it from the geometry of a model."""
        layer = cls(default_prune_layer(config, family))
        layer.lowest = lowest_prune_layer(config, family)
        return layer

    def for_method(self, method: Any) -> int:
        """Say where a method drops tokens."""
        return self.lowest if method.before_decoder else int(self)


def default_prune_layer(config: Any, family: Family) -> int:
    """Choose a prune layer from the geometry of a model.

    K = 2, as FastV and D2Pruner publish it; in a decoder of at most 16 layers the layer at 0.4 of its depth (K = 4 of
    the grounder's 10: before that its attention does not know the target, and debiased methods stay below random).
    Neither is below what the model allows: layers to which image features are added, and layers with a sliding
    window, come before K.

    Parameters
    ----------
    config : PretrainedConfig
        Of the whole model; no weights are needed.
    family : Family

    Returns
    -------
    int

    Examples
    --------
    >>> from biaslab.models.offline.geometry import geometry
    >>> from biaslab.models.prune_layer import default_prune_layer
    >>> models = [geometry(name) for name in ("grounder", "internvl3-8b", "qwen3-vl-4b")]
    >>> [default_prune_layer(model.config, model.family) for model in models]
    [4, 2, 3]
    """
    n_layers = config.get_text_config().num_hidden_layers
    chosen = _PUBLISHED if n_layers > _SHALLOW else max(1, round(_SHARE * n_layers))
    return min(max(chosen, lowest_prune_layer(config, family)), n_layers - 1)


def lowest_prune_layer(config: Any, family: Family) -> int:
    """Find the first layer K before which a model's tokens may be dropped.

    Layers to which image features are added, and layers with a sliding window, come before it, and the first one of a
    family that builds its masks before the decoder.

    Parameters
    ----------
    config : PretrainedConfig
        Of the whole model; no weights are needed.
    family : Family

    Returns
    -------
    int

    Examples
    --------
    >>> from biaslab.models.offline.geometry import geometry
    >>> models = [geometry(name) for name in ("grounder", "qwen3-vl-4b", "paligemma-3b-mix-224")]
    >>> [lowest_prune_layer(model.config, model.family) for model in models]
    [0, 3, 1]
    """
    text = config.get_text_config()
    deepstack = getattr(getattr(config, "vision_config", None), "deepstack_visual_indexes", None) or ()
    kinds = list(getattr(text, "layer_types", None) or ())
    windows = [i + 1 for i, kind in enumerate(kinds) if kind != "full_attention"]
    return max(family.lowest_layer, len(deepstack), *windows[-1:])


def layer_count(model: Any) -> int:
    """Count the decoder layers of a VLM or Geometry."""
    return int(_config(model).get_text_config().num_hidden_layers)


def _config(model: Any) -> Any:
    return getattr(model, "config", None) or model.model.config


def check_layer(layer: Any, n_layers: int) -> None:
    """Refuse what is no decoder layer, counted from the first.

    Raises
    ------
    InputError
        No whole number, negative, or beyond the decoder.

    Examples
    --------
    >>> check_layer(9, 10)
    >>> check_layer(10, 10)
    Traceback (most recent call last):
    biaslab.errors.InputError: layer must be a decoder layer index 0 .. 9, got 10
    """
    if isinstance(layer, bool) or not isinstance(layer, Integral) or not 0 <= int(layer) < n_layers:
        raise InputError(f"layer must be a decoder layer index 0 .. {n_layers - 1}, got {layer!r}")


def prune_layer(model: Any, asked: Any) -> Any:
    """Say which decoder layer is meant: None is the model's default, -1 the last.

    Parameters
    ----------
    model : VLM or Geometry
        The model, or what is known of it before its weights are read.
    asked : int or None

    Returns
    -------
    int
        Not negative, the default a `DefaultLayer`; what is no whole number or lies beyond the decoder is returned as it
        is, to be refused with the other arguments.

    Raises
    ------
    InputError
        A negative layer below the first.
    """
    if asked is None:
        return DefaultLayer.of(_config(model), model.family)
    if isinstance(asked, bool) or not isinstance(asked, Integral) or int(asked) >= 0:
        return asked
    n_layers = layer_count(model)
    if int(asked) < -n_layers:
        raise InputError(f"layer must be 0 .. {n_layers - 1}, or -{n_layers} .. -1 from the end; got {asked}")
    return n_layers + int(asked)


def prune_layers(model: Any, asked: int | Sequence[int] | None) -> list[Any]:
    """Say which decoder layers are meant, as `prune_layer` does, for one layer or several."""
    several = list(asked) if isinstance(asked, (list, tuple, range)) else [asked]
    return [prune_layer(model, layer) for layer in several]
