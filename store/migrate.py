"""Bring a database to this version's schema, from code."""

from pathlib import Path

from alembic import command
from alembic.config import Config

from expunge.store.db import sqlalchemy_url

SCRIPTS = Path(__file__).parent.parent / "migrations"


def config(url: str) -> Config:
    made = Config()
    made.set_main_option("script_location", str(SCRIPTS))
    made.set_main_option("sqlalchemy.url", sqlalchemy_url(url).replace("%", "%%"))
    return made


def upgrade(url: str, revision: str = "head") -> None:
    command.upgrade(config(url), revision)


def downgrade(url: str, revision: str = "base") -> None:
    command.downgrade(config(url), revision)


def check(url: str) -> None:
    """Raises when the models ask for what no migration makes."""
    command.check(config(url))


if __name__ == "__main__":
    from expunge.store import roles
    from expunge.store.settings import read

    settings = read(secret=False)
    upgrade(settings.owner_url)
    if settings.migration_database_url is not None:
        roles.grant_or_exit(settings.owner_url, settings.database_url.get_secret_value())
