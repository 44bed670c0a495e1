"""The table of a benchmark: medians, paired speed-ups, their limits, a verdict in words; LaTeX."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from biaslab._util.latex import escape
from biaslab._util.number_text import count_text
from biaslab.figures.display import model_name
from biaslab.figures.latex_forms import keep_text
from biaslab.figures.latex_table import Cell, latex_table
from biaslab.pruning.display_names import display_names
from biaslab.stats.claims import ALPHA
from biaslab.workflows.bench_limits import answer_limits, answer_shares, limit_word

if TYPE_CHECKING:
    from biaslab.cost import Flops
    from biaslab.evaluation.configurations import Config

__all__ = ["bench_latex", "bench_table", "shown"]

_PHASES = ("prefill", "decode", "total")
_CLEAR = 0.75  # share of the paired runs in which a method must be the faster one to count as faster
_LIMITS = ("prefill", "total", "with_selection")
_FEWEST_RUNS = 5  # below, a sign test cannot reach .05 even where one is always the faster: (1/2)^5 = .031
_SHOWN = (
    "method", "keep", "layer", "prefill_ms", "prefill_min", "prefill_max", "decode_ms", "attention_ms", "select_ms",
    "record_ms",
    "speedup_prefill", "flops_prefill", "limit_prefill", "speedup_decode", "limit_decode", "speedup_total",
    "limit_total", "extra_mb", "verdict",
)  # fmt: skip


def bench_table(
    runs: pd.DataFrame,
    configs: Sequence[Config],
    *,
    costs: Sequence[Sequence[Flops | None]],
    peaks: Sequence[dict[str, float | None]],
) -> pd.DataFrame:
    """Summarise runs, one row per configuration.

    Parameters
    ----------
    runs : DataFrame
        One row per batch of images, round and configuration: ``batch, round, config`` and ``vision_ms, prefill_ms,
        decode_ms, attention_ms, select_ms``; of the unpruned answer at this configuration's K ``below_ms`` and
        ``floor_decode_ms``, as :func:`biaslab.workflows.bench_limits.answer_shares` reads them.
    configs : sequence of Config
        The configurations; the first is the unpruned model.
    costs : sequence of sequences of Flops or None
        By batch of images, then by configuration; None for a model whose cost is not known.
    peaks : sequence of dict
        ``extra_mb`` and ``peak_mb`` by configuration; empty where memory was not measured.

    Returns
    -------
    DataFrame
        method (with its options), keep, layer, profile_hash, runs; per batch of images, in ms: medians
        ``vision_ms, prefill_ms, decode_ms, total_ms`` with ``*_min`` and ``*_max`` of prefill and decode, and what
        the prefill spent on ``attention_ms`` and ``select_ms``; ``record_ms``, what recording the vision tower for the
        method adds to ``vision_ms`` (the median within a round, 0 where it is lost in the noise); ``speedup_*`` over
        the unpruned model, the median of the ratios within a round (prefill also ``_min``, ``_max``); ``flops_*``, the
        speed-up if time followed FLOPs; ``share``, measured over promised prefill speed-up; ``tflops_*`` per batch;
        ``extra_mb``, ``peak_mb``; ``verdict``. Of an unpruned answer at K: ``share_vision, share_below, share_above,
        share_decode``, which sum to 1, ``share_decode_visual`` and, beside them, the method's own ``share_selection``;
        ``limit_prefill, limit_decode, limit_total, limit_with_selection``, the speed-ups that pruning at K cannot
        exceed (:mod:`biaslab.workflows.bench_limits`).

    Examples
    --------
    >>> import pandas as pd
    >>> from biaslab.evaluation.configurations import Config, configurations
    >>> from biaslab.workflows.bench_table import bench_table
    >>> configs = [Config(None, None), *configurations(["random"], 0.5, 2)]
    >>> times = {"vision_ms": 10.0, "decode_ms": 20.0, "attention_ms": 0.0, "select_ms": 1.0, "below_ms": 10.0,
    ...          "floor_decode_ms": 20.0}
    >>> runs = pd.DataFrame([{"batch": 0, "round": turn, "config": i, "prefill_ms": 40.0 / (1 + i), **times}
    ...                      for turn in range(5) for i in range(2)])
    >>> table = bench_table(runs, configs, costs=[[None, None]], peaks=[{}, {}])
    >>> table[["method", "prefill_ms", "speedup_prefill", "speedup_total"]].to_dict("records")[1]
    {'method': 'random', 'prefill_ms': 20.0, 'speedup_prefill': 2.0, 'speedup_total': 1.4}
    >>> table["verdict"][1]
    'prefill 2.00x faster (limit 4.00x), whole answer 1.40x faster (limit 1.75x, with its selection 1.71x)'
    """
    runs = runs.assign(total_ms=runs["vision_ms"] + runs["prefill_ms"] + runs["decode_ms"])
    by_config = {i: part.set_index(["batch", "round"]) for i, part in runs.groupby("config")}
    rows = []
    for i, config in enumerate(configs):
        part, spent = by_config[i], [batch[i] for batch in costs]
        row: dict[str, Any] = {
            "method": config.label,
            **{k: v for k, v in config.describe().items() if k in ("keep", "layer", "profile_hash")},
            "runs": len(part),
            "vision_ms": part["vision_ms"].median(),
        }
        for phase in _PHASES:
            row[f"{phase}_ms"] = part[f"{phase}_ms"].median()
            if phase != "total":
                row |= {f"{phase}_min": part[f"{phase}_ms"].min(), f"{phase}_max": part[f"{phase}_ms"].max()}
        row |= {name: part[name].median() for name in ("attention_ms", "select_ms")}
        row["record_ms"] = max(0.0, float((part["vision_ms"] - by_config[0]["vision_ms"]).median()))
        ratios = {phase: by_config[0][f"{phase}_ms"] / part[f"{phase}_ms"] for phase in _PHASES}
        row |= {f"speedup_{phase}": ratio.median() for phase, ratio in ratios.items()}
        row |= {"speedup_prefill_min": ratios["prefill"].min(), "speedup_prefill_max": ratios["prefill"].max()}
        row |= _shares(by_config[0], part if config.layer is not None else part.iloc[:0], row)
        row |= _promised([batch[0] for batch in costs], spent)
        row["share"] = row["speedup_prefill"] / row["flops_prefill"]
        row |= peaks[i] or {"extra_mb": None, "peak_mb": None}
        row["verdict"] = "" if i == 0 else verdict(ratios["prefill"], row["flops_prefill"], ratios["total"], limits=row)
        rows.append(row)
    return pd.DataFrame(rows).astype({"layer": "Int64", "extra_mb": float, "peak_mb": float})


def _shares(unpruned: pd.DataFrame, part: pd.DataFrame, row: Mapping[str, Any]) -> dict[str, float]:
    """Shares of an unpruned answer at the K of a configuration, and limits of its speed-ups."""
    at_layer = part.reindex(index=unpruned.index, columns=["below_ms", "floor_decode_ms"])
    shares = answer_shares(unpruned.assign(**at_layer), selection_ms(row))
    return shares | answer_limits(shares)


def selection_ms(row: Mapping[Any, Any]) -> float:
    """Sum what a method takes for its choice: attention rows, scores and selection, and the tower's recording."""
    return row["attention_ms"] + row["select_ms"] + row["record_ms"]


