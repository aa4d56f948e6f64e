"""The schema changed under a running service (F27); what the release before sends meanwhile is in
tests/store/test_upgrades.py.
"""

import uuid

from expunge.store import migrate
from tests.support.cluster import until
from tests.support.whole_service import Stage

BEFORE = "0002"  # the last revision of the release before


def test_f27_a_downgrade_and_an_upgrade_under_a_running_worker_cost_an_attempt_at_most(stage: Stage):
    """F27: this release's worker and loops on the schema of the release before, in the middle of a run; they
    live, and the job goes on afterwards.
    """
    _, url = stage.api()
    loops, worker = stage.loops(), stage.worker()
    running = uuid.UUID(stage.post(url, labels={"hold": "8"}).json()["id"])
    stage.until_step(running, 8)
    waiting = uuid.UUID(stage.post(url).json()["id"])
    stage.faults.append("schema downgraded and upgraded")
    migrate.downgrade(stage.direct, BEFORE)
    log = stage.folder / f"process-{stage.processes.index(worker)}.log"
    until(lambda: "heartbeat_failed" in log.read_text() or "progress_not_written" in log.read_text())
    stage.go.touch()
    until(lambda: "database_away" in log.read_text())
    migrate.upgrade(stage.direct)
    # The release before knows no marker, so the database has a new id: docs/running.md
    assert stage.start("expunge.store.deployment", "adopt").wait(120) == 0
    for job_id in (running, waiting):
        assert stage.until_status(job_id, "succeeded", "failed").status == "succeeded", stage.job(
            job_id
        ).error
    assert (loops.is_running(), worker.is_running()) == (True, True)
    assert not stage.ledger(kills=1).wrong
