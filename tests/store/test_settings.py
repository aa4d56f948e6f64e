"""Settings from the environment."""

import re
from pathlib import Path

import pytest

from expunge.store import db
from expunge.store.settings import Settings, read, table


def test_environment_names_are_those_of_the_documentation(monkeypatch):
    values = {
        "DATABASE_URL": "postgresql://u:p@h/d",
        "EXPUNGE_MODELS": '{"sd": "/models/sd"}',
        "LEASE_SECONDS": "7",
        "HEARTBEAT_SECONDS": "2",
        "EXPUNGE_SECRET": "s" * 32,
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.database_url.get_secret_value() == values["DATABASE_URL"]
    assert (settings.models, settings.lease_seconds) == ({"sd": "/models/sd"}, 7)
    assert "s" * 32 not in repr(settings)
    assert "u:p" not in repr(settings)


def test_heartbeat_slower_than_half_the_lease_is_refused(monkeypatch):
    monkeypatch.setenv("LEASE_SECONDS", "10")
    monkeypatch.setenv("HEARTBEAT_SECONDS", "9")
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


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("EXPUNGE_METRICS_PORT", "abc", "EXPUNGE_METRICS_PORT must be a whole number ("),
        ("LEASE_SECONDS", "soon", "LEASE_SECONDS must be a number (A running job"),
        ("LEASE_SECONDS", "0", "LEASE_SECONDS must be more than 0 (A running job"),
        ("EXPUNGE_RATE_LIMITS", "perhaps", "EXPUNGE_RATE_LIMITS must be true or false (Off switch"),
        (
            "EXPUNGE_DEVICE",
            "gpu",
            "EXPUNGE_DEVICE is not in its form (What a worker computes on: cuda:1, cpu",
        ),
        ("EXPUNGE_MODELS", "x", "EXPUNGE_MODELS: is not JSON ("),
        ("EXPUNGE_MODELS", '{"a": 5}', "EXPUNGE_MODELS: 'a' must be a text"),
        ("HEARTBEAT_SECONDS", "900", "HEARTBEAT_SECONDS must be at most half of LEASE_SECONDS"),
        ("DATABASE_URL", "foo:hunter2", "DATABASE_URL is no URL: write it as postgresql://"),
        ("REDIS_URL", "foo:hunter2", "REDIS_URL is no URL: write it as redis://"),
        ("DATABASE_URL", "postgresql://a:hunter2@h:port/x", "DATABASE_URL is no URL"),
        (
            "ARTIFACTS_URL",
            "/var/artifacts",
            "ARTIFACTS_URL is no address of a store: write it as file:///directory",
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
