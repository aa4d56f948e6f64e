"""What stands of a verdict once the red team has attacked again."""

from expunge.core.specs.attacks.suite import suite_of
from expunge.store.verdicts import after

QUICK = {each["name"]: each for each in suite_of("quick")}
STANDARD = {each["name"]: each for each in suite_of("standard")}
ESR1 = {"metric": "esr1", "concept": "church", "passed": True}
RSR1 = {"metric": "rsr1", "concept": "church", "passed": False}


def attack(name, passed, made=None, concept="church", decides=True):
    """An attack's outcome, and its check."""
    words = {True: "withstood", False: "broken", None: "not shown"}
    outcome = {"attack": name, "concept": concept, "decides": decides, "status": words[passed]}
    outcome["made"] = made or QUICK[name]
    return outcome, {"metric": "asr", "attack": name, "concept": concept, "passed": passed}


def verdict(*checks, attacks=()):
    passed = [check["passed"] for check in (*checks, *(check for _, check in attacks))]
    found = False if False in passed else True if all(passed) else None
    return {
        "passed": found,
        "checks": [*checks, *(check for _, check in attacks)],
        "attacks": [outcome for outcome, _ in attacks],
    }


def test_an_attack_that_was_not_made_again_is_not_lifted():
    signed = verdict(ESR1, attacks=[attack("p4d", False, STANDARD["p4d"])])
    found = verdict(ESR1, attacks=[attack("noise_probe", True), attack("inversion", True)])
    stands = after(signed, None, found)
    assert stands["status"] == "failed"
    assert {each["attack"] for each in stands["attacks"]} == {"p4d", "noise_probe", "inversion"}
    assert len(stands["checks"]) == 4


def test_the_same_attack_with_as_much_budget_lifts_it_and_with_less_does_not():
    strong = {**QUICK["inversion"], "restarts": 3}
    signed = verdict(ESR1, attacks=[attack("inversion", False, strong)])
    weak = verdict(ESR1, attacks=[attack("inversion", True)])
    assert after(signed, None, weak)["status"] == "failed"
    again = verdict(ESR1, attacks=[attack("inversion", True, strong)])
    stands = after(signed, None, again)
    assert stands["status"] == "passed"
    assert [each["status"] for each in stands["attacks"]] == ["withstood"]


def test_another_concept_lifts_nothing():
    signed = verdict(attacks=[attack("inversion", False)])
    found = verdict(attacks=[attack("inversion", True, concept="owl")])
    assert after(signed, None, found)["status"] == "failed"


def test_a_check_that_needs_the_key_stands_as_it_was():
    assert after(verdict(ESR1, RSR1), None, verdict(ESR1))["status"] == "failed"
    held = {**RSR1, "passed": True}
    assert after(verdict(ESR1, held), None, verdict(ESR1))["status"] == "passed"


def test_two_budgets_of_one_attack_are_two_checks():
    other = {**QUICK["inversion"], "vectors": 8}
    signed = verdict(attacks=[attack("inversion", True), attack("inversion", False, other)])
    again = verdict(attacks=[attack("inversion", True)])
    assert after(signed, None, again)["status"] == "failed"
    both = verdict(attacks=[attack("inversion", True), attack("inversion", True, other)])
    assert after(signed, None, both)["status"] == "passed"


def test_what_broke_it_last_year_stands_when_the_policy_is_a_lower_one():
    first = after(verdict(ESR1), None, verdict(ESR1, attacks=[attack("p4d", False, STANDARD["p4d"])]))
    assert first["status"] == "failed"
    second = after(verdict(ESR1), first, verdict(ESR1, attacks=[attack("inversion", True)]))
    assert second["status"] == "failed"


def test_a_verdict_of_an_earlier_release_has_attacks_alone():
    (outcome, _), (bypass, _) = attack("inversion", False), attack("bypass", False, decides=False)
    latest = {"status": "failed", "attacks": [outcome, bypass]}
    assert after(verdict(ESR1), latest, verdict(ESR1))["status"] == "failed"
    again = verdict(ESR1, attacks=[attack("inversion", True)])
    assert after(verdict(ESR1), latest, again)["status"] == "passed"


def test_an_attack_that_shows_nothing_changes_nothing():
    silent = verdict(ESR1, attacks=[attack("inversion", None)])
    assert after(verdict(ESR1), None, silent)["status"] == "passed"
    broken = verdict(ESR1, attacks=[attack("inversion", False)])
    assert after(broken, None, silent)["status"] == "failed"


def test_a_measured_check_is_as_it_is_now():
    worse = verdict({**ESR1, "passed": False})
    assert after(verdict(ESR1), None, worse)["status"] == "failed"
    assert after(worse, None, verdict(ESR1))["status"] == "passed"
