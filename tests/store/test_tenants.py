"""The operator's command for one tenant's quotas."""

import json
import os
import subprocess
import sys

import pytest

from expunge.store import audit, queue_quotas, tenants


@pytest.fixture
def command(settings, tenant):
    """command(*arguments): `python -m expunge.store.tenants` on the test's database."""
    environment = {
        **os.environ,
        "EXPUNGE_DATABASE_URL": settings.database_url.get_secret_value(),
        "EXPUNGE_MAX_ACTIVE_JOBS": "9",
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "expunge.store.tenants", *arguments],
            env=environment,
            capture_output=True,
            text=True,
        )

    return run


def test_quotas_are_shown_given_and_taken_back(command, session, tenant, settings):
    quotas = {"max_active_jobs": 9, "max_running_jobs": None, "max_jobs_a_day": None, "max_bytes": None}
    shown = {**quotas, "red_team": "off"}
    assert json.loads(command("default").stdout) == shown
    given = command("default", "--max-active-jobs", "3", "--max-running-jobs", "0")
    assert json.loads(given.stdout) == {**shown, "max_active_jobs": 3, "max_running_jobs": 0}
    assert queue_quotas.quotas_of(session, tenant.id, settings) == queue_quotas.Quotas(3, 0, None, None)
    session.rollback()
    assert json.loads(command("default", "--max-active-jobs", "default").stdout)["max_active_jobs"] == 9
    acts = [(row.action, row.details) for row, _ in audit.list_entries(session, tenant.id)]
    assert acts == [
        ("tenant.changed", {"max_active_jobs": None}),
        ("tenant.changed", {"max_active_jobs": 3, "max_running_jobs": 0}),
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nobody",), "no tenant 'nobody'"),
        (("default", "--max-jobs-a-day", "-1"), "max-jobs-a-day"),
        (("default", "--max-jobs-a-day", "many"), "many"),
    ],
)
def test_mistakes_are_named(command, arguments, words):
    done = command(*arguments)
    assert done.returncode == 2
    assert words in done.stderr


def test_a_quota_is_a_number_or_the_word_default():
    assert (tenants.parse_quota("7"), tenants.parse_quota("default")) == (7, None)
    with pytest.raises(ValueError, match="neither a number"):
        tenants.parse_quota("1e3")
