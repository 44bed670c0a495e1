"""`LoadRecipe`: how a model was loaded, as a plain value that another process can load the same model with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from biaslab._util.jsonable import plain
from biaslab.errors import InputError, ModelError

if TYPE_CHECKING:
    from biaslab.models.vlm import VLM

__all__ = ["LoadRecipe", "recipe_of"]


@dataclass(frozen=True, kw_only=True)
class LoadRecipe:
    """The arguments of a :func:`biaslab.models.load`, and what the result is known by. Picklable.

    Attributes
    ----------
    name : str
        Hub id, "grounder" or absolute folder: the base model's, where there is an adapter.
    revision : str or None
        Commit of a hub model, so that others load the very same; None for a folder.
    device : str or None
        None with `device_map`.
    dtype : str
        As asked for, such as "auto".
    device_map : object
    attn_implementation : str
    load_in : str or None
    adapter : str or None
        Hub id or absolute folder.
    arguments : mapping
        What else ``from_pretrained`` was given.
    image_options : mapping
        Of the model at the time of `recipe_of`.
    fingerprint, memory : str or None
        What the weights are known by: those of the checkpoint, and samples of the values in memory (`recipe_of`; None
        of quantised ones).

    Examples
    --------
    >>> import biaslab as bl
    >>> from biaslab.models.recipe import recipe_of
    >>> recipe = recipe_of(bl.load("grounder", device="cpu", attn_implementation="eager"))
    >>> recipe.described()
    {'attn_implementation': 'eager'}
    >>> recipe.load(device="cpu").fingerprint == recipe.fingerprint
    True
    """

    name: str
    revision: str | None = None
    device: str | None = None
    dtype: str = "auto"
    device_map: Any = None
    attn_implementation: str = "sdpa"
    load_in: str | None = None
    adapter: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    image_options: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str | None = None
    memory: str | None = None

    def load(self, *, device: Any = None) -> VLM:
        """Load the same model.

        Parameters
        ----------
        device : str or torch.device, optional
            In place of the device, or of the device map, that it was loaded on.

        Returns
        -------
        VLM
            With the image options set.

        Raises
        ------
        InputError, ModelError
            As ``load``; the files have changed since, or the weights in memory had.
        """
        from biaslab.models.fingerprints import memory_fingerprint
        from biaslab.models.loading import load

        vlm = load(
            self.name,
            device=self.device if device is None else device,
            dtype=self.dtype,
            device_map=self.device_map if device is None else None,
            attn_implementation=self.attn_implementation,
            revision=self.revision,
            load_in=self.load_in,
            adapter=self.adapter,
            **self.arguments,
        )
        held, now = self.memory, None if self.memory is None else memory_fingerprint(vlm.model)
        # of two dtypes, the values are rounded differently
        comparable = held is not None and now is not None and held.partition("-")[0] == now.partition("-")[0]
        if (comparable and held != now) or vlm.fingerprint != self.fingerprint:
            raise ModelError(f"{self.name!r} as loaded has other weights than the model in memory: save that to a "
                             "folder and load it from there")  # fmt: skip
        return vlm.set_image_options(**self.image_options)

    def described(self) -> dict[str, Any]:
        """Return what differs from a plain load and may matter to answers, JSON-ready: for provenance."""
        said = {
            "attn_implementation": None if self.attn_implementation == "sdpa" else self.attn_implementation,
            "load_in": self.load_in,
            "adapter": self.adapter,
            "arguments": {name: _readable(value) for name, value in self.arguments.items()},
        }
        return plain({name: value for name, value in said.items() if value})


def recipe_of(vlm: VLM) -> LoadRecipe:
    """Write down how to load a model that is in memory.

    Parameters
    ----------
    vlm : VLM
        Made by `load`.

    Returns
    -------
    LoadRecipe
        With the model's image options, and samples of its weights to compare with.

    Raises
    ------
    InputError
        A model that `wrap` or a rehearsal made, which no name stands for.
    """
    from biaslab.models.fingerprints import memory_fingerprint

    if vlm.recipe is None:
        raise InputError(
            f"other processes cannot load {vlm.name!r}: use one process, or save the model and load it from its folder"
        )
    quantised = getattr(vlm.model, "hf_quantizer", None) is not None  # bitsandbytes packs such weights anew as it runs
    memory = None if quantised else memory_fingerprint(vlm.model)
    return replace(vlm.recipe, image_options=dict(vlm.image_options), memory=memory)


def _readable(value: Any) -> Any:
    """Return a configuration object as its settings."""
    return value.to_dict() if hasattr(value, "to_dict") else value
