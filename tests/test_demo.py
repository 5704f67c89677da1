"""The demo: it ends well, with curl and without, and its proofs fail where they are to fail."""

from __future__ import annotations

import copy
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from demo import history_proof, incident_proof
from demo.curl import CallFailed, Shell
from demo.proof import NotWhole, prove
from demo.terminal import Terminal, shortened
from tests.harness.client import Client, MatrixError
from tests.harness.federation import Pair
from tests.harness.incident import Incident, make_incident
from tests.harness.process import REPOSITORY
from tests.harness.waiting import wait_for
from tests.oldworld import OldRoom, old_world

COMMAND = [sys.executable, "-m", "demo"]


def _folder(output: str) -> Path:
    found = re.search(r"\S+/rejection-repair-demo-\w+", output)
    assert found is not None, output
    return Path(found[0])


@pytest.mark.slow
def test_once() -> None:
    ran = subprocess.run(
        COMMAND,
        cwd=REPOSITORY,
        env={**os.environ, "ONCE": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stderr == ""
    # It is no terminal that it was written to.
    assert "\x1b" not in ran.stdout
    commands = re.findall(r'^   \$ curl .*"\$API/(\S*)"$', ran.stdout, re.MULTILINE)
    assert [re.sub("(repairs|imports)/.*", r"\1/…", path) for path in commands] == [
        "rooms",
        "rooms/$ROOM/diagnosis",
        "rooms/$ROOM/health",
        "rooms/$ROOM/repair",
        "rooms/$ROOM/repair",
        "repairs/…",
        "rooms/$ROOM/health",
        "sources/old/rooms",
        "rooms/$ROOM/import",
        "rooms/$ROOM/import",
        "imports/…",
    ]
    first, second = ran.stdout.split("SECOND ACT")
    assert first.count("✓") == len(incident_proof.CHECKS)
    assert first.rstrip().endswith("The room is whole.")
    assert second.count("✓") == len(history_proof.CHECKS)
    assert second.rstrip().endswith("The history is there.")
    assert not _folder(ran.stdout).exists()


@pytest.mark.slow
def test_until_interrupted(tmp_path: Path) -> None:
    output = tmp_path / "output"
    with output.open("wb") as file:
        # Without curl, and where nothing but ASCII can be written.
        demo = subprocess.Popen(
            COMMAND,
            cwd=REPOSITORY,
            env={**os.environ, "ONCE": "", "PATH": "/nowhere", "PYTHONIOENCODING": "ascii"},
            stdout=file,
            stderr=subprocess.STDOUT,
            # What a shell runs in the background has been told to ignore it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    try:
        wait_for(
            lambda: demo.poll() is not None or "Ctrl-C" in output.read_text(),
            timeout=200,
            what="the demo to be ready to play with",
        )
        text = output.read_text()
        assert demo.poll() is None, text
        assert _folder(text).exists()
        demo.send_signal(signal.SIGINT)
        assert demo.wait(60) == 0, output.read_text()
    finally:
        demo.kill()
        demo.wait()
    assert not _folder(text).exists()
    assert "access token" in text


@pytest.mark.slow
@pytest.mark.parametrize("act", ["incident", "history"])
def test_failure(act: str) -> None:
    code = f"""
import sys
from demo import __main__ as demo, {act} as act
from demo.proof import NotWhole

def prove(checks, of):
    yield "One thing holds", "so it does"
    raise NotWhole("Not so: another")

act.prove = prove
sys.exit(demo.main())
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env={**os.environ, "ONCE": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert ("SECOND ACT" in ran.stdout) == (act == "history")
    assert ran.stdout.rstrip().endswith("✗ The demo has failed. Not so: another")
    assert ran.stderr == ""
    assert not _folder(ran.stdout).exists()


@pytest.mark.slow
def test_ended_in_the_second_act(tmp_path: Path) -> None:
    output = tmp_path / "output"
    with output.open("wb") as file:
        demo = subprocess.Popen(COMMAND, cwd=REPOSITORY, stdout=file, stderr=subprocess.STDOUT)
    try:
        # While B is starting again.
        wait_for(
            lambda: demo.poll() is not None or "sources:" in output.read_text(),
            timeout=200,
            what="the second act",
        )
        text = output.read_text()
        assert demo.poll() is None, text
        servers = _servers(_folder(text))
        assert servers
        demo.send_signal(signal.SIGTERM)
        assert demo.wait(60) == 128 + signal.SIGTERM, output.read_text()
    finally:
        demo.kill()
        demo.wait()
    assert not _folder(text).exists()
    assert not _servers(_folder(text))


def _servers(folder: Path) -> list[str]:
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            commands.append(path.read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return [command for command in commands if f"{folder}/" in command]


@pytest.fixture(scope="module")
def incident(pair: Pair) -> Incident:
    return make_incident(pair.room("10"))


@pytest.mark.parametrize(
    "what",
    [w for w, check in incident_proof.CHECKS.items() if check is not incident_proof._logs],
)
def test_proof_fails_on_a_broken_room(incident: Incident, what: str) -> None:
    with pytest.raises((NotWhole, MatrixError)):
        incident_proof.CHECKS[what](incident)


def test_proof_fails_with_its_first_check(incident: Incident) -> None:
    with pytest.raises(NotWhole, match=f"Not so: {next(iter(incident_proof.CHECKS))}"):
        list(prove(incident_proof.CHECKS, incident))


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OldRoom]:
    """The room of the second act, with the old server gone and nothing imported."""
    with old_world(tmp_path_factory.mktemp("world"), "11", messages=12) as world:
        yield world


NEEDS_THE_IMPORT = (
    history_proof._in_order,
    history_proof._unaltered,
    history_proof._states,
    history_proof._search,
    history_proof._relations,
    history_proof._redacted,
)


@pytest.mark.parametrize("check", NEEDS_THE_IMPORT)
def test_proof_fails_without_the_import(room: OldRoom, check: history_proof.Check) -> None:
    with pytest.raises((NotWhole, MatrixError)):
        check(room)


def test_proof_holds_after_the_import_and_fails_on_what_spoils_it(room: OldRoom) -> None:
    job = room.import_room()
    assert (job["status"], job["imported"]) == ("complete", len(room.order) - 1)
    for check in NEEDS_THE_IMPORT:
        assert check(room)
    swapped = [*room.order[1::-1], *room.order[2:]]
    twice = copy.copy(room.bob)
    pages = room.bob.messages(room.room_id)
    twice.messages = lambda *_, **__: [*pages, pages[-1]]  # type: ignore[method-assign]
    for spoilt, check, why in (
        (replace(room, order=swapped), history_proof._in_order, "newest first"),
        (replace(room, bob=twice), history_proof._in_order, "twice"),
        (replace(room, a=room.b), history_proof._gone, "still runs"),
    ):
        with pytest.raises(NotWhole, match=why):
            check(spoilt)
    assert list(prove(history_proof.CHECKS, room))
    # The last of the proof has sent a message: the proof, made again, sees that something is new.
    with pytest.raises(NotWhole, match="is told of the room"):
        history_proof._not_told(room)
    with pytest.raises(NotWhole, match="what is to stay as it was"):
        history_proof._untouched(room)
    room.bob.leave(room.room_id)
    with pytest.raises(MatrixError):
        history_proof._goes_on(room)


@pytest.mark.parametrize("curl", [True, False])
def test_calls(
    incident: Incident,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    curl: bool,
) -> None:
    if not curl:
        monkeypatch.setenv("PATH", "/nowhere")
    room = incident.room
    rejected = len(room.b.rejected(room.room_id))
    shell = Shell(Terminal(), room.bob, room.room_id)
    plan = shell.call("$API/rooms/$ROOM/repair", {"event_ids": [incident.x], "deliver": "history"})
    assert plan["summary"]["accept"] == rejected
    written = capsys.readouterr().out
    data = f'\'{{"event_ids": ["{incident.x}"], "deliver": "history"}}\''
    assert f'$ curl -sS -H "Authorization: Bearer $TOKEN" -d {data} "$API/rooms' in written
    assert f"… and {rejected - 2} more" in written
    with pytest.raises(CallFailed, match="M_INVALID_PARAM: 'dryrun' is not known"):
        shell.call("$API/rooms/$ROOM/repair", {"dryrun": False}, show=False)
    stranger = Client(room.b.url, room.bob.user_id, "nonsense")
    with pytest.raises(CallFailed, match="M_UNKNOWN_TOKEN"):
        Shell(Terminal(), stranger, room.room_id).call("$API/rooms", show=False)


def test_shortened() -> None:
    assert shortened({"a": [1, 2, 3]}) == {"a": [1, 2, 3]}
    assert shortened({"a": [[1, 2, 3, 4], 5, 6, 7]}) == {
        "a": [[1, 2, "… and 2 more"], 5, "… and 2 more"]
    }
