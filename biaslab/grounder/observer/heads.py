"""Linear probes that exist in the observer's training only, and their losses; none of them reads attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from biaslab.grounder.observer.batches import GRIDS, IGNORE, LETTERS
from biaslab.grounder.observer.model import WHATS
from biaslab.scenes.gallery.canvas import MAX_TILES
from biaslab.scenes.gallery.signs import LONGEST
from biaslab.scenes.objects import COLOURS, SIZES

N_WHATS, N_SIZES, N_COLOURS, N_LETTERS = len(WHATS), len(SIZES), len(COLOURS), len(LETTERS) + 1
_DENSE = (1, N_WHATS, N_COLOURS, 4, LONGEST * N_LETTERS)


class Heads(nn.Module):
    """The probes.

    `dense` reads every visual token on the projector's output: owned, what, colour, box in the tile, letters of the
    sign. `text` reads decoder rows behind a question: size and colour of the noun phrase, each with "not said"; what
    it is comes from `dense`'s weights, so that a row must gather the very directions in which the tower writes names.
    `aim` reads such rows of expressions further up: the target's box.
    `tile` reads visual tokens in the decoder (the number of their tile), `grid` the token behind the image (columns
    and rows).
    """

    def __init__(self, hidden: int):
        super().__init__()
        self.dense = nn.Linear(hidden, sum(_DENSE))
        self.text = nn.Linear(hidden, N_SIZES + 1 + N_COLOURS + 1)
        self.aim = nn.Linear(hidden, 4)
        self.tile = nn.Linear(hidden, MAX_TILES + 1)
        self.grid = nn.Linear(hidden, len(GRIDS))

    @property
    def what_weights(self) -> torch.Tensor:
        """Rows of `dense` that read what a token shows, (whats, hidden)."""
        return self.dense.weight[1 : 1 + N_WHATS]

    def dense_loss(
        self, visual: torch.Tensor, target: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute the loss of the dense probes, and how well each of them reads the visual tokens.

        Parameters
        ----------
        visual : Tensor (tiles, tokens, hidden)
        target : dict of Tensor
            Fields of `biaslab.grounder.observer.batches.Tiles`.

        Returns
        -------
        Tensor, dict of Tensor
            The loss; shares that are right and the mean error of box sides in tiles.
        """
        owned, what, colour, box, letters = self.dense(visual).float().split(list(_DENSE), -1)
        at = target["owned"]
        letters = letters.view(*letters.shape[:2], LONGEST, N_LETTERS)
        losses = [
            2 * F.binary_cross_entropy_with_logits(owned[..., 0], at.float()),
            _cross_entropy(what, target["what"]),
            _cross_entropy(colour, target["colour"]),
            8 * ((box - target["box"]).abs().mean(-1) * at).sum() / at.sum().clamp(min=1),
            _cross_entropy(letters, target["letters"]),
        ]
        with torch.no_grad():
            measured = {
                "owned": ((owned[..., 0] > 0) == at).float().mean(),
                "what": _right(what, target["what"]),
                "letters": _right(letters, target["letters"]),
                "box": ((box - target["box"]).abs().mean(-1) * at).sum() / at.sum().clamp(min=1),
            }
        return torch.stack(losses).sum(), measured

    def gather_loss(self, rows: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
        """Compute the loss of rows behind questions, (rows, hidden), that do not name what they are about."""
        rows = _normed(rows)
        what = F.linear(rows, self.what_weights).float()
        size, colour = self.text(rows).float().split([N_SIZES + 1, N_COLOURS + 1], -1)
        return sum((_cross_entropy(out, head[:, k]) for k, out in enumerate((what, size, colour))), torch.zeros(()))

    def aim_loss(self, rows: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
        """Compute the mean error of the target's sides, (rows, 4) in fractions of the image, as rows know them."""
        return (self.aim(_normed(rows)).float() - box).abs().mean()


def _normed(rows: torch.Tensor) -> torch.Tensor:
    return rows / rows.float().pow(2).mean(-1, keepdim=True).sqrt().to(rows.dtype)


def _cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean over the targets that are not ignored, 0 if there is none."""
    logits, target = logits.reshape(-1, logits.shape[-1]), target.reshape(-1)
    total = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum")
    return total / (target != IGNORE).sum().clamp(min=1)


def _right(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    seen = target != IGNORE
    return ((logits.argmax(-1) == target) & seen).sum() / seen.sum().clamp(min=1)
