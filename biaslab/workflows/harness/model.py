"""The model ``biaslab`` of ``lmms-eval``: any model that `biaslab.load` takes, pruned by any method, or not at all."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from typing import Any

from biaslab._util.launch import Launch
from biaslab.errors import BiaslabError, InputError
from biaslab.models import load
from biaslab.models.answers import answers_to
from biaslab.pruning.engine.prune import prune
from biaslab.workflows.harness.arguments import Arguments
from biaslab.workflows.harness.requests import Request, batches, read_request

__all__ = ["HarnessModel"]

logger = logging.getLogger(__name__)


class HarnessModel:
    """What ``lmms-eval`` asks of a chat model; ``BiaslabModel`` of this module is it with the harness's own base class.

    Nothing is caught: a document that cannot be answered ends the run, it does not become an empty answer.

    Attributes
    ----------
    config : Config
        The method with its keep and layer; none for the unpruned model.
    shown, kept, share : int, int, float
        Images so far, visual tokens kept of them after the last cut, and sum of their mean shares over the layers.
    tokens : int
        Visual tokens of these images before pruning.
    truncated : int
        Answers so far that were cut at the limit of new tokens.

    Examples
    --------
    >>> from biaslab.workflows.harness.model import HarnessModel
    >>> model = HarnessModel(pretrained="grounder", method="divprune@0.1@4", device="cpu")
    >>> model.config.label, model.batch_size
    ('divprune', 1)
    """

    is_simple = False

    def __init__(self, **model_args: Any) -> None:
        super().__init__()
        if not (launch := Launch.from_environment()).alone:
            raise InputError(f"the model biaslab is one process, and this is {launch}: start lmms-eval by itself")
        self.arguments = Arguments.read(**model_args)  # refuses, before weights are read
        self._vlm: Any = load(self.arguments.pretrained, **self.arguments.loading)
        if self.arguments.image_options:
            self._vlm.set_image_options(**self.arguments.image_options)
        self.config = self.arguments.config(self._vlm)
        with self._pruned():  # refuses, before a data set is
            pass
        self.shown = self.kept = self.tokens = self.truncated = 0
        self.share = 0.0

    @property
    def batch_size(self) -> int:
        """Documents of one forward."""
        return self.arguments.batch_size

    @property
    def device(self) -> Any:
        """Where the model is."""
        return self._vlm.device

    def generate_until(self, requests: Sequence[Any], *_: Any) -> list[str]:
        """Answer requests, in batches of those that are generated alike.

        Parameters
        ----------
        requests : list of lmms_eval.api.instance.Instance
            Of a chat model.

        Returns
        -------
        list of str
            In the order of the requests.

        Raises
        ------
        InputError
            A request that is no question about images: before any is answered.
        BiaslabError
            The method has not pruned what it was shown.
        """
        own: Any = self  # task_dict and cache_hook are of the harness's base class
        questions = [read_request(r, own.task_dict, self.arguments.max_new_tokens) for r in requests]
        answers = [""] * len(questions)
        with self._pruned() as run:
            for places in batches(questions, self.batch_size):
                batch = [questions[i] for i in places]
                for i, question, answer in zip(places, batch, self._answered(batch, run), strict=True):
                    answers[i] = question.cut(answer)
                    own.cache_hook.add_partial("generate_until", (question.context, question.given), answers[i])
        _say(self.summary())
        return answers

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """Refuse: chat models generate."""
        raise NotImplementedError("biaslab generates answers: choose a task of generate_until, not of loglikelihood")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refuse: a later turn has no prefill of its own."""
        raise NotImplementedError("biaslab answers single questions: choose a task of generate_until")

    def summary(self) -> str:
        """Say how much was kept of how many tokens, which belongs beside every score."""
        if not self.shown:
            return f"{self.config.label}: no image shown"
        cut = f", {self.truncated} answers cut at the limit of new tokens" if self.truncated else ""
        return (
            f"{self.config.label}: {self.shown} images of {self.tokens / self.shown:.0f} visual tokens on average, "
            f"{self.kept / self.shown:.0f} kept after the last cut, mean share over layers "
            f"{self.share / self.shown:.3f}{cut}"
        )

    def clean(self) -> None:
        """Let go of the model, as the harness asks at the end."""
        self._vlm = None
        base: Any = super()
        base.clean()

    def _pruned(self) -> Any:
        if self.config.method is None:
            return nullcontext()
        options: dict[str, Any] = {"positions": self.arguments.positions, "seed": self.arguments.seed}
        return prune(self._vlm, **self.config.engagement, **options)

    def _answered(self, batch: Sequence[Request], run: Any) -> list[str]:
        """Answer one batch, and count what was kept."""
        encoded = self._vlm.encode(
            [question.images for question in batch], [question.text for question in batch],
            sample_ids=[question.id for question in batch],
        )  # fmt: skip
        settings = dict(batch[0].settings)
        answers = answers_to(self._vlm, encoded, settings.pop("max_new_tokens"), settings)
        images = len(encoded.layouts)
        tokens = sum(layout.n for layout in encoded.layouts)
        if run is not None and len(run.selections) != images:
            raise BiaslabError(
                f"{self.config.label} pruned {len(run.selections)} of {images} images of {batch[0].id}: report this"
            )
        self.shown, self.tokens = self.shown + images, self.tokens + tokens
        self.kept += tokens if run is None else sum(len(selection.indices) for selection in run.selections)
        self.share += images * (1.0 if run is None else run.mean_share())
        self.truncated += sum(answers.truncated)
        return answers.texts


def _say(text: str) -> None:
    """Write a line into the log that the harness shows, which is loguru's."""
    try:
        from loguru import logger as shown
    except ImportError:
        logger.info("%s", text)
    else:
        shown.info(text)


@cache
def _with_base() -> type:
    from lmms_eval.api.model import lmms

    return type("BiaslabModel", (HarnessModel, lmms), {"__doc__": HarnessModel.__doc__, "__module__": __name__})


def __getattr__(name: str) -> type:
    if name == "BiaslabModel":  # made on first use: the harness need not be installed
        return _with_base()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
