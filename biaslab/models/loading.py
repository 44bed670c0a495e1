"""`load` a checkpoint by name, `wrap` a model you already have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from biaslab._util.launch import Launch
from biaslab._util.text import first_line
from biaslab.errors import BiaslabError, InputError, ModelError
from biaslab.models.adapter_folder import base_of, check_adapter, is_adapter, with_adapter
from biaslab.models.checkpoints.files import check_files, local_folder, read_config
from biaslab.models.checkpoints.internvl_chat.config import check, is_original
from biaslab.models.checkpoints.internvl_chat.model import load_model
from biaslab.models.checkpoints.internvl_chat.processor import load_processor
from biaslab.models.devices import chosen_device, chosen_dtype
from biaslab.models.fingerprints import loaded_fingerprint, memory_fingerprint
from biaslab.models.load_options import check_arguments, check_attention, check_settings, quantization, with_settings
from biaslab.models.recipe import LoadRecipe
from biaslab.models.registry import family_of, resolve
from biaslab.models.vlm import VLM

_DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")  # of accelerate

__all__ = ["load", "read", "wrap"]


def load(
    name: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = "auto",
    device_map: Any = None,
    attn_implementation: str = "sdpa",
    revision: str | None = None,
    load_in: str | None = None,
    adapter: str | Path | None = None,
    **kw: Any,
) -> VLM:
    """Load a multimodal model and its processor.

    InternVL checkpoints in their original layout (InternVL 2.5 as published) are read into transformers' own model
    shard by shard; see `biaslab.models.checkpoints.internvl_chat` for what is served. Remote code is never run. An
    adapter folder of PEFT (``adapter_config.json``) is loaded with the base model that it names.

    Parameters
    ----------
    name : str or Path
        An alias (``biaslab models`` lists them; "grounder" is embedded and needs no network), a hub id, or a
        folder.
    device : str or torch.device, optional
        Default, and ``"auto"``: the first CUDA device (under torchrun, accelerate or srun the one of this rank), else
        Apple's GPU (``"mps"``), else the CPU. Leave it out with ``device_map``.
    dtype : str or torch.dtype
        A name such as "bfloat16", a dtype, or "auto": the checkpoint's own, but float32 for float16 on a CPU, where
        half precision is slow and coarse. On ``"mps"`` float32, float16 and bfloat16.
    device_map
        Passed to ``from_pretrained``: "auto" and so on.
    attn_implementation : str
        "sdpa", "eager", "flash_attention_2" and so on, of installed libraries: nothing is fetched from a hub.
    revision : str, optional
        Branch, tag or commit of a hub model.
    load_in : {"4bit", "8bit"}, optional
        Quantise the weights at loading, with bitsandbytes: 4-bit NormalFloat computed in ``dtype`` (bfloat16 by
        default), or LLM.int8().
    adapter : str or Path, optional
        Folder or hub id of a PEFT adapter that is put on top of the model, whichever base it names.
    **kw
        Passed to ``from_pretrained``: settings of the model's configuration, ``quantization_config``, ``max_memory``
        and so on. What would run foreign code, read pickles or name other weights is refused.

    Returns
    -------
    VLM
        In evaluation mode, without gradients.

    Raises
    ------
    InputError
        For a name or option that means nothing.
    ModelError
        For a checkpoint that is missing (the message has the command that fetches it), incomplete, or not
        safe.

    Examples
    --------
    >>> import biaslab as bl
    >>> vlm = bl.load("grounder", device="cpu")
    >>> vlm.n_layers, vlm.family.name, vlm.family.box_space.name
    (10, 'internvl', 'NORM1000')
    >>> bl.load("qwen2-vl-8b")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    biaslab.errors.InputError: unknown model 'qwen2-vl-8b': no alias, folder or hub id (owner/name); did you mean ...
    """
    if device is not None and device_map is not None:
        raise InputError("give device or device_map, not both")
    _check_device_map(device_map)
    check_attention(attn_implementation)
    check_arguments(kw)
    quantized = quantization(load_in, kw, dtype)
    checkpoint = resolve(name)
    folder, revision = local_folder(checkpoint, revision)
    options = {
        "device": device, "dtype": dtype, "device_map": device_map, "attn_implementation": attn_implementation,
        "load_in": load_in, **kw,
    }  # fmt: skip
    if is_adapter(folder):
        if adapter is not None:
            raise InputError(f"{checkpoint.name} is an adapter itself: give its base model, and one adapter")
        named, base_revision = base_of(folder)
        base = folder / named if (folder / named).is_dir() else named  # beside the adapter, or as anybody would write
        vlm = load(base, revision=base_revision if resolve(base).hub_id else None, **options)
        return _with_adapter(vlm, folder, checkpoint.name, revision)
    if adapter is not None:
        on_top = resolve(adapter)
        its_folder, its_revision = local_folder(on_top, None)
        check_adapter(its_folder)  # before the base is read
        vlm = load(name, revision=revision if checkpoint.hub_id else None, **options)
        return _with_adapter(vlm, its_folder, on_top.name, its_revision)
    config = read_config(folder)
    original = is_original(config)
    family = family_of("internvl" if original else config.get("model_type", "unknown"))
    if original:
        read(folder, "configuration", lambda: check(config))
    check_files(folder, checkpoint)
    if kw:
        check_settings(kw if original else configured(folder, kw)[1])
    device = chosen_device(device) if device_map is None else None
    placed = quantized is not None or "quantization_config" in config  # quantised weights are not moved afterwards
    options = {
        "dtype": chosen_dtype(dtype, folder, device),
        "device_map": {"": device} if placed and device is not None else device_map,
        "attn_implementation": attn_implementation,
        "local_files_only": True,
        **kw,
    }
    if quantized is not None:
        options["quantization_config"] = quantized
    with quiet():
        if original:
            processor = read(folder, "processor", lambda: load_processor(folder, config))
            model = read(folder, "model", lambda: load_model(folder, config, processor, options))
        else:
            processor = read(folder, "processor", lambda: family.load_processor(str(folder), local_files_only=True))
            model = _model(folder, options)
    if device is not None and not placed:
        model = model.to(device)
    fingerprint = loaded_fingerprint(folder, quantized, kw)
    model = model.eval().requires_grad_(False)
    vlm = VLM(model, processor, family, name=checkpoint.name, revision=revision, fingerprint=fingerprint)
    vlm.recipe = LoadRecipe(
        name=checkpoint.name,
        revision=revision if checkpoint.hub_id else None,
        device=None if device is None else str(device),
        dtype=str(dtype).removeprefix("torch."),
        device_map=device_map,
        attn_implementation=attn_implementation,
        load_in=load_in,
        arguments=kw,
        fingerprint=fingerprint,
    )
    return vlm


def wrap(model: Any, processor: Any, *, name: str | None = None, revision: str | None = None) -> VLM:
    """Make a VLM of a transformers model (fine-tuned, quantised) and its processor, used as they are.

    A model in train mode, whose dropout would make it answer differently each time, is put in evaluation mode, with a
    warning. A later ``train()`` on it or on a part of it is refused at the next run.

    Of a PEFT model the base model is taken, with the adapters that are injected into its layers (LoRA and the
    like); prompt tuning lives outside it and is refused.

    Parameters
    ----------
    model : PreTrainedModel or PeftModel
        An image-text model of a known family.
    processor : ProcessorMixin
        Of the same checkpoint.
    name, revision : str, optional
        For the provenance of profiles; by default the model's ``name_or_path`` and commit. Weights that were changed
        since (an adapter merged, a fine-tuning) want a name of their own: only among wrapped models are the weights
        themselves compared.

    Returns
    -------
    VLM

    Raises
    ------
    InputError
        Prompt tuning, or a tokenizer in the place of the processor.
    ModelError
        Model and processor that disagree on the image token.
    UnsupportedError
        A model type that no family serves.

    Examples
    --------
    >>> import biaslab as bl
    >>> base = bl.load("grounder", device="cpu")  # or your own model and processor
    >>> bl.wrap(base.model, base.processor, name="my fine-tuned model")
    VLM('my fine-tuned model', family='internvl', layers=10, device=cpu)
    """
    if not hasattr(model, "config"):
        raise InputError(
            f"model must be a transformers model, got {type(model).__name__}: bl.load opens one by its name"
        )
    if hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
        if any(getattr(c, "is_prompt_learning", False) for c in model.peft_config.values()):
            raise InputError("prompt tuning adds tokens that no layout knows: wrap a model with LoRA-like adapters")
        model = model.get_base_model()
    family = family_of(getattr(model.config, "model_type", "unknown"))
    if getattr(processor, "image_token_id", None) is None:
        raise InputError(f"{type(processor).__name__} has no image token: give the processor, not the tokenizer")
    name = name or getattr(model.config, "_name_or_path", "") or type(model).__name__
    revision = revision or getattr(model.config, "_commit_hash", None)
    fingerprint = memory_fingerprint(model)
    return VLM(model, processor, family, name=name, revision=revision, fingerprint=fingerprint)


def _with_adapter(vlm: VLM, folder: Path, name: str, revision: str) -> VLM:
    """Put an adapter on a base model that was just loaded."""
    model = read(folder, "adapter", lambda: with_adapter(vlm.model, folder))
    own = loaded_fingerprint(folder)
    fingerprint = None if own is None or vlm.fingerprint is None else f"{own} on {vlm.fingerprint}"
    of = f"{revision} on {vlm.revision}"
    adapted = VLM(model, vlm.processor, vlm.family, name=name, revision=of, fingerprint=fingerprint)
    if vlm.recipe is not None:
        adapted.recipe = replace(vlm.recipe, adapter=name, fingerprint=fingerprint)
    return adapted


# ------------------------------------------------------------------------------------------ reading
def read(folder: Path, what: str, action: Any) -> Any:
    """Call ``action`` and turn whatever a library raises into one line that names the folder."""
    try:
        return action()
    except BiaslabError:
        raise
    except Exception as err:  # of transformers, safetensors, accelerate and torch, of a dozen types
        raise ModelError(f"the {what} in {folder} cannot be loaded: {first_line(err)}") from err


def configured(folder: Path, given: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Read a checkpoint's configuration with the settings that are given, and return what of those it does not have.

    Raises
    ------
    InputError
        Settings that the configuration does not take.
    ModelError
        A configuration that cannot be read.
    """
    from transformers import AutoConfig

    plain = read(folder, "configuration", lambda: AutoConfig.from_pretrained(str(folder), local_files_only=True))
    if not given:
        return plain, {}
    own = {name: value for name, value in given.items() if name != "local_files_only"}
    return with_settings(partial(AutoConfig.from_pretrained, str(folder), local_files_only=True), own)


