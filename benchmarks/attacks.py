"""Methods under attack on the bundled model: `python -m benchmarks.attacks`.

Each method's sanitized model is attacked by `--attacks` (names, or a preset), on each of `--concepts`; beside
it stand the same attack on the base model (ceiling) and on a random edit of that size (control). The floor is
a model that never knew the concept: `--methods "never knew"`, once recipes/never_knew.py has made one.
Deltas are kept in build/deltas, attempts in build/pictures; rows that were measured already, at the same
budget, are read from the results file.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from benchmarks.deltas import put_on
from benchmarks.results_file import add
from expunge.core.attacks import Broken, run_attacks
from expunge.core.concepts import excluding
from expunge.core.evaluation.judges import judges_for
from expunge.core.evaluation.judges.by_class import find_class
from expunge.core.evaluation.judges.concept_judge import ConceptJudge
from expunge.core.evaluation.red_team import OTHERS, seeing
from expunge.core.models import Denoiser, load_model
from expunge.core.progress import Progress
from expunge.core.specs import METHODS, AdversarySpec, AgeSpec, Concept, EraseSpec, EvaluationSpec, LoraSpec
from expunge.core.specs.attacks import Attacks
from expunge.core.specs.attacks.attack import AttackSpec
from expunge.core.specs.attacks.suite import facts_of

HERE = Path(__file__).parent
RESULTS, CACHE = HERE / "results" / "attacks.json", HERE.parent / "build" / "pictures"
SOURCE = "bundled:emoji"
CONCEPTS = ("church", "owl", "trumpet", "teapot", "fire engine")
EVERYWHERE = LoraSpec(target_modules="full")
VARIANTS = {  # columns beside the methods' defaults
    "age, all layers": AgeSpec(lora=EVERYWHERE),
    "age, all layers, adversary": AgeSpec(lora=EVERYWHERE, adversary=AdversarySpec()),
}
NEVER_KNEW = "never knew"  # recipes/never_knew.py: each attack's floor
MEASURED = (*METHODS, *VARIANTS)
ROWS = (*MEASURED, NEVER_KNEW)
# That meet every attack of `standard`
UNDER_ALL = ("age", "esd", "uce", "rece", "prune", "adv_unlearn", "score")
ASKED = (
    {"name": "inversion", "restarts": 3},
    {"name": "unlearn_diff_atk"},
    {"name": "noise_probe"},
    {"name": "bypass"},
)


def specs_of(asked: str | Sequence[dict[str, Any]] = ASKED) -> list[AttackSpec]:
    """A preset's attacks, or those of a list, with their defaults."""
    given = asked if isinstance(asked, str) else [dict(each) for each in asked]
    found: list[AttackSpec] = TypeAdapter(Attacks).validate_python(given)
    return found


def measure(method: str, concept: str, attacks: list[AttackSpec], known: dict[str, Any]) -> dict[str, Any]:
    """The rows of one erasure, those of `known` left out; each is written as it comes."""
    wanted = [each for each in attacks if row_key(method, concept, each) not in known]
    if not wanted:
        return known
    model, digest = attacked(method, concept)
    for broken in meet(model, digest, concept, wanted):
        result = broken.result
        row = result.model_dump(mode="json", exclude={"citation", "needs"})
        known = add(RESULTS, row_key(method, concept, result.budget), row)
        print(f"\n{method}, {concept}, {result.attack}: {cell(row)}, {result.status}", flush=True)
    return known


