"""The combinations of Synapse versions and databases that tests run on."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

ROOM_VERSIONS = ("10", "11", "12")


@dataclass(frozen=True)
class Flavour:
    """What a pair of servers consists of."""

    a: str = "newest"
    """A's Synapse: `newest` or `oldest`."""
    b: str = "newest"
    """B's Synapse."""
    database: str = "sqlite"
    """B's database: `sqlite` or `postgres`. A's is SQLite always."""
    repair: bool = True
    """Whether B loads the module that this project is about. A never does."""

    def param(self, *more: pytest.MarkDecorator) -> object:
        """Returns it as a parameter for pytest, with its name, its marks, and `more`."""
        marks = [*more]
        if "oldest" in (self.a, self.b):
            marks.append(pytest.mark.oldest)
        if self.database == "postgres":
            marks.append(pytest.mark.postgres)
        return pytest.param(self, id=f"{self.b}-{self.database}", marks=marks)


NEWEST = Flavour().param()
OLDEST = Flavour(b="oldest").param()
POSTGRES = Flavour(database="postgres").param()

SLOW_OLDEST = Flavour(b="oldest").param(pytest.mark.slow)
SLOW_POSTGRES = Flavour(database="postgres").param(pytest.mark.slow)
SLOW_OLDEST_ON_POSTGRES = Flavour(b="oldest", database="postgres").param(pytest.mark.slow)

ALL = (NEWEST, OLDEST, POSTGRES)

BOTH_DATABASES = pytest.mark.parametrize("braked", [NEWEST, SLOW_POSTGRES], indirect=True)
"""For tests that ask for the `braked` pair, and take their time."""
