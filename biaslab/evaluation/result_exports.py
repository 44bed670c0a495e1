"""What results are handed on as: a viewer, COCO json, citations, the log of a tracker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from biaslab._util.arguments import as_path
from biaslab._util.notebook import InNotebooks
from biaslab.evaluation.coco import coco_of, write_coco
from biaslab.evaluation.recorded_methods import citations_of
from biaslab.evaluation.tracking import log_rows

if TYPE_CHECKING:
    from biaslab.datasets import Dataset

__all__ = ["ResultExports"]

ALL = "all"


class ResultExports(InNotebooks):
    """The part of `biaslab.evaluation.Results` that hands a run on; it computes nothing itself."""

    run: dict[str, Any]

    @property
    def table(self) -> pd.DataFrame:
        """The columns of ``results.csv``."""
        raise NotImplementedError

    def _configurations(self) -> list[dict[str, Any]]:
        raise NotImplementedError

    def name_of(self, config: Mapping[Any, Any]) -> str:
        """Name a configuration of the run, or a row of its table."""
        raise NotImplementedError

    def view(
        self,
        *,
        layers: Sequence[int] | None = None,
        n: int = 20,
        labels: Mapping[str, str] | None = None,
        height: int = 760,
        dataset: Any = None,
        vlm: Any = None,
    ) -> Any:
        """Look at the samples of the run in a notebook, or in a file: :func:`biaslab.view` of these results.

        Parameters
        ----------
        layers : sequence of int, optional
            With ``vlm``: whose attention is shown.
        n : int
            Samples of each kind: where methods disagree most, that most of them miss, at random.
        labels : mapping of str, optional
            Method, its label with options, or options hash -> its name; default as papers name them.
        height : int
            Of the frame, in pixels.
        dataset : Dataset, optional
            Of the run, where it is not any more where ``run.json`` says, or was made in Python.
        vlm : VLM, optional
            The model of the run: shows attention, and what each stage of a schedule left.

        Returns
        -------
        View
            Shown by a notebook; ``save("view.html")`` writes it to a file.

        Raises
        ------
        InputError
            ``n`` below 1, or a label for a method that the run has not.

        Examples
        --------
        >>> import biaslab as bl
        >>> scenes = bl.load_dataset("scenes", n=1)
        >>> results = bl.evaluate(bl.load("grounder"), scenes, methods="random", keep=0.5, layer=4, progress=False)
        >>> results.view()
        <View: grounder: 1 line, 1 sample>
        """
        # it opens data sets and draws, as workflows alone do: called by its name, for no room imports one above it
        return import_module("biaslab.workflows.view").view(
            self, layers=layers, n=n, labels=labels, height=height, dataset=dataset, vlm=vlm
        )  # fmt: skip

    def to_coco(
        self,
        path: str | Path | None = None,
        *,
        method: str | None = None,
        keep: float | int | None = None,
        layer: int | None = None,
        dataset: Dataset | None = None,
    ) -> dict[str, Any]:
        """Give ground truth and predictions as COCO json; :mod:`biaslab.evaluation.coco` says what is in it.

        Parameters
        ----------
        path : str or Path, optional
            Folder to write to: ``ground-truth.json``, and a ``predictions-....json`` for each configuration.
        method, keep, layer : str, float or int, and int, optional
            Configurations of this method, keep ratio or count, prune layer only.
        dataset : Dataset, optional
            What was evaluated: gives the images ``width``, ``height`` (FiftyOne needs them) and ``caption``.

        Returns
        -------
        dict
            ``"ground_truth"`` and ``"predictions"``: name of the configuration, as "fastv keep 0.1 layer 2", -> list
            of results.

        Raises
        ------
        InputError
            No configuration of the run is meant.
        RunFolderError
            The folder cannot be written.

        Examples
        --------
        >>> import biaslab as bl
        >>> scenes = bl.load_dataset("scenes", n=1)
        >>> results = bl.evaluate(
        ...     bl.load("grounder"), scenes, methods="random", keep=0.5, layer=4, progress=False
        ... )
        >>> coco = results.to_coco(dataset=scenes)
        >>> coco["ground_truth"]["images"][0]["caption"], list(coco["predictions"])
        ('big elephant left of the sheep', ['random keep 0.5 layer 4'])
        """
        truth, found = coco_of(cast(Any, self), dataset, {"method": method, "keep": keep, "layer": layer})
        predictions = dict(found)
        if path is not None:
            write_coco(as_path("path", path), truth, predictions.items())
        return {"ground_truth": truth, "predictions": predictions}

    def citations(self) -> str:
        """Give the works to cite with this run, those of its methods as they were configured, as BibTeX.

        Each stands once; none where all is ours. Methods that are not known here any more are left out.
        """
        return citations_of(self._configurations())

    def log_to(self, run: Any) -> dict[str, float]:
        """Hand the summary to a run of wandb, trackio or another tracker.

        Parameters
        ----------
        run : object
            With a method ``log`` that takes a dict, as ``wandb.init()`` returns it.

        Returns
        -------
        dict of str to float
            What was logged, in one call: ``"acc50/fastv keep 0.1 layer 2"`` and so on, for the numbers of the table's
            rows of all expressions; what is missing is left out.

        Raises
        ------
        InputError
            An object without ``log``.
        """
        rows = self.table[self.table["expression_type"] == ALL].to_dict("records")
        return log_rows(run, [(self.name_of(row), row) for row in rows])
