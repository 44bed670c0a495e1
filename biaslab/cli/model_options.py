"""The options by which a command line names a model, and what a verb gets for them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial, wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from biaslab._util.progress import phase
from biaslab.cli.completion import model_names
from biaslab.cli.options import numbers
from biaslab.errors import InputError

if TYPE_CHECKING:
    from biaslab.models.offline.geometry import Geometry
    from biaslab.models.recipe import LoadRecipe
    from biaslab.models.vlm import VLM
    from biaslab.workflows.meta_model import MetaModel

_option = partial(typer.Option, rich_help_panel="Model")
#: what ``--model-arg`` could say and an option of its own says
_OWN_OPTIONS = {
    "device": "--device", "dtype": "--dtype", "torch_dtype": "--dtype", "device_map": "--device-map",
    "revision": "--revision", "attn_implementation": "--attn", "load_in": "--load-in", "load_in_4bit": "--load-in 4bit",
    "load_in_8bit": "--load-in 8bit", "quantization_config": "--load-in, or load the model in Python",
    "adapter": "--adapter", "name": "--model",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """The model options of a command line.

    Every field is an option; nothing is loaded before :meth:`load`, so a dry run reads the fields alone.

    Raises
    ------
    InputError
        When the choice is made: an ``--image-option`` that is not NAME=NUMBER, a ``--model-arg`` that is not KEY=VALUE
        or may not be given, an attention, a quantisation or a library that is not there.
    """

    name: Annotated[
        str,
        _option(
            "--model", "-m", autocompletion=model_names, help="An alias (see `biaslab models`), a hub id or a folder."
        ),
    ] = "grounder"
    device: Annotated[str | None, _option(help="cpu, mps, cuda, cuda:1 ... Default: where the model loads.")] = None
    dtype: Annotated[str, _option(help="auto, float32, bfloat16 or float16.")] = "auto"
    device_map: Annotated[str | None, _option(help='Spread the layers over devices, e.g. "auto".')] = None
    revision: Annotated[str | None, _option(help="Branch, tag or commit of a hub model.")] = None
    attn: Annotated[
        str, _option(help="Attention of the model: sdpa, eager, flash_attention_2 ... (installed libraries alone).")
    ] = "sdpa"
    load_in: Annotated[str | None, _option(help="4bit or 8bit: quantise the weights at loading (bitsandbytes).")] = None
    adapter: Annotated[
        str | None, _option(help="PEFT adapter on top of the model: a folder or a hub id (needs biaslab[peft]).")
    ] = None
    model_arg: Annotated[
        list[str] | None,
        _option(
            help="Further argument of from_pretrained, such as a setting of the configuration: KEY=VALUE, the value as "
            "JSON or else as text; may be repeated."
        ),
    ] = None
    image_option: Annotated[
        list[str] | None, _option(help="How images are cut or resized, e.g. max_tiles=6; may be repeated.")
    ] = None

    def __post_init__(self) -> None:
        _ = self.image_options  # a bad one is refused now
        arguments = self.arguments
        if (self.attn, self.load_in, self.model_arg) != ("sdpa", None, None):
            from biaslab.models.load_options import check_arguments, check_attention, quantization

            check_arguments(arguments)
            check_attention(self.attn)
            quantization(self.load_in, arguments, self.dtype)

    @property
    def arguments(self) -> dict[str, Any]:
        """The values of ``--model-arg`` by name."""
        arguments: dict[str, Any] = {}
        for text in self.model_arg or []:
            name, given, value = text.partition("=")
            name = name.strip()
            if not given or not name.isidentifier():
                raise InputError(f"--model-arg takes KEY=VALUE such as rope_theta=1e6, got {text!r}")
            if (other := _OWN_OPTIONS.get(name)) is not None:
                raise InputError(f"--model-arg {name}: give {other}")
            if name in arguments:
                raise InputError(f"--model-arg {name} is given twice: leave one out")
            try:
                arguments[name] = json.loads(value)
            except ValueError:
                arguments[name] = value
        return arguments

    @property
    def recipe(self) -> LoadRecipe:
        """How the model would be loaded, for what is found out before that."""
        from biaslab.models.recipe import LoadRecipe

        return LoadRecipe(
            name=self.name, revision=self.revision, device=self.device, dtype=self.dtype, device_map=self.device_map,
            attn_implementation=self.attn, load_in=self.load_in, adapter=self.adapter, arguments=self.arguments,
            image_options=self.image_options,
        )  # fmt: skip

    @property
    def image_options(self) -> dict[str, int]:
        """The values of ``--image-option`` by name."""
        options = {}
        for text in self.image_option or []:
            name, _, value = text.partition("=")
            if not value.strip().isdigit():
                raise InputError(f"--image-option takes NAME=NUMBER such as max_tiles=6, got {text!r}")
            options[name.strip()] = int(value)
        return options

    def layers(self, text: str | None, *, rehearse: bool = False) -> list[int] | None:
        """Read ``--layers`` ("1,5", "0-11"), checked against the model's depth where that is known before loading.

        Parameters
        ----------
        text : str or None
            The option's value; None stands for all layers.
        rehearse : bool
            A rehearsal's depth follows from the layers asked for, so nothing is checked.

        Returns
        -------
        list of int or None
            Layers as asked; negative ones count from the end.

        Raises
        ------
        InputError
            No such layer, or no numbers.
        """
        from biaslab.core.layers import resolve_layers
        from biaslab.models.offline.geometry import decoder_depth

        if text is None:
            return None
        asked = numbers(text, "layers", int)
        depth = None if rehearse else decoder_depth(self.recipe)
        return asked if depth is None else resolve_layers(asked, depth, "the decoder")

    def prune_layers(self, asked: list[int] | None) -> list[int]:
        """Say which prune layers are meant, before the model is loaded: None is its default, -1 its last layer."""
        from biaslab.models.prune_layer import prune_layers

        return prune_layers(self.geometry(), asked)

    def geometry(self) -> Geometry:
        """Read the model's configuration and processor, for a dry run."""
        from biaslab.models.offline.geometry import geometry

        return geometry(self.recipe)

    def known(self, *, rehearse: bool = False) -> MetaModel | None:
        """Find out what is known of the model before it is loaded; None where loading has to show."""
        from biaslab.workflows.before_loading import known_model

        return known_model(self.recipe, image_options=self.image_options, rehearse=rehearse)

    def load(self, rehearse: bool = False, deepest: int = 0) -> VLM:
        """Load the model.

        Parameters
        ----------
        rehearse : bool
            Load a rehearsal in its place: its geometry, few layers, random weights.
        deepest : int
            The deepest decoder layer that is captured or pruned; a rehearsal has layers beyond it.

        Returns
        -------
        VLM
            With the image options set.

        Raises
        ------
        InputError
            Unknown model or image option; a rehearsal with an option that it has no use for.
        ModelError
            A model that is not on this machine, or cannot be loaded.
        """
        if not rehearse:
            from biaslab.models import load

            with phase(f"load {self.name}"):
                vlm = load(
                    self.name, device=self.device, dtype=self.dtype, device_map=self.device_map,
                    attn_implementation=self.attn, revision=self.revision, load_in=self.load_in, adapter=self.adapter,
                    **self.arguments,
                )  # fmt: skip
            return vlm.set_image_options(**self.image_options)
        plain = ModelChoice(name=self.name, revision=self.revision, image_option=self.image_option)
        others = [f.name for f in fields(self) if getattr(self, f.name) != getattr(plain, f.name)]
        if others:
            names = " and ".join("--" + name.replace("_", "-") for name in others)
            raise InputError(f"--rehearse runs on the CPU in float32 with random weights: leave out {names}")
        from biaslab.models.offline.rehearsal import rehearse as rehearsal

        return rehearsal(self.name, layers=max(4, deepest + 2), revision=self.revision).set_image_options(
            **self.image_options
        )


def with_model(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the model options in place of its parameter ``model: ModelChoice``.

    The options stand where the parameter stood and have their own panel in ``--help``, in the order of the fields of
    :class:`ModelChoice`. This is the one place where an option on loading belongs: a field of :class:`ModelChoice` and
    its use in :attr:`ModelChoice.recipe` and :meth:`ModelChoice.load`, and every verb that loads a model has it.
    """
    own = inspect.signature(verb, eval_str=True)
    options = inspect.signature(ModelChoice, eval_str=True).parameters
    parameters: list[inspect.Parameter] = []
    for parameter in own.parameters.values():
        parameters += options.values() if parameter.name == "model" else [parameter]

    @wraps(verb)
    def with_options(**values: Any) -> None:
        chosen = {field.name: values.pop(field.name) for field in fields(ModelChoice)}
        verb(model=ModelChoice(**chosen), **values)

    keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    # functools.wraps declares no such attribute; typer reads it
    vars(with_options)["__signature__"] = own.replace(parameters=keyword_only)
    with_options.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_options
