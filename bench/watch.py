"""Measures the watch: `python -m bench.watch [--events 500] [--rounds 5]`.

Prints, from one run: how fast a server that loads the module receives ordinary events over
federation, against one that does not, in turns; and what the watch takes for one log record.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import timeit
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from synapse.api.errors import AuthError
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.events import make_event_from_dict

from synapse_rejection_repair.adapter.watch import LOGGER, LogWatch
from tests.harness.federation import Room, federated_room, running
from tests.harness.hostile import HostilePeer, JsonDict
from tests.harness.server import Server
from tests.harness.waiting import wait_for

_AT_A_TIME = 50
_SINGLE = 40
"""How many events of a round are sent one by one, for the latency."""
_RECORDS = 200_000


@dataclass
class Receiver:
    """A server that receives, and how it did: one figure for each round."""

    room: Room
    prev: str
    per_second: list[float] = field(default_factory=list)
    latency_ms: list[float] = field(default_factory=list)

    def receive(self, length: int) -> None:
        """Sends it that many events, and then a few one by one, and measures both."""
        peer = HostilePeer(self.room.a, self.room.room_id)
        events = self._ordinary(peer, length + _SINGLE)
        many, few = events[:length], events[length:]
        began = time.monotonic()
        for start in range(0, length, _AT_A_TIME):
            self._send(peer, many[start : start + _AT_A_TIME])
        self.per_second.append(length / (time.monotonic() - began))
        latencies = []
        for event in few:
            began = time.monotonic()
            self._send(peer, [event])
            latencies.append((time.monotonic() - began) * 1000)
        self.latency_ms.append(statistics.median(latencies))
        assert not self.room.b.rejected(self.room.room_id)

    def _send(self, peer: HostilePeer, events: Sequence[tuple[JsonDict, str]]) -> None:
        peer.send(self.room.b, *(event for event, _ in events))
        wait_for(partial(self._stored, events[-1][1]), timeout=60, interval=0.001)

    def _stored(self, event_id: str) -> bool:
        sql = "SELECT 1 FROM events WHERE event_id = ?"
        return bool(self.room.b.database.query(sql, event_id))

    def _ordinary(self, peer: HostilePeer, length: int) -> list[tuple[JsonDict, str]]:
        alice, state = self.room.alice.user_id, peer.current_state()
        keys = (("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", alice))
        auth_events = [state[key] for key in keys]
        sql = "SELECT depth FROM events WHERE event_id = ?"
        depth = int(self.room.b.database.value(sql, self.prev))
        events = []
        for number in range(length):
            event, self.prev = peer.forge(
                "m.room.message",
                alice,
                {"msgtype": "m.text", "body": f"No. {number}"},
                prev_events=[self.prev],
                auth_events=auth_events,
                depth=depth + number + 1,
            )
            events.append((event, self.prev))
        return events


def receiver(a: Server, b: Server) -> Receiver:
    """A room that A and the receiving server are in, and an event to go on from."""
    room = federated_room(a, b, "10")
    last = room.alice.send_message(room.room_id, "The last one that A knows")
    b.wait_for_event(last)
    return Receiver(room, last)


def record_costs() -> tuple[float, float]:
    """Microseconds that the watch takes for an ordinary record, and for a rejection."""
    event = make_event_from_dict(
        {
            "type": "m.room.message",
            "room_id": "!room:example.org",
            "sender": "@alice:example.org",
            "content": {"msgtype": "m.text", "body": "Hello"},
            "auth_events": ["$create", "$power_levels", "$member"],
            "prev_events": ["$prev"],
            "depth": 10,
            "origin_server_ts": 1,
            "hashes": {"sha256": "x"},
            "signatures": {},
        },
        KNOWN_ROOM_VERSIONS["10"],
    )
    error = AuthError(403, f"During auth for event {event.event_id}: found rejected event $x")

    def record(level: int, message: str, args: tuple[object, ...], func: str) -> logging.LogRecord:
        return logging.LogRecord(LOGGER, level, "", 1, message, args, None, func)

    ordinary = record(logging.INFO, "Processing pulled event %s", (event,), "_process_pulled_event")
    message = "While checking auth of %r against auth_events: %s"
    rejection = record(logging.WARNING, message, (event, error), "_check_event_auth")
    watch = LogWatch(lambda: None)

    def one(of: logging.LogRecord, number: int) -> float:
        # The queue is emptied as a poll does, before it is full.
        seconds = 0.0
        for _ in range(number // 5000):
            seconds += timeit.timeit(lambda: watch.filter(of), number=5000)
            watch.take()
        return seconds / number * 1e6

    return one(ordinary, _RECORDS), one(rejection, _RECORDS)


def row(what: str, value: str) -> None:
    """Prints one line of the report."""
    print(f"{what:<52} {value:>36}", flush=True)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=500, help="how many in each round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    ordinary, rejection = record_costs()
    row("the watch, for a record that is no rejection", f"{ordinary:.2f} µs")
    row("the watch, for a rejection", f"{rejection:.2f} µs")
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        a = Server(folder / "a", modules=[], log_level="WARNING")
        with_module, without = Server(folder / "with"), Server(folder / "without", modules=[])
        with running(a, with_module, without):
            row("Synapse", with_module.install.version)
            ours, theirs = receiver(a, with_module), receiver(a, without)
            turns = (ours, theirs)
            for one in turns:
                # What a server does for the first time costs more.
                one.receive(100)
                one.per_second.clear()
                one.latency_ms.clear()
            for _ in range(options.rounds):
                for one in turns:
                    one.receive(options.events)
                turns = turns[::-1]
    for what, mine, other, unit in (
        ("received in a second", ours.per_second, theirs.per_second, "/s"),
        ("until one event is stored, median", ours.latency_ms, theirs.latency_ms, " ms"),
    ):
        ratios = sorted(m / o for m, o in zip(mine, other, strict=True))
        row(
            f"{what}: without, with",
            f"{statistics.median(other):.1f}{unit}, {statistics.median(mine):.1f}{unit}",
        )
        row(
            "  with / without, median (least, most)",
            f"{statistics.median(ratios):.3f} ({ratios[0]:.3f}, {ratios[-1]:.3f})",
        )


if __name__ == "__main__":
    main()
