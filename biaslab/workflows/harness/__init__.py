"""biaslab as a model of the harness ``lmms-eval``, which finds it by its entry point; see ``docs/lmms-eval.md``."""

from __future__ import annotations

from typing import Any

__all__ = ["manifest"]


def manifest() -> Any:
    """Tell ``lmms-eval`` of the model ``biaslab``; light, for an entry point that fails is passed over.

    Returns
    -------
    lmms_eval.models.registry_v2.ModelManifest
        A chat model, named and not yet imported.
    """
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="biaslab", chat_class_path=f"{__name__}.model.BiaslabModel", aliases=("biaslab_chat",)
    )
