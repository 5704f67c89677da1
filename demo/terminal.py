"""What the demo prints: readable on a terminal, and plain where the output goes elsewhere."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from typing import Any

_BOLD, _DIM, _RED, _GREEN, _CYAN = "1", "2", "31", "32", "36"
_WIDTH = 88
_SHOWN = 2
"""How many entries of a long list are shown."""


class Terminal:
    """Standard output, with colours only where somebody sees them."""

    def __init__(self) -> None:
        self._colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        # A terminal that has no such letters shows question marks, and the demo goes on.
        getattr(sys.stdout, "reconfigure", lambda **_: None)(errors="replace")
        self._step = 0

    def act(self, text: str) -> None:
        """What the headings that follow are a part of."""
        self._line()
        self._line(self._in(_BOLD, text.upper()))

    def heading(self, text: str) -> None:
        self._step += 1
        self._line()
        self._line(self._in(_BOLD, f"{self._step}. {text}"))

    def say(self, text: str) -> None:
        """A paragraph."""
        self._line()
        for line in textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False):
            self._line(line)

    def table(self, *rows: tuple[str, ...]) -> None:
        """Rows in columns, the first of them a heading."""
        self._line()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for number, row in enumerate(rows):
            text = "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self._line("   " + (self._in(_DIM, text) if number == 0 else text).rstrip())

    def command(self, text: str) -> None:
        self._line()
        self._line("   " + self._in(_CYAN, "$ " + text))

    def file(self, text: str) -> None:
        """What is written into a file."""
        self._line()
        for line in text.splitlines():
            self._line("   " + self._in(_DIM, line))

    def answer(self, value: Any) -> None:
        """JSON, with long lists cut short."""
        text = json.dumps(shortened(value), indent=2, ensure_ascii=False)
        for line in text.splitlines():
            self._line("   " + self._in(_DIM, line))

    def proved(self, what: str, detail: str) -> None:
        self._line(f"   {self._in(_GREEN, '✓')} {what}{self._in(_DIM, f'  ({detail})')}")

    def failed(self, what: str) -> None:
        self._line()
        self._line(self._in(_RED, f"✗ {what}"))

    def _line(self, text: str = "") -> None:
        print(text, flush=True)

    def _in(self, colour: str, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colours else text


def shortened(value: Any) -> Any:
    """A value with at most the first few entries of each list, and how many there are more."""
    if isinstance(value, dict):
        return {key: shortened(item) for key, item in value.items()}
    if isinstance(value, list):
        rest = len(value) - _SHOWN
        more = [f"… and {rest} more"] if rest > 1 else value[_SHOWN:]
        return [shortened(item) for item in [*value[:_SHOWN], *more]]
    return value
