"""A Synapse module for tests alone: slows a server's transactions down, or kills it in one.

A kill from outside hits whatever is just going on; this one hits the same place every time. The
rules are in a JSON file, read again when it changes:

    [{"transaction": "persist_events", "nth": 2, "kill": "before"}]
    [{"transaction": "persist_events", "seconds": 0.3}]
    [{"transaction": "persist_events", "hold": 2}]
    [{"transaction": "persist_events", "fail": 2}]
    [{"transaction": "persist_events", "stumble": 3}]

`kill` ends the process, as `kill -9` does, just before the commit of the nth such transaction
since the file was read, or just after it, or `amid` it: before its second statement, for SQLite
commits what changes the schema at once. If that one fails, the next one counts for it. The file is
gone by then: a new start is left alone.
With `"since": {"transaction": "…", "nth": 7}`, only those count that come after the 7th such one.
`seconds` is how long every such transaction waits before it begins, with nothing held; `hold`
lets the nth and all that follow wait for as long as there is a rule with the word. `fail` lets
so many fail, as where somebody else keeps the database locked. With `stumble`, what runs so many
of them fails over each once it is committed.
"""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

from synapse.module_api import ModuleApi


class Brake:
    """Wraps the server's way of running transactions."""

    def __init__(self, config: dict[str, Any], api: ModuleApi) -> None:
        self._control = Path(config["control"])
        self._seen: tuple[int, int] | None = None
        self._rules: list[dict[str, Any]] = []
        self._counts: Counter[str] = Counter()

        pool: Any = api._hs.get_datastores().main.db_pool
        run, transact = pool.runInteraction, pool.new_transaction

        async def slowed(desc: str, *args: Any, **kwargs: Any) -> Any:
            for rule in self._rules_for(desc):
                if "seconds" in rule:
                    await api.sleep(rule["seconds"])
                if rule.get("fail", 0) > self._counts["fail " + desc]:
                    self._counts["fail " + desc] += 1
                    raise pool.engine.module.OperationalError("database is locked")
                if "hold" in rule:
                    self._counts["hold " + desc] += 1
                    while self._holds(desc):
                        await api.sleep(0.02)
            result = await run(desc, *args, **kwargs)
            for rule in self._rules_for(desc):
                if rule.get("stumble", 0) > self._counts["stumble " + desc]:
                    self._counts["stumble " + desc] += 1
                    raise RuntimeError("stumbled")
            return result

        def braked(
            conn: Any, desc: str, a: Any, b: Any, c: Any, func: Any, *args: Any, **kwargs: Any
        ) -> Any:
            kill = self._kill_now(desc)
            if kill == "before":
                func = _then_die(func, self._control)
            elif kill == "amid":
                func = _die_amid(func, self._control)
            result = transact(conn, desc, a, b, c, func, *args, **kwargs)
            if kill == "after":
                _die(self._control)
            return result

        pool.runInteraction, pool.new_transaction = slowed, braked

    def _rules_for(self, desc: str) -> list[dict[str, Any]]:
        try:
            status = os.stat(self._control)
        except FileNotFoundError:
            self._seen, self._rules = None, []
            return []
        seen = status.st_ino, status.st_mtime_ns
        if seen != self._seen:
            self._rules = json.loads(self._control.read_text())
            self._seen = seen
            self._counts.clear()
        return [rule for rule in self._rules if rule["transaction"] == desc]

    def _holds(self, desc: str) -> bool:
        rules = self._rules_for(desc)
        return any(rule.get("hold", inf) <= self._counts["hold " + desc] for rule in rules)

    def _kill_now(self, desc: str) -> str | None:
        for rule in self._rules_for(desc):
            if "kill" in rule and self._counting(rule):
                self._counts[desc] += 1
                if self._counts[desc] >= rule["nth"]:
                    return str(rule["kill"])
        for rule in self._rules:
            if rule.get("since", {}).get("transaction") == desc:
                self._counts["since " + desc] += 1
        return None

    def _counting(self, rule: dict[str, Any]) -> bool:
        since = rule.get("since")
        return since is None or self._counts["since " + since["transaction"]] >= since["nth"]


def _then_die(func: Callable[..., Any], control: Path) -> Callable[..., Any]:
    def dying(*args: Any, **kwargs: Any) -> Any:
        func(*args, **kwargs)
        _die(control)

    return dying


def _die_amid(func: Callable[..., Any], control: Path) -> Callable[..., Any]:
    def dying(txn: Any, *args: Any, **kwargs: Any) -> Any:
        txn.txn = _ShortLived(txn.txn, control)
        func(txn, *args, **kwargs)

    return dying


class _ShortLived:
    """A cursor for one statement alone."""

    def __init__(self, cursor: Any, control: Path) -> None:
        self._cursor = cursor
        self._control = control
        self._used = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def execute(self, *args: Any) -> Any:
        if self._used:
            _die(self._control)
        self._used = True
        return self._cursor.execute(*args)


def _die(control: Path) -> None:
    control.unlink()
    os.kill(os.getpid(), signal.SIGKILL)


def brake(control: Path, *rules: dict[str, Any]) -> None:
    """Writes the rules of a server that loads this module; with none, lets it run."""
    if not rules:
        control.unlink(missing_ok=True)
        return
    draft = control.with_suffix(".new")
    draft.write_text(json.dumps(rules))
    draft.replace(control)
