"""Random inputs with the properties that matter: a mid-size model, prompts, features smooth over the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError
from biaslab.maps.base import ImageRecord
from biaslab.maps.streamed import StreamedMaps
from biaslab.models.encoded import Encoded
from biaslab.models.registry import family_of
from biaslab.models.vlm import VLM
from biaslab.profiles import MeanProfile
from biaslab.profiles.lookahead.student import Student, places

__all__ = ["RandomStudent", "attention", "features", "layout_of", "model", "profile", "prompt"]

IMAGE_TOKEN, VOCABULARY = 1000, 1024


def layout_of(n: int) -> TokenLayout:
    """Make a usual arrangement of ``n`` visual tokens: one small square, or InternVL tiles with a thumbnail."""
    side = math.isqrt(n)
    if side * side == n and n <= 576:
        return TokenLayout.raster(side, side, size=(448, 448), family="internvl")
    cell = next((c for c in (16, 8, 4) if n % (c * c) == 0 and n > c * c), None)
    if cell is None:
        raise InputError(f"{n} visual tokens make no usual layout: choose a multiple of 256")
    tiles = n // (cell * cell) - 1
    rows = max(r for r in range(1, math.isqrt(tiles) + 1) if tiles % r == 0)
    cols = tiles // rows
    return TokenLayout.tiled(rows, cols, (cell, cell), size=(448 * cols, 448 * rows), family="internvl", thumbnail=True)


def features(
    layout: TokenLayout,
    dim: int,
    seed: int = 0,
    smooth: float = 0.5,
    common: float = 0.3,
    length: float = 0.15,
) -> Tensor:
    """(N, dim) hidden states as decoders have them: a direction all share, a smooth field, and noise.

    The cosine of two tokens is about ``common + smooth * exp(-d^2 / (2 length^2))``, d their distance as a share of
    the image's diagonal; the rest of a token's norm is its own.
    """
    g = torch.Generator().manual_seed(seed)
    points = torch.from_numpy(layout.centers_px / np.hypot(*layout.size)).float()
    waves = points @ torch.randn(2, dim, generator=g) / length + torch.rand(dim, generator=g) * 2 * math.pi
    shared = torch.randn(dim, generator=g)
    own = torch.randn(layout.n, dim, generator=g)
    return common**0.5 * shared + (2 * smooth) ** 0.5 * waves.cos() + (1 - common - smooth) ** 0.5 * own


def attention(layout: TokenLayout, heads: int = 8, seed: int = 0) -> Tensor:
    """(heads, 1, N) attention of one query row: smooth over the image, with a few strong tokens."""
    g = torch.Generator().manual_seed(seed + 1)
    field = features(layout, 16, seed + 2, smooth=1.0, common=0.0, length=0.2).mean(1) * 4
    logits = field + torch.randn(heads, 1, layout.n, generator=g)
    return logits.softmax(-1)


def model(hidden: int = 512, layers: int = 8, heads: int = 8) -> VLM:
    """Make a mid-size InternVL with random weights.

    Image features come with the prompt, so its vision tower never runs.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    tower = transformers.InternVLVisionConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=(56, 56),
        patch_size=(14, 14),
    )
    decoder = transformers.Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=16384,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    config = transformers.InternVLConfig(
        vision_config=tower, text_config=decoder, image_token_id=IMAGE_TOKEN, tie_word_embeddings=False
    )
    torch.manual_seed(0)
    network = transformers.AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa")
    processor = SimpleNamespace(image_token_id=IMAGE_TOKEN)
    network = network.eval().requires_grad_(False)
    return VLM(network, processor, family_of("internvl"), name="mid-size InternVL", revision="random")


def prompt(vlm: VLM, n_visual: int, n_text: int, seed: int = 0) -> Encoded:
    """One prompt: a little text, the image with its features computed, the rest of the text."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    g = torch.Generator().manual_seed(seed)
    text = torch.randint(0, IMAGE_TOKEN, (n_text,), generator=g)
    before = n_text // 8
    ids = torch.cat([text[:before], torch.full((n_visual,), IMAGE_TOKEN), text[before:]])[None]
    try:
        layout = layout_of(n_visual)
    except InputError:  # a count left over by pruning: any arrangement will do
        layout = TokenLayout.raster(1, n_visual, size=(n_visual, 1), family="internvl")
    image = features(layout, vlm.decoder.config.hidden_size, seed)[None]
    given = {"image": BaseModelOutputWithPooling(pooler_output=image)}
    inputs = {"input_ids": ids, "mm_encoder_outputs": given}
    return Encoded.from_inputs(inputs, [layout], [layout.size], image_token_id=IMAGE_TOKEN)


class RandomStudent:
    """The student of a conditional profile with random weights, as a profile that any model is given."""

    def __init__(self, rank: int = 96) -> None:
        self.rank = rank
        self._made: dict[tuple[int, str, torch.device], tuple[Student, Tensor]] = {}

    def relevance(self, visual: Tensor, text: Tensor, layout: TokenLayout, *, position: bool = False) -> Tensor:
        """Score as `biaslab.profiles.LookaheadProfile.relevance` does."""
        return self.relevance_batch(visual[None], [text], [layout])[0]

    def relevance_batch(
        self, visual: Tensor, texts: Sequence[Tensor], layouts: Sequence[TokenLayout], *, position: bool = False
    ) -> Tensor:
        """Score several images of one size as `biaslab.profiles.LookaheadProfile.relevance_batch` does."""
        made = [self._of(visual.shape[2], layout, visual.device) for layout in layouts]
        alike = len({layout.key for layout in layouts}) == 1
        place = made[0][1][None] if alike else torch.stack([place for _, place in made])
        with torch.no_grad():
            return made[0][0].relevance(visual, place, texts)

    def _of(self, width: int, layout: TokenLayout, device: torch.device) -> tuple[Student, Tensor]:
        """Make the student of a width, the same for all layouts, and describe the places of a layout; once."""
        known = (width, layout.key, device)
        if known not in self._made:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                student = Student(width, self.rank).to(device)
            self._made[known] = (student, torch.from_numpy(places(layout)).to(device))
        return self._made[known]

    def check(self, **use: Any) -> None:
        """Fit everything."""


def profile(layout: TokenLayout, layer: int, vlm: VLM | None = None) -> MeanProfile:
    """Fit a profile of one layer, of ``vlm`` or of no model in particular, to random maps."""
    about = {} if vlm is None else {"model": vlm.name, "revision": vlm.revision, "family": vlm.family.name}
    maps = StreamedMaps({**about, "queries": "last", "heads": "mean", "layers": [layer], "folds": 2})
    for i in range(4):
        maps.add(ImageRecord(str(i), layout, str(i)), attention(layout, seed=i).mean(0)[None].numpy())
    return MeanProfile().fit(maps)
