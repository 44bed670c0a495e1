"""A family's geometry without weights: published sizes, and the configuration and processor they make."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from biaslab.errors import InputError

__all__ = [
    "OfflineSpec", "ModelSpec", "SpecialTokens", "rope_sections", "text_config", "text_fields", "tower_fields",
]  # fmt: skip

_CONFIGS = {"llama": "LlamaConfig", "mistral": "MistralConfig", "qwen2": "Qwen2Config", "qwen3": "Qwen3Config"}
_VISION_LAYERS = 3  # of a small model: LLaVA takes its features from the last layer but one


@dataclass(frozen=True)
class ModelSpec:
    """Sizes of one checkpoint, as its ``config.json`` and ``preprocessor_config.json`` publish them.

    Attributes
    ----------
    decoder : str
        Language model: "llama", "mistral", "qwen2", "qwen3", or the family's own.
    hidden, layers, heads, kv_heads, ffn : int
        Of the language model.
    vision_hidden, vision_layers, vision_heads, vision_ffn : int
        Of the vision tower.
    patch : int
        Side of a patch, pixels.
    vocab : int or None
        Rows of the embedding; None for as many as the tokenizer has tokens.
    head_dim : int or None
        Width of an attention head; None for ``hidden / heads``.
    tied : bool
        Whether the output head shares the embedding's weights.
    tile : int or None
        Side of a tile, pixels; None where the resolution is free.
    merge : int
        Patches per visual token along either axis.
    max_tiles : int
        Most tiles of an image, the thumbnail not counted.
    min_pixels, max_pixels : int or None
        Area of an image of free resolution.
    longest_edge : int or None
        Pixels an image is resized to before it is cut into tiles.
    text, vision : mapping
        Further fields of the language model's and the vision tower's configuration.
    """

    decoder: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vision_hidden: int
    vision_layers: int
    vision_heads: int
    vision_ffn: int
    patch: int
    vocab: int | None = None
    head_dim: int | None = None
    tied: bool = False
    tile: int | None = None
    merge: int = 1
    max_tiles: int = 1
    min_pixels: int | None = None
    max_pixels: int | None = None
    longest_edge: int | None = None
    text: Mapping[str, Any] = field(default_factory=dict)
    vision: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tile_pixels(self) -> int:
        """Side of a tile, pixels; refused where the resolution is free."""
        if self.tile is None:
            raise InputError("this model has no tiles: its visual tokens follow the size of the image")
        return self.tile

    @property
    def side(self) -> int:
        """Visual tokens along either side of a tile."""
        return self.tile_pixels // self.patch // self.merge

    def small(self, *, layers: int = 4, head_dim: int = 8, **changes: Any) -> ModelSpec:
        """Shrink to few layers and narrow heads, for random weights on a laptop; the image geometry stays.

        Parameters
        ----------
        layers, head_dim : int
            Of the language model.
        **changes
            Any other field.

        Returns
        -------
        ModelSpec
        """
        width, narrow = head_dim * self.heads, 8 * self.vision_heads
        sizes = {
            "hidden": width,
            "layers": min(layers, self.layers),
            "ffn": 2 * width,
            "head_dim": None if self.head_dim is None else head_dim,
            "vocab": None,
            "vision_hidden": narrow,
            "vision_layers": min(_VISION_LAYERS, self.vision_layers),
            "vision_ffn": 2 * narrow,
        }
        return replace(self, **{**sizes, **changes})


@dataclass(frozen=True)
class SpecialTokens:
    """Tokens a stand-in tokenizer needs for the family's prompts and processor.

    Attributes
    ----------
    tokens : tuple of str
        All of them.
    eos, pad : str
        End and padding token.
    names : mapping
        Attribute of the tokenizer -> token, where the processor asks by attribute.
    bos : str or None
        Start token the prompt template writes.
    """

    tokens: tuple[str, ...]
    eos: str
    pad: str
    names: Mapping[str, str] = field(default_factory=dict)
    bos: str | None = None


class OfflineSpec(ABC):
    """What a family knows of its checkpoints without their files.

    Attributes
    ----------
    decoders : tuple of str
        Language models the family is published with, the commonest first.
    specs : dict
        Alias -> published sizes.
    special_tokens : SpecialTokens
    """

    decoders: ClassVar[tuple[str, ...]]
    specs: ClassVar[Mapping[str, ModelSpec]]
    special_tokens: ClassVar[SpecialTokens]

    def most_tokens(self, spec: ModelSpec) -> int:
        """Compute an upper bound of the visual tokens of one image."""
        if spec.tile is None and spec.max_pixels is not None:
            return spec.max_pixels // (spec.patch * spec.merge) ** 2
        tiles = spec.max_tiles if spec.longest_edge is None else (spec.longest_edge // spec.tile_pixels) ** 2
        return spec.side**2 * (tiles + 1 if tiles > 1 else 1)  # and a thumbnail

    @abstractmethod
    def config(self, spec: ModelSpec, tokenizer: Any) -> Any:
        """Make the transformers configuration of a model of these sizes, with the tokenizer's token ids."""

    @abstractmethod
    def make_processor(self, spec: ModelSpec, tokenizer: Any) -> Any:
        """Make the family's real processor for models of these sizes."""


def text_fields(spec: ModelSpec, tokenizer: Any) -> dict[str, Any]:
    """Fill in the fields every decoder's configuration has; ``spec.text`` wins."""
    fields = {
        "vocab_size": max(spec.vocab or 0, len(tokenizer)),
        "hidden_size": spec.hidden,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "intermediate_size": spec.ffn,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": spec.tied,
        # not among the published sizes kept here, and the classes' own defaults are as short as 2048: without weights
        # no prompt is to be refused for its length
        "max_position_embeddings": 131_072,
    }
    if spec.head_dim is not None:
        fields["head_dim"] = spec.head_dim
    return {**fields, **spec.text}


def text_config(spec: ModelSpec, tokenizer: Any, decoders: Sequence[str] = tuple(_CONFIGS)) -> Any:
    """Make the configuration of one of the language models that families share.

    Raises
    ------
    InputError
        A decoder that is not among ``decoders``.
    """
    if spec.decoder not in decoders:
        raise InputError(f"no {spec.decoder!r} decoder in this family: choose one of {', '.join(decoders)}")
    import transformers

    fields = text_fields(spec, tokenizer)
    if spec.decoder == "mistral":  # the class assumes the window of Mistral 0.1, which no family here uses
        fields.setdefault("sliding_window", None)
    return getattr(transformers, _CONFIGS[spec.decoder])(**fields)


def tower_fields(spec: ModelSpec) -> dict[str, Any]:
    """Fill in the configuration of a plain vision tower, square tiles; ``spec.vision`` wins."""
    return {
        "hidden_size": spec.vision_hidden,
        "intermediate_size": spec.vision_ffn,
        "num_hidden_layers": spec.vision_layers,
        "num_attention_heads": spec.vision_heads,
        "image_size": spec.tile,
        "patch_size": spec.patch,
        **spec.vision,
    }


def rope_sections(spec: ModelSpec, published: Sequence[int]) -> list[int]:
    """Split the head width into M-RoPE sections: time, height, width in the published shares, none empty."""
    total = (spec.head_dim or spec.hidden // spec.heads) // 2
    ends = [round(total * sum(published[: i + 1]) / sum(published)) for i in range(len(published))]
    sections = [b - a for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    if min(sections) < 1:
        raise InputError(f"heads of width {2 * total} are too narrow for M-RoPE: use 8 or more")
    return sections
