"""What happened inside a prune block."""

from __future__ import annotations

from biaslab._util.notebook import InNotebooks
from biaslab.pruning.base import Method, Selection
from biaslab.pruning.schedule import Schedule


class PruneRun(InNotebooks):
    """What happened inside a `prune` block; readable after it.

    Attributes
    ----------
    schedule : Schedule
        The stages; one where `prune` was given a method.
    positions, seed
        Arguments of `prune`.
    joint : bool
        Whether the images of a prompt have one budget together.
    cache : "full" or "trimmed"
        Argument of `prune`.
    selections : list of Selection
        One per image of the latest prefill, in the order of the prompts (with one image per prompt: one per
        sample); empty if it held no image. The budget is each image's own, unless ``joint``: then an image may keep
        none, and what a method reports is of all images of the prompt. Of several stages those of the last, at
        positions among all tokens of the image; tokens that an earlier one dropped for good have the score -inf.
    stages : list of list of Selection
        The same of every stage.
    counts : list of int
        Visual tokens of each image before pruning.
    most : int
        Visual tokens of the largest image of the block, before pruning; 0 before the first.
    times : dict of str to float
        With ``timed=True``: milliseconds of the latest prefill spent on the attention rows ("attention_ms") and on
        scoring and selecting ("select_ms").

    Examples
    --------
    >>> import biaslab as bl
    >>> vlm, sample = bl.load("grounder"), next(iter(bl.load_dataset("scenes", n=1)))
    >>> with bl.prune(vlm, bl.Random(keep=16), layer=4) as run:
    ...     _ = vlm.forward(vlm.encode_grounding([sample.image()], [sample.expression]))
    >>> run
    PruneRun('random', layer=4, kept=[16] of [256])
    """

    def __init__(
        self,
        schedule: Schedule,
        positions: str,
        seed: int,
        n_layers: int,
        joint: bool = False,
        cache: str = "full",
    ) -> None:
        self.schedule, self.positions, self.seed = schedule, positions, seed
        self.n_layers, self.joint, self.cache = n_layers, joint, cache
        self.most = 0
        self.clear()

    @property
    def method(self) -> Method:
        """Method of the last stage, whose selections are ``selections``."""
        return self.schedule[-1].rule

    @property
    def layer(self) -> int:
        """K of the last stage."""
        return self.schedule[-1].layer

    def clear(self) -> None:
        """Forget the latest prefill."""
        self.selections: list[Selection] = []
        self.stages: list[list[Selection]] = []
        self.counts: list[int] = []
        self.times: dict[str, float] = {}
        self._lengths: list[int] = []

    def kv_lengths(self) -> list[int]:
        """List the entries in the KV cache of every layer after the latest forward, padding and fillers included."""
        return list(self._lengths)

    def kept_per_layer(self) -> list[float]:
        """Count the visual tokens that each decoder layer sees, on average over the images of the latest prefill.

        Returns
        -------
        list of float
            One per layer; empty before the first prefill and after one without an image.

        Examples
        --------
        >>> import biaslab as bl
        >>> vlm, sample = bl.load("grounder"), next(iter(bl.load_dataset("scenes", n=1)))
        >>> with bl.prune(vlm, schedule=[bl.Stage(0, "divprune", 0.5), bl.Stage(4, "fastv", 0.1)]) as run:
        ...     _ = vlm.forward(vlm.encode_grounding([sample.image()], [sample.expression]))
        >>> run.kept_per_layer()
        [128.0, 128.0, 128.0, 128.0, 25.0, 25.0, 25.0, 25.0, 25.0, 25.0]
        >>> round(run.mean_share(), 4)
        0.2586
        """
        each = [kept for n, kept in self._kept() if n]
        return [sum(column) / len(each) for column in zip(*each, strict=True)]

    def mean_share(self) -> float:
        """Compute the share of its visual tokens that a decoder layer sees, on average over layers and images."""
        shares = [sum(kept) / (n * len(kept)) for n, kept in self._kept() if n]
        return sum(shares) / len(shares) if shares else 1.0

    def _kept(self) -> list[tuple[int, list[int]]]:
        """List for every image its visual tokens and how many of them each layer sees."""
        starts = [stage.layer for stage in self.schedule[: len(self.stages)]]
        lengths = [b - a for a, b in zip([0, *starts], [*starts, self.n_layers], strict=True)]
        left = [self.counts, *([len(s.indices) for s in stage] for stage in self.stages)]
        return [
            (own[0], [n for n, layers in zip(own, lengths, strict=True) for _ in range(layers)])
            for own in zip(*left, strict=True)
        ]

    def __repr__(self) -> str:
        kept = [len(s.indices) for s in self.selections]
        if len(self.schedule) > 1:
            return f"PruneRun({self.schedule.label!r}, kept={kept} of {self.counts})"
        return f"PruneRun({self.method.name!r}, layer={self.layer}, kept={kept} of {self.counts})"
