"""The conditional profile: attention expected at a position, given what is there and what is asked."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from biaslab._util.jsonable import plain
from biaslab.core.layers import resolve_layers
from biaslab.core.layout import TokenLayout
from biaslab.errors import InputError, ProfileMismatchError
from biaslab.maps.protocol import Maps, expect_maps
from biaslab.maps.stored import StoredMaps
from biaslab.profiles.base import Profile
from biaslab.profiles.chosen_heads import SHARE, Head, choose_heads
from biaslab.profiles.columns import QUALITY, to_columns, to_table
from biaslab.profiles.file import save as write
from biaslab.profiles.fitted import check_fitted
from biaslab.profiles.learned import LearnedMaps
from biaslab.profiles.lookahead.explained import explained_shares, explained_table
from biaslab.profiles.lookahead.student import PLACES, Student, places
from biaslab.profiles.lookahead.summary import summary
from biaslab.profiles.lookahead.teacher import Teacher
from biaslab.profiles.lookahead.training import Lessons, Options, fit_student
from biaslab.profiles.provenance import version
from biaslab.profiles.quality import head_quality
from biaslab.profiles.registry import Arrays, make, register

__all__ = ["LookaheadProfile"]

_STUDENT, _HEADS, _POSITION, _CURVE = "student", "teacher", "position", "curve"
_ENOUGH = 20  # images of a layout whose places are averaged by themselves
_CACHED = 64  # layouts


@register
class LookaheadProfile(LearnedMaps):
    """E[attention | position, content, question], computed before the decoder runs (ours).

    A positional profile is E[attention | position]. This one goes on: a *student* of some hundred thousand parameters
    learns, without labels, what the model's own later attention adds to it, from what enters the decoder: the features
    of the visual tokens and the embeddings of the question. `relevance` is what the student says, and ``lookahead`` the
    pruning method that keeps by it, before the decoder.

    *Teacher*: the heads that look at something (`head_quality`) in the layers of the maps, each map without its
    positional part. *Student*: `biaslab.profiles.lookahead.student.Student`, fitted by
    `biaslab.profiles.lookahead.training.fit_student`. *Position*: the positional profile of the teacher's heads, an
    estimator of its own; it is no part of `relevance` unless asked for, and `expected` shows it.

    Parameters
    ----------
    rank : int
        Width of the student's keys and queries.
    reads : bool
        False: a student that does not look at the question, the same for all questions on an image.
    heads : "quality" or sequence of (layer, head)
        "quality": the heads that look at something (`head_quality`). Named ones weigh alike.
    share : float
        Heads of at least this share of the best quality teach.
    position : str
        Estimator of the positional part: "auto" is "geometric", or "factorised" where a layout has fewer than 20
        images.
    debiased : bool
        Whether the teacher's position is taken off before the student learns. False: it learns position with the rest.
    sharpness : float
        Of the teacher's softmax: what the best tokens weigh against the others.
    epochs, patience, batch_size, learning_rate, weight_decay
        Of the fit. ``patience``: epochs without an improvement on held-out images after which it stops.
    seed : int
        Of the student's first weights and of the order of images.

    Attributes
    ----------
    layers_ : list of int
        The decoder layer K that the features enter, the only K it serves.
    curve_ : DataFrame
        The learning curve (`biaslab.profiles.lookahead.training.fit_student`); empty in files of earlier versions.
    quality_ : DataFrame
        Of `head_quality`: which heads look at something. Empty likewise.
    seconds_ : float or None
        Time of the fit; None in a loaded profile.

    Notes
    -----
    Nearest published work: FlexSelect trains a 0.5 B model to repeat the attention ranking of a reference layer, on
    long video; GlimpsePrune trains a glimpse token and a predictor with boxes. Here the images need no labels,
    position is a term apart, and the student has a thousandth of their size.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import biaslab as bl
    >>> vlm = bl.load("grounder")
    >>> asked = bl.calibration(vlm, "scenes", n=6)
    >>> rows = {"queries": "answer", "heads": "all", "features": True}  # of answers, with what enters the decoder
    >>> with TemporaryDirectory() as folder:
    ...     maps = bl.collect(vlm, asked.images, prompt=asked.prompts, out=folder, progress=False, **rows)
    ...     profile = bl.LookaheadProfile(epochs=1).fit(maps)
    >>> profile.layers_  # the K at which what it foresees can be used
    [0]
    """

    _teacher: Teacher | None
    seconds_: float | None

    name: ClassVar[str] = "lookahead"
    heading: ClassVar[str] = "Conditional profile"
    about: ClassVar[str] = "Attention that a later layer is expected to pay, by position, content and question"
    conditional: ClassVar[bool] = True
    kind: ClassVar[str] = "conditional"
    queries: ClassVar[str] = "answer"
    transports: ClassVar[frozenset[str]] = frozenset({"layout"})

    def __init__(
        self, *, rank: int = 96, reads: bool = True, heads: str | Sequence[tuple[int, int]] = "quality",
        share: float = SHARE, position: str = "auto", debiased: bool = True, sharpness: float = 1.5, epochs: int = 25,
        patience: int = 8, batch_size: int = 64, learning_rate: float = 4e-3, weight_decay: float = 0.05, seed: int = 0,
    ) -> None:  # fmt: skip
        self.rank, self.reads, self.heads, self.share = rank, reads, heads, share
        self.position, self.debiased, self.sharpness = position, debiased, sharpness
        self.epochs, self.patience, self.batch_size = epochs, patience, batch_size
        self.learning_rate, self.weight_decay, self.seed = learning_rate, weight_decay, seed

    # -- fitting ---------------------------------------------------------------------------------------------
    @classmethod
    def refuses(cls, provenance: Mapping[str, Any]) -> str | None:
        """Say why it cannot be fitted to maps of this provenance; None where it can."""
        if provenance.get("features") is None:
            return "a conditional profile needs what enters the decoder: collect the maps with features=True and out="
        if provenance.get("heads") == "mean":
            return "a conditional profile chooses among heads: collect the maps with heads='all'"
        return None

    def fit(
        self, maps: Maps, *, layers: int | Iterable[int] | None = None, device: torch.device | str = "cpu",
        progress: bool = False,
    ) -> Self:  # fmt: skip
        """Choose the heads, fit the positional part and the student, and return self.

        Parameters
        ----------
        maps : StoredMaps
            Of every head, with features: ``collect(..., heads="all", features=True, out=folder)``.
        layers : int or iterable of int, optional
            Layers whose heads may teach; default all that ``maps`` holds.
        device : torch.device or str
            Where the student is fitted.
        progress : bool
            Whether to show progress.

        Raises
        ------
        InputError
            Maps without features or of the mean over heads, no head that looks at anything, or a single image.
        """
        expect_maps(maps)
        layers = resolve_layers(layers, maps.layers, "the maps", "collect")
        if reason := self.refuses(maps.provenance):
            raise InputError(reason)
        if not isinstance(maps, StoredMaps):
            raise InputError("a conditional profile is fitted to stored maps: collect them with out=folder")
        started = time.perf_counter()
        quality = head_quality(maps, layers=layers)
        heads = choose_heads(quality, share=self.share) if self.heads == "quality" else self._named(maps)
        counts = dict(Counter(maps.record(i).layout.key for i in range(maps.n)))
        teacher = Teacher(heads, self._positional(maps, heads, counts))
        with Lessons.prepared(maps, teacher, debiased=self.debiased, show=progress) as lessons:
            student, curve = fit_student(lessons, self._options(), device=device, show=progress)
            learned, held = lessons.split()
            shown = [len({lessons.picture(i) for i in part}) for part in (learned, held)]
            explained = explained_shares(teacher, student, lessons, held)
            scale = explained.pop("scale")
        door = int(maps.provenance["features"]["layer"])
        arrays = _arrays(student, heads, scale, teacher.positional)
        arrays |= {_CURVE: to_columns(curve), QUALITY: to_columns(quality)}
        provenance = {
            **plain(dict(maps.provenance)),
            "heads": maps.heads,
            "estimator": self.name,
            "params": plain(self.get_params()),
            "layers": [door],
            "layouts": counts,
            "teacher": [[head.layer, head.head, round(head.weight, 4)] for head in heads],
            "positional": teacher.positional.name,
            "learned_from": len(learned),
            "pictures": {"learned_from": shown[0], "held_out": shown[1]},
            "held_out": {"images": len(held), **explained},
            "parameters": sum(p.numel() for p in student.parameters()),
            "biaslab": version(),
        }
        self._restore({door: arrays}, dict(maps.layouts), counts, provenance)
        self.seconds_ = time.perf_counter() - started
        return self

    def check(self, **use: Any) -> None:
        """Refuse a use it was not fitted for, as :meth:`LearnedMaps.check`; of layers, any but its own K."""
        check_fitted(self)
        layer = use.get("layer")
        if layer is not None and layer not in self.layers_:
            raise ProfileMismatchError(
                f"this profile reads what enters layer {self.layers_[0]}, not {layer}: drop tokens before layer "
                f"{self.layers_[0]}"
            )
        super().check(**use)

    def _options(self) -> Options:
        return Options(
            self.rank, self.reads, self.sharpness, self.epochs, self.patience, self.batch_size, self.learning_rate,
            self.weight_decay, self.seed,
        )  # fmt: skip

    def _named(self, maps: StoredMaps) -> list[Head]:
        there = {(layer, head) for layer in maps.layers for head in range(int(maps.heads))}
        pairs: Any = self.heads
        try:
            named = [(int(layer), int(head)) for layer, head in pairs]
        except (TypeError, ValueError):
            named = []
        if not named or not set(named) <= there:
            raise InputError(
                f"heads must be 'quality' or pairs (layer, head) of layers {list(maps.layers)} and heads 0 .. "
                f"{int(maps.heads) - 1}, got {self.heads!r}"
            )
        return [Head(layer, head, 1 / len(named)) for layer, head in named]

    def _positional(self, maps: StoredMaps, heads: list[Head], counts: Mapping[str, int]) -> Profile:
        name = self.position
        if name == "auto":
            name = "geometric" if min(counts.values()) >= _ENOUGH or len(counts) == 1 else "factorised"
        return make(name).fit(maps, layers=sorted({head.layer for head in heads}))

    def save(self, path: str | Path, *, diagnostics: pd.DataFrame | None = None) -> Path:
        """Write the profile (safetensors) and a readable card beside it; see :func:`biaslab.profiles.save`."""
        return write(self, path, diagnostics=diagnostics)

    def panel_title(self, layer: int) -> str:
        """Say what `expected` shows: the positional part of the heads that taught."""
        return f"positional part of {self.teacher.names}"

    def summary(self) -> list[str]:
        """Say for the card what is explained, which heads taught, and what the fit took."""
        return summary(self)

    @property
    def refusals(self) -> str:
        """Say for the card what it may not be used for."""
        return (
            f"It is refused for any other model and for dropping tokens before any layer but {self.layers_[0]}; it "
            "transports to other tilings and grids, and asks nothing of the attention kernel."
        )

    # -- use -------------------------------------------------------------------------------------------------
    def relevance(self, visual: Tensor, text: Tensor, layout: TokenLayout, *, position: bool = False) -> Tensor:
        """Score the visual tokens of one image for a question, before the decoder has seen either.

        Parameters
        ----------
        visual : (N, D) Tensor
            Hidden states of the visual tokens that enter layer K.
        text : (T, D) Tensor
            Those of the tokens behind the image.
        layout : TokenLayout
        position : bool
            Whether the positional part is added: what the heads would attend to, bias included.

        Returns
        -------
        (N,) float32 Tensor
            On the device of ``visual``; larger is more relevant.
        """
        return self.relevance_batch(visual[None], [text], [layout], position=position)[0]

    def relevance_batch(
        self, visual: Tensor, texts: Sequence[Tensor], layouts: Sequence[TokenLayout], *, position: bool = False
    ) -> Tensor:
        """Score the visual tokens of several images of one size: of each what `relevance` gives, in fewer steps.

        Parameters
        ----------
        visual : (B, N, D) Tensor
        texts : sequence of (T, D) Tensor
            One question for each; their lengths may differ.
        layouts : sequence of TokenLayout
            Of N tokens each.
        position : bool

        Returns
        -------
        (B, N) float32 Tensor
            Up to rounding; on a CPU to the last bit. Nothing waits for the device.
        """
        check_fitted(self)
        device = visual.device
        kinds = list({layout.key: layout for layout in layouts}.values())
        parts = kinds if len(kinds) == 1 else layouts
        place = [self._places(layout, device) for layout in parts]
        with torch.no_grad():
            scores = self._student(device).relevance(visual, _together(place), texts)
        if not position:
            return scores
        return scores + _together([self._biased(layout, device) for layout in parts])

    @property
    def scale(self) -> float:
        """Log attention of the teacher per unit of `relevance`, as measured on the held-out prompts."""
        check_fitted(self)
        (arrays,) = self.arrays_.values()
        return float(arrays[_HEADS]["scale"][0])

    def word_weights(self, text: Tensor) -> Tensor:
        """Tell what the student makes of the tokens of one question, against each other.

        Parameters
        ----------
        text : (T, D) Tensor
            Hidden states of the tokens behind the image that enter layer K.

        Returns
        -------
        (T,) float32 Tensor
            w_t: positive, of sum 1.

        Raises
        ------
        InputError
            A student that does not look at the question.
        """
        check_fitted(self)
        if not self.reads:
            raise InputError("this student does not look at the question (reads=False): fit one that does")
        with torch.no_grad():
            return self._student(text.device).weights(text[None])[0]

    @property
    def teacher(self) -> Teacher:
        """The heads that taught, with their positional profile."""
        check_fitted(self)
        if self._teacher is None:
            (arrays,) = self.arrays_.values()
            heads = [Head(int(x), int(h), float(w)) for x, h, w in arrays[_HEADS]["heads"]]
            own: dict[int, Arrays] = {}
            for part, named in arrays.items():
                if part.startswith(_POSITION):
                    _, layer, name = part.split("|", 2)
                    own.setdefault(int(layer), {})[name] = named
            positional = make(self.provenance_["positional"])
            about = {**self.provenance_, "estimator": positional.name, "layers": sorted(own)}
            self._teacher = Teacher(heads, positional._restore(own, self.layouts_, self.counts_, about))
        return self._teacher

    def explained(self, maps: StoredMaps) -> pd.DataFrame:
        """Measure how much of the teacher's attention position explains, and with it content and question.

        Parameters
        ----------
        maps : StoredMaps
            Of other images, collected as those of the fit.

        Returns
        -------
        DataFrame
            Rows "position" and "position, content, question", column ``r2``: shares of the variance of log attention,
            centred per image.
        """
        check_fitted(self)
        lessons = Lessons(maps, np.zeros(0, np.float32), np.zeros(1, np.int64))
        found = explained_shares(self.teacher, self._student(torch.device("cpu")), lessons, range(maps.n))
        return explained_table(found)

    def score(self, maps: Any) -> float:
        """Measure the share of the variance of the teacher's log attention that it explains in maps of others."""
        return float(self.explained(maps)["r2"].iloc[1])

    # -- inside ----------------------------------------------------------------------------------------------
    def _restore(self, *args: Any, **kw: Any) -> Self:
        super()._restore(*args, **kw)
        self._students: dict[torch.device, Student] = {}
        self._placed: OrderedDict[tuple[str, torch.device], Tensor] = OrderedDict()
        self._teacher = None
        (arrays,) = self.arrays_.values()
        self.curve_ = to_table(arrays.get(_CURVE, {}))
        self.seconds_ = None
        return self

    def _student(self, device: torch.device) -> Student:
        if device not in self._students:
            (arrays,) = self.arrays_.values()
            weights = {name: torch.from_numpy(np.array(values)) for name, values in arrays[_STUDENT].items()}
            rank, columns = weights["key.weight"].shape
            student = Student(columns - PLACES, rank, reads=self.reads)
            student.load_state_dict(weights)
            self._students[device] = student.to(device).eval().requires_grad_(False)
        return self._students[device]

    def _places(self, layout: TokenLayout, device: torch.device) -> Tensor:
        key = (layout.key, device)
        if key not in self._placed:
            self._placed[key] = torch.from_numpy(places(layout)).to(device)
            if len(self._placed) > _CACHED:
                self._placed.popitem(last=False)
        return self._placed[key]

    def _biased(self, layout: TokenLayout, device: torch.device) -> Tensor:
        """(N,) what position alone adds to `relevance`."""
        biased = self.teacher.expected_log(layout) / self.scale
        return torch.from_numpy(biased.astype(np.float32)).to(device)

    def _expand(self, arrays: Arrays, layout: TokenLayout) -> tuple[np.ndarray, np.ndarray]:
        teacher = self.teacher
        both = []
        for what in ("expected", "std"):
            maps = {layer: getattr(teacher.positional, what)(layout, layer).numpy() for layer in teacher.layers}
            both.append(sum(head.weight * maps[head.layer][head.head] for head in teacher.heads)[None])
        return both[0], both[1]

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        for name in ("_students", "_placed"):
            if name in state:
                state[name] = type(state[name])()
        return state


def _together(parts: Sequence[Tensor]) -> Tensor:
    """Put tensors of one shape under each other, (B, ...); a single one stays where it is."""
    return parts[0][None] if len(parts) == 1 else torch.stack(list(parts))


def _arrays(student: Student, heads: list[Head], scale: float, positional: Profile) -> Arrays:
    arrays: Arrays = {
        _STUDENT: {name: value.numpy() for name, value in student.state_dict().items()},
        _HEADS: {
            "heads": np.array([list(head) for head in heads], dtype=np.float32),
            "scale": np.array([scale], dtype=np.float32),  # of log attention, per unit of the student's scores
        },
    }
    for layer, parts in positional.arrays_.items():
        for name, named in parts.items():
            arrays[f"{_POSITION}|{layer}|{name}"] = dict(named)
    return arrays
