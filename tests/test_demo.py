"""The demo: it ends well, with curl and without, and its proof fails on a broken room."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from demo import proof
from demo.curl import CallFailed, Shell
from demo.terminal import Terminal, shortened
from tests.harness.client import REPAIR_API, MatrixError, quoted
from tests.harness.federation import Pair
from tests.harness.incident import Incident, make_incident
from tests.harness.process import REPOSITORY
from tests.harness.waiting import wait_for

COMMAND = [sys.executable, "-m", "demo"]


def _folder(output: str) -> Path:
    found = re.search(r"\S+/rejection-repair-demo-\w+", output)
    assert found is not None, output
    return Path(found[0])


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
    assert [re.sub("repairs/.*", "repairs/…", path) for path in commands] == [
        "rooms",
        "rooms/$ROOM/diagnosis",
        "rooms/$ROOM/health",
        "rooms/$ROOM/repair",
        "rooms/$ROOM/repair",
        "repairs/…",
        "rooms/$ROOM/health",
    ]
    assert ran.stdout.count("✓") == len(proof.CHECKS)
    assert ran.stdout.rstrip().endswith("The room is whole.")
    assert not _folder(ran.stdout).exists()


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


def test_failure() -> None:
    code = """
import sys
from demo import __main__ as demo
from demo.proof import NotWhole

def prove(incident):
    yield "One thing holds", "so it does"
    raise NotWhole("Not so: another")

demo.prove = prove
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
    assert ran.stdout.rstrip().endswith("✗ The demo has failed. Not so: another")
    assert ran.stderr == ""
    assert not _folder(ran.stdout).exists()


@pytest.fixture(scope="module")
def incident(pair: Pair) -> Incident:
    return make_incident(pair.room("10"))


@pytest.mark.parametrize(
    "what",
    [what for what, check in proof.CHECKS.items() if check is not proof._logs],
)
def test_proof_fails_on_a_broken_room(incident: Incident, what: str) -> None:
    with pytest.raises((proof.NotWhole, MatrixError)):
        proof.CHECKS[what](incident)


def test_proof_fails_with_its_first_check(incident: Incident) -> None:
    with pytest.raises(proof.NotWhole, match=f"Not so: {next(iter(proof.CHECKS))}"):
        list(proof.prove(incident))


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
    variables = {
        "TOKEN": room.bob.access_token,
        "API": room.b.url + REPAIR_API,
        "ROOM": quoted(room.room_id)[1:],
    }
    shell = Shell(Terminal(), variables)
    plan = shell.call("$API/rooms/$ROOM/repair", {"event_ids": [incident.x], "deliver": "history"})
    assert plan["summary"]["accept"] == rejected
    written = capsys.readouterr().out
    data = f'\'{{"event_ids": ["{incident.x}"], "deliver": "history"}}\''
    assert f'$ curl -sS -H "Authorization: Bearer $TOKEN" -d {data} "$API/rooms' in written
    assert f"… and {rejected - 2} more" in written
    with pytest.raises(CallFailed, match="M_INVALID_PARAM: 'dryrun' is not known"):
        shell.call("$API/rooms/$ROOM/repair", {"dryrun": False}, show=False)
    with pytest.raises(CallFailed, match="M_UNKNOWN_TOKEN"):
        Shell(Terminal(), {**variables, "TOKEN": "nonsense"}).call("$API/rooms", show=False)


def test_shortened() -> None:
    assert shortened({"a": [1, 2, 3]}) == {"a": [1, 2, 3]}
    assert shortened({"a": [[1, 2, 3, 4], 5, 6, 7]}) == {
        "a": [[1, 2, "… and 2 more"], 5, "… and 2 more"]
    }
