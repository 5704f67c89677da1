"""How the rate of an import depends on the room's size: `python -m bench.import_growth`.

Rooms of two sizes take turns, since a machine's speed changes from minute to minute: each large one
is compared with the small ones before and after it, and the result is the median. Each is imported
into a server of its own, as one that is about to take over does: what else is in a database is no
matter of the room's size.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.history import write_history
from bench.import_ways import imported, newcomer
from bench.worlds import row, scratch
from tests.harness.installs import INSTALLS, Install
from tests.harness.server import Server
from tests.oldworld import sources


def run(small: int, large: int, rounds: int, database: str, install: Install) -> None:
    """Runs the benchmark.

    Args:
        small: how many events a small room has.
        large: how many the large one has.
        rounds: how often the large one is imported.
        database: what the importing servers have.
        install: their Synapse.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        a = Server(folder / "a", modules=[], log_level="WARNING")
        stack.callback(a.stop)
        a.start()
        alice, anna = a.register("alice", admin=True), a.register("anna")
        sizes = [small, *[large, small] * rounds]
        rooms = [alice.create_room("11", name=f"{size} events") for size in sizes]
        for room_id in rooms:
            anna.join(room_id)
        a.stop()
        for size, room_id in zip(sizes, rooms, strict=True):
            write_history(a, room_id, [alice, anna], size)
        a.start()
        row("Synapse, database", f"{install.version}, {database}")
        rates: dict[int, list[float]] = {small: [], large: []}
        for number, (size, room_id) in enumerate(zip(sizes, rooms, strict=True)):
            with scratch(database) as (_, b_database):
                b = Server(
                    folder / f"b{number}",
                    install=install,
                    database=b_database,
                    modules=sources(old=a.database.synapse_config()),
                    log_level="WARNING",
                )
                try:
                    b.start()
                    user = newcomer(b, [room_id], a)
                    rates[size].append(imported(b, user, room_id))
                finally:
                    b.stop()
            row(f"{size} events", f"{rates[size][-1]:.0f}/s")
        around = itertools.pairwise(rates[small])
        ratios = [
            one / statistics.mean(both) for one, both in zip(rates[large], around, strict=True)
        ]
        row("large / small", f"{statistics.median(ratios):.2f} x, of {_in_short(ratios)}")


def _in_short(ratios: list[float]) -> str:
    return ", ".join(f"{ratio:.2f}" for ratio in sorted(ratios))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=int, default=2_000, help="events")
    parser.add_argument("--large", type=int, default=120_000, help="events")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--synapse", choices=sorted(INSTALLS), default="newest")
    options = parser.parse_args()
    run(
        options.small,
        options.large,
        options.rounds,
        options.database,
        INSTALLS[options.synapse],
    )


if __name__ == "__main__":
    main()
