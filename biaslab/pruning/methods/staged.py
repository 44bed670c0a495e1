"""Methods that are known by a schedule: the same rule at several layers, scaled to the depth of a decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from biaslab.errors import InputError
from biaslab.pruning.base import Method

__all__ = ["Staged"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Staged(Method):
    """A method that by itself cuts at several layers; at a layer that is named it is its rule, for one cut.

    A subclass says where its stages stand (``depths``) and how fast they drop (``powers``): with ``keep`` = r the stage
    j leaves ``r ** powers[j]`` of the tokens, the last one r, so that the published shares come out at the published r.
    Where no power gives them it says them itself (`stage_keeps`). ``keep`` must be a share.

    Examples
    --------
    >>> class Halving(Staged):
    ...     name = "halving"
    ...     depths = (0.25, 0.5)
    ...     powers = (0.5, 1.0)
    >>> [(layer, rule.keep) for layer, rule in Halving(keep=0.25).own_stages(32)]
    [(8, 0.5), (16, 0.25)]
    """

    #: layers K of the stages, as shares of the depth
    depths: ClassVar[tuple[float, ...]]
    #: the stage leaves keep to this power of the tokens
    powers: ClassVar[tuple[float, ...]] = ()

    def own_stages(self, n_layers: int, lowest: int = 0) -> Sequence[tuple[int, Method]] | None:
        """List the layers K with the rule at its keep there.

        Raises
        ------
        InputError
            A keep that is a count, or fewer layers than stages.
        """
        if isinstance(self.keep, int):
            raise InputError(
                f"method {self.name!r} drops in {len(self.depths)} stages by shares: give a ratio, or name layers, as "
                f"in {self.name}@{self.keep}@4"
            )
        first = max(lowest, 1 if "attention" in self.needs and self.layer_read(0) < 0 else 0)
        last, layers = n_layers - len(self.depths), list[int]()
        for number, depth in enumerate(self.depths):
            after = layers[-1] + 1 if layers else first
            # shallow decoders: rounded to even as always, moved up where two would meet, never past the last layers
            layers.append(max(after, min(round(depth * n_layers), last + number)))
        if layers[-1] >= n_layers:
            raise InputError(
                f"method {self.name!r} has {len(layers)} stages, too many for {n_layers} layers from {first} on"
            )
        rules = [self.stage_rule(number, keep) for number, keep in enumerate(self.stage_keeps(float(self.keep)))]
        return list(zip(layers, rules, strict=True))

    def stage_keeps(self, keep: float) -> Sequence[float]:
        """List the shares of the tokens that the stages leave, the last one ``keep``."""
        return [float(keep**power) for power in self.powers]

    def stage_rule(self, number: int, keep: float) -> Method:
        """Make the rule of a stage."""
        return self.with_keep(keep)
