"""Draws the events of a room as text, and reads the drawing as nodes.

    X*[topic]; A* <- X cites X; B <- A, X

One event per line or between semicolons, in the order in which the server stored them:

- `X`: its id. Behind it, in any order: `*` rejected, `~` an outlier, `!` damaged, `@7` its stream
  ordering (otherwise one more than the one before), and in brackets its type, with a state key
  behind a space: `[topic]`, `[member @u:a]`. Without brackets it is a message.
- `<- A, B`: the events that it follows.
- `cites A, B`: its auth events.
- `by @u:a`: its sender, `@alice:a` if not given.

An event stored as number n was made at 1000 * n; its depth is one more than the deepest before it.
"""

from __future__ import annotations

import re

from synapse_rejection_repair.domain.model import Node

_EVENT = re.compile(
    r"(?P<id>\w+)(?P<flags>[*~!]*)(?:@(?P<at>-?\d+))?(?:\[(?P<type>[\w.]+)(?: (?P<key>[^]]*))?\])?"
    r"(?:\s*<-\s*(?P<prevs>\w+(?:\s*,\s*\w+)*))?"
    r"(?:\s*cites\s+(?P<auths>\w+(?:\s*,\s*\w+)*))?"
    r"(?:\s*by\s+(?P<sender>\S+))?"
)


def draw(text: str) -> dict[str, Node]:
    """Reads a drawing: nodes by id, in the order in which they are drawn."""
    nodes: dict[str, Node] = {}
    ordering = 0
    for line in re.split(r"[;\n]", text):
        if not line.strip():
            continue
        found = _EVENT.fullmatch(line.strip())
        if found is None:
            raise ValueError(f"not understood: {line.strip()!r}")
        ordering = ordering + 1 if found["at"] is None else int(found["at"])
        prevs = _names(found["prevs"])
        flags = found["flags"]
        assert found["id"] not in nodes, f"{found['id']} is drawn twice"
        nodes[found["id"]] = Node(
            event_id=found["id"],
            type=f"m.room.{found['type'] or 'message'}",
            state_key=None if found["type"] is None else found["key"] or "",
            sender=found["sender"] or "@alice:a",
            origin_server_ts=1000 * ordering,
            depth=1 + max((nodes[p].depth for p in prevs if p in nodes), default=0),
            stream_ordering=ordering,
            prev_event_ids=prevs,
            auth_event_ids=_names(found["auths"]),
            rejected="auth_error" if "*" in flags else None,
            outlier="~" in flags,
            damaged="!" in flags,
        )
    return nodes


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",")) if text else ()
