"""The paths of the endpoints."""

from __future__ import annotations

import re

VERSION = "v1"


def pattern(base: str, path: str) -> list[re.Pattern[str]]:
    """The patterns of one endpoint, as Synapse's servlets want them.

    Args:
        base: the path that the module is mounted under.
        path: the endpoint's path as a regular expression, without the version.
    """
    return [re.compile(f"^{re.escape(base)}/{VERSION}{path}$")]
