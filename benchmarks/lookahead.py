"""Look-ahead against every method at equal cost, on test expressions of the scenes that nothing was chosen on.

Three costs are shares of the visual tokens that a decoder layer sees on average (5, 10, 15.6 %), three are FLOPs of the
prefill (what "5, 10, 20 % before K = 2" cost). Methods that read no attention run before the decoder, the others at
every layer that can be had for the cost; of a rival's layers the best is taken on these very expressions, which is in
its favour. Differences are paired, their intervals by bootstrap over pictures, their p-values family-wise over all
rivals and costs (max-T).

    python -m benchmarks.lookahead --profile la.safetensors --positional p600.safetensors
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

import biaslab as bl
from benchmarks.common import arguments
from biaslab.datasets.base import content_hash
from biaslab.datasets.sample import Sample
from biaslab.errors import InputError
from biaslab.evaluation.matching import PromptSizes, matched_keeps
from biaslab.stats.resampling import ImageBootstrap, max_t

LAYERS = (2, 1, 3)  # of methods that read attention, where the cost can be had
SHARES = (0.05, 0.1, 0.156)
BEFORE_2 = (0.05, 0.1, 0.2)
BLIND = ("uniform", "divprune")
READING = ("fastv", "relative", "d2pruner", "d2pruner:pivots_suppress=true")
OURS = "lookahead"


@dataclass
class Fresh:
    """Test expressions of the scenes from one index on."""

    first: int
    n: int
    split: str = "test"
    name: str = "scenes"
    samples: list[Sample] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.samples = list(bl.load_dataset("scenes", split=self.split, n=self.first + self.n))[self.first :]

    @property
    def hash(self) -> str:
        """Hash of the content."""
        return content_hash(self.samples)

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)


def costs(vlm: bl.VLM, data: Fresh, layers: Sequence[int] = LAYERS) -> dict[str, dict[int, float | int]]:
    """List the costs, each with the keep that every layer has for it, layer 0 first."""
    sizes = PromptSizes(vlm, data.samples)
    found: dict[str, dict[int, float | int]] = {}
    for name, match, keep, at in [
        *((f"mean share {share:.1%}", "mean-share", share, 0) for share in SHARES),
        *((f"FLOPs of {keep:.0%} before K = 2", "flops", keep, 2) for keep in BEFORE_2),
    ]:
        aim = sizes.cost(match)(keep, at)
        found[name] = {}
        for layer in (0, *layers):
            try:
                ((of_layer,),) = matched_keeps(sizes, [keep], [layer], f"{match}={aim!r}").values()
            except InputError:
                continue  # the layers before it cost more than that
            found[name][layer] = of_layer
    return found


def measured(vlm: bl.VLM, data: Fresh, costs_: dict, profiles: list, out: Path, processes: int) -> pd.DataFrame:
    """Run what is compared, a folder for each layer, and return hits: expressions x (method, layer, keep)."""
    columns = []
    for layer in dict.fromkeys(layer for keeps in costs_.values() for layer in keeps):
        keeps = list(dict.fromkeys(keeps[layer] for keeps in costs_.values() if layer in keeps))
        methods = ["none", *BLIND, OURS] if layer == 0 else ["divprune", *READING]
        results = bl.evaluate(
            vlm, data, methods=methods, keep=keeps, layer=layer, profile=profiles, out=out / f"layer-{layer}",
            batch_size=25, processes=processes,
        )  # fmt: skip
        lines = results.samples
        lines["hit"] = lines["hit"].fillna(False).astype(float)  # a failed line is a miss
        names = lines["options_hash"].astype(str).map(results.labels).fillna("none")
        for (method, keep), own in lines.groupby([names, lines["keep"].fillna(1)], sort=False):
            columns.append(own.set_index("id")["hit"].rename((str(method), layer, float(keep))))
            described = own.set_index("id")[["image_id", "expression_type", "object_size"]]
    return pd.concat([described, *columns], axis=1)


def compared(lines: pd.DataFrame, costs_: dict) -> pd.DataFrame:
    """Compare by cost: of each method the best layer, accuracy, retention, our difference from it and its p-value."""
    images = lines["image_id"].to_numpy(str)
    bootstrap = ImageBootstrap(images, n_resamples=10_000)
    full = lines[("none", 0, 1.0)].to_numpy()
    rows, differences = [], []
    for cost, keeps in costs_.items():
        ours = lines[OURS, 0, float(keeps[0])].to_numpy()
        for method in (OURS, *BLIND, *READING):
            of_method = [(method, layer, float(keep)) for layer, keep in keeps.items()]
            of_method = [key for key in of_method if key in lines]
            if not of_method:
                continue
            best = max(of_method, key=lambda key: lines[key].mean())
            hits = lines[best].to_numpy()
            rows.append({
                "cost": cost, "method": method, "layer": best[1], "keep": best[2],
                "accuracy": bootstrap.mean(hits), "kept": bootstrap.ratio(hits, full),
                "ours_minus_it": None if method == OURS else bootstrap.difference(ours, hits),
                "at_other_layers": {key[1]: round(100 * lines[key].mean(), 1) for key in of_method if key != best},
            })  # fmt: skip
            if method != OURS:
                differences.append(ours - hits)
    p = iter(max_t(np.stack(differences, 1), images).p_adjusted)
    return pd.DataFrame([{**row, "p": None if row["ours_minus_it"] is None else next(p)} for row in rows])


def by_kind(lines: pd.DataFrame, costs_: dict) -> Iterator[str]:
    """Yield a table of accuracy by kind of expression and size of object: ours, and DivPrune before the decoder."""
    yield f"| | n | none | {' | '.join(costs_)} |"
    yield "|---|---|---|" + "---|" * len(costs_)
    for column in ("expression_type", "object_size"):
        for value, own in lines.groupby(column, observed=True):
            cells = [f"{len(own)}", f"{own['none', 0, 1.0].mean():.1%}"]
            for keeps in costs_.values():
                ours, blind = (own[method, 0, float(keeps[0])].mean() for method in (OURS, "divprune"))
                cells.append(f"{100 * ours:.1f} ({100 * blind:.1f})")
            yield f"| {value} | {' | '.join(cells)} |"


def main() -> None:
    """Run, and write the tables."""
    parser = arguments("benchmarks.lookahead", __doc__ or "", repeats=1)
    parser.add_argument("--profile", type=Path, required=True, help="conditional profile of the grounder")
    parser.add_argument("--positional", type=Path, required=True, help="positional profile of the grounder")
    parser.add_argument("--first", type=int, default=3100, help="index of the first test expression")
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--split", default="test")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs/look-ahead"))
    parser.add_argument("--before-decoder", action="store_true", help="leave out methods that read attention")
    parser.add_argument("--name", default="lookahead", help="of the table")
    options = parser.parse_args()
    vlm = bl.load("grounder")
    data = Fresh(options.first, options.n, options.split)
    profiles = [bl.load_profile(options.positional), bl.load_profile(options.profile)]
    found = costs(vlm, data, () if options.before_decoder else LAYERS)
    lines = measured(vlm, data, found, profiles, options.runs, options.processes)
    table = compared(lines, found)
    full = ImageBootstrap(lines["image_id"].to_numpy(str), n_resamples=10_000).mean(lines["none", 0, 1.0].to_numpy())
    text = "\n".join([
        "# Look-ahead at equal cost", "",
        f"`python -m benchmarks.lookahead --profile {options.profile.name} --positional {options.positional.name}`: "
        f"scenes, {options.split} expressions {options.first + 1} to {options.first + options.n}, unpruned "
        f"{_percent(full)}. Percent, 95 % intervals over pictures. Of every method the best layer for the cost on "
        "these expressions; p is family-wise over all lines.", "",
        *_markdown(table),
        "By kind of expression and size of object, look-ahead (DivPrune) before the decoder:", "",
        *by_kind(lines, found), "",
    ])  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{options.name}.md").write_text(text, encoding="utf-8")
    print(text)


def _percent(interval: tuple[float, float, float], sign: str = "") -> str:
    value, low, high = (100 * x for x in interval)
    return f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def _markdown(table: pd.DataFrame) -> Iterator[str]:
    for cost, own in table.groupby("cost", sort=False):
        yield from (f"## {cost}", "")
        yield "| method | layer | tokens kept | Acc@0.5 | of the unpruned | look-ahead minus it | p | at other layers |"
        yield "|---|---|---|---|---|---|---|---|"
        for row in own.itertuples():
            ours = row.ours_minus_it is None
            other = ", ".join(f"{layer}: {value}" for layer, value in row.at_other_layers.items())
            yield (
                f"| `{row.method}` | {row.layer} | {row.keep:.1%} | {_percent(row.accuracy)} | {_percent(row.kept)} | "
                f"{'' if ours else _percent(row.ours_minus_it, '+')} | {'' if ours else f'{row.p:.4f}'} | {other} |"
            )
        yield ""


if __name__ == "__main__":
    main()
