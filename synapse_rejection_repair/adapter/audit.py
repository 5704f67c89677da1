"""Whether this Synapse's insides are those that the adapter was written against.

Every private or internal symbol that `adapter` calls is named here with the parameters
that it is called with, as read in Synapse 1.151.0 and 1.163.2.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

from synapse.server import HomeServer

from synapse_rejection_repair.errors import UnsupportedSynapse

_EXPECTED: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "synapse.storage.database",
        "DatabasePool.runInteraction",
        ("desc", "func", "isolation_level"),
    ),
    (
        "synapse.storage.databases.main.events",
        "PersistEventsStore._persist_events_txn",
        ("txn", "room_id", "events_and_contexts"),
    ),
    (
        "synapse.storage.databases.main.events",
        "PersistEventsStore._handle_redact_relations",
        ("txn", "room_id", "redacted_event_id"),
    ),
    (
        "synapse.storage.databases.main.events",
        "PersistEventsStore._update_forward_extremities_txn",
        ("txn", "room_id", "new_forward_extremities", "max_stream_order"),
    ),
    (
        "synapse.storage.databases.main.events",
        "PersistEventsStore._store_room_message_txn",
        ("txn", "event"),
    ),
    (
        "synapse.storage.databases.main.events",
        "PersistEventsStore._store_room_topic_txn",
        ("txn", "event"),
    ),
    (
        "synapse.storage.databases.main.events",
        "PersistEventsStore._store_room_name_txn",
        ("txn", "event"),
    ),
    (
        "synapse.storage.databases.main.events",
        "PersistEventsStore._add_to_cache",
        ("txn", "events_and_contexts"),
    ),
    (
        "synapse.storage.databases.main.search",
        "SearchWorkerStore.store_search_entries_txn",
        ("txn", "entries"),
    ),
    (
        "synapse.storage.controllers.persist_events",
        "EventsPersistenceStorageController._persist_event_batch",
        ("room_id", "task"),
    ),
    (
        "synapse.storage.controllers.persist_events",
        "_EventPeristenceQueue.add_to_queue",
        ("room_id", "task"),
    ),
    (
        "synapse.storage.controllers.persist_events",
        "EventsPersistenceStorageController._update_current_state",
        ("room_id", "_task"),
    ),
    (
        "synapse.storage.controllers.persist_events",
        "EventsPersistenceStorageController._calculate_state_delta",
        ("room_id", "current_state"),
    ),
    (
        "synapse.storage.databases.main.events",
        "DeltaState",
        ("to_delete", "to_insert", "no_longer_in_room"),
    ),
    (
        "synapse.storage.controllers.persist_events",
        "EventsPersistenceStorageController._calculate_new_extremities",
        ("room_id", "event_contexts", "latest_event_ids"),
    ),
    (
        "synapse.storage.controllers.persist_events",
        "EventsPersistenceStorageController._get_new_state_after_events",
        ("room_id", "events_context", "old_latest_event_ids", "new_latest_event_ids"),
    ),
    (
        "synapse.storage.controllers.persist_events",
        "EventsPersistenceStorageController.update_current_state",
        ("room_id",),
    ),
    (
        "synapse.storage.databases.state.deletion",
        "StateDeletionDataStore.check_state_groups_and_bump_deletion",
        ("state_groups",),
    ),
    (
        "synapse.storage.databases.state.deletion",
        "StateDeletionDataStore.persisting_state_group_references",
        ("event_and_contexts",),
    ),
    (
        "synapse.storage.databases.main.cache",
        "CacheInvalidationWorkerStore._invalidate_cache_and_stream",
        ("txn", "cache_func", "keys"),
    ),
    (
        "synapse.storage.databases.main.cache",
        "CacheInvalidationWorkerStore._invalidate_cache_and_stream_bulk",
        ("txn", "cache_func", "key_tuples"),
    ),
    (
        "synapse.storage.databases.main.cache",
        "CacheInvalidationWorkerStore._invalidate_all_cache_and_stream",
        ("txn", "cache_func"),
    ),
    (
        "synapse.storage._base",
        "SQLBaseStore.register_external_cached_function",
        ("cache_name", "func"),
    ),
    (
        "synapse.storage.databases.main.cache",
        "CacheInvalidationWorkerStore._invalidate_caches_for_room_events_and_stream",
        ("txn", "room_id"),
    ),
    (
        "synapse.storage.databases.main.cache",
        "CacheInvalidationWorkerStore._invalidate_state_caches_and_stream",
        ("txn", "room_id", "members_changed"),
    ),
    (
        "synapse.storage.databases.main.events_worker",
        "EventsWorkerStore.get_events_as_list",
        ("event_ids",),
    ),
    (
        "synapse.storage.databases.main.keys",
        "KeyStore.get_server_keys_json",
        ("server_name_and_key_ids",),
    ),
    (
        "synapse.storage.controllers.state",
        "StateStorageController.get_state_for_groups",
        ("groups", "state_filter"),
    ),
    (
        "synapse.storage.controllers.persist_events",
        "EventsPersistenceStorageController.persist_events",
        ("events_and_contexts", "backfilled"),
    ),
    (
        "synapse.notifier",
        "Notifier.on_new_room_events",
        ("events_and_pos", "max_room_stream_token", "extra_users"),
    ),
    (
        "synapse.federation.federation_client",
        "FederationClient.get_room_state_ids",
        ("destination", "room_id", "event_id"),
    ),
    (
        "synapse.handlers.federation_event",
        "FederationEventHandler.backfill",
        ("dest", "room_id", "limit", "extremities"),
    ),
    (
        "synapse.handlers.federation_event",
        "FederationEventHandler.on_receive_pdu",
        ("origin", "pdu"),
    ),
    (
        "synapse.handlers.federation_event",
        "FederationEventHandler.persist_events_and_notify",
        ("room_id", "event_and_contexts", "backfilled"),
    ),
    # Not called: its cache is filled and emptied.
    (
        "synapse.storage.databases.main.state",
        "StateGroupWorkerStore._get_state_group_for_event",
        ("event_id",),
    ),
    (
        "synapse.storage.controllers.state",
        "StateStorageController.get_current_hosts_in_room_ordered",
        ("room_id",),
    ),
    (
        "synapse.federation.transport.client",
        "TransportLayerClient.get_event",
        ("destination", "event_id", "timeout"),
    ),
    (
        "synapse.util.async_helpers",
        "concurrently_execute",
        ("func", "args", "limit"),
    ),
    ("synapse.util.iterutils", "sorted_topologically", ("nodes", "graph")),
    (
        "synapse.handlers.federation_event",
        "FederationEventHandler._auth_and_persist_outliers",
        ("room_id", "events"),
    ),
    ("synapse.notifier", "Notifier.notify_user_joined_room", ("event_id", "room_id")),
    (
        "synapse.handlers.event_auth",
        "EventAuthHandler.compute_auth_events",
        ("event", "current_state_ids", "for_verification"),
    ),
    (
        "synapse.state",
        "StateHandler.compute_event_context",
        ("event", "state_ids_before_event", "partial_state"),
    ),
    ("synapse.state", "StateHandler.compute_state_after_events", ("room_id", "event_ids")),
    (
        "synapse.state.v1",
        "resolve_events_with_store",
        ("room_id", "room_version", "state_sets", "event_map", "state_map_factory"),
    ),
    (
        "synapse.state.v2",
        "resolve_events_with_store",
        ("clock", "room_id", "room_version", "state_sets", "event_map", "state_res_store"),
    ),
    (
        "synapse.event_auth",
        "check_state_independent_auth_rules",
        ("store", "event", "batched_auth_events"),
    ),
    ("synapse.event_auth", "check_state_dependent_auth_rules", ("event", "auth_events")),
    ("synapse.event_auth", "validate_event_for_room_version", ("event",)),
    (
        "synapse.storage.controllers.state",
        "StateStorageController.get_state_ids_for_group",
        ("state_group", "state_filter"),
    ),
    ("synapse.event_auth", "auth_types_for_event", ("room_version", "event")),
    (
        "synapse.events",
        "make_event_from_dict",
        ("event_dict", "room_version", "internal_metadata_dict", "rejected_reason"),
    ),
    ("synapse.events", "relation_from_event", ("event",)),
    (
        "synapse.events.snapshot",
        "EventContext.with_state",
        (
            "storage",
            "state_group",
            "state_group_before_event",
            "state_delta_due_to_event",
            "partial_state",
            "state_group_deltas",
        ),
    ),
    (
        "synapse.federation.federation_base",
        "_check_sigs_on_pdu",
        ("keyring", "room_version", "pdu"),
    ),
    (
        "synapse.federation.federation_base",
        "event_from_pdu_json",
        ("pdu_json", "room_version"),
    ),
    ("synapse.storage.util.id_generators", "MultiWriterIdGenerator.get_next_mult", ("n",)),
    ("synapse.crypto.event_signing", "check_event_content_hash", ("event",)),
    ("synapse.events.utils", "prune_event", ("event",)),
    (
        "synapse.media.media_storage",
        "MediaStorage.store_into_file",
        ("file_info",),
    ),
    (
        "synapse.storage.databases.main.media_repository",
        "MediaRepositoryStore.store_cached_remote_media",
        (
            "origin",
            "media_id",
            "media_type",
            "media_length",
            "time_now_ms",
            "upload_name",
            "filesystem_id",
            "sha256",
        ),
    ),
    (
        "synapse.storage.databases.main.media_repository",
        "MediaRepositoryStore.store_remote_media_thumbnail",
        (
            "origin",
            "media_id",
            "filesystem_id",
            "thumbnail_width",
            "thumbnail_height",
            "thumbnail_type",
            "thumbnail_method",
            "thumbnail_length",
        ),
    ),
    ("synapse.event_auth", "get_user_power_level", ("user_id", "auth_events")),
    ("synapse.handlers.stats", "StatsHandler._handle_deltas", ("deltas",)),
    (
        "synapse.storage.databases.main.stats",
        "StatsStore.get_earliest_token_for_stats",
        ("stats_type", "id"),
    ),
    (
        "synapse.storage.databases.main.events_worker",
        "EventsWorkerStore.get_event",
        ("event_id", "allow_rejected", "allow_none"),
    ),
    # Not called: their warnings are listened to.
    (
        "synapse.handlers.federation_event",
        "FederationEventHandler._check_event_auth",
        ("origin", "event", "context"),
    ),
    (
        "synapse.handlers.federation_event",
        "FederationEventHandler._check_for_soft_fail",
        ("event", "context", "origin"),
    ),
    ("synapse.http.server", "JsonResource._async_render", ("request",)),
    ("synapse.rest.admin._base", "assert_requester_is_admin", ("auth", "request")),
    ("synapse.notifier", "Notifier.on_new_event", ("stream_key", "new_token", "rooms")),
    ("synapse.notifier", "Notifier.notify_replication", ()),
)

_ON_OBJECTS: tuple[tuple[Callable[[HomeServer], object | None], str], ...] = (
    (lambda hs: hs.get_datastores().persist_events, "_backfill_id_gen"),
    (lambda hs: hs.get_storage_controllers().persistence, "_event_persist_queue"),
    (lambda hs: getattr(hs.get_state_resolution_handler(), "_state_cache", None), "_cache"),
)
"""What a class does not show: attributes, each with the object that has it.

