"""The resource under which all endpoints lie: admins only, errors in one place."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from synapse.api.errors import Codes, SynapseError
from synapse.http.server import JsonResource
from synapse.http.site import SynapseRequest
from synapse.rest.admin._base import assert_requester_is_admin
from synapse.server import HomeServer
from synapse.util.duration import Duration

from synapse_rejection_repair.errors import RepairError, StillStarting, UnsupportedSynapse
from synapse_rejection_repair.rest.errors import to_http

_START_SECONDS = 10.0
"""How long a request waits for the module to begin, in seconds: its tables come first."""
_START_STEPS = 200


class AdminResource(JsonResource):
    """Lets only server admins in, before anything about the request is looked at.

    Args:
        hs: the homeserver.
        unsupported: why the module does nothing on this Synapse; then every request is
            answered with it.

    Attributes:
        requests: how many requests have come here.
    """

    def __init__(self, hs: HomeServer, unsupported: UnsupportedSynapse | None = None) -> None:
        super().__init__(hs, canonical_json=False)
        self._auth = hs.get_auth()
        self._unsupported = unsupported
        self._ready = False
        self.requests = 0

    def ready(self) -> None:
        """Lets requests through: the module's tables are there."""
        self._ready = True

    async def _wait_until_ready(self) -> None:
        for _ in range(_START_STEPS):
            if self._ready:
                return
            await self.clock.sleep(Duration(seconds=_START_SECONDS / _START_STEPS))
        raise StillStarting()

    async def _async_render(self, request: SynapseRequest) -> tuple[int, Any]:
        self.requests += 1
        await assert_requester_is_admin(self._auth, request)
        if self._unsupported is not None:
            raise to_http(self._unsupported)
        if not request.path.isascii():
            raise SynapseError(
                HTTPStatus.BAD_REQUEST,
                "The path must be ASCII, anything else in it percent-encoded",
                Codes.INVALID_PARAM,
            )
        try:
            await self._wait_until_ready()
            result: tuple[int, Any] = await super()._async_render(request)
            return result
        except RepairError as e:
            raise to_http(e) from e
