"""Standard output that takes nothing any more."""

from __future__ import annotations

import os
import sys

__all__ = ["drop_output"]


def drop_output() -> None:
    """Send what is still to be printed nowhere: stdout cannot take it, and Python would try again at the end."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
