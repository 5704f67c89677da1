"""Finds what went wrong in a Synapse log."""

from __future__ import annotations

import re
from collections.abc import Sequence

_ENTRY = re.compile(
    r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - (?P<logger>\S+) - \d+ - (?P<level>[A-Z]+) - "
)
ALERTS = "synapse_rejection_repair.alerts"
"""What alerts are logged by, at ERROR: they tell of an incident, and are no error themselves."""
_TRACEBACK = "Traceback (most recent call last):"


def errors(log: str, ignore: Sequence[str] = ()) -> list[str]:
    """Picks the entries that tell of an error.

    Args:
        log: The log, in the format that `tests.harness.config` asks for.
        ignore: Regular expressions; an entry that contains one of them is left out.

    Returns:
        Every entry at ERROR or CRITICAL that is no alert of the module, every one with a traceback
        at whatever level, and every traceback that stands outside of an entry; each with all of
        its lines.
    """
    entries: list[tuple[str, list[str]]] = [("", [])]
    for line in log.splitlines():
        start = _ENTRY.match(line)
        if start:
            alert = start["logger"] == ALERTS
            entries.append(("" if alert else start["level"], [line]))
        else:
            entries[-1][1].append(line)
    found = [
        "\n".join(lines)
        for level, lines in entries
        if level in ("ERROR", "CRITICAL") or any(_TRACEBACK in line for line in lines)
    ]
    return [entry for entry in found if not any(re.search(rule, entry) for rule in ignore)]