def _model(folder: Path, options: dict[str, Any]) -> Any:
    from transformers import AutoModelForImageTextToText

    def from_folder() -> Any:
        return AutoModelForImageTextToText.from_pretrained(
            str(folder), use_safetensors=True, output_loading_info=True, **options
        )

    model, info = read(folder, "model", from_folder)
    missing = sorted(info["missing_keys"])
    if missing:  # transformers would go on with random weights
        raise ModelError(f"{folder} lacks {len(missing)} weights, such as {missing[0]}: the checkpoint is incomplete")
    return model


def _check_device_map(device_map: Any) -> None:
    """Refuse what accelerate would refuse in other words, after the weights have been looked for."""
    if device_map is None or (isinstance(device_map, dict) and device_map):
        return
    if isinstance(device_map, str) and device_map in _DEVICE_MAPS:
        launch = Launch.from_environment()
        if launch.local_world_size > 1 and not launch.own_devices:
            raise InputError(
                f"device_map={device_map!r} would put the models of all {launch.local_world_size} processes of this "
                "machine on the same devices: leave it out (each has a device of its own), or start one process per "
                "machine, or srun with --gpus-per-task"
            )
        return
    try:
        torch.device(device_map)
    except (RuntimeError, TypeError):
        names = ", ".join(_DEVICE_MAPS)
        raise InputError(f"unknown device_map {device_map!r}: use one of {names}, a device or a dict") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the progress bars of loading; the callers that are long say so themselves."""
    from transformers.utils import logging as hf_logging

    enabled = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            hf_logging.enable_progress_bar()
