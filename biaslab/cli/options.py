"""Options that several verbs share, so that they mean the same everywhere."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from biaslab.errors import InputError, UnsupportedError

logger = logging.getLogger(__name__)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Batch = Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Images per forward.")]
Workers = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Threads that open and cut the next images while the model works; 0 for none. Default: up to 4 where "
        "the model is on a GPU, else 0.",
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of all randomness, together with the ids of the samples.")]
Processes = Annotated[
    int,
    typer.Option(min=1, help="Processes on this machine, each with a copy of the model, on its own GPU or cores."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the plan (images, tokens, memory, FLOPs) without loading weights.")
]
Rehearse = Annotated[
    bool,
    typer.Option("--rehearse", help="Use the model's geometry with few layers and random weights; every file says so."),
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Length limit of an answer. Default: 128 (an evaluation that goes on keeps its own). Answers that are cut "
        "before they hold a box, or an answer, are counted as truncated.",
    ),
]
Layers = Annotated[
    str | None,
    typer.Option(
        "--layer",
        help="Prune layers K: tokens are dropped just before layer K (-1 the last). Default: from the model's "
        "geometry, 4 of the grounder, 2 of most large models.",
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root", envvar="BIASLAB_DATA", help="Folder in which relative paths of data are looked up too."
    ),
]
Split = Annotated[
    str | None,
    typer.Option(help="Split of the data set: of the scenes, of the hub, or of a file that holds several."),
]
Columns = Annotated[
    str | None,
    typer.Option(
        help="What the columns of any table mean: image=file,expression=text,box=xywh:bbox (or box=xyxy:x1+y1+x2+y2)."
    ),
]
ImageRoot = Annotated[Path | None, typer.Option(help="Folder, .zip or .tar of the images of a data set.")]
Frames = Annotated[
    str | None,
    typer.Option(
        metavar="N|all",
        help="Images are frames of videos: so many of each video's, taken evenly, or all of them, are one prompt.",
    ),
]
Decode = Annotated[
    str,
    typer.Option(
        help="How tokens after the first are made: dynamic, as transformers does it; static, by a step of fixed "
        "shapes; graph, by a CUDA graph of that step. The same answers."
    ),
]
KeptCache = Annotated[
    str,
    typer.Option(
        "--cache",
        help="What layers below K hold of the prompt while an answer is made: full, or trimmed to what the last "
        "cut has left.",
    ),
]
# paths, so that shells complete files; one that names no file may be a repository of the hub
ProfileFile = Annotated[
    Path | None,
    typer.Option(
        "--profile", "-p", help="A profile file made by `fit-bias`, or a profile of the hub: owner/name[@revision]."
    ),
]
ProfileFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--profile",
        "-p",
        help="A profile file made by `fit-bias`, or a profile of the hub (owner/name, owner/name@revision); once more "
        "for one of another kind (such as --estimator lookahead).",
    ),
]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        "--label", help="Name of a method in print, as KEY=NAME; as often as you like. KEY as in --methods of evaluate."
    ),
]


def check_rows(heads: str, queries: str | None, allowed: Sequence[str] = ("last", "text")) -> None:
    """Refuse unknown values of ``--heads`` and ``--queries``."""
    if heads not in ("mean", "all"):
        raise InputError(f"--heads is mean or all, got {heads!r}")
    if queries is not None and queries not in allowed:
        raise InputError(f"--queries is {' or '.join([', '.join(allowed[:-1]), allowed[-1]])}, got {queries!r}")


def frames(text: str | None) -> int | str | None:
    """Read ``--frames``: a number of frames, "all", or None where images are no frames."""
    from biaslab.datasets.videos import ALL, check_count

    if text is None or text == ALL:
        return text
    try:
        return check_count(int(text))
    except ValueError:  # an InputError is one
        raise InputError(f"--frames is a whole number of frames of each video, or {ALL}; got {text!r}") from None


def check_takes_frames(family: Any, image_options: Mapping[str, int]) -> None:
    """Refuse ``--frames`` of a family that takes no frames, and image options that frames have of their own.

    Raises
    ------
    UnsupportedError, InputError
    """
    if family.frames_refused:
        raise UnsupportedError(
            f"--frames is not for {family.name} models ({family.frames_refused}): choose a model of another family"
        )
    if both := sorted(set(image_options) & set(family.frame_options)):
        fixed = family.frame_options[both[0]]
        raise InputError(f"frames have {both[0]}={fixed}, as published: leave out --image-option {both[0]}")


def way_to_decode(decode: str) -> None:
    """Refuse unknown values of ``--decode``, and CUDA graphs on a machine without CUDA."""
    from biaslab.evaluation.decoding.ways import check_way

    check_way(decode)


def kept_cache(cache: str) -> None:
    """Refuse unknown values of ``--cache``."""
    if cache not in ("full", "trimmed"):
        raise InputError(f"--cache is full or trimmed, got {cache!r}")


def one_of(dry_run: bool, rehearse: bool) -> None:
    """Refuse the two together."""
    if dry_run and rehearse:
        raise InputError("--dry-run and --rehearse exclude each other: a dry run plans the real run")


def numbers(text: str, what: str, kind: type = float) -> list:
    """Read "0.5,0.2" as numbers; for ints also ranges such as "0-5".

    Raises
    ------
    InputError
        For anything else.
    """
    out: list = []
    try:
        for part in text.split(","):
            if kind is int and "-" in part.strip()[1:]:
                low, high = (int(end) for end in part.split("-"))
                if high < low:
                    raise InputError(f"--{what} takes ranges from low to high such as {high}-{low}, got {text!r}")
                out += range(low, high + 1)
            else:
                value = _number(part.strip(), kind)
                out.append(value)
    except InputError:
        raise
    except ValueError:
        raise InputError(f"--{what} takes numbers separated by commas, got {text!r}") from None
    return out


def _number(text: str, kind: type) -> float | int:
    if kind is float and text.endswith("%"):
        return float(text[:-1]) / 100
    return float(text) if kind is float and not text.isdigit() else int(text)


def labels(texts: Sequence[str] | None) -> dict[str, str]:
    """Read the names of ``--label``: KEY=NAME, where a key may hold a = of its own ("d2pruner:theta=0.7=Ours")."""
    found: dict[str, str] = {}
    for text in texts or ():
        key, equals, name = text.rpartition("=")
        if not (equals and key.strip() and name.strip()):
            raise InputError(f"--label {text!r} is not KEY=NAME: such as --label d2pruner=Ours")
        found[key.strip()] = name.strip()
    return found


def layers(text: str | None) -> list[int] | None:
    """Read the layers of ``--layer``; None stands for the model's default."""
    return None if text is None else numbers(text, "layer", int)


