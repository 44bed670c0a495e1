"""Processors of transformers without their video half, which needs torchvision."""

from __future__ import annotations

from functools import cache
from typing import Any

__all__ = ["image_only"]


@cache
def image_only(cls: type) -> Any:
    """Derive a class from a processor class that neither loads nor wants a ``video_processor``.

    It keeps the name of the stock class, so that a saved folder says the same ``processor_class`` and loads
    with stock transformers where torchvision is installed.
    """

    def get_attributes(klass: type) -> list[str]:
        inherited = super(derived, klass).get_attributes()  # type: ignore[arg-type]  # a class made at run time
        return [name for name in inherited if name != "video_processor"]

    body: dict[str, Any] = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "get_attributes": classmethod(get_attributes),
    }
    derived = type(cls.__name__, (cls,), body)
    return derived