def _promised(full: Sequence[Flops | None], spent: Sequence[Flops | None]) -> dict[str, float]:
    """Speed-ups by FLOPs, and TFLOPs per batch; NaN for a model whose cost is not known."""
    names = ("vision", "projector", "prefill", "decode", "total")
    if any(f is None for f in (*full, *spent)):
        return {**{f"flops_{p}": np.nan for p in _PHASES}, **{f"tflops_{n}": np.nan for n in names}}
    sums = {n: sum(getattr(f, n) for f in spent) for n in names}
    ratios = {f"flops_{p}": sum(getattr(f, p) for f in full) / sums[p] for p in _PHASES}
    return {**ratios, **{f"tflops_{n}": v / len(spent) / 1e12 for n, v in sums.items()}}


def verdict(prefill: pd.Series, promised: float, total: pd.Series, *, limits: Mapping[str, float] | None = None) -> str:
    """Put the measured speed-ups of prefill and of the whole answer in words.

    Parameters
    ----------
    prefill, total : Series
        Speed-ups over the unpruned model, one per batch of images and round.
    promised : float
        Speed-up of the prefill if time followed FLOPs; NaN where it is not known.
    limits : mapping, optional
        Of :func:`biaslab.workflows.bench_limits.answer_limits`; each stands beside its speed-up.

    Returns
    -------
    str
        A method counts as faster (slower) where it is so in three quarters of the runs, and a sign test says so (one
        side, .05): fewer than five runs are too few for that.

    Examples
    --------
    >>> import pandas as pd
    >>> from biaslab.workflows.bench_table import verdict
    >>> verdict(pd.Series([1.9, 2.0, 2.1, 2.0, 1.8]), 2.5, pd.Series([0.9, 1.1, 1.2, 0.8, 1.1]))
    'prefill 2.00x faster (FLOPs: 2.50x), whole answer no clear gain, faster in 3 of 5 runs'
    >>> verdict(pd.Series([2.0]), 2.5, pd.Series([1.2]))
    'prefill 2.00x in 1 run, too few to tell (FLOPs: 2.50x), whole answer 1.20x in 1 run, too few to tell'
    """
    flops = "" if np.isnan(promised) else f"FLOPs: {promised:.2f}x"
    first, last, own = (limit_word((limits or {}).get(f"limit_{name}", np.nan)) for name in _LIMITS)
    own = "" if own in ("", last) else f"with its selection {own.removeprefix('limit ')}"
    return f"prefill {_word(prefill)}{_bracket(flops, first)}, whole answer {_word(total)}{_bracket(last, own)}"


