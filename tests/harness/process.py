"""Programs that the tests start, none of which outlives them."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


class Process:
    """A running program, on a lifeline, with its output in a file."""

    def __init__(
        self,
        program: Sequence[str],
        *,
        cwd: Path,
        output: Path,
        python: Path | str = sys.executable,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Starts it.

        Args:
            program: What `tests.harness.lifeline` is asked to run: `module …` or `command …`.
            cwd: The folder that it runs in.
            output: The file that its output is appended to.
            python: The Python that runs the lifeline, and the module.
            env: Variables on top of those of this process.
        """
        self._is_command = program[0] == "command"
        reading, self._writing = os.pipe()
        path = os.pathsep.join(filter(None, [str(REPOSITORY), (env or {}).get("PYTHONPATH")]))
        try:
            with output.open("ab") as file:
                self._popen = subprocess.Popen(
                    [str(python), "-m", "tests.harness.lifeline", str(reading), *program],
                    cwd=cwd,
                    env={**os.environ, **(env or {}), "PYTHONPATH": path},
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    pass_fds=[reading],
                    # Ctrl-C is for us; we end what we started in our own order.
                    start_new_session=True,
                )
        except BaseException:
            os.close(self._writing)
            raise
        finally:
            os.close(reading)
        _running.add(self)

    @property
    def pid(self) -> int:
        """The process id; for a `command`, the lifeline's."""
        return self._popen.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._popen.poll() is None

    def terminate(self, timeout: float = 30.0) -> int:
        """Asks it to end with SIGTERM, and waits.

        Args:
            timeout: Seconds after which it is killed instead.

        Returns:
            The exit code.

        Raises:
            TimeoutError: if it had to be killed.
        """
        self._popen.send_signal(signal.SIGTERM)
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"process {self.pid} ignored SIGTERM for {timeout:g} s") from None
        finally:
            self.kill()

    def kill(self) -> None:
        """Ends it at once, and waits: a `module` with SIGKILL, a `command` as its lifeline does."""
        if self in _running:
            _running.discard(self)
            os.close(self._writing)
        if not self._is_command:
            self._popen.kill()
        self._popen.wait()


_running: weakref.WeakSet[Process] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    for process in list(_running):
        process.kill()