def meet(model: Denoiser, digest: str, concept: str, attacks: list[AttackSpec]) -> Iterator[Broken]:
    """The attacks on a sanitized model, each with its pictures; attempts that were made before are read."""
    others = excluding(model, model.vocabulary.concepts, [Concept(name=concept)])
    return run_attacks(
        model,
        Concept(name=concept),
        attacks,
        seeing(judge_of(model, concept)),
        EvaluationSpec(),
        others=others[:: max(1, len(others) // OTHERS)],
        cache=CACHE,
        delta_digest=digest,
        callback=told,
    )


def judge_of(model: Denoiser, concept: str) -> ConceptJudge:
    judge = find_class([concept], judges_for(SOURCE), model.vocabulary)
    if judge is None:
        raise SystemExit(f"{concept}: no class of the judge has this name")
    return judge


def attacked(method: str, concept: str) -> tuple[Denoiser, str]:
    """The model that the method made, and the sha256 of what it wears."""
    if method == NEVER_KNEW:
        from recipes import never_knew  # needs what `pip install expunge[recipes]` brings

        if concept not in never_knew.UNKNOWN:
            raise SystemExit(f"{concept}: the model that never knew was taught it")
        return never_knew.load()
    model = load_model(SOURCE)
    digest, _ = put_on(model, EraseSpec(concepts=[concept], method=VARIANTS.get(method, method)), told)
    return model, digest


def row_key(method: str, concept: str, spec: AttackSpec) -> str:
    """What names a row: another budget is another row."""
    return f"{method}/{concept}/{json.dumps(facts_of(spec), sort_keys=True)}"


def told(progress: Progress) -> None:
    """A line on the terminal."""
    where = f"{progress.get('message') or progress['phase']} {progress.get('step')}/{progress.get('total')}"
    print(f"\r  {where[:100]:100}", end="", flush=True)


def cell(row: dict[str, Any]) -> str:
    """Success in per cent: sanitized (95 % interval), ceiling, control."""
    rate = row["sanitized"]
    low, high = 100 * rate["ci_low"], 100 * rate["ci_high"]
    text = f"{100 * rate['asr']:.0f} ({low:.0f}–{high:.0f})"
    beside = [f"{100 * row[name]['asr']:.0f}" if row[name] else "–" for name in ("base", "control")]
    return f"{text} / {' / '.join(beside)}"


def by_method(
    rows: dict[str, Any], attack: AttackSpec, methods: Sequence[str], concepts: Sequence[str]
) -> str:
    """One attack: a line for each method that met it, a column for each concept."""
    lines = {
        method: [rows.get(row_key(method, concept, attack)) for concept in concepts] for method in methods
    }
    return lined(attack.name, concepts, lines)


def by_attack(
    rows: dict[str, Any], concept: str, methods: Sequence[str], attacks: Sequence[AttackSpec]
) -> str:
    """One concept: a line for each attack, a column for each method that met one."""
    met = [m for m in methods if any(row_key(m, concept, attack) in rows for attack in attacks)]
    lines = {
        named(attack): [rows.get(row_key(method, concept, attack)) for method in met] for attack in attacks
    }
    return lined(concept, met, lines)


def lined(corner: str, columns: Sequence[str], lines: dict[str, list[dict[str, Any] | None]]) -> str:
    """A table of cells; lines without any are left out."""
    out = [f"| {corner} | {' | '.join(columns)} |", "|" + "---|" * (len(columns) + 1)]
    for name, found in lines.items():
        if any(found):
            out.append(f"| {name} | {' | '.join(cell(row) if row else '' for row in found)} |")
    return "\n".join(out)


def named(attack: AttackSpec) -> str:
    """The attack's name, with what a preset's attacks of one name differ in."""
    apart = [str(getattr(attack, name)) for name in ("on", "trained_on") if hasattr(attack, name)]
    return f"{attack.name} ({', trained on '.join(apart)})" if apart else attack.name


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--methods", nargs="+", default=list(MEASURED), choices=ROWS)
    parser.add_argument("--concepts", nargs="+", default=list(CONCEPTS))
    parser.add_argument("--attacks", default=json.dumps(ASKED), help="a preset's name, or a list in JSON")
    parser.add_argument("--table", action="store_true", help="print what is known, measure nothing")
    given = parser.parse_args()
    text = given.attacks
    asked = specs_of(json.loads(text) if text.startswith("[") else text)
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in given.concepts if not given.table else []:
        for used in given.methods:
            results = measure(used, name, asked, results)
    for one in asked:
        print(f"\n{by_method(results, one, given.methods, given.concepts)}")
