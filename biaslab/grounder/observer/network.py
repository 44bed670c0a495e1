"""The observer under training: the unmodified model, a fast attention for packed branches, losses."""

from __future__ import annotations

import threading
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from biaslab.grounder.internvl import IMAGE_MEAN, IMAGE_STD
from biaslab.grounder.observer.batches import IGNORE, N_BOXES, TASKS, Batch, Branches, dialogue_of
from biaslab.grounder.observer.heads import Heads
from biaslab.grounder.observer.model import COORDINATES, STEP, WHATS, build_model
from biaslab.grounder.observer.recipe import ObserverRecipe
from biaslab.grounder.optimiser import working_dtype

ATTENTION = "biaslab_observer_training"


@dataclass
class Answers:
    """Logits of one kind of branches, at the rows that answer.

    Attributes
    ----------
    logits : Tensor (rows, vocabulary)
        float32.
    labels, branch : Tensor (rows,)
        What they must say, and which branch of the batch (images x branches) each belongs to.
    task : Tensor (images * branches,)
    """

    logits: torch.Tensor
    labels: torch.Tensor
    branch: torch.Tensor
    task: torch.Tensor


class TrainingObserver:
    """Model, heads and losses, in bfloat16 or, where a CPU has no units for it, in float32.

    Parameters
    ----------
    recipe : ObserverRecipe
    device : torch.device or str
    """

    def __init__(self, recipe: ObserverRecipe, *, device: Any = "cpu") -> None:
        self.recipe, self.device = recipe, torch.device(device)
        self.dtype = working_dtype(self.device)
        self.dialogue = dialogue_of(recipe.size)
        tokenizer = self.dialogue.tokenizer
        model = build_model(tokenizer, size=recipe.size, seed=recipe.seed)
        self.model: Any = nn.Module.to(model, device=self.device, dtype=self.dtype)
        self.heads = Heads(recipe.size.hidden).to(device=self.device, dtype=self.dtype)
        self._now = _OfThread()
        self._register_attention()
        for layer in {recipe.tile_layer, recipe.gather_layer, recipe.aim_layer}:
            self.model.get_decoder().layers[layer].register_forward_hook(self._keeper(layer))
        self._coordinates = torch.tensor(tokenizer.convert_tokens_to_ids(list(COORDINATES)), device=self.device)
        self._smoothed = _gaussian_rows(len(COORDINATES), recipe.coordinate_sigma).to(self.device)
        self._place = torch.full((len(tokenizer),), -1, device=self.device)
        self._place[self._coordinates] = torch.arange(len(COORDINATES), device=self.device)
        mean, std = (torch.tensor(v, device=self.device).view(1, 3, 1, 1) for v in (IMAGE_MEAN, IMAGE_STD))
        self._mean, self._std = mean, std

    def named_parameters(self, stage: str) -> list[tuple[str, nn.Parameter]]:
        """List the parameters that a stage trains: the vision stage leaves the decoder as it is."""
        model = list(self.model.named_parameters())
        if stage == "vision":
            model = [(n, p) for n, p in model if "vision_tower" in n or "projector" in n]
        elif not self.recipe.tower_rate:
            model = [(n, p) for n, p in model if "vision_tower" not in n]
        return model + [(f"heads.{n}", p) for n, p in self.heads.named_parameters()]

    # ---- forward -------------------------------------------------------------------------------------------------
    def tensors(self, values: Any) -> dict[str, torch.Tensor]:
        """Move the arrays of a dataclass to the device."""
        return {f.name: torch.from_numpy(getattr(values, f.name)).to(self.device) for f in fields(values)}

    def visual(self, pixels: torch.Tensor, *, frozen: bool = False) -> torch.Tensor:
        """Compute visual tokens, (tiles, tokens, hidden), of uint8 tiles, as the model does of the processor's.

        Through a frozen tower no gradient goes back.
        """
        values = ((pixels.float() / 255 - self._mean) / self._std).to(self.model.dtype)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            features = self.model.model.vision_tower(pixel_values=values).last_hidden_state[:, 1:]
        n, side = features.shape[0], 2 * self.recipe.size.grid
        shuffled = self.model.model.pixel_shuffle(features.reshape(n, side, side, -1), 0.5)
        return self.model.model.multi_modal_projector(shuffled.reshape(n, side * side // 4, -1))

    def answers(self, visual: torch.Tensor, groups: list[dict[str, torch.Tensor]]) -> list[Answers]:
        """Run the decoder once over images and all their branches.

        Parameters
        ----------
        visual : Tensor (images, visual tokens, hidden)
        groups : list of dict of Tensor
            Fields of `Branches`: expressions, whose first tokens (the stem) they share, and questions.

        Returns
        -------
        list of Answers
            Of each group.
        """
        n, tokens = visual.shape[:2]
        prefix = self.dialogue.prefix(tokens // self.recipe.size.tokens)
        shared = [*prefix, *self.dialogue.stem]
        ids = torch.tensor(shared, device=self.device).expand(n, -1)
        ids = torch.cat([ids, *(group["ids"].reshape(n, -1) for group in groups)], 1)
        embedded = self.model.get_input_embeddings()(ids)
        start = self.dialogue.image_start
        embedded = torch.cat([embedded[:, :start], visual, embedded[:, start + tokens :]], 1)
        starts = (len(shared), len(prefix))  # an expression stands behind the stem, a question behind the image
        positions = [torch.arange(len(shared), device=self.device)]
        for first, group in zip(starts, groups, strict=True):
            branches, length = group["ids"].shape[1:]
            positions.append(first + torch.arange(length, device=self.device).repeat(branches))
        shapes = tuple((group["ids"].shape[1], group["ids"].shape[2]) for group in groups)
        self._now.groups = (len(prefix), len(shared), shapes)
        out = self.model.get_decoder()(
            inputs_embeds=embedded, attention_mask=torch.zeros(1, 1, 1, 1, dtype=self.dtype, device=self.device),
            position_ids=torch.cat(positions).expand(n, -1), use_cache=False,
        )  # fmt: skip
        answers, at = [], len(shared)
        for group in groups:
            labels = group["labels"]
            rows = out.last_hidden_state[:, at : at + labels[0].numel()].reshape(*labels.shape, -1)
            asked = labels != IGNORE
            branch = torch.arange(labels.shape[0] * labels.shape[1], device=self.device)
            branch = branch.view(*labels.shape[:2], 1).expand_as(labels)[asked]
            logits = self.model.lm_head(rows[asked]).float()
            answers.append(Answers(logits, labels[asked], branch, group["task"].reshape(-1)))
            at += labels[0].numel()
        return answers

    # ---- losses --------------------------------------------------------------------------------------------------
    def vision_loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute the loss of the vision stage: the dense heads on single tiles."""
        tiles = self.tensors(batch.tiles)
        return self.heads.dense_loss(self.visual(tiles["pixels"]), tiles)

    def decoder_loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute the loss of the decoder stage: answers, and the auxiliary losses of the recipe."""
        r, (visual, tiles, groups, answers) = self.recipe, self.forward(batch)
        boxes, words = answers
        loss = self.box_loss(boxes) + r.question_weight * F.cross_entropy(words.logits, words.labels)
        gather, aim = self._gather_loss(groups), self._aim_loss(groups[0])
        tile, grid = self._place_losses(visual.shape[1], self.tensors(_Grid(batch.grid))["grid"])
        dense, measured = self.heads.dense_loss(visual.reshape(-1, r.size.tokens, visual.shape[-1]), tiles)
        measured = {name: measured[name] for name in ("what", "letters")}
        parts = {"answer": loss, "gather": gather, "aim": aim, "tile": tile, "grid": grid}
        measured |= {name: value.detach() for name, value in parts.items()}
        loss = loss + r.dense_weight * dense + r.gather_weight * gather + r.aim_weight * aim
        loss = loss + r.tile_weight * tile + r.grid_weight * grid
        with torch.no_grad():
            right = self.right(boxes, words)
            for name, rows in (("acc50", slice(0, N_BOXES)), ("questions", slice(N_BOXES, None))):
                part = right[rows].sum(0)
                measured[name] = part[0] / part[1].clamp(min=1)
        return loss, measured

    def forward(self, batch: Batch) -> tuple[torch.Tensor, dict, list[dict], list[Answers]]:
        """Run tower and decoder: visual tokens per image, targets of the tiles, branches, answers."""
        if not (batch.expressions and batch.questions):
            raise ValueError("a batch of the vision stage has nothing to answer")
        tiles = self.tensors(batch.tiles)
        visual = self.visual(tiles["pixels"], frozen=not self.recipe.tower_rate)
        n = len(batch.grid)
        visual = visual.reshape(n, -1, visual.shape[-1])
        groups = [self.tensors(part) for part in (batch.expressions, batch.questions)]
        return visual, tiles, groups, self.answers(visual, groups)

    def box_loss(self, boxes: Answers) -> torch.Tensor:
        """Compute the cross entropy of boxes; coordinates are smoothed over their neighbours and weigh more."""
        log_p, place = boxes.logits.log_softmax(-1), self._place[boxes.labels]
        at = place >= 0
        coordinate = -(self._smoothed[place[at]] * log_p[at][:, self._coordinates]).sum(-1).mean()
        return self.recipe.coordinate_weight * coordinate + F.nll_loss(log_p[~at], boxes.labels[~at])

    def right(self, boxes: Answers, words: Answers) -> torch.Tensor:
        """Count teacher-forced answers that are right, and all, by task: (tasks, 2).

        A box is right from an IoU of 0.5 on, a short answer where every token is the most likely one.
        """
        place = self._place[boxes.labels]
        at = place >= 0
        said = boxes.logits[at][:, self._coordinates].argmax(-1).float().view(-1, 4) * STEP
        hit = _iou(said, place[at].float().view(-1, 4) * STEP) >= 0.5
        wrong = torch.zeros(len(words.task), device=self.device)
        wrong.index_add_(0, words.branch, (words.logits.argmax(-1) != words.labels).float())
        right = torch.cat([hit.float(), (wrong == 0).float()[words.task >= 0]])
        task = torch.cat([boxes.task[boxes.task >= 0], words.task[words.task >= 0]])
        counts = torch.zeros(len(TASKS), 2, device=self.device)
        return counts.index_add_(0, task, torch.stack([right, torch.ones_like(right)], 1))

    def _gather_loss(self, groups: list[dict[str, torch.Tensor]]) -> torch.Tensor:
        at, rows, heads = self._now.groups[1], [], []
        for group in groups:
            gather = group["gather"]
            rows.append(self._gathering(group, at, self.recipe.gather_layer))
            heads.append(group["head"][:, :, None].expand(*gather.shape, 3)[gather])
            at += gather[0].numel()
        return self.heads.gather_loss(torch.cat(rows), torch.cat(heads))

    def _aim_loss(self, expressions: dict[str, torch.Tensor]) -> torch.Tensor:
        """Compute the error of the target's box as the rows know it that the gather loss reads further down."""
        labels, gather, branch = expressions["labels"], expressions["gather"], expressions["task"] >= 0
        place = self._place[labels.clamp(min=0)].masked_fill(labels == IGNORE, -1)
        box = torch.zeros(*branch.shape, 4, device=self.device)
        box[branch] = place[place >= 0].view(-1, 4) * (STEP / 1000)
        rows = self._gathering(expressions, self._now.groups[1], self.recipe.aim_layer)
        return self.heads.aim_loss(rows, box[:, :, None].expand(*gather.shape, 4)[gather])

    def _gathering(self, group: dict[str, torch.Tensor], at: int, layer: int) -> torch.Tensor:
        """Read the rows that gather, of a group whose first row is ``at``, off the output of a layer."""
        gather = group["gather"]
        return self._now.kept[layer][:, at : at + gather[0].numel()].reshape(*gather.shape, -1)[gather]

    def _place_losses(self, tokens: int, grid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the losses of visual tokens that miss their tile and of images that miss their grid."""
        start, per_tile = self.dialogue.image_start, self.recipe.size.tokens
        states = self._now.kept[self.recipe.tile_layer][:, start : start + tokens]
        number = torch.arange(tokens, device=self.device) // per_tile
        guess = self.heads.tile(states).float()
        tile = F.cross_entropy(guess.flatten(0, 1), number.repeat(len(states)))
        behind = self._now.kept[self.recipe.gather_layer][:, start + tokens]
        return tile, F.cross_entropy(self.heads.grid(behind).float(), grid)

    def start_words_at_classes(self) -> None:
        """Let the embedding of each object's name start at the direction in which the tower writes that name."""
        with torch.no_grad():
            table = self.model.get_input_embeddings().weight
            weights = self.heads.what_weights.float()
            centred = weights - weights.mean(0)
            norm = table.float().norm(dim=1).mean()
            ids = self.dialogue.tokenizer.convert_tokens_to_ids([f"\u0120{n}" for n in WHATS])
            table[ids] = (centred / centred.norm(dim=1, keepdim=True) * norm).to(table.dtype)

    # ---- plumbing ------------------------------------------------------------------------------------------------
    def _keeper(self, layer: int) -> Any:
        def keep(module, args, output) -> None:
            self._now.kept[layer] = output if torch.is_tensor(output) else output[0]

        return keep

    def _register_attention(self) -> None:
        """Attend by plain products, each branch to what it shares with the others and to its own past.

        No mask over all rows is ever made: the shared rows are causal, a branch is a small causal block behind them.
        """
        from transformers import AttentionInterface

        def attention(module, query, key, value, mask, scaling=None, **_):
            query = query * scaling
            if mask is None:  # the vision tower: everything sees everything
                out = torch.matmul(query, key.transpose(-1, -2)).softmax(-1) @ value
                return out.transpose(1, 2), None
            return packed_attention(query, key, value, *self._now.groups), None

        AttentionInterface.register(ATTENTION, attention)
        self.model.set_attn_implementation(ATTENTION)


class _OfThread(threading.local):
    """What one forward leaves for its losses: threads run forwards of the same model side by side."""

    def __init__(self) -> None:
        self.groups: tuple[int, int, tuple[tuple[int, int], ...]] = (0, 0, ())
        self.kept: dict[int, torch.Tensor] = {}


@dataclass(frozen=True)
class _Grid:
    grid: Any


def packed_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, prefix: int, shared: int,
    shapes: tuple[tuple[int, int], ...],
) -> torch.Tensor:  # fmt: skip
    """Attend within packed branches.

    Parameters
    ----------
    query : Tensor (images, heads, rows, d)
        Scaled. Rows: the shared ones (image, then the stem of expressions), then branch after branch.
    key, value : Tensor (images, key heads, rows, d)
    prefix, shared : int
        Rows up to the end of the image, and up to the end of the stem.
    shapes : tuple of (int, int)
        Branches and their length, of expressions (which see the stem) and of questions (which do not).

    Returns
    -------
    Tensor (images, rows, heads, d)
    """
    n, heads, rows, d = query.shape
    kv = key.shape[1]
    query = query.reshape(n, kv, heads // kv, rows, d)
    key, value = key[:, :, None], value[:, :, None]  # one for each group of query heads
    parts = [shared, *(branches * length for branches, length in shapes)]
    # split once: the gradient of a slice would be as large as what it was cut from
    queries, keys, values = (x.split(parts, 3) for x in (query, key, value))
    causal = torch.full((shared, shared), -1e9, dtype=query.dtype, device=query.device).triu(1)
    scores = torch.matmul(queries[0], keys[0].transpose(-1, -2)) + causal
    out = [scores.softmax(-1) @ values[0]]
    for k, (seen, (branches, length)) in enumerate(zip((shared, prefix), shapes, strict=True), start=1):
        own_q, own_k, own_v = (x[k].unflatten(3, (branches, length)) for x in (queries, keys, values))
        seen_k, seen_v = (x[0] if seen == shared else x[0][..., :seen, :] for x in (keys, values))
        before = torch.matmul(queries[k], seen_k.transpose(-1, -2)).unflatten(3, (branches, length))
        own = torch.matmul(own_q, own_k.transpose(-1, -2)) + causal[:length, :length]
        p = torch.cat([before, own], -1).softmax(-1)
        p_seen, p_own = p.split([seen, length], -1)
        context = torch.matmul(p_seen.flatten(3, 4), seen_v)
        out.append(context + torch.matmul(p_own, own_v).flatten(3, 4))
    return torch.cat(out, 3).reshape(n, heads, rows, d).transpose(1, 2)


def _gaussian_rows(n: int, sigma: float) -> torch.Tensor:
    steps = torch.arange(n).float()
    weights = torch.exp(-0.5 * ((steps[:, None] - steps) / sigma) ** 2)
    return weights / weights.sum(1, keepdim=True)


def _iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    size = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0)
    both = size.prod(1)
    areas = [(v[:, 2:] - v[:, :2]).clamp(min=0).prod(1) for v in (a, b)]
    return both / (areas[0] + areas[1] - both).clamp(min=1e-6)


__all__ = ["ATTENTION", "Answers", "Branches", "TrainingObserver", "packed_attention"]
