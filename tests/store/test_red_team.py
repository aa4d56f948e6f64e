"""The standing red team: what it attacks again, once and no more at a time than allowed, whom it tells."""

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import func, text

from expunge.core.delta_format import LORA_FILE
from expunge.core.specs import SPECS, EvaluateSpec, HideSpec, Thresholds
from expunge.core.specs.attacks.suite import digest_of, suite_of
from expunge.store import (
    artifacts,
    attempts,
    audit,
    db,
    jobs,
    queue_claims,
    queue_quotas,
    red_team,
    removal,
    tenants,
)
from expunge.store.attempts import NewArtifact
from expunge.store.errors import QuotaExceeded
from expunge.store.models import Artifact, Job, Pause, Reattack, Tenant
from expunge.worker import red_team as loop
from tests.support.events import events_of
from tests.support.webhooks import LEASE, all_deliveries, hook, settings as with_hooks, url

__all__ = ["hook", "url", "with_hooks"]
SHA = "ab" * 32
QUICK = digest_of(suite_of("quick"))
PASSED = {"passed": True, "checks": [], "artifact_sha256": SHA}
FAILED = {"metric": "asr", "concept": "church", "passed": False}
BROKEN = {"attack": "inversion", "concept": "church", "decides": True, "status": "broken", "asr": 0.5}


@pytest.fixture
def settings(settings):
    return settings.model_copy(update={"red_team": "quick"})


@pytest.fixture
def publish(url: str, tenant: Tenant) -> Callable[..., Job]:
    """publish(verdict, kind, of, **spec): a job that has ended with a delta and this verdict."""

    def published(
        verdict: dict[str, Any] | None = PASSED, kind: str = "erase", of: Tenant = tenant, **spec: Any
    ) -> Job:
        asked = SPECS[kind].model_validate({"concepts": ["church"], **spec}).model_dump(mode="json")
        with db.transaction(url) as session:
            job = jobs.create_job(session, of.id, kind, asked)
            return end(session, job, verdict)

    return published


def end(session: Any, job: Job, verdict: dict[str, Any] | None) -> Job:
    """End a queued job as a worker does, with a delta where it makes one."""
    claimed = attempts.claim(session, job.id, owner="test", lease=LEASE)
    assert claimed is not None
    delta = NewArtifact(uuid.uuid4(), LORA_FILE, "m", 3, SHA, f"{job.id}/delta")
    files = [delta] if job.kind != "evaluate" else []
    attempts.publish(session, job.id, claimed.fence, files, verdict=verdict, progress=None)
    return jobs.get(session, job.tenant_id, job.id)


def made(url: str) -> list[Job]:
    """The red team's jobs, oldest first."""
    with db.transaction(url) as session:
        return list(session.query(Job).where(Job.policy == "red_team").order_by(Job.created_at))


def attacked(url: str, evaluation: Job, verdict: dict[str, Any]) -> None:
    """The red team's job ends with this verdict."""
    with db.transaction(url) as session:
        end(session, evaluation, verdict)


def shown(url: str, job: Job) -> Job:
    with db.transaction(url) as session:
        return jobs.get(session, job.tenant_id, job.id)


def test_without_a_policy_nothing_is_attacked(settings, publish, url):
    publish()
    loop.turn(settings.model_copy(update={"red_team": "off"}))
    assert made(url) == []


def test_what_was_published_is_attacked_once_as_it_was_judged(settings, publish, url, tenant):
    job = publish(evaluation={"erased_images": 5, "thresholds": {"esr1": 0.8}})
    for _ in range(3):
        loop.turn(settings)
    (evaluation,) = made(url)
    assert (evaluation.kind, evaluation.status, evaluation.policy) == ("evaluate", "queued", "red_team")
    assert str(job.id) in evaluation.notes[0]
    spec = EvaluateSpec.model_validate(evaluation.spec)
    assert (spec.job_id, [c.name for c in spec.concepts]) == (str(job.id), ["church"])
    assert (spec.evaluation.erased_images, spec.evaluation.thresholds.esr1) == (5, 0.8)
    assert [attack.name for attack in spec.evaluation.attacks] == ["bypass", "noise_probe", "inversion"]
    assert spec.run_timeout_s == settings.max_run_seconds
    with db.transaction(url) as session:
        [(entry, key)] = audit.list_entries(session, tenant.id, target_id=evaluation.id)
    assert (entry.action, key, entry.details["of"]) == ("job.created", None, str(job.id))

    # Once it has ended there is nothing more to do, until the suite is another one
    attacked(url, evaluation, PASSED)
    loop.turn(settings)
    assert len(made(url)) == 1
    loop.turn(settings.model_copy(update={"red_team": "standard"}))
    assert len(made(url)) == 2


