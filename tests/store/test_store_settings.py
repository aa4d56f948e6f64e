"""Settings from the environment."""

from pathlib import Path

import pytest

from store import db
from store.settings import Settings, table


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


@pytest.mark.parametrize("url", ["postgres://u:p%40@h:1/d?sslmode=require", "postgresql://u:p%40@h:1/d?sslmode=require"])
def test_database_urls_of_every_habit_are_understood(url):
    assert db.sqlalchemy_url(url) == "postgresql+psycopg://u:p%40@h:1/d?sslmode=require"
    assert db.psycopg_url(url) == "postgresql://u:p%40@h:1/d?sslmode=require"


def test_the_documentation_lists_every_setting_with_its_default():
    page = (Path(__file__).parents[2] / "docs" / "running.md").read_text()
    assert table() in page, "run 'python -m store.settings' and put its table into docs/running.md"
    assert all(field.description for field in Settings.model_fields.values())
