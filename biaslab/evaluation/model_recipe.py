"""How another process gets the model of this one, and how it checks that it did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from biaslab.errors import BiaslabError, InputError, ModelError

if TYPE_CHECKING:
    import torch

    from biaslab.models.vlm import VLM

__all__ = ["ModelRecipe"]


@dataclass(frozen=True)
class ModelRecipe:
    """How another process gets the same model, and how it checks that it did."""

    name: str
    revision: str | None
    dtype: str
    attn_implementation: str
    image_options: dict[str, Any]
    probe: tuple[float, ...]

    @classmethod
    def of(cls, vlm: VLM) -> ModelRecipe:
        """Write down how to load a model that is in memory.

        Raises
        ------
        InputError
            Its name is none that can be loaded (a wrapped model).
        """
        from biaslab.models.registry import resolve

        try:
            resolve(vlm.name)
        except BiaslabError as error:
            raise InputError(
                f"other processes cannot load {vlm.name!r}: use processes=1, or save the model and load "
                "it from its folder"
            ) from error
        dtype = str(next(vlm.model.parameters()).dtype).removeprefix("torch.")
        config: Any = vlm.model.config
        attention = config._attn_implementation or "sdpa"
        return cls(vlm.name, vlm.revision, dtype, attention, dict(vlm.image_options), _probe(vlm))

    def load(self, *, device: str | torch.device = "cpu") -> VLM:
        """Load the model.

        Raises
        ------
        ModelError
            Its weights are others than those in memory were.
        """
        from biaslab.models.loading import load
        from biaslab.models.registry import resolve

        revision = self.revision if resolve(self.name).hub_id else None
        vlm = load(
            self.name,
            device=device,
            dtype=self.dtype,
            attn_implementation=self.attn_implementation,
            revision=revision,
        )
        vlm.image_options.update(self.image_options)
        if _probe(vlm) != self.probe:
            raise ModelError(f"{self.name!r} as loaded has other weights than the model in memory: use processes=1")
        return vlm


def _probe(vlm: VLM) -> tuple[float, ...]:
    """Sum a few weight tensors over the depth of the model: equal for equal weights."""
    weights = list(vlm.model.parameters())
    picked = [*weights[:: max(1, len(weights) // 16)], weights[-1]]
    return tuple(float(weight.detach().cpu().double().sum()) for weight in picked)
