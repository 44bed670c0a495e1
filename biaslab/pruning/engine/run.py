"""What happened inside a prune block."""

from __future__ import annotations

from biaslab.pruning.base import Method, Selection


class PruneRun:
    """What happened inside a `prune` block; readable after it.

    Attributes
    ----------
    method, layer, positions, seed
        Arguments of `prune`.
    selections : list of Selection
        One per image of the latest prefill, in the order of the prompts (with one image per prompt: one per
        sample); empty if it held no image. The budget is each image's own.
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

    def __init__(self, method: Method, layer: int, positions: str, seed: int) -> None:
        self.method, self.layer, self.positions, self.seed = method, layer, positions, seed
        self.most = 0
        self.clear()

    def clear(self) -> None:
        """Forget the latest prefill."""
        self.selections: list[Selection] = []
        self.counts: list[int] = []
        self.times: dict[str, float] = {}
        self._lengths: list[int] = []

    def kv_lengths(self) -> list[int]:
        """List the entries in the KV cache of every layer after the latest forward, padding and fillers included."""
        return list(self._lengths)

    def __repr__(self) -> str:
        kept = [len(s.indices) for s in self.selections]
        return f"PruneRun({self.method.name!r}, layer={self.layer}, kept={kept} of {self.counts})"
