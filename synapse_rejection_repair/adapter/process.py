"""Which of Synapse's processes this is."""

from __future__ import annotations

from synapse.http import site
from synapse.module_api import ModuleApi
from synapse.server import HomeServer


def homeserver(api: ModuleApi) -> HomeServer:
    """The homeserver behind the door for modules, which has no handle for most of its parts."""
    return api._hs


def local_url(hs: HomeServer) -> str:
    """Where clients on this machine reach this process, or else where all clients do."""
    for listener in hs.config.server.listeners:
        http, port = getattr(listener, "http_options", None), getattr(listener, "port", None)
        # No certificate is for localhost.
        if http is None or port is None or listener.is_tls():
            continue
        if any("client" in resource.names for resource in http.resources):
            return f"http://localhost:{port}"
    return str(hs.config.server.public_baseurl).rstrip("/")


def requests_begun() -> int:
    """How many HTTP requests this process has begun to answer since it was started."""
    return int(getattr(site, "_next_request_seq", 0))


def is_main(hs: HomeServer) -> bool:
    """Whether this is the main process, which has the endpoints wherever others may have them."""
    return hs.config.worker.worker_app is None


def writes_events(hs: HomeServer) -> bool:
    """Whether this process writes the events of any room."""
    return hs.get_instance_name() in hs.config.worker.writers.events


def writes_room(hs: HomeServer, room_id: str) -> bool:
    """Whether this process is the one that writes the events of the room."""
    return hs.config.worker.events_shard_config.should_handle(hs.get_instance_name(), room_id)
