"""Tokens that a cut leaves out and that come back at the next one, moved as what went on in their place.

Of methods whose `Method.restores` says so: all stages of the schedule are theirs, the first at K >= 1, and none reads a
layer but its own, as no other has seen all tokens. A stage then cuts the whole prompt, whatever was cut before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from biaslab.pruning.base import Selection
from biaslab.pruning.engine.prompt import Prompt
from biaslab.pruning.engine.pruned_index import PrunedIndex

__all__ = ["Parked", "parked"]


@dataclass(frozen=True, eq=False)
class Parked:
    """States of a whole prompt at a cut, and whom each of its tokens follows while it is out.

    Attributes
    ----------
    entered : (B, N, D) Tensor
        States at the cut.
    went_on : (B, N, D) Tensor
        The same once tokens have been merged.
    leaders : (B, N) int64 Tensor
        Position of the token that has taken up each; its own where none has.
    follows : (B, N) bool Tensor
        Which tokens were merged, leaders among them.
    """

    entered: Tensor
    went_on: Tensor
    leaders: Tensor
    follows: Tensor

    def restored(self, hidden: Tensor, cut: PrunedIndex) -> Tensor:
        """Make the states of the whole prompt out of those of its short sequence.

        Parameters
        ----------
        hidden : (B, M, D) Tensor
            States behind the layers that saw the short sequence.
        cut : PrunedIndex
            That sequence, in the whole prompt.

        Returns
        -------
        (B, N, D) Tensor
            Of a merged token what it was, and by how much its leader has changed since (in float32); of one that was
            dropped alone what it was; of any other what it is now.
        """
        cut = cut.to(hidden.device)
        at = cut.keep[..., None].expand_as(hidden)
        if cut.pad is not None:  # fillers are tokens that were left out: what became of them depends on the batch
            hidden = torch.where(cut.pad[..., None], self.went_on.to(hidden.device).gather(1, at), hidden)
        went_on = self.went_on.to(hidden.device)
        now = went_on.scatter(1, at, hidden)
        leaders = self.leaders.to(hidden.device)[..., None].expand_as(now)
        moved = self.entered.to(hidden.device).float() + (now.float() - went_on.float()).gather(1, leaders)
        return torch.where(self.follows.to(hidden.device)[..., None], moved.to(now.dtype), now)


def parked(entered: Tensor, went_on: Tensor, prompt: Prompt, chosen: Sequence[Sequence[Selection]]) -> Parked:
    """Set the tokens of a prompt aside that a stage does not choose.

    Parameters
    ----------
    entered, went_on : (B, N, D) Tensor
        States before and after :func:`biaslab.pruning.engine.merging.merged`.
    prompt : Prompt
        The whole one.
    chosen : sequence of sequence of Selection
        Of the images of each row that is no copy; a token follows the first kept one whose ``merge`` weighs it.

    Returns
    -------
    Parked
    """
    batch, length = entered.shape[:2]
    visual = prompt.visual.to(entered.device)
    leaders = torch.arange(length, device=entered.device).repeat(batch, 1)
    follows = torch.zeros(batch, length, dtype=torch.bool, device=entered.device)
    for first, row in zip(range(0, len(prompt), prompt.repeats), chosen, strict=True):
        for image, selection in zip(prompt.images[first], row, strict=True):
            if selection.merge is None:
                continue
            weighed = selection.merge.to(entered.device) > 0
            weighed &= weighed.sum(1, keepdim=True) > 1  # a mean of one is that token
            taken = weighed.any(0)
            own = visual[first : first + prompt.repeats, image.first : image.last]
            leader = own[:, selection.indices.to(own.device)[weighed.byte().argmax(0)]]
            leaders[first : first + prompt.repeats].scatter_(1, own, torch.where(taken, leader, own))
            follows[first : first + prompt.repeats].scatter_(1, own, taken.expand_as(own))
    return Parked(entered, went_on, leaders, follows)
