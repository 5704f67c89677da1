"""Asks for repairs, and waits for them."""

from __future__ import annotations

from typing import Any

from tests.harness.client import Client, JsonDict, quoted
from tests.harness.waiting import wait_for


def dry_run(user: Client, room_id: str, **body: Any) -> JsonDict:
    """Returns what a repair would do."""
    answer: JsonDict = user.repair_api("POST", f"/rooms{quoted(room_id)}/repair", body)
    return answer


def start(user: Client, room_id: str, **body: Any) -> str:
    """Starts a repair for real, and returns its id."""
    repair_id: str = dry_run(user, room_id, dry_run=False, **body)["repair_id"]
    return repair_id


def progress(user: Client, repair_id: str) -> JsonDict:
    """Returns how far a repair is."""
    answer: JsonDict = user.repair_api("GET", "/repairs" + quoted(repair_id))
    return answer


def finished(user: Client, repair_id: str, timeout: float = 120.0) -> JsonDict:
    """Waits until a repair is over, however it ended, and returns its last word."""

    def over() -> JsonDict | None:
        found = progress(user, repair_id)
        return None if found["status"] in ("scheduled", "active") else found

    return wait_for(over, timeout, what=f"repair {repair_id} to end") or {}


def repair(user: Client, room_id: str, **body: Any) -> JsonDict:
    """Repairs a room, and returns the repair's last word, which must be that it is complete."""
    found = finished(user, start(user, room_id, **body))
    assert (found["status"], found["error"]) == ("complete", None), found
    return found


def health(user: Client, room_id: str) -> dict[str, int]:
    """Returns what is wrong with a room: how often, by the name of the check."""
    answer = user.repair_api("GET", f"/rooms{quoted(room_id)}/health")
    problems = {p["check"]: p["count"] for p in answer["problems"]}
    assert answer["healthy"] is (problems.keys() <= {"rejected", "soft_failed"}), answer
    return problems


def diagnosis(user: Client, room_id: str) -> JsonDict:
    """Returns the diagnosis of a room."""
    answer: JsonDict = user.repair_api("GET", f"/rooms{quoted(room_id)}/diagnosis")
    return answer
