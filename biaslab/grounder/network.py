"""The grounder under training: the unmodified model, a fast attention for packed branches, the auxiliary heads."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from biaslab.grounder.batches import IGNORE, DenseTargets, Dialogue, Packed
from biaslab.grounder.model import COORDINATES, build_model
from biaslab.grounder.recipe import Recipe
from biaslab.scenes.objects import COLOURS, NAMES, SIZES

N_NAMES, N_SIZES, N_COLOURS = len(NAMES), len(SIZES), len(COLOURS)
ATTENTION = "biaslab_training"


class Heads(nn.Module):
    """Linear probes that exist in training only.

    `dense` reads every visual token: owned, name, size, colour, box.  `text` reads decoder rows: size and colour
    of the noun phrase, each with "not said"; its names come from `dense`'s name weights, so that a row must
    gather the very directions in which the tower writes names.
    """

    def __init__(self, hidden: int):
        super().__init__()
        self.dense = nn.Linear(hidden, 1 + N_NAMES + N_SIZES + N_COLOURS + 4)
        self.text = nn.Linear(hidden, N_SIZES + 1 + N_COLOURS + 1)

    @property
    def name_weights(self) -> torch.Tensor:
        """Rows of `dense` that read the name, (names, hidden)."""
        return self.dense.weight[1 : 1 + N_NAMES]


class TrainingGrounder:
    """Model, heads and losses in bfloat16."""

    def __init__(self, recipe: Recipe, tokenizer: Any) -> None:
        self.recipe = recipe
        self.dialogue = Dialogue(tokenizer, recipe.size.grid)
        model = build_model(tokenizer, size=recipe.size, seed=recipe.seed)
        self.model: Any = nn.Module.to(model, torch.bfloat16)  # Any: for torch's stubs attributes may be Tensors
        self.heads = Heads(recipe.size.hidden).to(torch.bfloat16)
        self._tokenizer = tokenizer
        self._register_attention()
        self._gathered: torch.Tensor | None = None
        layer = self.model.get_decoder().layers[recipe.gather_layer]
        layer.register_forward_hook(self._keep_gathered)
        self._coordinates = torch.tensor(tokenizer.convert_tokens_to_ids(list(COORDINATES)))
        self._smoothed = _gaussian_rows(len(COORDINATES), recipe.coordinate_sigma)
        self._place = torch.full((len(tokenizer),), -1)
        self._place[self._coordinates] = torch.arange(len(COORDINATES))

    def named_parameters(self, stage: str) -> list[tuple[str, nn.Parameter]]:
        """List the parameters that a stage trains: the decoder stage leaves the tower as it is."""

        def trained(name: str) -> bool:
            if stage == "vision":
                return "vision_tower" in name or "projector" in name
            return "vision_tower" not in name

        model = [(n, p) for n, p in self.model.named_parameters() if trained(n)]
        return model + [(f"heads.{n}", p) for n, p in self.heads.named_parameters()]

    # ---- forward -------------------------------------------------------------------------------------------
    def tower(self, pixels: torch.Tensor) -> torch.Tensor:
        """Compute the features of the tower, (scenes, patches, vision hidden), without the class token."""
        return self.model.model.vision_tower(pixel_values=pixels).last_hidden_state[:, 1:]

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Project features of the tower to visual tokens, (scenes, visual tokens, hidden)."""
        n, side = features.shape[0], 2 * self.recipe.size.grid
        shuffled = self.model.model.pixel_shuffle(features.reshape(n, side, side, -1), 0.5)
        return self.model.model.multi_modal_projector(shuffled.reshape(n, side * side // 4, -1))

    def logits(self, visual: torch.Tensor, packed: Packed) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute logits (float32) and labels at the answers' rows."""
        prefix, start = torch.tensor(self.dialogue.prefix), self.dialogue.image_start
        n = packed.ids.shape[0]
        ids = torch.cat([prefix.expand(n, -1), packed.ids], 1)
        embedded = self.model.get_input_embeddings()(ids)
        stop = start + visual.shape[1]
        embedded = torch.cat([embedded[:, :start], visual, embedded[:, stop:]], 1)
        positions = torch.cat([torch.arange(len(prefix)).expand(n, -1), packed.positions], 1)
        out = self.model.get_decoder()(
            inputs_embeds=embedded, attention_mask=packed.mask, position_ids=positions, use_cache=False
        )
        rows = out.last_hidden_state[:, len(prefix) :]
        asked = packed.labels != IGNORE
        return self.model.lm_head(rows[asked]).float(), packed.labels[asked]

    # ---- losses --------------------------------------------------------------------------------------------
    def dense_loss(self, visual: torch.Tensor, target: DenseTargets) -> tuple[torch.Tensor, dict[str, float]]:
        """Compute the loss of the dense heads, and how well each of them reads the visual tokens."""
        out = self.heads.dense(visual).float()
        owned, name, size, colour, box = out.split([1, N_NAMES, N_SIZES, N_COLOURS, 4], -1)
        at = target.owned
        losses = {
            "owned": 2 * F.binary_cross_entropy_with_logits(owned[..., 0], at.float()),
            "name": F.cross_entropy(name[at], target.name[at]),
            "size": F.cross_entropy(size[at], target.size[at]),
            "box": 8 * (box[at] - target.box[at]).abs().mean(),
        }
        if (target.colour[at] != IGNORE).any():
            losses["colour"] = F.cross_entropy(colour[at], target.colour[at], ignore_index=IGNORE)
        with torch.no_grad():
            measured = {
                "owned": float(((owned[..., 0] > 0) == at).float().mean()),
                "name": float((name[at].argmax(-1) == target.name[at]).float().mean()),
                "size": float((size[at].argmax(-1) == target.size[at]).float().mean()),
                "box_px": float((box[at] - target.box[at]).abs().mean() * 224),
            }
        return sum(losses.values()), measured

    def answer_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Compute the cross entropy; coordinates are smoothed over their neighbours and weigh more."""
        log_p = logits.log_softmax(-1)
        place = self._place[labels]
        at = place >= 0
        coordinate = -(self._smoothed[place[at]] * log_p[at][:, self._coordinates]).sum(-1).mean()
        other = F.nll_loss(log_p[~at], labels[~at])
        return self.recipe.coordinate_weight * coordinate + other

    def gather_loss(self, packed: Packed) -> torch.Tensor:
        """Compute the loss of rows after the expression that do not name its noun phrase, in one early layer."""
        if self._gathered is None:
            raise RuntimeError("gather_loss needs a forward of the decoder before it")
        rows = self._gathered[:, len(self.dialogue.prefix) :][packed.gather]
        rows = rows / rows.float().pow(2).mean(-1, keepdim=True).sqrt().to(rows.dtype)
        head = packed.head[packed.gather]
        names = F.linear(rows, self.heads.name_weights).float()
        size, colour = self.heads.text(rows).float().split([N_SIZES + 1, N_COLOURS + 1], -1)
        parts = ((names, 0), (size, 1), (colour, 2))
        name_loss, size_loss, colour_loss = (F.cross_entropy(out, head[:, column]) for out, column in parts)
        return name_loss + size_loss + colour_loss

    def boxes(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Read teacher-forced and true boxes, in steps of 10/1000, (answers, 4) each."""
        place = self._place[labels]
        at = place >= 0
        predicted = logits[at][:, self._coordinates].argmax(-1)
        return predicted.float().view(-1, 4), place[at].float().view(-1, 4)

    def start_words_at_classes(self) -> None:
        """Let the embedding of each object's name start at the direction in which the tower writes that name."""
        with torch.no_grad():
            table = self.model.get_input_embeddings().weight
            weights = self.heads.name_weights.float()
            centred = weights - weights.mean(0)
            norm = table.float().norm(dim=1).mean()
            ids = self._tokenizer.convert_tokens_to_ids([f"\u0120{n}" for n in NAMES])
            table[ids] = (centred / centred.norm(dim=1, keepdim=True) * norm).to(table.dtype)

    # ---- plumbing ------------------------------------------------------------------------------------------
    def _keep_gathered(self, module, args, output) -> None:
        self._gathered = output if torch.is_tensor(output) else output[0]

    def _register_attention(self) -> None:
        """Attend by plain bfloat16 products: faster here, forward and backward, than scaled_dot_product_attention.

        The prefix is causal and never sees the branches, so it is computed apart from them.
        """
        from transformers import AttentionInterface

        prefix = len(self.dialogue.prefix)
        causal = torch.full((prefix, prefix), -1e9).triu(1).to(torch.bfloat16)

        def attention(module, query, key, value, mask, scaling=None, **_):
            query = query * scaling
            if mask is None:  # the vision tower: everything sees everything
                out = torch.matmul(query, key.transpose(-1, -2)).softmax(-1) @ value
                return out.transpose(1, 2), None
            shared = torch.matmul(query[:, :, :prefix], key[:, :, :prefix].transpose(-1, -2)) + causal
            branch = torch.matmul(query[:, :, prefix:], key.transpose(-1, -2)) + mask
            out = torch.cat([shared.softmax(-1) @ value[:, :, :prefix], branch.softmax(-1) @ value], 2)
            return out.transpose(1, 2), None

        AttentionInterface.register(ATTENTION, attention)
        self.model.set_attn_implementation(ATTENTION)


def _gaussian_rows(n: int, sigma: float) -> torch.Tensor:
    steps = torch.arange(n).float()
    weights = torch.exp(-0.5 * ((steps[:, None] - steps) / sigma) ** 2)
    return weights / weights.sum(1, keepdim=True)
