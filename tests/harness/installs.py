"""The Synapse installations that servers are run from."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.harness.process import REPOSITORY


@dataclass(frozen=True)
class Install:
    """A Python environment that has Synapse in it."""

    python: Path

    @cached_property
    def version(self) -> str:
        """The version of Synapse in it."""
        code = "import importlib.metadata; print(importlib.metadata.version('matrix-synapse'))"
        answer = subprocess.run(
            [self.python, "-c", code], capture_output=True, text=True, check=True
        )
        return answer.stdout.strip()


# The variables are for whoever keeps the environments elsewhere.
NEWEST = Install(Path(os.environ.get("NEWEST_SYNAPSE_PYTHON", sys.executable)))
OLDEST = Install(
    Path(os.environ.get("OLDEST_SYNAPSE_PYTHON", REPOSITORY / ".venv-oldest" / "bin" / "python"))
)

INSTALLS = {"newest": NEWEST, "oldest": OLDEST}
