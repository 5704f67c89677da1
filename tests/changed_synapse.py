"""A Synapse module for tests alone: makes Synapse's insides differ from what they are.

Modules are imported and configured in the order of `modules` in homeserver.yaml, so what this
one changes, when it is first, the others find changed when they are imported.

    config:
      # Gone, for whoever asks from now on: `module:name`.
      missing: [synapse.crypto.event_signing:check_event_content_hash]
      # Still there and working, but with parameters that nobody can tell: `module:Class.name`.
      changed: ["synapse.notifier:Notifier.notify_replication"]
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


class ChangedSynapse:
    """Changes Synapse as soon as it is configured."""

    def __init__(self, config: dict[str, Any], api: object) -> None:
        pass

    @staticmethod
    def parse_config(config: dict[str, Any]) -> dict[str, Any]:
        for path in config.get("missing", ()):
            owner, name = _find(path)
            delattr(owner, name)
        for path in config.get("changed", ()):
            owner, name = _find(path)
            setattr(owner, name, _with_other_parameters(getattr(owner, name)))
        return config


def _find(path: str) -> tuple[Any, str]:
    module, _, names = path.partition(":")
    *parents, name = names.split(".")
    owner: Any = import_module(module)
    for parent in parents:
        owner = getattr(owner, parent)
    return owner, name


def _with_other_parameters(func: Callable[..., Any]) -> Callable[..., Any]:
    def changed(*these: Any, **those: Any) -> Any:
        return func(*these, **those)

    return changed