def test_the_thresholds_of_a_key_are_left_out_and_attacks_have_one(settings, publish, url):
    publish(kind="hide", evaluation={"thresholds": {"asr": None}})
    loop.turn(settings)
    (evaluation,) = made(url)
    assert evaluation.spec["evaluation"]["thresholds"]["asr"] == Thresholds().asr
    assert "rsr1" in HideSpec.model_validate({"concepts": ["church"]}).evaluation.thresholds.model_dump()
    assert "rsr1" not in evaluation.spec["evaluation"]["thresholds"]


def test_no_more_at_a_time_than_allowed_the_newest_first(settings, publish, url):
    old, middle, new = (publish() for _ in range(3))
    two = settings.model_copy(update={"red_team_jobs": 2})
    for _ in range(2):
        loop.turn(two)
    assert {job.spec["job_id"] for job in made(url)} == {str(middle.id), str(new.id)}
    with db.transaction(url) as session:
        jobs.cancel(session, old.tenant_id, made(url)[0].id)
    for _ in range(2):
        loop.turn(two)
    assert [job.spec["job_id"] for job in made(url)][2:] == [str(old.id)], "a cancelled one is not repeated"


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        ("update artifacts set expired_at = now()", {}),
        ("update artifacts set corrupt_at = now()", {}),
        ("""update artifacts set info = '{"withheld": true}'""", {}),
        ("update artifacts set sha256 = :other", {"other": "0" * 64}),
        ("""update jobs set spec = jsonb_set(spec, '{model}', '"gone"')""", {}),
        ("update tenants set deleted_at = now()", {}),
        ("update tenants set red_team = 'off'", {}),
    ],
)
def test_what_cannot_be_attacked_is_passed_over(settings, publish, url, statement, values):
    publish()
    publish(verdict=None)
    with db.transaction(url) as session:
        session.execute(text("update jobs set kind = 'inspect' where verdict is null"))
        session.execute(text(statement), values)
    loop.turn(settings)
    assert made(url) == []


def test_a_tenant_may_have_a_policy_of_its_own(settings, publish, url, other_tenant):
    publish()
    theirs = publish(of=other_tenant)
    with db.transaction(url) as session:
        session.execute(text("update tenants set red_team = 'quick' where name = 'other'"))
    loop.turn(settings.model_copy(update={"red_team": "off"}))
    assert [job.spec["job_id"] for job in made(url)] == [str(theirs.id)]


def test_what_the_job_was_attacked_with_already_is_not_repeated(settings, publish, url):
    facts = [{**BROKEN, "status": "withstood", "made": each} for each in suite_of("quick")]
    job = publish(verdict={**PASSED, "attacks": facts})
    weaker = [{**each, "made": {**each["made"], "images": 2}} for each in facts]
    late = publish(verdict={**PASSED, "attacks": weaker})
    loop.turn(settings.model_copy(update={"red_team_jobs": 9}))
    assert [each.spec["job_id"] for each in made(url)] == [str(late.id)]
    with db.transaction(url) as session:
        row = session.get_one(Reattack, job.id)
        assert (row.state, row.suite, row.evaluation_id) == ("done", QUICK, None)


def test_a_changed_verdict_is_an_event_a_webhook_and_an_audit_line(settings, publish, url, hook, tenant):
    asked, _ = hook("http://127.0.0.1:1/", events=("artifact.verdict_changed",))
    job = publish()
    loop.turn(settings)
    (evaluation,) = made(url)
    found = {"passed": False, "checks": [FAILED], "attacks": [{**BROKEN, "made": suite_of("quick")[2]}]}
    attacked(url, evaluation, PASSED | found)
    for _ in range(2):
        loop.turn(settings)

    # The job, whose signed verdict stays
    now = shown(url, job)
    assert (now.status, now.verdict) == ("succeeded", PASSED)
    assert (now.latest_verdict["status"], now.latest_verdict["passed"]) == ("failed", False)
    assert (now.latest_verdict["job_id"], now.latest_verdict["suite"]) == (str(evaluation.id), QUICK)
    with db.transaction(url) as session:
        event = events_of(session, tenant.id, job.id)[-1]
    told = {"was": "passed", "is": "failed", "evaluation_job_id": str(evaluation.id), "suite": QUICK}
    assert (event.type, event.seq) == ("verdict_changed", now.version)
    assert event.data == {"status": "succeeded", "attempt": 1, **told}

    # The webhook that asked for it, and the audit
    (delivery,) = all_deliveries(url)
    assert (delivery.webhook_id, delivery.job_id) == (asked.id, job.id)
    with db.transaction(url) as session:
        [(entry, _)] = audit.list_entries(session, tenant.id, action="artifact.verdict_changed")
    assert entry.details == {"job_id": str(job.id), **told}
    message = json.loads(delivery.body)
    assert message["type"] == "artifact.verdict_changed"
    bytes_ = {"artifact_id": str(entry.target_id), "artifact_sha256": SHA}
    assert message["data"] == {"job_id": str(job.id), **told, **bytes_, "passed": False}


