"""Where results will go, tried before the work that makes them."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

from biaslab._util.files import is_disk_full
from biaslab.errors import InputError, RunFolderError

__all__ = ["check_figure_files", "check_output_file", "check_output_folder", "check_page_name"]


def check_output_folder(folder: str | Path) -> Path:
    """Try whether a folder can be made and written in; nothing stays of the trial.

    A disk that is full, a folder of somebody else, a file of that name and a read-only file system are found now, and
    not when hours of work are to be written.

    Parameters
    ----------
    folder : str or Path
        It need not be there.

    Returns
    -------
    Path
        Of the folder.

    Raises
    ------
    RunFolderError
        It cannot be made, or not be written in.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from biaslab._util.output_place import check_output_folder
    >>> with TemporaryDirectory() as folder:
    ...     check_output_folder(f"{folder}/runs/k4").name
    'k4'
    """
    folder = Path(folder)
    missing: list[Path] = []
    try:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]  # a long name is an error here
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as draft:
            draft.write(bytes(4096))
    except OSError as error:
        if is_disk_full(error):
            raise RunFolderError(f"{folder}: disk full: make room, or choose another folder for the results") from None
        is_file = error.errno in (errno.EEXIST, errno.ENOTDIR) and folder.is_file()
        reason = "is a file" if is_file else f"cannot be written ({error.strerror or error})"
        raise RunFolderError(f"{folder} {reason}: choose another folder for the results") from None
    finally:
        for path in missing:
            with suppress(OSError):
                path.rmdir()
    return folder


def check_output_file(path: str | Path, *, suffix: str) -> Path:
    """Try to write in the folder of a file that is to be written.

    Parameters
    ----------
    path : str or Path
        Of the file; what is written beside it is tried with it.
    suffix : str
        What its name ends in, for the hint.

    Returns
    -------
    Path
        Of the file.

    Raises
    ------
    InputError
        It is a folder.
    RunFolderError
        Its folder cannot be made, or not be written in.

    Examples
    --------
    >>> from biaslab._util.output_place import check_output_file
    >>> check_output_file(".", suffix=".safetensors")
    Traceback (most recent call last):
    biaslab.errors.InputError: . is a folder: name a file in it, such as profile.safetensors
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file in it, such as {path / ('profile' + suffix)}")
    check_output_folder(path.parent)
    return path


def check_figure_files(out: str | Path, *, inputs: Iterable[str | Path] = ()) -> Path:
    """Try to write in the folder of a figure, and refuse one that would replace what it is made of.

    Parameters
    ----------
    out : str or Path
        Figure, without suffix or with one of its three: OUT.pdf, OUT.png and OUT.csv are written.
    inputs : iterable of str or Path
        Files that are read, or folders of them.

    Returns
    -------
    Path
        The figure without suffix.

    Raises
    ------
    InputError
        It is a folder, or one of its files is an input.
    RunFolderError
        Its folder cannot be made, or not be written in.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from biaslab._util.output_place import check_figure_files
    >>> with TemporaryDirectory() as folder:
    ...     _ = Path(folder, "cat.png").write_bytes(b"a picture")
    ...     check_figure_files(f"{folder}/kept", inputs=[f"{folder}/cat.png"]).name
    'kept'
    """
    out = Path(out)
    check_output_folder(out.parent)
    if out.is_dir():
        raise InputError(f"{out} is a folder: name a figure in it, such as {out / 'figure'}")
    stem = out.with_suffix("") if out.suffix in (".pdf", ".png", ".csv") else out
    for suffix in (".pdf", ".png", ".csv"):
        file = stem.with_name(stem.name + suffix)
        if file.exists() and any(_holds(Path(given), file) for given in inputs):
            raise InputError(f"{file} is an input and would be replaced by the figure: name another file as out=")
    return stem


def _holds(given: Path, file: Path) -> bool:
    """Whether an input is this file, or a folder that it lies in."""
    return given.exists() and (given.samefile(file) or given.resolve() in file.resolve().parents)


def check_page_name(what: str, file: Path) -> None:
    """Refuse a name that no browser takes for a page; a folder is refused as one elsewhere.

    Parameters
    ----------
    what : str
        What the page is called in the message.
    file : Path

    Raises
    ------
    InputError
        The name does not end in .html.

    Examples
    --------
    >>> from biaslab._util.output_place import check_page_name
    >>> check_page_name("--out", Path("run.html"))
    >>> check_page_name("--out", Path("run.pdf"))
    Traceback (most recent call last):
    biaslab.errors.InputError: --out is a page: name a file that ends in .html, not run.pdf
    """
    if file.suffix != ".html" and not file.is_dir():
        raise InputError(f"{what} is a page: name a file that ends in .html, not {file}")
