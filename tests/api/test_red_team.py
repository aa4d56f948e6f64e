"""What clients see of the red team: the latest verdict beside the signed one."""

import hashlib
import uuid
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from expunge.core.delta_format import LORA_FILE
from expunge.core.specs.attacks.suite import digest_of, suite_of
from expunge.store import db, red_team

DELTA = b"delta"
VERDICT = {"passed": True, "checks": [], "artifact_sha256": hashlib.sha256(DELTA).hexdigest()}


@pytest.fixture
def published(tenant, tmp_path):
    """An erase job's id and its artifacts: a delta that passed, and a picture."""
    job = tenant.erase()
    delta, picture = tenant.finish(job["id"], {LORA_FILE: DELTA, "grid.png": b"picture"}, tmp_path, VERDICT)
    return job["id"], delta, picture


def test_a_delta_has_its_signed_verdict_and_says_that_nobody_looks_again(tenant, published):
    http, (_, delta, picture) = tenant.http(), published
    found = http.get(f"/artifacts/{delta.id}").json()
    assert found["sha256"] == delta.sha256
    assert found["verdict"]["signed"]["status"] == "passed"
    assert datetime.fromisoformat(found["verdict"]["signed"]["at"]) < datetime.now(UTC)
    assert (found["verdict"]["latest"], found["verdict"]["red_team"]) == (None, "off")
    assert http.get(f"/artifacts/{picture.id}").json()["verdict"] is None


def test_the_latest_verdict_stands_beside_the_signed_one(tenant, settings, published, tmp_path):
    http, (job_id, delta, _) = tenant.http(), published
    with db.transaction(tenant.database) as session:
        session.execute(text("update tenants set red_team = 'quick' where id = :id"), {"id": tenant.id})
    with db.transaction(tenant.database) as session:
        (evaluation,) = (
            job
            for job in red_team.make_jobs(session, settings.model_copy(update={"red_team_jobs": 99}))
            if job.tenant_id == tenant.id
        )
    made = http.get(f"/jobs/{evaluation.id}").json()
    assert (made["policy"], made["kind"], made["spec"]["job_id"]) == ("red_team", "evaluate", job_id)

    # It finds the concept
    attack = {
        "attack": "inversion",
        "concept": "church",
        "decides": True,
        "status": "broken",
        "asr": 0.5,
        "n": 16,
        "ci_low": 0.28,
        "ci_high": 0.72,
        "made": suite_of("quick")[2],
    }
    found = {"passed": False, "checks": [{"metric": "asr", "passed": False}], "attacks": [attack]}
    tenant.finish(str(evaluation.id), {}, tmp_path, VERDICT | found)
    with db.transaction(tenant.database) as session:
        red_team.settle(session)
    verdict = http.get(f"/artifacts/{delta.id}").json()["verdict"]
    assert (verdict["signed"]["status"], verdict["red_team"]) == ("passed", "quick")
    latest = verdict["latest"]
    assert (latest["status"], latest["passed"]) == ("failed", False)
    assert latest["job_id"] == str(evaluation.id) != str(uuid.UUID(job_id))
    assert latest["suite"] == digest_of(suite_of("quick"))
    assert latest["attacks"][0]["asr"] == 0.5
    job = http.get(f"/jobs/{job_id}").json()
    assert (job["verdict"]["passed"], job["latest_verdict"]) == (True, latest)
    assert job["policy"] is None
    page = http.get(f"/jobs/{job_id}/events").json()
    assert page["finished"]
    assert page["items"][-1]["type"] == "verdict_changed"
    (line,) = http.get("/audit", params={"action": "artifact.verdict_changed"}).json()["items"]
    assert (line["target"], line["api_key"]) == ({"type": "artifact", "id": str(delta.id)}, None)
