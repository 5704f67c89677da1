"""A Synapse module for benchmarks alone: the import without a single check."""

from __future__ import annotations

from typing import Any

from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.events import make_event_from_dict
from synapse.module_api import ModuleApi

from synapse_rejection_repair.adapter.admission import Admission, Admitted
from synapse_rejection_repair.adapter.arrival_checker import ArrivalChecker
from synapse_rejection_repair.domain.model import ACCEPTED


class WithoutChecks:
    """Takes the checks out of the import."""

    def __init__(self, config: dict[str, Any], api: ModuleApi) -> None:
        async def check(
            self: Any, room_id: str, version: str, events: Any, keys: Any = None
        ) -> Any:
            known = KNOWN_ROOM_VERSIONS[version]
            return [Admitted(e, make_event_from_dict(e.pdu, known), False) for e in events], []

        async def verdict(self: Any, event: Any, group: Any) -> Any:
            return ACCEPTED

        async def missing(self: Any, event_ids: Any) -> Any:
            return []

        Admission.check = check  # type: ignore[assignment,method-assign]
        ArrivalChecker.verdict = verdict  # type: ignore[method-assign]
        ArrivalChecker.missing = missing  # type: ignore[method-assign]
