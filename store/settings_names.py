"""How the settings' environment variables are named: EXPUNGE_ and the field's name.

Before that prefix came, most of them had none. Those names are still read; each is warned of once.
"""

import logging
import os
from collections.abc import Mapping, MutableMapping
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource

PREFIX = "EXPUNGE_"
PLATFORM = frozenset({"database_url", "redis_url"})
"""Fields whose bare variables (DATABASE_URL, REDIS_URL) many platforms set: read without a warning."""
RENAMED = PLATFORM | frozenset(
    """
    migration_database_url artifacts_url
    lease_seconds heartbeat_seconds reaper_seconds dispatch_seconds redispatch_after_seconds backoff_seconds
    max_attempts
    stall_seconds cancel_seconds progress_seconds keep_checkpoints soft_shutdown_seconds tasks_per_process
    suspend_after_failures self_test_seconds deaf_seconds
    max_active_jobs max_running_jobs max_jobs_a_day max_steps max_pictures max_run_seconds max_bytes max_keys
    max_streams max_upload_bytes reads_per_minute writes_per_minute strangers_per_minute idempotency_seconds
    sweep_after_seconds
    webhook_allowed_hosts webhook_ports webhook_ca_file webhook_timeout_seconds webhook_retry_seconds
    webhook_seconds webhook_rotation_seconds webhook_log_seconds
    """.split()
)
"""Fields whose variables had no prefix: lease_seconds was LEASE_SECONDS."""

log = logging.getLogger("expunge.settings")
warned: set[str] = set()


def variable(field: str) -> str:
    """The environment variable of a field: EXPUNGE_LEASE_SECONDS for lease_seconds."""
    return PREFIX + field.upper()


def given_as(field: str, environment: Mapping[str, str] | None = None) -> str:
    """The variable that a field's value comes from: the old one where only that is set."""
    found = {name.upper() for name, value in (environment or os.environ).items() if value}
    old = field.upper()
    return old if field in RENAMED and old in found and variable(field) not in found else variable(field)


def given(field: str) -> str | None:
    """The environment's own text for a field; None where neither variable is set."""
    return os.environ.get(given_as(field)) or None


def warn(field: str, ignored: bool) -> None:
    """Tell the operator, once in this process, of a variable under its old name."""
    old, new = field.upper(), variable(field)
    if field in PLATFORM or old in warned:
        return
    warned.add(old)
    if ignored:
        log.warning("The environment variable %s is ignored, because %s is set: remove it.", old, new)
    else:
        log.warning("The environment variable %s is now called %s: rename it.", old, new)


def rename(environment: MutableMapping[str, str]) -> None:
    """Give variables with old names their current ones, for processes that inherit this environment."""
    for field in sorted(RENAMED - PLATFORM):
        if value := environment.pop(field.upper(), None):
            ignored = bool(environment.get(variable(field)))
            warn(field, ignored)
            if not ignored:
                environment[variable(field)] = value


class OldNames(EnvSettingsSource):
    """Reads the variables without the prefix, for the fields that had none; used after EnvSettingsSource."""

    def __init__(self, settings: type[BaseSettings]) -> None:
        super().__init__(settings, env_prefix="")

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        if field_name not in RENAMED:
            return None, field_name, False
        value, key, is_complex = super().get_field_value(field, field_name)
        if value is not None:
            warn(field_name, ignored=given_as(field_name) == variable(field_name))
        return value, key, is_complex
