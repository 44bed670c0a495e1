"""Which prompts of a batch begin with the same tokens and the same image, and whether it pays to run these once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from biaslab.evaluation.sweep.generation import Generation
from biaslab.models.transformers_versions import kv_cache_of
from biaslab.pruning.engine.prompt import Prompt

if TYPE_CHECKING:
    from biaslab.models.encoded import Encoded
    from biaslab.models.vlm import VLM

__all__ = ["ImagePlan", "image_plan"]

_WORTH = 0.9  # share of the tokens that are left, from which on nothing is won: rows are copied, and forwards are two


@dataclass(frozen=True, eq=False)
class ImagePlan:
    """Prompts of B rows and N columns, in two forwards: up to an image once, then what follows of every row.

    Attributes
    ----------
    stands : list of int
        For each row the row that stands for it: the first that begins alike.
    leaders : (U,) int64 Tensor
        Rows whose first ``end`` columns run, one for each distinct beginning.
    end : int
        Columns of that forward. It may go beyond the image of some: text does not change what precedes it.
    of_row : (B,) int64 Tensor
        For each row the place of its leader among them.
    first : int
        F, the column at which the second forward begins, of all rows: behind the image of the one with the longest
        text. Of others it runs the end of the image again.
    source : (B, N) int64 Tensor
        Column of a row's leader that stands for each of its own; anything where the row has padding or other text.
    padding, text : (B, N) bool Tensor
        Columns before a row's prompt, and behind its image.
    """

    stands: list[int]
    leaders: Tensor
    end: int
    of_row: Tensor
    first: int
    source: Tensor
    padding: Tensor
    text: Tensor

    def spread(self, x: Tensor, dim: int = 1) -> Tensor:
        """Give the rows what has been made for the leaders: (U, ..., end, ...) -> (B, ..., F, ...)."""
        rows = self.of_row.to(x.device)[:, None]
        return x.transpose(1, dim)[rows, self.source[:, : self.first].to(x.device)].transpose(1, dim)

    def joined(self, image: Tensor, text: Tensor) -> Tensor:
        """Put hidden states of both forwards together: (U, end, D), (B, N - F, D) -> (B, N, D).

        Image tokens of all rows that one leader stands for have its states, those that ran again as well.
        """
        whole = image[self.of_row.to(image.device)[:, None], self.source.to(image.device)]
        behind = self.text[:, self.first :, None].to(image.device)
        whole[:, self.first :] = torch.where(behind, text.to(image.device), whole[:, self.first :])
        return whole


def image_plan(vlm: VLM, generation: Generation, prompts: Iterable[Prompt], n_layers: int) -> ImagePlan | None:
    """Find what can be shared of the layers 0 .. ``n_layers`` - 1.

    Parameters
    ----------
    vlm : VLM
        Its announced prompts say which images they show.
    generation : Generation
    prompts : iterable of Prompt
        With all query rows that are read.
    n_layers : int

    Returns
    -------
    ImagePlan or None
        None where the whole rows have to run: no image is known to come twice, the family's attention is not causal,
        a layer has a sliding window, a query row precedes the end of an image, or too little would be saved.
    """
    encoded = vlm.prefill.encoded
    if encoded is None or encoded.pictures is None or n_layers == 0 or vlm.family.lowest_layer > 0:
        return None
    cache = kv_cache_of(generation.kwargs)
    if any(type(layer) is not DynamicLayer for layer in cache.layers[:n_layers]):
        return None
    stands, image_end, pads, earliest = _beginnings(vlm, generation, encoded, encoded.pictures, prompts)
    leaders = sorted(set(stands))
    first, end = min(image_end) + 1, max(image_end[row] for row in leaders) + 1
    batch, length = generation.ids.shape
    if first > earliest or len(leaders) * end + batch * (length - first) > _WORTH * batch * length:
        return None
    device = generation.ids.device
    places = {row: i for i, row in enumerate(leaders)}
    columns = torch.arange(length, device=device)
    shift = torch.tensor([pads[row] - own for row, own in zip(stands, pads, strict=True)], device=device)
    return ImagePlan(
        stands=stands,
        leaders=torch.tensor(leaders, device=device),
        end=end,
        of_row=torch.tensor([places[row] for row in stands], device=device),
        first=first,
        source=(columns + shift[:, None]).clamp(0, end - 1),
        padding=columns < torch.tensor(pads, device=device)[:, None],
        text=columns > torch.tensor(image_end, device=device)[:, None],
    )


def _beginnings(
    vlm: VLM, generation: Generation, encoded: Encoded, pictures: list[int], prompts: Iterable[Prompt]
) -> tuple[list[int], list[int], list[int], int]:
    """Tell of each row which one begins alike, its image's last column and its padding; and the first query row."""
    ids, mask = generation.ids, generation.kwargs.get("attention_mask")
    first_of: dict[int, int] = {}
    stands = [first_of.setdefault(picture, row) for row, picture in enumerate(pictures)]
    columns = torch.arange(ids.shape[1], device=ids.device)
    pads = torch.zeros_like(ids[:, 0]) if mask is None else (mask == 0).sum(1)
    image_end = torch.where(ids == vlm.image_token_id, columns, -1).amax(1)
    other = torch.tensor(stands, device=ids.device)
    theirs = ids[other[:, None], (columns + (pads[other] - pads)[:, None]).clamp(0, ids.shape[1] - 1)]
    inside = (columns >= pads[:, None]) & (columns <= image_end[:, None])
    alike = ((theirs == ids) | ~inside).all(1) & (image_end - pads == (image_end - pads)[other])
    asked = [prompt.rows.min().to(ids.device) for prompt in prompts if prompt.rows is not None]
    earliest = torch.stack([*asked, torch.tensor(ids.shape[1], device=ids.device)]).amin()
    found = torch.cat([alike.long(), image_end, pads, earliest[None]]).tolist()  # the one transfer
    n = len(ids)
    stands = [own if same else row for row, (own, same) in enumerate(zip(stands, found[:n], strict=True))]
    return stands, found[n : 2 * n], found[2 * n : 3 * n], found[-1]
