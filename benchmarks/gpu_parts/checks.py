"""The contracts of capture, engine and selection on the device, in float32 and bf16, on tiny models of real classes.

Each check has a control: the same comparison with something that is wrong on purpose, which must lie outside the
tolerance, or the check would say nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import inputs
from biaslab.attention.capture import capture
from biaslab.models.encoded import Encoded
from biaslab.models.vlm import VLM
from biaslab.pruning import METHODS, FastV, TokenBatch, TokenContext, budget, make, prune

from .models import LAYER, pictures, sharp
from .plan import Columns, Findings, Plan
from .recompute import dropped, generate, generate_by_steps, masked_logits
from .timing import free, one_line

__all__ = ["CHECKS", "run"]

FAMILIES = ("internvl", "qwen2_5_vl")
DTYPES = (torch.float32, torch.bfloat16)
KEEP = 0.3
_GIVEN = {"attention", "features", "text", "profile"}  # what a selection is given here; others read more of the model
_ASK_MORE = ("stagewise", "priortr")  # the quality of heads; rows of a second kind
CAPTION = "Contracts on the device"
COLUMNS: Columns = {
    "check": ("check", ""), "family": ("family", ""), "dtype": ("dtype", ""), "verdict": ("verdict", ""),
    "difference": ("difference", ".2g"), "tolerance": ("allowed", ".2g"), "control": ("when wrong", ".2g"),
    "why": ("remark", ""),
}  # fmt: skip


@dataclass(frozen=True)
class Found:
    """The largest difference of a check, what is allowed, and what a wrong result has."""

    difference: float
    tolerance: float
    control: float

    @property
    def verdict(self) -> str:
        """Tell what became of it, in one word."""
        if not self.difference <= self.tolerance:  # NaN is no agreement
            return "FAILED"
        return "ok" if self.control > self.tolerance else "BLIND"


def run(plan: Plan, findings: Findings) -> None:
    """Go through every check, family and dtype; one that raises does not stop the others."""
    findings.note(
        "difference: the largest one, of logits as a share of the largest logit; of selections the tokens that one "
        "side alone keeps. When wrong: the same for a result that is wrong on purpose"
    )
    for dtype in DTYPES:
        for family in FAMILIES:
            _family(plan, findings, family, dtype)
            free(plan.device)
        for name, check in SELECTION.items():
            _one(findings, {"check": name, "dtype": _name(dtype)}, check, plan.device, dtype)


def _family(plan: Plan, findings: Findings, family: str, dtype: torch.dtype) -> None:
    told = {"family": family, "dtype": _name(dtype)}
    sizes = ((112, 56), (60, 60), (90, 150))
    texts = ("Where is the red circle?", "Please describe the provided image, all of it.", "the small green square")
    images = [pictures(1, size, seed)[0] for seed, size in enumerate(sizes)]
    ids = [str(i) for i in range(len(images))]
    try:
        vlm = sharp(family, plan.device, dtype)
        encoded = vlm.vision(vlm.encode(images, texts, sample_ids=ids))
        alone = [
            vlm.vision(vlm.encode([image], [text], sample_ids=[name]))
            for image, text, name in zip(images, texts, ids, strict=True)
        ]
    except Exception as error:
        _failed(findings, {"check": "model and prompts", **told}, error)
        return
    for name, check in CHECKS.items():
        _one(findings, {"check": name, **told}, check, vlm, encoded, dtype)
    if dtype == torch.float32:  # rounding differs with the shape of a batch, and that of bf16 decides between tokens
        _one(findings, {"check": "kept in a batch = kept alone", **told}, batch_mates, vlm, encoded, alone)


def _one(findings: Findings, told: dict[str, str], check: Callable[..., Found], *given: Any) -> None:
    """Make a row of one check."""
    try:
        found = check(*given)
    except Exception as error:
        _failed(findings, told, error)
        return
    findings.add(CAPTION, COLUMNS, {**told, "verdict": found.verdict, **vars(found)})
    if found.verdict != "ok":
        findings.fail(
            f"{', '.join(told.values())}: {found.verdict}, difference {found.difference:.3g}, "
            f"allowed {found.tolerance:.3g}, when wrong {found.control:.3g}"
        )


def _failed(findings: Findings, told: dict[str, str], error: Exception) -> None:
    findings.add(CAPTION, COLUMNS, {**told, "verdict": "FAILED", "why": one_line(error)})
    findings.fail(f"{', '.join(told.values())}: {one_line(error)}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# -- capture and engine --------------------------------------------------------------------------------------------
def silent(vlm: VLM, encoded: Encoded, dtype: torch.dtype) -> Found:
    """Compare logits with and without capture."""
    real = encoded.inputs["attention_mask"].bool()  # what stands at padding is nobody's
    plain = vlm.forward(encoded).logits
    with capture(vlm):
        seen = vlm.forward(encoded).logits
    return Found(_apart(seen[real], plain[real]), 0.0, _apart(seen[real], plain[real].roll(1, 0)))


def rows(vlm: VLM, encoded: Encoded, dtype: torch.dtype) -> Found:
    """Compare the last row of every prompt and layer with the stock model's eager attention."""
    with capture(vlm, queries="text") as found:
        vlm.forward(encoded)
    vlm.model.set_attn_implementation("eager")
    try:
        maps = vlm.forward(encoded, output_attentions=True).attentions
    finally:
        vlm.model.set_attn_implementation("sdpa")
    pairs = list(_row_pairs(found, maps))
    difference, control = torch.stack([torch.stack(pair) for pair in pairs]).T
    return Found(float(difference.max()), 1e-4 if dtype == torch.float32 else 0.1, float(control.max()))


