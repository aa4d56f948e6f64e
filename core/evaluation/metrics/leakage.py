"""Leakage: a measured bracket, in nats, of what a picture still says of whether its prompt named the concept,
by both models. It is drawn apart from the other pictures, by the ancestral sampler, and only on request.
"""

from collections.abc import Callable
from contextlib import nullcontext

from expunge.core.concepts import candidates, names_of
from expunge.core.errors import CoreError
from expunge.core.evaluation.evidence import Evidence
from expunge.core.evaluation.sheet import Leakage
from expunge.core.leakage.bracket import Bracket, measure_bracket
from expunge.core.leakage.prompts import pairs
from expunge.core.progress import Callback
from expunge.core.specs import Concept, EvaluationSpec, LeakageSpec

NEAREST = 8  # concepts that stand for "something else" where none are named
PATHS = 4  # pictures' worth of a pair, in one model: two pictures, each asked for by both prompts

CONVENTIONS = [
    (
        "leakage_lower_nats, leakage_upper_nats: the two ends, as measured, of the mutual information I(C; X)"
        " of a picture X and of whether its prompt named the concept (C = 1) or something else (C = 0), half"
        " of the time each; at most log 2 = 0.693 nats. Pictures are latents, drawn by the ancestral sampler"
        " (DDIM with eta 1) with prompts that no method trains on; n: pairs of them. Lower end: log 2 - BCE"
        " of kernel critics on pairs that they were not fitted to; in expectation a lower bound, and below 0"
        " where they read nothing. Upper end: the information of the whole path from noise to picture, from"
        " both prompts' densities along it; it bounds what anyone can read, of this sampler, these steps and"
        " these prompts. path_kl: (KL(1|0) + KL(0|1)) / 4 of the paths, which bounds the upper end and has no"
        " ceiling. hsic, p_value: HSIC of C and X, Gaussian kernel of median width, 999 swaps of C inside"
        " pairs. Intervals are over pairs; the lower end's takes the critics as they are. It is a"
        " measurement, not a proof."
    ),
]


def steps_of(spec: EvaluationSpec, erased: int) -> int:
    """Steps of progress that it takes, each worth a picture."""
    return 2 * PATHS * spec.leakage.pairs * erased if spec.leakage else 0


def measure(seen: Evidence, spec: EvaluationSpec, part: Callable[[int, str], Callback]) -> list[Leakage]:
    """The leakage of each erased concept; its two ends also go on the sheet.

    part: a callback for the next so many steps, under a message.
    """
    asked, found = spec.leakage, list[Leakage]()
    if asked is None:
        return found
    size = PATHS * asked.pairs
    for concept in seen.erased:
        told = [part(size, f"leakage of the {model} model") for model in ("sanitized", "base")]
        if concept.attributes:
            continue  # it is to be shown, spread over its attributes
        try:
            others = others_of(seen, concept, asked)
        except CoreError as error:
            seen.sheet.lacks("leakage_lower_nats", str(error), concept.name)
            continue

        # The same prompts and noise for both models
        vocabulary, brackets = seen.model.vocabulary, list[Bracket]()
        prompts = pairs(vocabulary, names_of(concept), others, asked.pairs)
        for callback, frozen in zip(told, (False, True), strict=True):
            with seen.model.frozen() if frozen else nullcontext():
                bracket = measure_bracket(
                    seen.model,
                    prompts,
                    seed=spec.seed,
                    steps=spec.sampling_steps,
                    guidance=spec.guidance_scale,
                    batch=spec.batch_size,
                    callback=callback,
                )
            brackets.append(bracket)
        sanitized, base = brackets
        row = Leakage(concept=concept.name, against=others, pairs=asked.pairs, sanitized=sanitized, base=base)
        found.append(row)
        write(seen, row)
    return found


def others_of(seen: Evidence, concept: Concept, asked: LeakageSpec) -> list[str]:
    """What C = 0 asks for. Raises: CoreError where the vocabulary has nothing else."""
    if asked.against is not None:
        return asked.against
    if concept.target is not None:
        return [concept.target]
    return candidates(seen.model, concept, seen.erased, NEAREST)


def write(seen: Evidence, row: Leakage) -> None:
    """Both ends, of both models, on the sheet."""
    for suffix, bracket in (("", row.sanitized), ("_base", row.base)):
        for end, nats in (("lower", bracket.lower), ("upper", bracket.upper)):
            interval = nats.ci_low, nats.ci_high
            seen.sheet.add(f"leakage_{end}_nats{suffix}", row.concept, nats.value, row.pairs, interval)