def _bracket(*words: str) -> str:
    text = ", ".join(word for word in words if word)
    return f" ({text})" if text else ""


def _word(ratios: pd.Series) -> str:
    ratios = ratios[np.isfinite(ratios) & (ratios > 0)]
    value, faster, slower, n = ratios.median(), int((ratios > 1).sum()), int((ratios < 1).sum()), len(ratios)
    if not n:
        return "not known"
    if n < _FEWEST_RUNS:
        return f"{value:.2f}x in {count_text(n, 'run')}, too few to tell"
    if faster >= _CLEAR * n and _sign_test(faster, n):
        return f"{value:.2f}x faster"
    if slower >= _CLEAR * n and _sign_test(slower, n):
        return f"no gain, {1 / value:.2f}x the time"
    return f"no clear gain, faster in {faster} of {n} runs"


def _sign_test(k: int, n: int) -> bool:
    """Whether k of n is more than an even chance would give at 5 %."""
    return bool(stats.binomtest(k, n, 0.5, alternative="greater").pvalue <= ALPHA)


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Select the columns one looks at first; memory where it was measured, recording where a tower was read."""
    unseen = {"extra_mb": table["extra_mb"].isna().all(), "record_ms": not table["record_ms"].any()}
    return table[[c for c in _SHOWN if not unseen.get(c, False)]]


def bench_latex(table: pd.DataFrame, settings: dict[str, Any]) -> str:
    r"""Write what a paper shows of the table in LaTeX, no wider than its place; needs ``\usepackage{booktabs}``.

    Methods have their names for print. What is the same in all rows (the layer, the parts of the unpruned answer)
    stands in the caption; what was not measured or is not known (memory, FLOPs) has no column.

    Parameters
    ----------
    table : DataFrame
        Of :func:`bench_table`.
    settings : dict
        Of :class:`biaslab.workflows.bench.BenchResult`; they go into the caption.

    Returns
    -------
    str
        A ``table`` or ``table*`` environment.
    """
    pruned = table[table["method"] != "none"]
    layers = list(pruned["layer"].dropna().unique())
    names = display_names(table["method"])
    columns: dict[str, Callable[[Mapping[Any, Any]], Cell]] = {
        "$K$": lambda row: "" if pd.isna(row["layer"]) else str(int(row["layer"])),
        "method": lambda row: escape(names[row["method"]]),
        "kept": lambda row: "all" if row["method"] == "none" else keep_text(row["keep"]),
        "prefill\n(ms)": lambda row: _span(row, "prefill"),
        "decode\n(ms)": lambda row: _span(row, "decode"),
        "selection\n(ms)": lambda row: f"{selection_ms(row):.1f}",
        "prefill\nspeed-up": lambda row: f"{row['speedup_prefill']:.2f}",
        "by\nFLOPs": lambda row: "" if pd.isna(row["flops_prefill"]) else f"{row['flops_prefill']:.2f}",
        "whole\nspeed-up": lambda row: f"{row['speedup_total']:.2f}",
        "its\nlimit": lambda row: "" if pd.isna(row["limit_total"]) else f"{row['limit_total']:.2f}",
        "memory\n(MiB)": lambda row: "" if pd.isna(row["extra_mb"]) else f"{row['extra_mb']:.0f}",
    }
    if len(layers) < 2:
        del columns["$K$"]
    cells = {heading: [write(row) for row in table.to_dict("records")] for heading, write in columns.items()}
    cells = {heading: column for heading, column in cells.items() if any(column)}  # what was not measured is left out
    rows = [list(row) for row in zip(*cells.values(), strict=True)]
    whole = table.iloc[0]
    parts = [f"{100 * whole[name]:.0f}\\,\\%" for name in ("share_vision", "share_prefill", "share_decode")]
    caption = (
        f"Time of one batch of {count_text(settings['batch_size'], 'prompt')} and {settings['new_tokens']} new tokens, "
        f"median and [min, max] of {count_text(int(table['runs'].max()), 'run')}; "
        f"{escape(model_name(settings))}, {settings['dtype']}, "
        f"{escape(settings['device'])}"
        + (f"; tokens are dropped before decoder layer $K = {int(layers[0])}$. " if len(layers) == 1 else ". ")
        + f"Of the unpruned answer the vision tower takes {parts[0]}, the prefill {parts[1]}, decoding {parts[2]}. "
        "Prefill includes attention rows and selection; selection is both and recording the vision tower. The whole "
        "speed-up includes the vision tower; its limit is that of an answer in which layers $\\geq K$ and, in "
        "decoding, attention to visual tokens take no time."
        + (" Memory: peak over the idle model." if "memory\n(MiB)" in cells else "")
    )
    return latex_table([*cells], rows, settings, caption=caption, label="tab:bench", left=1 + (len(layers) > 1))


def _span(row: Mapping[Any, Any], phase: str) -> Cell:
    low, high = row[f"{phase}_min"], row[f"{phase}_max"]
    return f"{row[f'{phase}_ms']:.0f}", f"[{low:.0f}, {high:.0f}]"
