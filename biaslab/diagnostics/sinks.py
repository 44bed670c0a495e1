"""How much of attention, and of a profile, is sinks: tokens that draw whatever is asked, wherever they lie."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from biaslab._util.number_text import interval_text, list_text
from biaslab.attention.means import capture_means
from biaslab.attention.sink_tokens import LEVEL, relative_size, sink_tokens
from biaslab.core.layers import resolve_layer
from biaslab.errors import InputError
from biaslab.maps.decoder_inputs import decoder_inputs
from biaslab.stats.jackknife import half_width

if TYPE_CHECKING:
    from biaslab.core.layout import TokenLayout
    from biaslab.models.encoded import Encoded
    from biaslab.models.vlm import VLM
    from biaslab.profiles import Profile

__all__ = ["SinkReport", "check_level", "find_sinks", "massive_dimensions"]

_FEWEST = 4  # images


@dataclass(frozen=True)
class SinkReport:
    """Sinks among the visual tokens that enter a layer, and what they draw in the layer before.

    Attributes
    ----------
    layer : int
        K: hidden states are those that enter it, attention is that of layer K - 1.
    dims : list of int
        Massive dimensions.
    images : DataFrame
        A row per image: layout, tokens, sinks (their number), share (of the attention on the image, last prompt
        token, mean over heads, that falls on them).
    frequency : dict of str to (N,) array
        Layout key -> share of the images in which each token is a sink.
    layouts : dict of str to TokenLayout
    """

    layer: int
    dims: list[int]
    images: pd.DataFrame
    frequency: dict[str, np.ndarray]
    layouts: dict[str, TokenLayout]

    def share(self, *, confidence: float = 0.95) -> tuple[float, float, float]:
        """Mean share of the attention that falls on sinks, with its jackknife interval over images."""
        values = self.images["share"].to_numpy(float)
        left_out = (values.sum() - values) / (len(values) - 1)
        half = float(half_width(left_out, confidence=confidence))
        return float(values.mean()), max(float(values.mean()) - half, 0.0), min(float(values.mean()) + half, 1.0)

    def of_profile(self, profile: Profile) -> pd.DataFrame:
        """Tell how much of a profile is sinks, layout by layout.

        Parameters
        ----------
        profile : Profile
            Positional, fitted at layer K - 1.

        Returns
        -------
        DataFrame
            layout, n (images); mass: share of the expected attention that lies where sinks lie, each place counted
            with the frequency at which it is one; r: correlation over positions of expected attention and that
            frequency (NaN where there are no sinks).
        """
        rows = []
        for key, frequency in self.frequency.items():
            expected = profile.expected(self.layouts[key], self.layer - 1).double().numpy().mean(0)
            varies = np.ptp(frequency) > 0 and np.ptp(expected) > 0
            rows.append({
                "layout": key, "n": int((self.images["layout"] == key).sum()),
                "mass": float((expected * frequency).sum() / expected.sum()),
                "r": float(np.corrcoef(expected, frequency)[0, 1]) if varies else np.nan,
            })  # fmt: skip
        return pd.DataFrame(rows)

    def sentences(self) -> list[str]:
        """Say what was found."""
        if not self.dims:
            return [
                f"No dimension of the hidden states entering layer {self.layer} is massive in at least the share of "
                "images that was asked for: no sinks of this kind were found."
            ]
        share = interval_text(*(100 * value for value in self.share()), decimals=1)
        named = "dimension" if len(self.dims) == 1 else "dimensions"
        return [
            f"Massive {named} of the hidden states entering layer {self.layer}: {list_text(self.dims)}.",
            f"{self.images['sinks'].mean():.1f} of {self.images['tokens'].mean():.0f} visual tokens are sinks; they "
            f"draw {share} % of the attention of layer {self.layer - 1} on the image.",
        ]


def check_level(level: float) -> None:
    """Refuse a level that is not above 1, the root mean square itself.

    Raises
    ------
    InputError
    """
    if not level > 1:
        raise InputError(f"level must be above 1, such as 20; got {level!r}")


def massive_dimensions(
    vlm: VLM, batches: Iterable[Encoded], layer: int, *, level: float = LEVEL, least: float = 0.5
) -> list[int]:
    """Find the dimensions in which some token of most prompts is huge, text and first token included.

    Parameters
    ----------
    vlm : VLM
    batches : iterable of Encoded
    layer : int
        K: of the hidden states that enter it.
    level : float
        Size over the root mean square from which a value is massive.
    least : float
        Share of the prompts that hold such a value.

    Returns
    -------
    list of int
        Ascending.
    """
    counts, n = None, 0
    for encoded in batches:
        with decoder_inputs(vlm, layer) as inputs:
            vlm.forward(encoded, logits_to_keep=1, use_cache=False)
        assert inputs.hidden is not None
        there = encoded.inputs.get("attention_mask")
        size = relative_size(inputs.hidden)
        if there is not None:
            size = size.masked_fill(~there.bool().to(size.device)[..., None], 0)
        found = (size.amax(1) > level).sum(0)
        counts = found if counts is None else counts + found
        n += len(encoded)
    if counts is None:
        raise InputError("no prompts are given: pass batches of vlm.encode_grounding(images, expressions)")
    return torch.nonzero(counts >= least * n).flatten().tolist()


def find_sinks(
    vlm: VLM, batches: Callable[[], Iterable[Encoded]], layer: int, *, dims: Iterable[int] | None = None,
    level: float = LEVEL, least: float = 0.5,
) -> SinkReport:  # fmt: skip
    """Find the sinks of a model in front of a layer, and measure what they draw.

    The published dimensions are those of two models (LLaMA-2-7B: 2533 and 1415); here they are found: those in which
    some token of at least ``least`` of the prompts is massive. ``fastv:sink_dims=[...]`` then gives sinks score 0.

    Parameters
    ----------
    vlm : VLM
    batches : callable
        Makes an iterable of Encoded, one image per prompt, anew each time: it is gone through once for the dimensions,
        unless they are given, and once for the sinks. 4 images or more.
    layer : int
        K, 1 or more; published from layer 2 on.
    dims : iterable of int, optional
        Massive dimensions; default those that `massive_dimensions` finds.
    level, least : float
        As there.

    Returns
    -------
    SinkReport

    Raises
    ------
    InputError
        A layer that the model does not have, a level that is not above 1, or fewer than 4 images.

    References
    ----------
    Kang et al. (2025), See What You Are Told: Visual Attention Sink in Large Multimodal Models, ICLR, arXiv 2503.03321.

    Examples
    --------
    >>> import biaslab as bl
    >>> vlm = bl.load("grounder")
    >>> scenes = list(bl.load_dataset("scenes", split="calibration", n=4))
    >>> batches = lambda: [vlm.encode_grounding([s.image() for s in scenes], [s.expression for s in scenes])]
    >>> find_sinks(vlm, batches, 4).dims  # this model has none
    []
    """
    resolve_layer(layer, range(1, vlm.n_layers), "the decoder")
    check_level(level)
    found = massive_dimensions(vlm, batches(), layer, level=level, least=least) if dims is None else sorted(dims)
    rows: list[dict[str, Any]] = []
    sums: dict[str, np.ndarray] = {}
    layouts: dict[str, TokenLayout] = {}
    for encoded in batches():
        with capture_means(vlm, [layer - 1], heads="mean") as captured, decoder_inputs(vlm, layer) as inputs:
            vlm.forward(encoded, logits_to_keep=1, use_cache=False)
        assert inputs.hidden is not None
        places = encoded.visual.to(inputs.hidden.device)
        hidden = inputs.hidden.gather(1, places[..., None].expand(-1, -1, inputs.hidden.shape[2]))
        marked = sink_tokens(hidden, found, level=level) if found else torch.zeros_like(places, dtype=torch.bool)
        host = marked.cpu().numpy()
        each = zip(captured.per_image(encoded, device="cpu"), encoded.owners, encoded.spans, strict=True)
        for (layout, attention), owner, (first, last) in each:
            own, drawn = host[owner, first:last], attention[0, 0].double().numpy()
            layouts[layout.key] = layout
            sums[layout.key] = sums.get(layout.key, np.zeros(layout.n)) + own
            total = drawn.sum()
            rows.append({"layout": layout.key, "tokens": layout.n, "sinks": int(own.sum()),
                         "share": float(drawn[own].sum() / total) if total > 0 else 0.0})  # fmt: skip
    if len(rows) < _FEWEST:
        raise InputError(f"sinks are measured on at least {_FEWEST} images, got {len(rows)}")
    images = pd.DataFrame(rows)
    counts = images["layout"].value_counts()
    return SinkReport(layer, list(found), images, {k: v / counts[k] for k, v in sums.items()}, layouts)
