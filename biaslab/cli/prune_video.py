"""``biaslab prune --frames``: ask about a video, given as its frames, with pruned visual tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biaslab._util.output_place import check_figure_files
from biaslab.cli import options as opt
from biaslab.cli.output import emit

if TYPE_CHECKING:
    from biaslab.cli.model_options import ModelChoice

__all__ = ["prune_video"]


def prune_video(
    sources: Sequence[Path],
    count: int | str | None,
    question: str,
    model: ModelChoice,
    methods: list[Any],
    keep: float | int,
    layer: int | None,
    profiles: list[Any],
    budget: str | None,
    out: Path,
    *,
    cache: str,
    seed: int,
    max_new_tokens: int | None,
    json: bool,
) -> None:
    """Do what ``biaslab prune`` does with its arguments read, for the frames of one video."""
    from biaslab._util.text import why_unreadable
    from biaslab.core.images import load_image
    from biaslab.datasets.videos import check_count, frames_of
    from biaslab.errors import InputError
    from biaslab.evaluation.configurations import configurations
    from biaslab.evaluation.one_video import compare_on_video
    from biaslab.models.grounding import MAX_NEW_TOKENS
    from biaslab.pruning.engine.prune import is_joint
    from biaslab.workflows.before_loading import check_pruning
    from biaslab.workflows.run_figures import draw_kept_of_frames, kept_title

    is_joint((), budget)  # refuses before a model is loaded, as all that follows
    if why := why_unreadable(question):
        raise InputError(f"the question {why}")
    if not question.strip():
        raise InputError("empty question: say what to ask about the video")
    frames = [load_image(frame) for frame in frames_of(sources, check_count(count))]
    configurations(methods, keep, layer, profiles)
    known = model.known()
    if known is not None:
        opt.check_takes_frames(known.vlm.family, model.image_options)
        layouts = known.layouts_of_frames(tuple(frame.size for frame in frames), question)
        check_pruning(known, methods, keep, layer, profiles, cache=cache, frames=layouts, budget=budget)
    check_figure_files(out, inputs=list(sources))
    vlm = model.load()
    answers = compare_on_video(
        vlm, frames, question, methods=methods, keep=keep, layer=layer, profile=profiles, budget=budget, seed=seed,
        max_new_tokens=max_new_tokens or MAX_NEW_TOKENS, cache=cache,
    )  # fmt: skip
    total = sum(layout.n for layout in answers[0].layouts)
    rows: list[dict[str, Any]] = [
        {"method": a.method, "answer": a.text, "truncated": a.truncated, "kept": sum(a.kept), "kept_per_frame": a.kept}
        for a in answers
    ]
    text = "\n".join(
        f"{r['method']}: {r['answer']!r}{' (cut: raise --max-new-tokens)' if r['truncated'] else ''}  "
        f"{r['kept']} of {total} tokens, by frame {' '.join(map(str, r['kept_per_frame']))}"
        for r in rows
    )
    files = draw_kept_of_frames(frames, answers, question=question, out=out, title=kept_title(keep, layer))
    emit(json, {"question": question, "frames": len(frames), "results": rows}, text, files)
