"""`expunge show` names what the red team has found since a verdict was signed."""

import io

from rich.console import Console

from expunge.client.views import show_latest_verdict

INVERSION = {"attack": "inversion", "concept": "church", "status": "broken", "decides": True}
BYPASS = {**INVERSION, "attack": "bypass", "decides": False}
VERDICT = {
    "status": "failed",
    "at": "2027-02-01T04:00:00+00:00",
    "job_id": "5a1c",
    "attacks": [BYPASS, INVERSION],
}


def shown(verdict: dict) -> str:
    out = io.StringIO()
    show_latest_verdict(Console(file=out, width=200), verdict)
    return out.getvalue().strip()


def test_the_attacks_that_broke_it_are_named_and_no_others():
    assert shown(VERDICT) == "attacked again on 2027-02-01 by job 5a1c: failed: inversion on 'church'"
    assert shown(VERDICT | {"status": "passed", "attacks": [BYPASS]}) == (
        "attacked again on 2027-02-01 by job 5a1c: passed"
    )