def test_a_verdict_that_held_is_dated_and_told_to_nobody(settings, publish, url, hook, tenant):
    hook("http://127.0.0.1:1/", events=("artifact.verdict_changed",))
    job = publish()
    loop.turn(settings)
    (evaluation,) = made(url)
    bypass = {**BROKEN, "attack": "bypass", "decides": False, "made": suite_of("quick")[0]}
    esr1 = {"metric": "esr1", "passed": True}
    silent = {**FAILED, "passed": None}
    found = {"passed": None, "checks": [esr1, silent], "attacks": [bypass]}
    attacked(url, evaluation, PASSED | found)
    loop.turn(settings)
    assert shown(url, job).latest_verdict["status"] == "passed"
    with db.transaction(url) as session:
        assert events_of(session, tenant.id, job.id)[-1].type == "verdict_confirmed"
        assert audit.list_entries(session, tenant.id, action="artifact.verdict_changed") == []
    assert all_deliveries(url) == []


def test_a_verdict_on_other_bytes_is_not_taken(settings, publish, url):
    job = publish()
    loop.turn(settings)
    attacked(url, made(url)[0], {**PASSED, "passed": False, "artifact_sha256": "0" * 64})
    loop.turn(settings)
    assert shown(url, job).latest_verdict is None


def test_a_failed_attack_is_tried_again_a_day_later_three_times_in_all(settings, publish, url):
    publish()
    for n in range(1, 4):
        loop.turn(settings)
        loop.turn(settings)
        assert len(made(url)) == n
        with db.transaction(url) as session:
            claimed = attempts.claim(session, made(url)[-1].id, owner="test", lease=LEASE)
            assert claimed is not None
            attempts.fail(session, claimed.id, claimed.fence, code="x", message="y", retryable=False)
        loop.turn(settings)
        assert len(made(url)) == n, "not at once"
        with db.transaction(url) as session:
            session.execute(text("update reattacks set not_before = now() where not_before is not null"))
    loop.turn(settings)
    assert len(made(url)) == 3


def test_a_deleted_attack_and_a_deleted_artifact_leave_nothing_that_runs(settings, publish, url):
    job = publish()
    loop.turn(settings)
    with db.transaction(url) as session:
        session.execute(text("delete from jobs where policy = 'red_team'"))
    loop.turn(settings)
    with db.transaction(url) as session:
        assert session.get_one(Reattack, job.id).state == "done"
        session.execute(text("delete from jobs"))
        assert session.query(Reattack).all() == []


def test_two_turns_at_once_make_one_job(settings, publish, url):
    publish()
    with db.transaction(url) as first, db.transaction(url) as second:
        red_team.make_jobs(first, settings)
        second.execute(text("set lock_timeout = '200ms'"))
        with pytest.raises(Exception, match="lock timeout"):
            red_team.make_jobs(second, settings)
        second.rollback()
    loop.turn(settings)
    assert len(made(url)) == 1


def test_a_request_that_this_release_does_not_take_is_left_alone(settings, publish, url):
    publish()
    with db.transaction(url) as session:
        session.execute(text("""update jobs set spec = jsonb_set(spec, '{concepts,0,name}', '""')"""))
    loop.turn(settings)
    assert made(url) == []
    with db.transaction(url) as session:
        assert [row.state for row in session.query(Reattack)] == ["done"]


def test_what_was_not_repeated_stands(settings, publish, url):
    broken = {**BROKEN, "attack": "p4d", "made": suite_of("standard")[8]}
    checks = [{"metric": "rsr1", "concept": "church", "passed": False}, {**FAILED, "attack": "p4d"}]
    job = publish({**PASSED, "passed": False, "checks": checks, "attacks": [broken]}, "hide")
    loop.turn(settings)
    attacked(url, made(url)[0], {**PASSED, "checks": [{"metric": "esr1", "passed": True}]})
    loop.turn(settings)
    latest = shown(url, job).latest_verdict
    assert (latest["status"], len(latest["checks"])) == ("failed", 3)


