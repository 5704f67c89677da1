"""Keeping what may be asked for again, as long as it is not too much."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any


def forget_oldest(remembered: OrderedDict[Any, Any], most: int) -> None:
    """Forgets what was remembered first, until no more than so many entries are left."""
    while len(remembered) > most:
        remembered.popitem(last=False)
