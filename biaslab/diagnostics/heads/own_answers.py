"""The model's own greedy answers, and what they cost it: the loss of an answer that is given to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from biaslab.errors import UnsupportedError
from biaslab.models.answering import generation_options

if TYPE_CHECKING:
    from biaslab.models.encoded import Encoded
    from biaslab.models.vlm import VLM

__all__ = ["OwnAnswers", "head_width", "output_projection"]

_LIMIT = 32  # tokens of an answer: a box takes 9 to 30
#: inputs that tell the kind of every token -> the kind of an answer's
_KINDS = {"mm_token_type_ids": 0, "token_type_ids": 1}


@dataclass(frozen=True, eq=False)
class OwnAnswers:
    """Prompts of a batch with the answers that the model gave them, to be run as one sequence.

    Attributes
    ----------
    inputs : dict
        Of ``model(**inputs)``: prompts, then answers.
    answers : (B, T) LongTensor
        Token ids, padded behind the answers' ends.
    counted : (B, T) BoolTensor
        Which of them are the answer, its end token included.
    """

    inputs: dict[str, Any]
    answers: Tensor
    counted: Tensor

    @classmethod
    def of(cls, vlm: VLM, encoded: Encoded) -> OwnAnswers:
        """Let the model answer, greedily, in 32 tokens at most.

        Parameters
        ----------
        vlm : VLM
        encoded : Encoded

        Returns
        -------
        OwnAnswers
        """
        settings = generation_options(vlm, _LIMIT, {})
        with vlm.running(encoded) as inputs, torch.no_grad():
            out = vlm.model.generate(**inputs, **settings)
        answers = (out if isinstance(out, Tensor) else out.sequences)[:, encoded.last + 1 :]
        stops = torch.as_tensor(settings.get("eos_token_id") or [], dtype=answers.dtype, device=answers.device)
        ended = torch.isin(answers, stops).long()
        counted = (ended.cumsum(1) - ended) == 0  # up to the first end token
        with vlm.running(encoded) as inputs:
            whole = dict(inputs)
        ids = whole["input_ids"]
        whole["input_ids"] = torch.cat([ids, answers.to(ids.device)], 1)
        mask = whole.get("attention_mask", torch.ones_like(ids))
        whole["attention_mask"] = torch.cat([mask, counted.to(mask)], 1)
        for name, kind in _KINDS.items():
            if name in whole:
                whole[name] = torch.cat([whole[name], torch.full_like(answers, kind).to(whole[name])], 1)
        return cls(whole, answers, counted)

    def loss(self, vlm: VLM) -> Tensor:
        """Give the mean cross entropy over the tokens of each answer, nats: (B,) float32, with a gradient if wanted."""
        inputs = dict(self.inputs)
        if "mm_encoder_outputs" in inputs:
            inputs["mm_encoder_outputs"] = dict(inputs["mm_encoder_outputs"])
        wanted = self.answers.shape[1] + 1
        logits = vlm.model(**inputs, use_cache=False, logits_to_keep=wanted).logits[:, -wanted:-1].float()
        answers = self.answers.to(logits.device)
        each = nn.functional.cross_entropy(logits.mT, answers, reduction="none")
        counted = self.counted.to(logits.device)
        return (each * counted).sum(1) / counted.sum(1)


def output_projection(vlm: VLM, layer: int) -> nn.Module:
    """Find the module that maps the heads of a layer, side by side, to its output.

    Raises
    ------
    UnsupportedError
        There is none where transformers' decoders have it.
    """
    decoder: Any = vlm.decoder
    found = getattr(getattr(decoder.layers[layer], "self_attn", None), "o_proj", None)
    if found is None:
        raise UnsupportedError(
            f"layer {layer} of this model has no self_attn.o_proj: rate its heads by quality or localization"
        )
    return found


def head_width(vlm: VLM, projection: nn.Module) -> int:
    """Width of one head in the input of its `output_projection`."""
    config: Any = vlm.decoder.config
    own = getattr(config, "head_dim", None)
    return int(own or projection.in_features // config.num_attention_heads)  # type: ignore[operator]
