"""The options by which a command line names a model, and what a verb gets for them."""

from __future__ import annotations

import inspect
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
    from biaslab.models.vlm import VLM
    from biaslab.workflows.meta_model import MetaModel

_option = partial(typer.Option, rich_help_panel="Model")


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """The model options of a command line.

    Every field is an option; nothing is loaded before :meth:`load`, so a dry run reads the fields alone.

    Raises
    ------
    InputError
        For an ``--image-option`` that is not NAME=NUMBER, when the choice is made.
    """

    name: Annotated[
        str,
        _option(
            "--model", "-m", autocompletion=model_names, help="An alias (see `biaslab models`), a hub id or a folder."
        ),
    ] = "grounder"
    device: Annotated[str | None, _option(help="cpu, cuda, cuda:1 ... Default: where the model loads.")] = None
    dtype: Annotated[str, _option(help="auto, float32, bfloat16 or float16.")] = "auto"
    device_map: Annotated[str | None, _option(help='Spread the layers over devices, e.g. "auto".')] = None
    image_option: Annotated[
        list[str] | None, _option(help="How images are cut or resized, e.g. max_tiles=6; may be repeated.")
    ] = None

    def __post_init__(self) -> None:
        _ = self.image_options  # a bad one is refused now

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
        depth = None if rehearse else decoder_depth(self.name)
        return asked if depth is None else resolve_layers(asked, depth, "the decoder")

    def prune_layers(self, asked: list[int] | None) -> list[int]:
        """Say which prune layers are meant, before the model is loaded: None is its default, -1 its last layer."""
        from biaslab.models.offline.geometry import geometry
        from biaslab.models.prune_layer import prune_layers

        return prune_layers(geometry(self.name), asked)

    def known(self, *, rehearse: bool = False) -> MetaModel | None:
        """Find out what is known of the model before it is loaded; None where loading has to show."""
        from biaslab.workflows.before_loading import known_model

        return known_model(self.name, image_options=self.image_options, rehearse=rehearse)

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
                vlm = load(self.name, device=self.device, dtype=self.dtype, device_map=self.device_map)
            return vlm.set_image_options(**self.image_options)
        if self.device is not None or self.dtype != "auto" or self.device_map is not None:
            raise InputError("--rehearse runs on the CPU in float32: leave out --device, --dtype and --device-map")
        from biaslab.models.offline.rehearsal import rehearse as rehearsal

        return rehearsal(self.name, layers=max(4, deepest + 2)).set_image_options(**self.image_options)


def with_model(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the model options in place of its parameter ``model: ModelChoice``.

    The options stand where the parameter stood and have their own panel in ``--help``, in the order of the fields of
    :class:`ModelChoice`. This is the one place where an option on loading belongs (``--revision``, ``--attn``,
    ``--load-in``, ``--adapter``, ``--model-arg``): a field of :class:`ModelChoice` and its use in
    :meth:`ModelChoice.load`, and every verb that loads a model has it.
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
