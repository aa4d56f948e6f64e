"""Settings from the environment."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from expunge.store import db, settings_names
from expunge.store.settings import GROUPS, Settings, read, table
from expunge.store.settings_names import RENAMED, given, rename, variable


def test_environment_names_are_those_of_the_documentation(monkeypatch):
    values = {
        "EXPUNGE_DATABASE_URL": "postgresql://u:p@h/d",
        "EXPUNGE_MODELS": '{"sd": "/models/sd"}',
        "EXPUNGE_LEASE_SECONDS": "7",
        "EXPUNGE_HEARTBEAT_SECONDS": "2",
        "EXPUNGE_SECRET": "s" * 32,
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.database_url.get_secret_value() == values["EXPUNGE_DATABASE_URL"]
    assert (settings.models, settings.lease_seconds) == ({"sd": "/models/sd"}, 7)
    assert "s" * 32 not in repr(settings)
    assert "u:p" not in repr(settings)


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """warnings(): what was said about old names, in a process that has not warned yet."""
    monkeypatch.setattr(settings_names, "warned", set())
    return lambda: [record.getMessage() for record in caplog.records if record.name == "expunge.settings"]


def test_a_variable_under_its_old_name_is_read_with_one_warning(monkeypatch, warnings):
    monkeypatch.setenv("MAX_STEPS", "7")
    monkeypatch.setenv("WEBHOOK_PORTS", "443, 8443")
    assert (Settings().max_steps, Settings().webhook_ports) == (7, (443, 8443))
    assert warnings() == [
        "The environment variable MAX_STEPS is now called EXPUNGE_MAX_STEPS: rename it.",
        "The environment variable WEBHOOK_PORTS is now called EXPUNGE_WEBHOOK_PORTS: rename it.",
    ]


def test_every_old_name_is_still_read(monkeypatch, warnings):
    values = {
        "database_url": "postgresql://u:p@old/d",
        "migration_database_url": "postgresql://o:p@old/d",
        "redis_url": "redis://old",
        "artifacts_url": "file:///old",
        "lease_seconds": "100",
        "webhook_allowed_hosts": "old.internal",
        "webhook_ca_file": "/old.pem",
    }
    for name in RENAMED:
        monkeypatch.setenv(name.upper(), values.get(name, "60" if name == "max_run_seconds" else "11"))
    found, default = Settings(), Settings.model_construct()
    assert len(RENAMED) == 43
    assert not [name for name in RENAMED if getattr(found, name) == getattr(default, name)]
    assert len(warnings()) == len(RENAMED) - 2


def test_where_both_names_are_set_the_current_one_counts(monkeypatch, warnings):
    monkeypatch.setenv("MAX_BYTES", "3")
    monkeypatch.setenv("EXPUNGE_MAX_BYTES", "4")
    assert Settings().max_bytes == 4
    assert warnings() == [
        "The environment variable MAX_BYTES is ignored, because EXPUNGE_MAX_BYTES is set: remove it."
    ]


def test_an_empty_variable_does_not_hide_the_other_name(monkeypatch, warnings):
    monkeypatch.setenv("MAX_BYTES", "3")
    monkeypatch.setenv("EXPUNGE_MAX_BYTES", "")
    assert Settings().max_bytes == 3
    monkeypatch.setenv("MAX_BYTES", "")
    assert Settings().max_bytes is None
    assert len(warnings()) == 1


def test_the_urls_that_platforms_set_are_read_without_a_warning(monkeypatch, warnings):
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:p@platform/d")
    monkeypatch.setenv("REDIS_URL", "redis://platform")
    assert Settings().database_url.get_secret_value() == "postgresql://u:p@platform/d"
    assert Settings().redis_url.get_secret_value() == "redis://platform"
    assert warnings() == []


@pytest.mark.parametrize("name", ["SECRET", "MODELS", "DEVICE", "METRICS_TOKEN", "RETENTION_DAYS"])
def test_a_setting_that_always_had_the_prefix_is_not_read_without_it(monkeypatch, warnings, name):
    monkeypatch.delenv(f"EXPUNGE_{name}", raising=False)
    monkeypatch.setenv(name, "3")
    assert getattr(Settings(), name.lower()) == Settings.model_fields[name.lower()].default
    assert warnings() == []


def test_an_environment_to_be_inherited_has_only_current_names_afterwards(warnings):
    environment = {
        "MAX_BYTES": "3",
        "MAX_STEPS": "5",
        "EXPUNGE_MAX_STEPS": "6",
        "DATABASE_URL": "x",
        "HOME": "/",
    }
    rename(environment)
    assert environment == {
        "EXPUNGE_MAX_BYTES": "3",
        "EXPUNGE_MAX_STEPS": "6",
        "DATABASE_URL": "x",
        "HOME": "/",
    }
    assert [message.split()[3] for message in warnings()] == ["MAX_BYTES", "MAX_STEPS"]


def test_a_value_is_found_under_either_name(monkeypatch):
    monkeypatch.delenv("EXPUNGE_REDIS_URL", raising=False)
    monkeypatch.delenv("REDIS_URL", raising=False)
    assert given("redis_url") is None
    monkeypatch.setenv("REDIS_URL", "redis://old")
    assert given("redis_url") == "redis://old"
    monkeypatch.setenv("EXPUNGE_REDIS_URL", "redis://new")
    assert given("redis_url") == "redis://new"


def test_an_error_names_the_variable_that_was_given(monkeypatch):
    monkeypatch.setenv("LEASE_SECONDS", "soon")
    monkeypatch.setenv("EXPUNGE_MAX_STEPS", "0")
    with pytest.raises(SystemExit) as stopped:
        read(secret=False)
    lines = str(stopped.value).splitlines()
    assert any(line.startswith("LEASE_SECONDS must be a number") for line in lines)
    assert any(line.startswith("EXPUNGE_MAX_STEPS must be at least 1") for line in lines)
    monkeypatch.delenv("EXPUNGE_MAX_STEPS")
    monkeypatch.setenv("LEASE_SECONDS", "10")
    monkeypatch.setenv("EXPUNGE_HEARTBEAT_SECONDS", "9")
    with pytest.raises(ValueError, match="EXPUNGE_HEARTBEAT_SECONDS must be at most half of LEASE_SECONDS"):
        Settings()


def test_heartbeat_slower_than_half_the_lease_is_refused(monkeypatch):
    monkeypatch.setenv("EXPUNGE_LEASE_SECONDS", "10")
    monkeypatch.setenv("EXPUNGE_HEARTBEAT_SECONDS", "9")
    with pytest.raises(ValueError, match="at most half"):
        Settings()


@pytest.mark.parametrize(
    "url", ["postgres://u:p%40@h:1/d?sslmode=require", "postgresql://u:p%40@h:1/d?sslmode=require"]
)
def test_database_urls_of_every_habit_are_understood(url):
    assert db.sqlalchemy_url(url) == "postgresql+psycopg://u:p%40@h:1/d?sslmode=require"
    assert db.psycopg_url(url) == "postgresql://u:p%40@h:1/d?sslmode=require"


def test_the_documentation_lists_every_setting_with_its_default():
    page = (Path(__file__).parents[2] / "docs" / "running.md").read_text()
    assert table() in page, "run 'python -m expunge.store.settings' and put its table into docs/running.md"
    assert all(field.description for field in Settings.model_fields.values())


def test_every_setting_is_in_one_group_and_its_variable_in_the_table():
    grouped = [name for group in GROUPS for name in group.model_fields]
    assert sorted(grouped) == sorted(Settings.model_fields)
    assert all(f"| `{variable(name)}` |" in table() for name in grouped)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("EXPUNGE_METRICS_PORT", "abc", "EXPUNGE_METRICS_PORT must be a whole number ("),
        ("EXPUNGE_LEASE_SECONDS", "soon", "EXPUNGE_LEASE_SECONDS must be a number (A running job"),
        ("EXPUNGE_LEASE_SECONDS", "0", "EXPUNGE_LEASE_SECONDS must be more than 0 (A running job"),
        ("EXPUNGE_RATE_LIMITS", "perhaps", "EXPUNGE_RATE_LIMITS must be true or false (Whether"),
        (
            "EXPUNGE_DEVICE",
            "gpu",
            "EXPUNGE_DEVICE does not have the expected form (What a worker computes on: cuda:1, cpu",
        ),
        ("EXPUNGE_MODELS", "x", "EXPUNGE_MODELS: not JSON ("),
        ("EXPUNGE_MODELS", '{"a": 5}', "EXPUNGE_MODELS: 'a' must be a string"),
        ("EXPUNGE_PROMPT_SETS", "[]", "EXPUNGE_PROMPT_SETS: must be a JSON object of names and files"),
        ("EXPUNGE_PROMPT_SETS", '{"../x": "a"}', "EXPUNGE_PROMPT_SETS: '../x' is not a valid name"),
        (
            "EXPUNGE_HEARTBEAT_SECONDS",
            "900",
            "EXPUNGE_HEARTBEAT_SECONDS must be at most half of EXPUNGE_LEASE_SECONDS",
        ),
        (
            "EXPUNGE_DATABASE_URL",
            "foo:hunter2",
            "EXPUNGE_DATABASE_URL is not a URL: write it as postgresql://",
        ),
        ("EXPUNGE_REDIS_URL", "foo:hunter2", "EXPUNGE_REDIS_URL is not a URL: write it as redis://"),
        ("EXPUNGE_DATABASE_URL", "postgresql://a:hunter2@h:port/x", "EXPUNGE_DATABASE_URL is not a URL"),
        (
            "EXPUNGE_ARTIFACTS_URL",
            "/var/artifacts",
            "EXPUNGE_ARTIFACTS_URL is not the address of a store: write it as file:///directory",
        ),
    ],
)
def test_a_setting_that_is_wrong_is_one_line_of_ours_without_its_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
):
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stopped:
        read(secret=False)
    lines = str(stopped.value).splitlines()
    assert lines[0].startswith(said)
    assert not re.search("hunter2|Input should|Value error|should match", str(stopped.value))


@pytest.mark.parametrize("url", ["unix:///run/redis.sock?db=1", "redis+socket:///run/redis.sock?db=1"])
def test_a_socket_of_redis_is_spelled_as_celery_and_as_its_client_want_it(url):
    settings = Settings(redis_url=url)
    assert settings.broker_url == "redis+socket:///run/redis.sock?db=1"
    assert settings.redis_client_url == "unix:///run/redis.sock?db=1"
