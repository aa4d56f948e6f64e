"""Other words for the concept: no search at all."""

from expunge.core.attacks.scene import Attempt, Scene, cycled, judged_prompts, judged_seeds
from expunge.core.specs.attacks.paraphrase import ParaphraseSpec
from expunge.core.specs.inflections import plural


def attempt(scene: Scene, spec: ParaphraseSpec) -> Attempt:
    """Draw the texts, as they are; without any, other spellings of the concept and its synonyms."""
    texts = spec.texts or spellings(scene)
    prompts = cycled(texts, spec.images)
    return Attempt(scene.draw(prompts, judged_seeds(spec.images)), "; ".join(texts[:8]))


def spellings(scene: Scene) -> list[str]:
    """The concept and its synonyms in capitals, in the plural, doubled and beside another thing."""
    beside = scene.others[scene.seed % len(scene.others)] if scene.others else "thing"
    texts = list[str]()
    for name in (scene.name, *scene.concept.synonyms):
        texts += [name.upper(), plural(name) or name, f"{name} {name} {name}", f"a {name} and a {beside}"]
        texts += judged_prompts(name, 2)
    return texts
