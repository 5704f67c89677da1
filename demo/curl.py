"""Calls of the endpoints, as a person at a shell makes them."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from string import Template
from typing import Any

import requests

from demo.terminal import Terminal
from tests.harness.client import REPAIR_API, Client, quoted
from tests.harness.waiting import wait_for

_TIMEOUT = 120


class CallFailed(Exception):
    """A call that was to succeed was answered with an error, or not at all."""


class Shell:
    """Prints calls as curl commands, and runs just what it prints.

    Where there is no curl, Python makes the same calls.
    """

    def __init__(self, terminal: Terminal, admin: Client, room_id: str) -> None:
        """Shows the variables that the commands use: `TOKEN`, `API` and `ROOM`.

        Args:
            terminal: Where the commands and their answers are shown.
            admin: Who calls.
            room_id: The room that it is about.
        """
        self._terminal = terminal
        self._variables = {
            "TOKEN": admin.access_token,
            "API": admin.url + REPAIR_API,
            "ROOM": quoted(room_id)[1:],
        }
        self._curl = shutil.which("curl") is not None
        for name, value in self._variables.items():
            terminal.command(f"{name}={shlex.quote(value)}")

    def call(self, url: str, body: Mapping[str, Any] | None = None, *, show: bool = True) -> Any:
        """Calls an endpoint, and returns the JSON that it answers.

        Args:
            url: Where, with variables as the shell has them.
            body: What is sent; None for a GET.
            show: Whether the command and the answer are shown.

        Raises:
            CallFailed: if there is no good answer.
        """
        data = "" if body is None else f"-d {shlex.quote(json.dumps(body))} "
        command = f'curl -sS -H "Authorization: Bearer $TOKEN" {data}"{url}"'
        if show:
            self._terminal.command(command)
        text = self._run(command) if self._curl else self._request(url, body)
        try:
            answer = json.loads(text)
        except ValueError:
            raise CallFailed(f"{command}\nanswered: {text[:500]}") from None
        if show:
            self._terminal.answer(answer)
        if "errcode" in answer:
            raise CallFailed(f"{command}\nanswered: {answer['errcode']}: {answer['error']}")
        return answer

    def wait_until_over(self, url: str) -> None:
        """Asks for a job, and shows nothing, until it is over."""
        wait_for(
            lambda: self.call(url, show=False)["status"] not in ("scheduled", "active"),
            _TIMEOUT,
            what=f"the job {url} to be over",
            interval=0.1,
        )

    def _run(self, command: str) -> str:
        # Proxies of the surroundings have no business between two programs on this machine.
        ran = subprocess.run(
            ["/bin/sh", "-c", command],
            env={**self._variables, "no_proxy": "*", "PATH": _path_of_curl()},
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
        )
        if ran.returncode:
            raise CallFailed(f"{command}\nended with {ran.returncode}: {ran.stderr.strip()}")
        return ran.stdout

    def _request(self, url: str, body: Mapping[str, Any] | None) -> str:
        session = requests.Session()
        session.trust_env = False
        return session.request(
            "GET" if body is None else "POST",
            Template(url).substitute(self._variables),
            data=None if body is None else json.dumps(body),
            headers={"Authorization": f"Bearer {self._variables['TOKEN']}"},
            timeout=_TIMEOUT,
        ).text


def _path_of_curl() -> str:
    found = shutil.which("curl")
    return found.rpartition("/")[0] if found else ""
