"""The hybrid graphs of several images, asked together: the questions of a round share their launches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

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
    features : sequence of (N, D) Tensor
        Of each image, any float dtype; compared in float32.
    layouts : sequence of TokenLayout
        Of the images.
    stack : (T, D) Tensor, optional
        One tensor that holds the features of all images: then one look-up serves all.
    first : sequence of int
        Row of ``stack`` at which each image begins.
    form : GraphForm
        What makes a similarity.
    distance : str
        Of :meth:`SpatialPlane.of`.

    Examples
    --------
    >>> layout = TokenLayout.raster(1, 3, size=(300, 100), family="toy")
    >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> graphs = HybridGraphs([features], [layout], form=GraphForm(), distance="image")
    >>> tokens = np.arange(3)
    >>> graphs.answer([(0, Question(tokens, tokens, False, 0.6))])[0].tolist()
    [[True, True, False], [True, True, False], [False, False, True]]
    """

    def __init__(
        self,
        features: Sequence[Tensor],
        layouts: Sequence[TokenLayout],
        *,
        form: GraphForm,
        distance: str,
        stack: Tensor | None = None,
        first: Sequence[int] = (),
    ) -> None:
        self.features, self.stack, self.form, self.device = features, stack, form, features[0].device
        self.first = np.zeros(len(features), dtype=np.int64) if stack is None else np.array(first)
        self.place = np.cumsum([0, *map(len, features)])  # of each image's first token in what is held of tokens alone
        planes = [np.concatenate(SpatialPlane.arrays(layout, distance), 1) for layout in layouts]
        plane = upload(np.ascontiguousarray(np.concatenate(planes).T), self.device)
        norms = [torch.linalg.vector_norm(own, dim=1, dtype=torch.float32) for own in features]
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
        if len(asked) == 1:  # nothing to put together or to take apart
            return [self._found(asked)[0].cpu().numpy()]
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
        keys = [key(i) for i in range(len(asked))]
        for i in sorted(range(len(asked)), key=keys.__getitem__):
            more = max(rows, len(questions[i].rows)), max(cols, len(questions[i].cols))
            if group and (keys[i][:3] != keys[group[0]][:3] or (len(group) + 1) * more[0] * more[1] > limit):
                yield group
                group, more = [], (len(questions[i].rows), len(questions[i].cols))
            group.append(i)
            rows, cols = more
        if group:
            yield group

    def _found(self, asked: Sequence[Asked]) -> Tensor:
        """Answer questions of one kind: (B, C) bool where reduced, else (B, R, C), rows and columns padded."""
        image, questions = [i for i, _ in asked], [q for _, q in asked]
        one = questions[0]
        rows = self._side(image, [q.rows for q in questions])
        if one.cols is one.rows:
            return self._edges(questions, rows, rows)
        cells = len(one.rows) * len(one.cols)
        if cells <= CPU_CELLS or len(asked) > 1 or self.device.type != "cpu":
            return self._edges(questions, rows, self._side(image, [q.cols for q in questions]))
        strip, parts = max(1, CPU_CELLS // len(one.rows)), []  # too large for the cache
        for at in range(0, len(one.cols), strip):
            cols = one.cols[at : at + strip]
            parts.append(self._edges([one._replace(cols=cols)], rows, self._side(image, [cols])))
        return torch.cat(parts, -1)

    def _side(self, image: Sequence[int], nodes: Sequence[np.ndarray]) -> _Side:
        """Look up the tokens of the rows, or of the columns, of several questions."""
        if len(image) == 1 and self.stack is None:
            (i,), (own,) = image, nodes
            at = upload(own, self.device)
            features = self.features[i].index_select(0, at)
            tokens = self.tokens.index_select(1, at + int(self.place[i]) if i else at)
            return _Side(features.float(), tokens[:, None], len(own))
        together = _padded(nodes)
        size, width = together.size, together.shape[1]
        places = np.concatenate([together + self.place[image, None], together + self.first[image, None]], None)
        at, where = upload(places, self.device).split(size)
        if self.stack is not None:
            found = self.stack.index_select(0, where)
        else:
            pairs = zip(image, where.split(width), strict=True)
            found = torch.cat([self.features[i].index_select(0, own) for i, own in pairs])
        return _Side(found.float(), self.tokens.index_select(1, at).view(-1, len(image), width), width)

    def _edges(self, questions: Sequence[Question], rows: _Side, cols: _Side) -> Tensor:
        """Compute similarities of (B, R) rows and (B, C) columns, and what they answer."""
        pairs = ((rows.tokens[part], cols.tokens[part]) for part in (0, slice(1, 3), slice(3, 5)))
        found = self.form.fuse(self._products(questions, rows, cols), *pairs) > questions[0].theta
        return any_row(found, 1) if questions[0].reduced else found

    def _products(self, questions: Sequence[Question], rows: _Side, cols: _Side) -> Tensor:
        """Multiply the features of rows and columns, question by question: (B, R, C), no edge where padded."""
        left, right = rows.features, cols.features
        if len(questions) == 1:
            return (left @ right.T)[None]
        full = all((len(q.rows), len(q.cols)) == (rows.width, cols.width) for q in questions)
        size = (len(questions), rows.width, cols.width)
        # padding must be no edge: minus infinity is less alike than any theta
        products = left.new_empty(size) if full else left.new_full(size, -torch.inf)
        for b, q in enumerate(questions):
            r, c = len(q.rows), len(q.cols)
            torch.mm(left[b * rows.width :][:r], right[b * cols.width :][:c].T, out=products[b, :r, :c])
        return products


class _Side(NamedTuple):
    """Rows or columns of B questions, padded to one width.

    Attributes
    ----------
    features : (B * width, D) float32 Tensor
    tokens : (5, B, width) float32 Tensor
    width : int
    """

    features: Tensor
    tokens: Tensor
    width: int


def _padded(nodes: Sequence[np.ndarray]) -> np.ndarray:
    """Put the nodes of several questions in one array, each filled up with its first."""
    longest = max(map(len, nodes))
    out = np.empty((len(nodes), longest), dtype=np.int64)
    for row, own in zip(out, nodes, strict=True):
        row[: len(own)], row[len(own) :] = own, own[0]
    return out