def _row_pairs(found: Any, maps: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Of every layer and prompt: how far its last row lies from eager's, and from the one before it there."""
    for layer, whole in enumerate(maps):
        mine, last = found[layer], whole.shape[2] - 1
        for row in range(len(whole)):
            mask, at = mine.mask[row], mine.query_mask[row].nonzero()[-1, 0]
            columns = found.prompt.visual[row][mask]
            got = mine.values[row, :, at][:, mask]
            right, wrong = (whole[row, :, query][:, columns].float() for query in (last, last - 1))
            yield (got - right).abs().max(), (got - wrong).abs().max()


def keep_all(vlm: VLM, encoded: Encoded, dtype: torch.dtype) -> Found:
    """Compare logits and tokens of pruning that keeps all with those of no pruning."""
    tokens, plain = generate(vlm, encoded)
    with prune(vlm, FastV(keep=1.0), LAYER):
        same, logits = generate(vlm, encoded)
    with prune(vlm, FastV(keep=KEEP), LAYER):
        _, fewer = generate(vlm, encoded)
    difference = _apart(logits, plain) if torch.equal(tokens, same) else float("inf")
    return Found(difference, 0.0, _apart(fewer, plain))


def recomputed(vlm: VLM, encoded: Encoded, dtype: torch.dtype) -> Found:
    """Compare logits of pruned cached generation with one forward in which dropped keys are hidden."""
    with prune(vlm, FastV(keep=KEEP), LAYER) as state:
        answer, logits = generate(vlm, encoded)
    gone = dropped(encoded, state.selections)
    want = masked_logits(vlm, encoded, answer, gone, LAYER)
    other = masked_logits(vlm, encoded, answer, torch.zeros_like(gone), LAYER)
    return Found(_apart(logits, want), 1e-4 if dtype == torch.float32 else 0.05, _apart(logits, other))


def by_steps(vlm: VLM, encoded: Encoded, dtype: torch.dtype) -> Found:
    """Compare logits of a decoding by static steps, on CUDA by graphs, with the same recompute."""
    way = "graph" if vlm.device.type == "cuda" else "static"
    # three steps warm up, the fourth is captured, the others are replayed
    answer, logits, kept = generate_by_steps(vlm, encoded, FastV(keep=KEEP), LAYER, way, steps=9)
    gone, told = dropped(encoded, kept), logits.isfinite()
    want = masked_logits(vlm, encoded, answer, gone, LAYER)
    other = masked_logits(vlm, encoded, answer, torch.zeros_like(gone), LAYER)
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    return Found(_apart(logits[told], want[told]), tolerance, _apart(logits[told], other[told]))


def batch_mates(vlm: VLM, encoded: Encoded, alone: list[Encoded]) -> Found:
    """Compare what every prompt keeps in a batch with what it keeps alone, and with what another seed keeps."""
    different = other = 0
    for name in ("fastv", "divprune", "random"):
        kept = [_kept(vlm, one, name) for one in (encoded, *alone)]
        different += sum(_only(a, b[0]) for a, b in zip(kept[0], kept[1:], strict=True))
        other += _only(kept[0][0], (kept[0][0] + 1) % encoded.layouts[0].n)
    return Found(different, 0, other)


def _kept(vlm: VLM, encoded: Encoded, name: str) -> list[Tensor]:
    with prune(vlm, make(name, keep=KEEP), LAYER) as state:
        vlm.forward(encoded)
    return [selection.indices for selection in state.selections]


CHECKS = {
    "capture changes no logit": silent,
    "captured rows = eager attention": rows,
    "keep all = unpruned": keep_all,
    "pruned and cached = masked recompute": recomputed,
    "static steps (CUDA: graphs) = masked recompute": by_steps,
}


# -- selection -----------------------------------------------------------------------------------------------------
def whole_batch(device: torch.device, dtype: torch.dtype) -> Found:
    """Compare what every method chooses for a batch with what it chooses for each image."""
    return _batch_of(device, dtype, (256, 256, 256))


def whole_batch_uneven(device: torch.device, dtype: torch.dtype) -> Found:
    """Compare the same where the images differ in tokens."""
    return _batch_of(device, dtype, (256, 192, 576))


def _batch_of(device: torch.device, dtype: torch.dtype, counts: tuple[int, ...]) -> Found:
    layouts = [inputs.layout_of(n) for n in counts]
    features = [inputs.features(x, 64, seed, length=0.04).to(device, dtype) for seed, x in enumerate(layouts)]
    attention = [inputs.attention(x, heads=4, seed=seed).to(device) for seed, x in enumerate(layouts)]
    different = control = 0
    rules = [("lookahead", {"rule": rule}) for rule in ("top", "graph", "mmr")]  # beside its default
    given = [name for name, cls in METHODS.items() if cls.needs <= _GIVEN and cls.profile_kind != "heads"]
    for name, options in [*((name, {}) for name in given if name not in _ASK_MORE), *rules]:
        own = {"profile": Slope()} if "profile" in METHODS[name].needs else {}
        method = make(name, keep=KEEP, **own, **options)
        images = [
            TokenContext(
                x,
                budget(KEEP, x.n),
                seed,
                LAYER,
                attention[seed],
                features[seed],
                {0: attention[seed]},
                features[seed][: 9 + seed],
            )  # fmt: skip
            for seed, x in enumerate(layouts)
        ]
        starts = [sum(counts[:i]) for i in range(len(counts))]
        together = method.select_batch(TokenBatch(images, torch.cat(features), starts))
        each = [method.select(ctx) for ctx in images]
        different += sum(_only(a.indices, b.indices) for a, b in zip(together, each, strict=True))
        control += _only(together[0].indices, (each[0].indices + 1) % layouts[0].n)
    return Found(different, 0, control)


SELECTION = {"batch selection = one by one": whole_batch, "the same, images of different sizes": whole_batch_uneven}


class Slope(inputs.RandomStudent):
    """A profile for any layout that grows from token to token; as a conditional one, a student of random weights."""

    hash = "slope"

    def __init__(self) -> None:
        super().__init__(rank=16)

    def expected(self, layout: Any, layer: int, *, device: Any = None) -> Tensor:
        """Return (1, N) expected attention."""
        return torch.linspace(1.0, 2.0, layout.n, device=device)[None]

    def std(self, layout: Any, layer: int, *, device: Any = None) -> Tensor:
        """Return (1, N) standard deviations."""
        return torch.full((1, layout.n), 0.1, device=device)


def _only(a: Tensor, b: Tensor) -> int:
    """Count the tokens that one side alone keeps."""
    return len(set(a.tolist()) ^ set(b.tolist()))


def _apart(a: Tensor, b: Tensor) -> float:
    """Largest difference as a share of the largest value."""
    return float((a.float() - b.float()).abs().max() / b.float().abs().max())