Where that is `None`, as what stores events is on a process that stores none, the adapter does not
ask for it.
"""


def differences() -> list[str]:
    """What of the symbols that the adapter calls is missing or called otherwise here."""
    return [
        difference
        for module, name, parameters in _EXPECTED
        if (difference := _difference(module, name, parameters)) is not None
    ]


def unsupported(hs: HomeServer) -> UnsupportedSynapse | None:
    """The error that says why this Synapse is not supported, `None` if it is.

    Args:
        hs: the homeserver.
    """
    found = differences() or _lacking(hs)
    if not found and len(hs.get_datastores().databases) > 1:
        found.append(
            "it keeps its state in a database of its own ('databases' in its configuration)"
        )
    return UnsupportedSynapse(tuple(found)) if found else None


def _lacking(hs: HomeServer) -> list[str]:
    """What of the attributes that the adapter uses its objects do not have here."""
    found = []
    for get, name in _ON_OBJECTS:
        owner = get(hs)
        if owner is not None and not hasattr(owner, name):
            found.append(f"{type(owner).__module__}.{type(owner).__qualname__}.{name} is missing")
    return found


def _difference(module: str, name: str, parameters: Iterable[str]) -> str | None:
    symbol: Any
    try:
        symbol = import_module(module)
        for part in name.split("."):
            # Statically: caching decorators do not let themselves be got from a class.
            symbol = inspect.getattr_static(symbol, part)
    except (ImportError, AttributeError):
        return f"{module}.{name} is missing"
    try:
        present = inspect.signature(getattr(symbol, "__func__", symbol)).parameters
    except (TypeError, ValueError):
        return None  # Behind a caching decorator, or written in Rust: it does not tell.
    missing = [p for p in parameters if p not in present]
    return f"{module}.{name} has no parameter {', '.join(missing)}" if missing else None
