"""The wiring of the watch, as `wiring` is of the repair."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from synapse.metrics import SERVER_NAME_LABEL
from synapse.module_api import ModuleApi
from synapse.server import HomeServer

from synapse_rejection_repair.adapter.alertchannel import SynapseAlertChannel, rejections_counter
from synapse_rejection_repair.adapter.clock import ReactorClock
from synapse_rejection_repair.adapter.listings import Listings
from synapse_rejection_repair.adapter.process import local_url
from synapse_rejection_repair.adapter.watch import LogWatch
from synapse_rejection_repair.adapter.watchstore import SynapseWatchStore
from synapse_rejection_repair.config import Config
from synapse_rejection_repair.diagnosis import Diagnostician
from synapse_rejection_repair.healing import Healer
from synapse_rejection_repair.rest.alerts import AlertsServlet
from synapse_rejection_repair.rest.paths import VERSION
from synapse_rejection_repair.rest.resource import AdminResource
from synapse_rejection_repair.watch import Announcer, Watch

_POLL_MS = 2000
"""How long a rejection waits to be written, and an alert to be told, in milliseconds."""


def wire_watch(
    api: ModuleApi,
    hs: HomeServer,
    resource: AdminResource,
    config: Config,
    store: SynapseWatchStore,
    listings: Listings,
    diagnostician: Diagnostician,
    clock: ReactorClock,
    healer: Healer | None,
) -> Callable[[], Awaitable[None]]:
    """Listens from now on, and puts the endpoint below a resource.

    Args:
        api: Synapse's door for modules.
        hs: the homeserver behind it.
        resource: where the endpoint is to be.
        config: the module's configuration.
        store: the rejections and alerts.
        listings: what is rejected.
        diagnostician: looks at the rooms that alerts are about.
        clock: tells the time.
        healer: repairs without an admin; `None` where that is not configured.

    Returns:
        What begins to write, once the module's tables are there; to be called again
        where it raises.
    """

    def heard(check: str | None) -> None:
        labels = {"check": check or "unknown", SERVER_NAME_LABEL: hs.hostname}
        rejections_counter.labels(**labels).inc()

    ear = LogWatch(heard)
    ear.start()
    watch = Watch(ear, store, clock, config.alert.after)
    channel = SynapseAlertChannel(api, hs, config.alert)
    endpoints = f"{local_url(hs)}{config.path}/{VERSION}"
    announcer = Announcer(store, channel, listings, diagnostician, clock, endpoints, healer)
    AlertsServlet(config.path, store).register(resource)

    async def poll() -> None:
        ear.attend()
        await watch.poll()

    async def begin() -> None:
        # Nothing below fails: what has begun must not begin twice.
        await watch.start()
        api.looping_background_call(
            poll, _POLL_MS, desc="rejection_repair_watch", run_on_all_instances=True
        )
        if api.should_run_background_tasks():
            api.looping_background_call(announcer.poll, _POLL_MS, desc="rejection_repair_announce")
            api.run_as_background_process("rejection_repair_check_channel", channel.check)

    return begin
