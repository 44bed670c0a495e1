"""The hybrid graphs of several images, asked together: the questions of a round share their launches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from biaslab.core.layout import TokenLayout
from biaslab.pruning.algorithms.graph import CPU_CELLS, GraphForm, SpatialPlane, scales
from biaslab.pruning.algorithms.mis import Question, any_row
from biaslab.pruning.algorithms.transfer import upload

__all__ = ["HybridGraphs"]

_CELLS = 2**24  # similarities computed at once where they are not in a CPU's cache: 64 MiB

Asked = tuple[int, Question]  # (image, question)


class HybridGraphs:
    """A :class:`HybridGraph` for each of several images, and the answers to questions about several of them.

    Edges are those of the single graph, bit by bit: products of features are made image by image, in shapes that
    depend on the question alone, and all that follows is element by element.

    Parameters
    ----------
    features : (T, D) Tensor
        Of all images, any float dtype; compared in float32.
    first : sequence of int
        Row of ``features`` at which each image begins.
    layouts : sequence of TokenLayout
        Of the images.
    form : GraphForm
        What makes a similarity.
    distance : str
        Of :meth:`SpatialPlane.of`.

    Examples
    --------
    >>> layout = TokenLayout.raster(1, 3, size=(300, 100), family="toy")
    >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> graphs = HybridGraphs(features, [0], [layout], form=GraphForm(), distance="image")
    >>> tokens = np.arange(3)
    >>> graphs.answer([(0, Question(tokens, tokens, False, 0.6))])[0].tolist()
    [[True, True, False], [True, True, False], [False, False, True]]
    """

    def __init__(
        self, features: Tensor, first: Sequence[int], layouts: Sequence[TokenLayout], *, form: GraphForm, distance: str
    ) -> None:
        self.features, self.first, self.form, self.device = features, first, form, features.device
        sizes = [layout.n for layout in layouts]
        self.place = np.cumsum([0, *sizes])  # of each image's first token in what is held of tokens alone
        planes = [np.concatenate(SpatialPlane.arrays(layout, distance), 1) for layout in layouts]
        plane = upload(np.ascontiguousarray(np.concatenate(planes).T), self.device)
        norms = [
            torch.linalg.vector_norm(features[at : at + n], dim=1, dtype=torch.float32)
            for at, n in zip(first, sizes, strict=True)
        ]
        scale = scales(norms[0] if len(norms) == 1 else torch.cat(norms), form)
        #: factor, x, y, width and height of every token: (5, N of all images)
        self.tokens = torch.cat([scale[None], plane])

    @torch.no_grad()
    def answer(self, asked: Sequence[Asked]) -> list[np.ndarray]:
        """Answer the questions of a round.

        Parameters
        ----------
        asked : sequence of (int, Question)
            Number of the image, and what is asked of its graph.

        Returns
        -------
        list of bool array
            As :class:`Question` says, from one transfer.
        """
        groups = list(self._groups(asked))
        found = [self._found([asked[i] for i in group]) for group in groups]
        flat = [part.reshape(-1) for part in found]
        host = (flat[0] if len(flat) == 1 else torch.cat(flat)).cpu().numpy()
        answers: dict[int, np.ndarray] = {}
        for group, part in zip(groups, found, strict=True):
            own, host = host[: part.numel()].reshape(part.shape), host[part.numel() :]
            for i, answer in zip(group, own, strict=True):
                _, q = asked[i]
                answers[i] = answer[: len(q.cols)] if q.reduced else answer[: len(q.rows), : len(q.cols)]
        return [answers[i] for i in range(len(asked))]

    def _groups(self, asked: Sequence[Asked]) -> Iterator[list[int]]:
        """Put questions of one kind together, the largest first, as far as their padded answers are few enough."""
        limit = CPU_CELLS if self.device.type == "cpu" else _CELLS
        questions = [q for _, q in asked]

        def key(i: int) -> tuple[bool, float, bool, int]:
            q = questions[i]
            return q.reduced, q.theta, q.cols is q.rows, -len(q.rows) * len(q.cols)

        group: list[int] = []
        rows = cols = 0
        for i in sorted(range(len(asked)), key=key):
            more = max(rows, len(questions[i].rows)), max(cols, len(questions[i].cols))
            if group and (key(i)[:3] != key(group[0])[:3] or (len(group) + 1) * more[0] * more[1] > limit):
                yield group
                group, more = [], (len(questions[i].rows), len(questions[i].cols))
            group.append(i)
            rows, cols = more
        if group:
            yield group

    def _found(self, asked: Sequence[Asked]) -> Tensor:
        """Answer questions of one kind: (B, C) bool where reduced, else (B, R, C), rows and columns padded."""
        image = np.array([i for i, _ in asked])
        questions = [q for _, q in asked]
        same = questions[0].cols is questions[0].rows
        rows = _padded([q.rows for q in questions])
        width = rows.shape[1] if same else max(len(q.cols) for q in questions)
        strip = max(1, CPU_CELLS // rows.shape[1]) if self.device.type == "cpu" and len(asked) == 1 else width
        if strip >= width:
            cols = rows if same else _padded([q.cols for q in questions])
            return self._edges(image, questions, rows, cols)
        cols = questions[0].cols  # one question, too large for the cache
        parts = [cols[at : at + strip] for at in range(0, width, strip)]
        return torch.cat([self._edges(image, [questions[0]._replace(cols=p)], rows, p[None]) for p in parts], -1)

    def _edges(self, image: np.ndarray, questions: Sequence[Question], rows: np.ndarray, cols: np.ndarray) -> Tensor:
        """Compute similarities of (B, R) rows and (B, C) columns, and what they answer."""
        sides = [rows] if rows is cols else [rows, cols]
        first, place = np.array(self.first)[image, None], self.place[image, None]
        index = upload(np.concatenate([side + at for at in (first, place) for side in sides], None), self.device)
        of_features, of_tokens = index.chunk(2)
        sizes = [side.size for side in sides]
        each = self.features.index_select(0, of_features).float().split(sizes)
        products = self._products(questions, each[0], each[-1], rows.shape[1], cols.shape[1])
        held = self.tokens.index_select(1, of_tokens).split(sizes, 1)
        left, right = (part.view(len(part), *side.shape) for part, side in ((held[0], rows), (held[-1], cols)))
        scale, points, cells = ((left[at], right[at]) for at in (0, slice(1, 3), slice(3, 5)))
        found = self.form.fuse(products, scale, points, cells) > questions[0].theta
        return any_row(found, 1) if questions[0].reduced else found

    def _products(self, questions: Sequence[Question], left: Tensor, right: Tensor, height: int, width: int) -> Tensor:
        """Multiply the features of rows and columns, question by question: (B, R, C), no edge where padded."""
        if len(questions) == 1:
            return (left @ right.T)[None]
        full = all((len(q.rows), len(q.cols)) == (height, width) for q in questions)
        size = (len(questions), height, width)
        # padding must be no edge: minus infinity is less alike than any theta
        products = left.new_empty(size) if full else left.new_full(size, -torch.inf)
        for b, q in enumerate(questions):
            r, c = len(q.rows), len(q.cols)
            torch.mm(left[b * height :][:r], right[b * width :][:c].T, out=products[b, :r, :c])
        return products


def _padded(nodes: Sequence[np.ndarray]) -> np.ndarray:
    """Put the nodes of several questions in one array, each filled up with its first."""
    longest = max(map(len, nodes))
    out = np.empty((len(nodes), longest), dtype=np.int64)
    for row, own in zip(out, nodes, strict=True):
        row[: len(own)], row[len(own) :] = own, own[0]
    return out
