"""The settings of API, loops and workers: environment variables, EXPUNGE_ and the field's name.

`python -m expunge.store.settings` (or `expunge settings`) prints the table of all of them.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from expunge.store import settings_groups as groups
from expunge.store.server_secret import REMEDY, find_weakness, is_placeholder
from expunge.store.settings_names import PREFIX, OldNames, given_as, variable


class Settings(
    groups.Observability,
    groups.Webhooks,
    groups.RedTeam,
    groups.Retention,
    groups.Quotas,
    groups.ApiLimits,
    groups.Workers,
    groups.Queue,
    groups.ModelSources,
    groups.Secrets,
    groups.Connections,
    BaseSettings,
):
    """All groups of settings in one object: `settings.lease_seconds` is EXPUNGE_LEASE_SECONDS."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", env_ignore_empty=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments first, then the environment, then its variables with old names."""
        return init_settings, env_settings, OldNames(settings_cls)


GROUPS: tuple[type[BaseModel], ...] = tuple(
    group for group in reversed(Settings.__bases__) if group is not BaseSettings
)


def read(*, secret: bool = True) -> Settings:
    """The environment's settings, for a process that starts.

    `secret`: whether the process hashes, signs or encrypts anything and so needs a proper EXPUNGE_SECRET.

    Raises: SystemExit with one line for each variable that is wrong: what is wrong, what would be right.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        raise SystemExit("\n".join(explain(dict(entry)) for entry in error.errors())) from None
    wrong = list(faults(settings, secret))
    if wrong:
        raise SystemExit("\n".join(wrong))
    return settings


EXPECTED = {
    "int_": "must be a whole number",
    "float_": "must be a number",
    "finite_number": "must be a finite number",
    "bool_": "must be true or false",
    "string_pattern_mismatch": "does not have the expected form",
}
"""What a variable must be, by the beginning of pydantic's error type."""
BOUNDS = {
    "greater_than": "more than",
    "greater_than_equal": "at least",
    "less_than": "less than",
    "less_than_equal": "at most",
}


def explain(error: dict[str, Any]) -> str:
    """What is wrong with a variable, and what would be right; never its value, which may be a secret."""
    message = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:  # of several fields together: the message names them
        return message
    name, kind = str(error["loc"][0]), error["type"]
    given = given_as(name)
    if kind == "value_error":
        return f"{given}: {message}"
    meaning = f" ({Settings.model_fields[name].description})"
    if kind in BOUNDS:
        return f"{given} must be {BOUNDS[kind]} {next(iter(error['ctx'].values())):g}{meaning}"
    expected = next((words for start, words in EXPECTED.items() if kind.startswith(start)), "cannot be used")
    return f"{given} {expected}{meaning}"


def faults(settings: Settings, secret: bool) -> Iterator[str]:
    """What pydantic accepts, and the service would run with, but not safely."""
    if secret and (why := find_weakness(settings.secret.get_secret_value())):
        yield f"{variable('secret')} {why}: {REMEDY}"
    if urlsplit(settings.artifacts_url).scheme not in ("file", "s3"):
        yield (
            f"{given_as('artifacts_url')} is not the address of a store: write it as file:///directory or"
            " s3://bucket/prefix"
        )
    yield from url_faults("database_url", settings.database_url, "postgresql")
    yield from url_faults("redis_url", settings.redis_url, "redis")


def url_faults(field: str, url: SecretStr, scheme: str) -> Iterator[str]:
    """What is wrong with a server's URL; the URL itself, which may hold a password, is not said."""
    given = given_as(field)
    try:
        password = make_url(url.get_secret_value()).password
    except (ArgumentError, ValueError):
        yield f"{given} is not a URL: write it as {scheme}://user:password@host:port/name"
        return
    if is_placeholder(password or "", "replaceme", "changeme"):
        yield (
            f"the password in {given} is a placeholder: give the server a password of its own ('openssl rand"
            " -hex 32') and write it into the URL"
        )


def table() -> str:
    """All settings by group, in Markdown, as docs/running.md has them."""
    return "\n".join(section(group) for group in GROUPS)


def section(group: type[BaseModel]) -> str:
    title, _, purpose = (group.__doc__ or "").partition(": ")
    rows = ["| Variable | Default | Meaning |", "|---|---|---|"]
    for name, field in group.model_fields.items():
        default = written(field.default)
        description = (field.description or "").replace("|", r"\|")
        rows.append(f"| `{variable(name)}` | {f'`{default}`' if default else ''} | {description} |")
    return "\n".join([f"### {title}", "", f"{purpose[:1].upper()}{purpose[1:]}", "", *rows, ""])


def written(default: Any) -> str:
    """A default as its variable would have it; empty where there is none."""
    match default:
        case None:
            return ""
        case SecretStr():
            return default.get_secret_value()
        case bool() | dict():
            return json.dumps(default)
        case tuple():
            return ",".join(map(written, default))
        case float():
            return f"{default:.15g}"
        case _:
            return str(default).replace(str(Path.home()), "~")


def main() -> None:
    """Print all settings of API, loops and workers: variable, default, meaning."""
    sys.stdout.write(table())


if __name__ == "__main__":
    main()
