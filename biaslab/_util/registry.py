"""Things known by name: ours, found by scanning a package, and those that installed plug-ins bring."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Collection, ItemsView, Iterator, KeysView, ValuesView
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pkgutil import iter_modules
from typing import Any, Generic, TypeVar

from biaslab.errors import InputError

__all__ = ["Registry", "did_you_mean", "import_all"]

T = TypeVar("T")
_REQUIRED: Any = object()


class Registry(Generic[T]):
    """Name -> thing, filled on first use: by every file of a package, then by entry points.

    A plug-in is any installed package with an entry point of the registry's group that names a module, in which
    something is registered as in a file of ours; nobody needs to import it. One that fails is named in a warning,
    and its things are missing. What is ours comes first when iterating, then the rest in the order it came.

    Parameters
    ----------
    kind : str
        What is registered, for messages: "pruning method".
    package : str, optional
        Package whose files register themselves; they are imported on first use.
    group : str, optional
        Entry points that belong to the registry: "biaslab.methods".
    alphabetical : bool
        Whether ours are sorted by name; else they stand as they were registered.

    Examples
    --------
    >>> colours = Registry("colour")
    >>> @colours.register("red")
    ... def red():
    ...     return "#ff0000"
    >>> colours["red"]()
    '#ff0000'
    >>> colours["rad"]
    Traceback (most recent call last):
    biaslab.errors.InputError: unknown colour 'rad' (did you mean red?): choose one of red
    """

    def __init__(
        self, kind: str, *, package: str | None = None, group: str | None = None, alphabetical: bool = False
    ) -> None:
        self.kind, self.package, self.group = kind, package, group
        self._alphabetical = alphabetical
        self._entries: dict[str, T] = {}
        self._origins: dict[str, Any] = {}
        self._scanned = self._discovering = self._complete = False
        self._lock = threading.RLock()  # a file that is imported here may look something up itself

    # -- filling ---------------------------------------------------------------------------------------------------
    def register(self, target: Any) -> Any:
        """Register what is decorated: ``@register("name")``, or ``@register`` where it has an attribute ``name``.

        Parameters
        ----------
        target : str, or anything with a ``name``
            The name, or the thing itself.

        Returns
        -------
        Any
            A decorator, or the thing itself.

        Raises
        ------
        InputError
            The name is taken by something else; the same definition, made again, replaces itself.
        """
        if isinstance(target, str):
            return lambda value: self.add(target, value)
        return self.add(target.name, target)

    def add(self, name: str, value: T, origin: Any = None) -> T:
        """Register a value.

        Parameters
        ----------
        name : str
            Its name.
        value : T
            The value.
        origin : Any, optional
            Class or function that stands for it, if it is not one itself.

        Returns
        -------
        T
            The value.

        Raises
        ------
        InputError
            The name is taken by something else.
        """
        origin = value if origin is None else origin
        module = getattr(origin, "__module__", None) or ""
        if not f"{module}.".startswith(f"{self.package}."):
            self._scan()  # ours first: a name that we have is taken, whatever was imported earlier
        mark = (module, origin.__qualname__) if hasattr(origin, "__qualname__") else origin
        if name in self._entries and self._origins[name] != mark:
            raise InputError(f"a {self.kind} named {name!r} exists already: choose another name")
        self._entries[name], self._origins[name] = value, mark
        return value

    # -- looking up ------------------------------------------------------------------------------------------------
    def get(self, name: str, default: Any = _REQUIRED) -> T:
        """Look up a name.

        Parameters
        ----------
        name : str
            A registered name.
        default : Any, optional
            Returned for an unknown name.

        Returns
        -------
        T
            The value.

        Raises
        ------
        InputError
            Unknown name and no default; the message lists the names and the nearest ones.
        """
        self._discover()
        if name in self._entries:
            return self._entries[name]
        if default is not _REQUIRED:
            return default
        hint = did_you_mean(name, self._entries)
        raise InputError(
            f"unknown {self.kind} {name!r}{f' ({hint})' if hint else ''}: choose one of {', '.join(self._entries)}"
        )

    def __getitem__(self, name: str) -> T:
        return self.get(name)

    def __contains__(self, name: object) -> bool:
        self._discover()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def keys(self) -> KeysView[str]:
        """List the names."""
        self._discover()
        return self._entries.keys()

    def values(self) -> ValuesView[T]:
        """List the values."""
        self._discover()
        return self._entries.values()

    def items(self) -> ItemsView[str, T]:
        """List pairs of name and value."""
        self._discover()
        return self._entries.items()

    def __repr__(self) -> str:
        return f"<registry of {self.kind}s: {', '.join(self)}>"

    # -- discovering -----------------------------------------------------------------------------------------------
    def _discover(self) -> None:
        if self._complete:
            return
        with self._lock:
            if self._discovering:
                return
            self._discovering = True
            try:
                self._scan()
                for point in entry_points(group=self.group) if self.group else ():
                    self._load(point)
                self._complete = True
            finally:
                self._discovering = False

    def _scan(self) -> None:
        if self._scanned or self.package is None:
            return
        self._scanned = True
        try:
            import_all(self.package)
        except BaseException:
            self._scanned = False
            raise
        if self._alphabetical:  # files import each other: without this the order would be theirs
            self._entries = dict(sorted(self._entries.items()))

    def _load(self, point: EntryPoint) -> None:
        try:
            point.load()
        except (Exception, SystemExit) as error:  # whatever somebody else's code may do
            source = f" of {point.dist.name}" if point.dist is not None else ""
            reason = " ".join(str(error).split()) or "no reason given"
            warnings.warn(
                f"the plug-in {point.name!r}{source} ({point.value}) cannot be loaded, so its {self.kind}s are "
                f"missing ({type(error).__name__}: {reason}): update or uninstall it",
                RuntimeWarning,
                stacklevel=4,
            )


def did_you_mean(name: str, names: Collection[str], *, cutoff: float = 0.6) -> str:
    """Suggest the nearest names.

    Parameters
    ----------
    name : str
        An unknown name.
    names : collection of str
        The known ones.
    cutoff : float
        Similarity in [0, 1] from which a name is near.

    Returns
    -------
    str
        Empty where no name is near.

    Examples
    --------
    >>> from biaslab._util.registry import did_you_mean
    >>> did_you_mean("fastw", ["fastv", "random"])
    'did you mean fastv?'
    """
    close = get_close_matches(str(name).lower(), names, n=3, cutoff=cutoff)
    return f"did you mean {' or '.join(close)}?" if close else ""


def import_all(package: str) -> None:
    """Import every file of a package."""
    for module in iter_modules(import_module(package).__path__):
        import_module(f"{package}.{module.name}")
