"""Measures the watch: `python -m bench.watch [--rounds 40]`.

Prints, from one run: how fast a server that loads the module receives ordinary events over
federation, against two that do not, in turns; and what the watch takes for one log record. How
far the two are apart is what the figures are good for.
"""

from __future__ import annotations

import argparse
import logging
import os
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
"""How many events a federation transaction holds."""
_SINGLE = 5
"""How many events of a round are sent one by one, for the latency."""
_RECORDS = 200_000


@dataclass
class Receiver:
    """A server that receives, and how it did: one figure for each round."""

    room: Room
    prev: str
    batch_ms: list[float] = field(default_factory=list)
    single_ms: list[float] = field(default_factory=list)

    def receive(self) -> None:
        """Sends it a transaction full of events, and then a few one by one, and measures both."""
        peer = HostilePeer(self.room.a, self.room.room_id)
        events = self._ordinary(peer, _AT_A_TIME + _SINGLE)
        self.batch_ms.append(self._send(peer, events[:_AT_A_TIME]))
        singles = [self._send(peer, [event]) for event in events[_AT_A_TIME:]]
        self.single_ms.append(statistics.median(singles))

    def cpu_seconds(self) -> float:
        """The CPU time that its process has taken since it was started."""
        fields = Path(f"/proc/{self.room.b.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _send(self, peer: HostilePeer, events: Sequence[tuple[JsonDict, str]]) -> float:
        began = time.monotonic()
        peer.send(self.room.b, *(event for event, _ in events))
        wait_for(partial(self._stored, events[-1][1]), timeout=60, interval=0.002)
        return (time.monotonic() - began) * 1000

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
    watch = LogWatch(lambda _: None)

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
    print(f"{what:<62} {value:>42}", flush=True)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()

    ordinary, rejection = record_costs()
    row("the watch, for a record that is no rejection", f"{ordinary:.2f} µs")
    row("the watch, for a rejection", f"{rejection:.2f} µs")
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        a = Server(folder / "a", modules=[], log_level="WARNING")
        servers = [
            Server(folder / "with"),
            Server(folder / "without", modules=[]),
            Server(folder / "control", modules=[]),
        ]
        with running(a, *servers):
            row("Synapse", servers[0].install.version)
            receivers = [receiver(a, server) for server in servers]
            for one in receivers:
                # What a server does for the first time costs more.
                one.receive()
                one.receive()
                del one.batch_ms[:], one.single_ms[:]
            before = [one.cpu_seconds() for one in receivers]
            for number in range(options.rounds):
                for turn in range(3):
                    receivers[(number + turn) % 3].receive()
            pairs = zip(receivers, before, strict=True)
            cpu = [one.cpu_seconds() - began for one, began in pairs]
            for one in receivers:
                assert not one.room.b.rejected(one.room.room_id)
    events = options.rounds * (_AT_A_TIME + _SINGLE)
    row("events received by each", f"{events}")
    medians = [statistics.median(one.batch_ms) for one in receivers]
    compare(f"{_AT_A_TIME} events stored, median", medians)
    compare("one event stored, median", [statistics.median(one.single_ms) for one in receivers])
    compare("CPU time of the server for an event", [c / events * 1000 for c in cpu])


def compare(what: str, milliseconds: Sequence[float]) -> None:
    """Prints how long something took with the module, without, and without once more."""
    ours, theirs, control = milliseconds
    row(
        f"{what}: with, without, without",
        f"{ours:.1f}, {theirs:.1f}, {control:.1f} ms = "
        f"{ours / theirs:.2f} x, {control / theirs:.2f} x",
    )


if __name__ == "__main__":
    main()
