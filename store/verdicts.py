"""What still holds of a verdict once the red team has attacked again.

The red team's job repeats the pictures and judges of the job, and the attacks of a policy; it has no recovery
key. What it did not repeat stands as it was: a check that failed is lifted by nothing but the same check, an
attack that broke the model only by an attack that covers it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from expunge.core.specs.attacks.suite import holds

Verdict = Mapping[str, Any]
Check = dict[str, Any]
OUTCOMES = {"withstood": True, "broken": False}
ATTACK = "asr"  # the metric of checks that rest on an attack


def status_of(verdict: Verdict) -> str:
    """A verdict's word: passed, failed or not shown."""
    words: dict[Any, str] = {True: "passed", False: "failed"}
    return str(verdict.get("status") or words.get(verdict.get("passed"), "not shown"))


def checks_of(verdict: Verdict) -> list[Check]:
    """A verdict's checks; one of an attack says as `made` what the attack was. A red team's verdict of an
    earlier release has attacks alone.
    """
    deciding = [each for each in verdict.get("attacks") or () if each.get("decides")]
    if "checks" not in verdict:
        return [
            {
                "metric": ATTACK,
                "concept": each["concept"],
                "attack": each["attack"],
                "passed": OUTCOMES.get(each["status"]),
                "made": each.get("made"),
            }
            for each in deciding
        ]

    # An attack with two budgets has two checks, in the attacks' order
    found = list[Check]()
    for check in verdict["checks"] or ():
        if check["metric"] == ATTACK and "made" not in check:
            same = (each for each in deciding if each["concept"] == check.get("concept"))
            mine = next((each for each in same if each["attack"] == check.get("attack")), None)
            if mine is not None:
                deciding.remove(mine)
                check = {**check, "made": mine.get("made")}
        found.append(dict(check))
    return found


def repeats(again: Check, check: Check) -> bool:
    """Whether a check was made again: the same metric of the same concept and, of an attack, with as much
    budget.
    """
    if any(again.get(name) != check.get(name) for name in ("metric", "concept", "attack")):
        return False
    if check["metric"] != ATTACK or not check.get("made"):
        return True
    return bool(again.get("made")) and holds(again["made"], check["made"])


def carried(before: Verdict, found: Verdict) -> list[Check]:
    """The checks that stand after both: those made again as they are now, the others as they were. An attack
    that shows nothing counts as not made.
    """
    again = [
        check for check in checks_of(found) if check["metric"] != ATTACK or check.get("passed") is not None
    ]
    kept = [check for check in checks_of(before) if not any(repeats(each, check) for each in again)]
    return kept + again


def word_of(checks: Sequence[Check]) -> str:
    """Failed where a check failed, not shown where one was not shown, else passed."""
    passed = [check.get("passed") for check in checks]
    return "failed" if False in passed else "passed" if all(passed) else "not shown"


def after(signed: Verdict, latest: Verdict | None, found: Verdict) -> dict[str, Any]:
    """The verdict that stands now: its word, its checks and the attacks that were made.

    signed: the job's; latest: the red team's before; found: that of its job.
    """
    before = latest or signed
    if latest is not None and "checks" not in latest:
        before = {**latest, "checks": [*checks_of(signed), *checks_of(latest)]}
    checks = carried(before, found)
    attacks = list(found.get("attacks") or ())
    earlier = [
        each
        for each in before.get("attacks") or ()
        if not any(each["concept"] == one["concept"] and covers(one, each) for one in attacks)
    ]
    return {
        "status": word_of(checks) if checks else status_of(found),
        "checks": checks,
        "attacks": earlier + attacks,
    }


def covers(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether an attack's outcome stands for another's."""
    return bool(one.get("made") and other.get("made")) and holds(one["made"], other["made"])
