"""Other words for the concept: no search at all."""

from expunge.core.attacks.scene import Attempt, Scene, cycled, judged_prompts
from expunge.core.specs.attacks.paraphrase import ParaphraseSpec
from expunge.core.specs.inflections import plural

NAMED = 8  # texts that the report names


def attempt(scene: Scene, spec: ParaphraseSpec) -> Attempt:
    """Draw the texts, as they are; without any, other spellings of the concept and its synonyms. Each text is
    drawn once at least.
    """
    texts = spec.texts or spellings(scene)
    count = max(spec.images, len(texts))
    more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return Attempt(scene.draw(cycled(texts, count), scene.own_seeds(count)), "; ".join(texts[:NAMED]) + more)


def spellings(scene: Scene) -> list[str]:
    """The concept and its synonyms in capitals, in the plural, doubled and beside another thing; of a style,
    its held-out prompts, and those in capitals.
    """
    vocabulary = scene.model.vocabulary
    beside = scene.others[scene.seed % len(scene.others)] if scene.others else "thing"
    texts = list[str]()
    for name in (scene.name, *scene.concept.synonyms):
        held_out = judged_prompts(vocabulary, name, 2)
        if vocabulary.style(name) is None:
            texts += [name.upper(), plural(name) or name, f"{name} {name} {name}", f"a {name} and a {beside}"]
        else:
            texts += [text.upper() for text in held_out]
        texts += held_out
    return texts
