"""What a job will cost in total: optimiser steps, and pictures drawn.

Both are counted by the field that asks for them, so that an operator can bound them and say what to lower.
"""

from typing import Any

from expunge.core.specs.adversary import PICTURES, AdversarySpec
from expunge.core.specs.attacks.attack import AttackSpec
from expunge.core.specs.evaluation import EvaluationSpec
from expunge.core.specs.hiding import HideSpec
from expunge.core.specs.inspection import InspectSpec
from expunge.core.specs.jobs import CombineSpec, EraseSpec, EvaluateSpec, JobSpec
from expunge.core.specs.method import MethodSpec

MOST_IMAGES, LEAST_IMAGES = 24, 6  # of an erased concept
ALL_IMAGES = 192  # of all erased concepts together
MOST_DECIDED = 8  # erased concepts whose verdict is drawn on for without being asked
MOST_TIMES, MOST_TIMES_PRESERVED = 8, 5  # the first pictures, until a verdict is decided
WORDS_OF_A_PICTURE = 12  # of a trigger scan: four questions a word, where 25 guided steps are 50
PICTURES_OF_A_PAIR = 8  # of the leakage: two, by both models, each asked for by both prompts
RANKED = 8  # concepts of an inspection's ranking that are drawn, beside the changed one


def erased_images(spec: EvaluationSpec, concepts: int) -> int:
    """Pictures of each erased concept: as asked, else fewer for many concepts, so that their number in total
    stays bounded.
    """
    return spec.erased_images or max(LEAST_IMAGES, min(MOST_IMAGES, ALL_IMAGES // max(1, concepts)))


def held_out_images(spec: EvaluationSpec, concepts: int) -> int:
    """Pictures of each erased concept in words that no method trains on."""
    return erased_images(spec, concepts) // 2 if spec.held_out_images is None else spec.held_out_images


def pair_images(spec: EvaluationSpec, preserved: int) -> int:
    """Pictures of two preserved objects in one prompt, of so many preserved concepts."""
    return preserved * spec.preserved_images // 8 if spec.pair_images is None else spec.pair_images


def decides(spec: EvaluationSpec, concepts: int) -> bool:
    """Whether pictures are drawn until the verdict is decided."""
    if spec.until_decided is not None:
        return spec.until_decided
    return spec.erased_images is None and concepts <= MOST_DECIDED


def most_erased_images(spec: EvaluationSpec, concepts: int) -> int:
    """Pictures of each erased concept that the sanitized model draws at most."""
    first = erased_images(spec, concepts)
    return max(ALL_IMAGES, MOST_TIMES * first) if decides(spec, concepts) else first


def most_preserved_images(spec: EvaluationSpec, concepts: int) -> int:
    """Pictures of each preserved concept that both models draw at most."""
    return spec.preserved_images * (MOST_TIMES_PRESERVED if decides(spec, concepts) else 1)


def optimiser_steps(spec: JobSpec, judged: int | None = None) -> dict[str, int]:
    """Optimiser steps by the field that asks for them: of the weights, of inner searches, of learned words,
    of a recovery key and of attacks.

    judged: how many concepts the delta has erased, where the spec does not name all of them.
    """
    attacks = attack_steps(spec, judged)
    if not isinstance(spec, EraseSpec):
        return attacks
    method, inner = spec.method, inner_of(spec.method)
    steps = getattr(method, "steps", 0) * len(spec.concepts)
    against = getattr(inner, "adversary", None)
    rounds_steps = steps_against(against) * len(spec.concepts)
    before = first_stage(inner) * len(spec.concepts)
    search_every = getattr(inner, "search_every", None)
    words = sum(2 if concept.masks else 1 for concept in spec.concepts if concept.images)
    found = {
        "method.steps": steps,
        "method.attack_steps": steps * getattr(method, "attack_steps", 0),
        "method.search_every": (steps + rounds_steps) // search_every if search_every else 0,
        "inversion.steps": spec.inversion.steps * words,
    }
    if before:
        found["method.round_steps"] = before
        found["method.search_steps"] = inner.rounds * inner.restarts * inner.search_steps * len(spec.concepts)
    if against is not None:
        found["method.adversary.steps"] = rounds_steps
        if against.kind == "noise":
            found["method.adversary.noise_steps"] = rounds_steps * against.noise_steps
        else:
            searches = against.rounds * against.restarts * len(spec.concepts)
            found["method.adversary.search_steps"] = searches * against.search_steps
    if isinstance(spec, HideSpec):
        found["recovery.steps"] = steps * spec.recovery.steps
    return found | attacks


def attack_steps(spec: JobSpec, judged: int | None = None) -> dict[str, int]:
    """Optimiser steps of the attacks: of every attempt on the sanitized model, the base model and a random
    edit.
    """
    attacks, concepts = attacks_of(spec, judged)
    steps = sum(each.searched() * each.restarts for each in attacks)
    return {"evaluation.attacks": 3 * steps * concepts} if attacks else {}


def attacks_of(spec: JobSpec, judged: int | None) -> tuple[list[AttackSpec], int]:
    """The attacks of a job, and how many concepts are attacked."""
    if not isinstance(spec, EraseSpec | EvaluateSpec | CombineSpec) or not spec.evaluation.enabled:
        return [], 0
    return spec.evaluation.attacks, judged or len(getattr(spec, "concepts", ()))


def pictures(spec: JobSpec, judged: int | None = None, prompts: int = 0) -> dict[str, int]:
    """Pictures by the field that asks for them: to train on, to count attributes, and to judge the base model
    and the sanitized one (in a hide job with the key too).

    judged: how many concepts the delta has erased, where the spec does not name all of them; prompts: the
    rows of its prompt set.
    """
    found: dict[str, int] = {}
    if isinstance(spec, EraseSpec):
        found |= training_pictures(spec)
    if isinstance(spec, EraseSpec | EvaluateSpec | CombineSpec) and spec.evaluation.enabled:
        asked, concepts = spec.evaluation, judged or len(getattr(spec, "concepts", ()))
        models = 3 if isinstance(spec, HideSpec) else 2
        named = asked.preserved_concepts
        kept = (asked.preserved_count if named is None else len(named)) + len(getattr(spec, "preserve", ()))
        first, most = erased_images(asked, concepts), most_erased_images(asked, concepts)
        found["evaluation.erased_images"] = (first + (models - 1) * most) * concepts
        found["evaluation.held_out_images"] = 2 * held_out_images(asked, concepts) * concepts
        found["evaluation.preserved_images"] = models * most_preserved_images(asked, concepts) * kept
        found["evaluation.pair_images"] = 2 * pair_images(asked, kept)
        drawn = sum(each.drawn() * each.restarts for each in asked.attacks)
        found["evaluation.attacks"] = 3 * drawn * concepts
        if asked.trigger_scan is not None:
            tried = asked.trigger_scan.words + len(asked.trigger_scan.suspects)
            found["evaluation.trigger_scan.words"] = -(-2 * tried * concepts // WORDS_OF_A_PICTURE)
        if asked.leakage is not None:
            found["evaluation.leakage.pairs"] = PICTURES_OF_A_PAIR * asked.leakage.pairs * concepts
        if asked.prompts is not None:
            found["evaluation.prompts"] = 2 * prompts
    if isinstance(spec, InspectSpec):
        found["pictures"] = 2 * (1 + RANKED) * spec.pictures
        found["trajectories"] = spec.trajectories
    return found


def training_pictures(spec: EraseSpec) -> dict[str, int]:
    """Pictures and denoising trajectories that the method draws, by field."""
    method, inner, concepts = spec.method, inner_of(spec.method), len(spec.concepts)
    debias = getattr(method, "debias", None)
    debiased = sum(bool(concept.attributes) for concept in spec.concepts)
    buffers = sum(max(1, len(concept.attributes)) for concept in spec.concepts)
    against = getattr(inner, "adversary", None)
    steps = getattr(method, "steps", 0) + steps_against(against) + first_stage(inner)
    retained = against.retain_concepts * max(1, inner.trajectories // 4) if against else 0
    searches = (against and against.kind != "noise") or first_stage(inner)
    searched = inner.trajectories + PICTURES if searches else 0
    return {
        "method.adversary.retain_concepts": retained,
        "method.debias.images": debias.rounds * debias.images * debiased if debias else 0,
        "method.pictures": getattr(inner, "pictures", 0) * concepts,
        "method.leakage_pictures": 2 * getattr(inner, "leakage_pictures", 0) * concepts,
        "method.trajectories": trajectories(inner, steps) * buffers + searched * concepts,
        **other_trajectories(method, inner, concepts),
    }


def steps_against(adversary: AdversarySpec | None) -> int:
    """Optimiser steps of an adversary's rounds, for each concept."""
    return adversary.rounds * adversary.steps if adversary else 0


def first_stage(method: Any) -> int:
    """Optimiser steps of STEREO's first stage, for each concept."""
    return int(getattr(method, "rounds", 0) * getattr(method, "round_steps", 0))


def inner_of(method: MethodSpec) -> Any:
    """The method whose loss is trained: prune's own `method`, else the method itself."""
    return getattr(method, "method", method)


def trajectories(method: Any, steps: int) -> int:
    """Whole trajectories drawn for a concept's buffer; partial ones, drawn fresh at every step, count as one
    for each latent.
    """
    if not hasattr(method, "trajectories"):
        return 0
    if method.latents == "fresh":
        return int(steps * method.batch_size)
    return int(method.trajectories * rounds(method, steps))


def other_trajectories(method: Any, inner: Any, concepts: int) -> dict[str, int]:
    """Trajectories of other concepts in the buffer: an eighth of a concept's own for each candidate, a
    quarter for each retained concept.
    """
    if getattr(inner, "latents", "fresh") == "fresh":
        return {}
    candidates = getattr(inner, "candidates", 0) * concepts * max(1, inner.trajectories // 8)
    retained = getattr(method, "retain_concepts", 0) * max(1, inner.trajectories // 4)
    drawn = rounds(inner, method.steps + steps_against(getattr(inner, "adversary", None)))
    return {"method.candidates": candidates * drawn, "method.retain_concepts": retained * drawn}


def rounds(method: Any, steps: int) -> int:
    """How often the buffer is drawn."""
    return 1 + (steps // method.refresh_every if method.refresh_every else 0)
