"""The module that `homeserver.yaml` names: reads its configuration and has the parts wired."""

from __future__ import annotations

import logging
from typing import Any
from weakref import WeakSet

from synapse.module_api import ModuleApi
from synapse.module_api.errors import ConfigError
from synapse.server import HomeServer

from synapse_rejection_repair import config as configuration
from synapse_rejection_repair.adapter.audit import unsupported
from synapse_rejection_repair.adapter.process import homeserver
from synapse_rejection_repair.config import BadConfig, Config
from synapse_rejection_repair.errors import UnsupportedSynapse
from synapse_rejection_repair.rest.resource import AdminResource

logger = logging.getLogger(__name__)

_loaded: WeakSet[HomeServer] = WeakSet()


class RejectionRepair:
    """Repairs rooms in which this homeserver has wrongly rejected events.

    Args:
        config: what `parse_config` made of the configuration.
        api: Synapse's door for modules.
    """

    def __init__(self, config: Config, api: ModuleApi) -> None:
        sender = config.alert.sender
        if sender is not None and not api.is_mine(sender):
            raise ConfigError(
                f"synapse_rejection_repair: 'alert.sender' must be a user of this server,"
                f" {api.server_name}"
            )
        hs = homeserver(api)
        if hs in _loaded:
            # Two of them would carry each job out twice.
            raise ConfigError("synapse_rejection_repair: the module is there twice in 'modules'")
        _loaded.add(hs)
        reason = unsupported(hs)
        if reason is None:
            try:
                from synapse_rejection_repair.wiring import wire
            except ImportError as e:
                reason = UnsupportedSynapse((str(e),))
        resource = AdminResource(hs, reason)
        api.register_web_resource(config.path, resource)
        if reason is not None:
            logger.error("%s", reason)
            return
        wire(api, hs, resource, config)

    @staticmethod
    def parse_config(config: dict[str, Any]) -> Config:
        """Reads the module's configuration.

        Raises:
            ConfigError: a field is unknown or wrong.
        """
        try:
            return configuration.parse_config(config)
        except BadConfig as e:
            raise ConfigError(f"synapse_rejection_repair: {e}", e.field.split(".")) from None