def test_the_concepts_that_the_request_names_are_judged_and_nothing_is_asked_of_weights(
    settings, publish, url
):
    publish(preserve=["owl"], evaluation={"preserved_concepts": ["teapot"], "on_fail": "withhold"})
    publish(preserve=["owl"])
    loop.turn(settings.model_copy(update={"red_team_jobs": 9}))
    asked = [EvaluateSpec.model_validate(job.spec).evaluation for job in made(url)]  # as a retry reads it
    assert {tuple(each.preserved_concepts or ()) for each in asked} == {("owl", "teapot"), ()}


def test_a_pause_holds_back_its_own_tenant_alone(settings, publish, url, tenant, other_tenant):
    publish()
    loop.turn(settings)
    theirs = publish(of=other_tenant)
    with db.transaction(url) as session:
        session.add(Pause(tenant_id=tenant.id, hand_over=False))
    publish()  # due, but nothing of this tenant would start
    for _ in range(2):
        loop.turn(settings)
    assert [job.spec["job_id"] for job in made(url)][1:] == [str(theirs.id)]


def test_what_nobody_began_in_time_counts_as_failed(settings, publish, url):
    job = publish()
    loop.turn(settings)
    (evaluation,) = made(url)
    assert (evaluation.queue_deadline_at - evaluation.created_at).days == 1
    with db.transaction(url) as session:
        ended = {"status": "expired", "finished_at": func.now()}
        jobs.change(session, (Job.id == evaluation.id,), ended, "expired")
    loop.turn(settings)
    with db.transaction(url) as session:
        assert session.get_one(Reattack, job.id).state == "failed"


def test_what_a_deleted_job_found_is_not_lost(settings, publish, url, tenant):
    job = publish()
    loop.turn(settings)
    (evaluation,) = made(url)
    attacked(url, evaluation, {**PASSED, "passed": False, "checks": [FAILED]})
    with db.transaction(url) as session:
        removal.remove_job(session, tenant.id, evaluation.id, None)
    assert shown(url, job).latest_verdict["status"] == "failed"


@pytest.mark.parametrize("field", ["judge", "prompts"])
def test_a_delta_whose_judge_or_prompt_set_was_deleted_is_left_alone(settings, publish, url, tenant, field):
    id_ = uuid.uuid4()
    with db.transaction(url) as session:
        row = Artifact(id=id_, tenant_id=tenant.id, name="deleted", media_type="m", size=1, sha256=SHA)
        row.key, row.expired_at = f"{id_}", func.now()
        session.add(row)
    asked = {"artifact_id": str(id_)} if field == "judge" else str(id_)
    job = publish(evaluation={field: asked})
    loop.turn(settings)
    assert made(url) == []
    with db.transaction(url) as session:
        assert session.get_one(Reattack, job.id).state == "done"


def test_a_tenant_that_is_being_deleted_gets_no_new_job(settings, publish, url, tenant):
    publish()
    with db.transaction(url) as session:
        tenants.lock_out(session, tenant.name)
    loop.turn(settings)
    assert made(url) == []


def test_no_quota_of_the_tenant_counts_what_the_red_team_runs_and_stores(settings, publish, url, tenant):
    publish()
    loop.turn(settings)
    (evaluation,) = made(url)
    with db.transaction(url) as session:
        claimed = attempts.claim(session, evaluation.id, owner="test", lease=LEASE)
        assert claimed is not None
        own = jobs.create_job(session, tenant.id, "erase", {"concepts": ["owl"]})
    one = settings.model_copy(update={"max_active_jobs": 2})
    with db.transaction(url) as session:
        queue_quotas.count_job(session, tenant.id, one)
        taken = queue_claims.claim_next(session, owner="b", lease=LEASE, max_running=1)
        assert taken is not None
        assert taken.id == own.id
        report = NewArtifact(uuid.uuid4(), "report.json", "m", 7, SHA, "k")
        attempts.publish(session, evaluation.id, claimed.fence, [report], verdict=None, progress=None)
        assert artifacts.stored_bytes(session, tenant.id) == 3  # the delta
    with db.transaction(url) as session:
        jobs.create_job(session, tenant.id, "erase", {"concepts": ["owl"]})
    with pytest.raises(QuotaExceeded), db.transaction(url) as session:
        queue_quotas.count_job(session, tenant.id, one)