def one_layer(text: str | None) -> int | None:
    """Read the layer of a verb that takes a single one."""
    values = layers(text)
    if values is None:
        return None
    if len(values) != 1:
        raise InputError(f"--layer takes a single layer here, got {text!r}")
    return values[0]


def profiles(files: list[Path] | None) -> list:
    """Read the profiles of ``--profile``."""
    from biaslab.profiles import load

    return [load(str(file)) for file in files or ()]


def one_profile(file: Path | None) -> Any:
    """Read the profile of a verb that takes one at most."""
    return next(iter(profiles(None if file is None else [file])), None)


def methods_without_profile(chosen: list, profiles: list, model: str) -> list:
    """Leave out, of methods that nobody asked for, those that need a profile where there is none, and say so."""
    from biaslab.models.registry import resolve

    kinds = {profile.kind for profile in profiles}
    left_out = [m for m in chosen if "profile" in getattr(m, "needs", ()) and m.profile_kind not in kinds]
    if left_out:
        resolve(model)  # a name that nothing has is refused before it stands in a command
        names, file = ", ".join(method.label for method in left_out), "profile.safetensors"
        logger.warning(
            "%s need a profile and are left out; to add them: biaslab fit-bias --model %s --out %s, then the same "
            "command with --profile %s", names, model, file, file,
        )  # fmt: skip
    return [method for method in chosen if method not in left_out]


def methods(text: str) -> list:
    """Read the methods and schedules of ``--methods``, options included."""
    from biaslab.pruning import parse, parse_schedule
    from biaslab.pruning.schedule import is_schedule

    words = method_words(text)
    return [parse_schedule(word.strip()) if is_schedule(word) else parse(word) for word in words]


def method_words(text: str) -> list[str]:
    """Split a list of methods at its commas, but for those of a value such as ``heads=[2,3]``."""
    words, depth = [""], 0
    for sign in text:
        depth += (sign == "[") - (sign == "]")
        if sign == "," and depth <= 0:
            words.append("")
        else:
            words[-1] += sign
    return words


def one_keep(text: str) -> float | int:
    """Read the keep ratio or count of a verb that takes a single one."""
    values = keeps(text)
    if len(values) != 1:
        raise InputError(f"--keep takes a single ratio or count here, such as 0.1 or 64; got {text!r}")
    return values[0]


def keeps(text: str) -> list[float | int]:
    """Keep ratios ("0.1", "10%") and counts ("64") of ``--keep``; "1" is the ratio, all tokens."""
    return [1.0 if value == 1 else value for value in numbers(text, "keep")]
