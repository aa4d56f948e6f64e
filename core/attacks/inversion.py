"""Concept inversion (Pham et al., ICLR 2024): textual inversion against the attacked model.

v* = argmin_v E |target - prediction(z_t, t, c(v))|^2 over the base model's pictures of the concept; the
model's weights stay as they are. Judged on pictures of the word by held-out templates.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from expunge.core.attacks.scene import Attempt, Images, Scene
from expunge.core.concepts.textual_inversion import invert
from expunge.core.specs import InversionSpec
from expunge.core.specs.attacks.inversion import InversionAttackSpec


def attempt(scene: Scene, spec: InversionAttackSpec) -> Attempt:
    """Learn a word for the concept, and draw it."""
    taken = 0

    def has_won(step: int, vectors: Tensor) -> bool:
        nonlocal taken
        taken = step
        return scene.has_won(partial(drawn, scene, spec, vectors), spec.images, step, spec.steps)

    vectors = learn(scene, spec, has_won)
    found = f"a word of {len(vectors)} vectors, learned in {taken} steps"
    return Attempt(drawn(scene, spec, vectors, spec.images), found, vectors=vectors)


def drawn(scene: Scene, spec: InversionAttackSpec, vectors: Tensor, count: int) -> Images:
    """Held-out prompts of a word with these vectors (k, D)."""
    word = scene.say(vectors, "found")  # not the one that is being learned: its text states are not kept
    return scene.draw_judged(count, lambda prompt: prompt, word, spec.guidance_scale)


def learn(
    scene: Scene, spec: InversionAttackSpec, has_won: Callable[[int, Tensor], bool] | None = None
) -> Tensor:
    """The vectors (k, D) that make the attacked model draw what the lessons show.

    has_won: whether the search may end after this step, with these vectors.
    """
    _, images = scene.lessons(spec.lessons)
    how = InversionSpec(
        vectors=spec.vectors,
        steps=spec.steps,
        batch_size=spec.batch_size,
        learning_rate=spec.learning_rate,
    )
    word, start, callback = f"<attack-{spec.vectors}>", start_of(scene, spec), scene.callback
    return invert(scene.model, word, start, list(images), how, scene.seed, callback, has_won=has_won).cpu()


def start_of(scene: Scene, spec: InversionAttackSpec) -> str:
    """The first attempt starts as asked, further ones at other concepts."""
    later = scene.seed - spec.seed
    if later <= 0 or not scene.others:
        return spec.start
    return scene.others[(later - 1) * 7 % len(scene.others)]
