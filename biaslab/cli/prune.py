"""The verb ``biaslab prune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from biaslab._util.output_place import check_figure_files, check_output_file, check_page_name
from biaslab.cli import options as opt
from biaslab.cli.app import app
from biaslab.cli.completion import method_names
from biaslab.cli.model_options import ModelChoice, with_model
from biaslab.cli.output import emit


@app.command(
    "prune",
    epilog='Example: biaslab prune photo.jpg "the cat on the left" --methods fastv,divprune --keep 0.1 --layer 4',
)
@with_model
def prune(
    image: Annotated[Path, typer.Argument(help="An image file; with --frames a folder of a video's frames.")],
    expression: Annotated[
        str, typer.Argument(help="Referring expression: the object to locate. With --frames a question, as it is.")
    ],
    model: ModelChoice,
    frames: opt.Frames = None,
    images: Annotated[
        list[Path] | None,
        typer.Option("--image", help="With --frames: one more frame, in order; as often as you like."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="With --frames: joint, one for all frames, or separate, the same share of each. Default: what the "
            "method wants."
        ),
    ] = None,
    methods: Annotated[
        str,
        typer.Option(
            autocompletion=method_names,
            help="Methods separated by commas; options as d2pruner:theta=0.7, fastv:score=no_rope; several cuts as one "
            "word, method@keep@layer joined by +: divprune@0.4@2+fastv@0.06@4.",
        ),
    ] = "none,divprune",
    keep: Annotated[str, typer.Option(help='A keep ratio ("0.1", "10%") or a count of tokens ("64").')] = "0.1",
    layer: opt.Layers = None,
    profile: opt.ProfileFiles = None,
    out: Annotated[
        Path,
        typer.Option(
            help="Figure of the kept tokens: OUT.pdf, OUT.png, OUT.csv; with lookahead also OUT-relevance.*, what it "
            "foresees beside what the model attends to."
        ),
    ] = Path("kept"),
    viewer: Annotated[
        Path | None,
        typer.Option(
            "--view",
            metavar="FILE.html",
            help="Write a page to click through as well: where each head looks and where the model looked for each "
            "word of its answer, over the profile if there is one; what each method keeps.",
        ),
    ] = None,
    cache: opt.KeptCache = "full",
    seed: opt.Seed = 0,
    max_new_tokens: opt.MaxNewTokens = None,
    json: opt.Json = False,
) -> None:
    """Locate an expression in one image with pruned visual tokens; print answers and boxes, draw the tokens kept.

    With --view write a page that shows where the model looks, too.

    With --frames ask about a video, given as its frames.
    """
    from biaslab._util.text import why_unreadable
    from biaslab.core.images import load_image
    from biaslab.errors import InputError
    from biaslab.evaluation.configurations import configurations
    from biaslab.evaluation.single_image import compare_methods
    from biaslab.models.grounding import MAX_NEW_TOKENS
    from biaslab.workflows.before_loading import check_pruning, is_identified
    from biaslab.workflows.learned_figures import draw_foreseen
    from biaslab.workflows.run_figures import draw_kept
    from biaslab.workflows.shown_profiles import check_shown_profiles

    opt.kept_cache(cache)
    ratio, rules, where = opt.one_keep(keep), opt.methods(methods), opt.one_layer(layer)
    fitted = opt.profiles(profile)
    if frames is not None:
        if viewer is not None:
            raise InputError("--view shows a single image: leave it out, or --frames")
        from biaslab.cli.prune_video import prune_video

        prune_video(
            [image, *(images or ())], opt.frames(frames), expression, model, rules, ratio, where, fitted, budget, out,
            cache=cache, seed=seed, max_new_tokens=max_new_tokens, json=json,
        )  # fmt: skip
        return
    if images or budget is not None:
        given = "--image" if images else "--budget"
        raise InputError(f"{given} is of frames of a video: add --frames all, or leave it out")
    if why := why_unreadable(expression):
        raise InputError(f"the expression {why}")
    if not expression.strip():
        raise InputError("empty expression: say what to locate")
    pixels = load_image(image)
    configs = configurations(rules, ratio, where, fitted)  # refuses before a model is loaded
    read = [profile for config in configs for profile in config.profiles]
    known = model.known()
    if known is not None:
        question = known.family.grounding_prompt(expression)
        check_pruning(known, rules, ratio, where, fitted, [pixels.size], question, cache=cache)
        if viewer is not None and is_identified(known):
            check_shown_profiles(known.vlm, fitted, read)
    stem = check_figure_files(out, inputs=[image])
    foreseen = stem.with_name(f"{stem.name}-relevance")
    ahead = [i for i, rule in enumerate(rules) if getattr(rule, "conditional", False)]
    if ahead:
        check_figure_files(foreseen, inputs=[image])
    if viewer is not None:
        check_page_name("--view", viewer)
        check_output_file(viewer, suffix=".html")
    vlm = model.load()
    if viewer is not None:
        check_shown_profiles(vlm, fitted, read)
    answers = compare_methods(
        vlm, pixels, expression, methods=rules, keep=ratio, layer=where, profile=fitted, seed=seed,
        max_new_tokens=max_new_tokens or MAX_NEW_TOKENS, cache=cache,
    )  # fmt: skip
    rows = [
        {
            "method": f.method,
            "answer": f.answer.text,
            "box": None if f.answer.box is None else [round(v, 1) for v in f.answer.box.as_tuple()],
            "truncated": f.answer.truncated,
            "kept": f.layout.n if f.selection is None else len(f.selection.indices),
        }
        for f in answers
    ]
    text = "\n".join(
        f"{r['method']}: {r['answer']!r}{' (cut: raise --max-new-tokens)' if r['truncated'] else ''}  "
        f"box {r['box']} px  {r['kept']} of {answers[0].layout.n} tokens"
        for r in rows
    )
    files = draw_kept(pixels, answers, expression=expression, out=out, keep=ratio)
    if ahead:
        (conditional,) = (own for own in fitted if own.conditional)
        files += draw_foreseen(vlm, conditional, pixels, answers[ahead[0]], expression=expression, out=foreseen)
    if viewer is not None:
        from biaslab.workflows.view import view_of_answers

        page = view_of_answers(
            vlm,
            pixels,
            expression,
            answers,
            layer=where,
            profile=fitted,
            max_new_tokens=max_new_tokens or MAX_NEW_TOKENS,
        )
        files.append(page.save(viewer))
    emit(json, {"expression": expression, "results": rows}, text, files)
