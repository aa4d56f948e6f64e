"""What a verdict keeps of an attack is enough to tell whether it covers a suite."""

from expunge.core.attacks.result import AttackResult, Rate
from expunge.core.evaluation.checks import Verdict
from expunge.core.run_context import outcome_of
from expunge.core.specs.attacks import ATTACKS
from expunge.core.specs.attacks.suite import facts_of, is_covered


def result(name: str, **budget: int) -> AttackResult:
    spec = ATTACKS[name].model_validate({"name": name, **budget})
    rate = Rate(asr=0.5, n=16, ci_low=0.28, ci_high=0.72, attempts=[0.5], found="a word")
    return AttackResult(
        attack=name,
        concept="church",
        needs=spec.needs,
        citation=spec.cited(),
        budget=spec,
        sanitized=rate,
        status="broken",
        seconds=1.0,
    )


def test_a_verdict_keeps_version_and_budget_of_its_attacks():
    verdict = Verdict(passed=False, status="failed")
    verdict.attacks = [outcome_of(result("inversion", steps=700)), outcome_of(result("bypass"))]
    again = Verdict.model_validate_json(verdict.model_dump_json())
    inversion, bypass = again.attacks
    assert (inversion.attack, inversion.concept, inversion.status) == ("inversion", "church", "broken")
    assert (inversion.asr, inversion.n, inversion.ci_low, inversion.ci_high) == (0.5, 16, 0.28, 0.72)
    assert (inversion.decides, bypass.decides) == (True, False)
    assert inversion.made["steps"] == 700
    wanted = facts_of(ATTACKS["inversion"].model_validate({"name": "inversion", "steps": 700}))
    assert is_covered([wanted], [inversion.made])
    assert not is_covered([wanted | {"steps": 701}], [inversion.made])
