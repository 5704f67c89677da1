"""The message that tells admins of alerts."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from urllib.parse import quote

from synapse_rejection_repair.diagnosis import Root
from synapse_rejection_repair.domain.healing import Healed
from synapse_rejection_repair.domain.model import Outcome, Verdict
from synapse_rejection_repair.domain.watch import Alert

SHOWN = 5
"""How many alerts, and servers of each, a message has at most."""

_LONGEST = 500
"""How much of anything that others have a say in, in characters: an event holds 64 KiB."""


def notice(
    alerts: Sequence[Alert],
    roots: Sequence[Root],
    api: str,
    healed: Mapping[str, Healed] | None = None,
) -> str:
    """What to tell the admins of the alerts about one room.

    Args:
        alerts: the alerts, of one room; at least one.
        roots: the roots of the room as a diagnosis has them, as far as there is one.
        api: the URL of the endpoints.
        healed: what became of roots without an admin, where that is configured.
    """
    healed = healed or {}
    by_id = {root.node.event_id: root for root in roots}
    room_id = alerts[0].room_id
    lines = [f"This server rejects more and more events in room {_plain(room_id)}."]
    for alert in alerts[:SHOWN]:
        lines += ["", *_root(alert, by_id.get(alert.event_id))]
        if alert.event_id in healed:
            lines += _healed(healed[alert.event_id], api)
    if len(alerts) > SHOWN:
        lines += ["", f"… and {len(alerts) - SHOWN} more, see {api}/alerts"]
    where = f"{api}/rooms/{quote(room_id, safe='')}"
    lines += [
        "",
        "What happened:",
        _curl(f"{where}/diagnosis"),
        "What a repair would do (a dry run, which changes nothing):",
        _curl(f"{where}/repair", "-d '{}' "),
    ]
    return "\n".join(lines)


def _root(alert: Alert, root: Root | None) -> list[str]:
    when = datetime.fromtimestamp(alert.first_ts / 1000, timezone.utc)
    lines = [f"It began with {_plain(alert.event_id)} at {when:%Y-%m-%d %H:%M:%S} UTC."]
    if root is not None:
        lines.append(f"That is {_plain(root.node.type)} from {_plain(root.node.sender)}.")
    cause = "a reason that was not noticed" if alert.error is None else _plain(alert.error)
    lines.append(f"Synapse rejected it for: {cause}")
    if root is None:
        return [*lines, f"{alert.cascade} events that follow it were rejected too."]
    counts = sorted(root.cascade.servers.items(), key=lambda item: -item[1])
    servers = ", ".join(f"{_plain(server)} ({n})" for server, n in counts[:SHOWN])
    lines.append(f"{root.cascade.count} events that follow it were rejected too, from: {servers}")
    return [*lines, _today(root.verdict)]


def _healed(healed: Healed, api: str) -> list[str]:
    if healed.repair_id is None:
        return [f"It waits for you to repair it: {_plain(healed.waits or '')}"]
    what = "It was repaired" if healed.complete else "Its repair was begun"
    return [
        f"{what} without you: repair {healed.repair_id} is {healed.status}.",
        _curl(f"{api}/repairs/{healed.repair_id}"),
    ]


def _today(verdict: Verdict) -> str:
    if verdict.outcome is Outcome.ACCEPT:
        return "Now the same checks pass: it was rejected wrongly, and a repair lets it in."
    error = _plain(verdict.error or "")
    if verdict.outcome is Outcome.REJECT:
        return f"Now it fails as well, so it may well be rejected rightly: {error}"
    return f"Whether that was right, this server cannot tell: {error}"


def _plain(text: str) -> str:
    # Whoever forges an event must not be able to write a line with a command of theirs.
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)[:_LONGEST]


def _curl(url: str, data: str = "") -> str:
    return f'curl -sS -H "Authorization: Bearer $TOKEN" {data}{shlex.quote(url)}'
