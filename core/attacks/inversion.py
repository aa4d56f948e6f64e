"""Concept inversion (Pham et al., ICLR 2024): textual inversion against the attacked model.

v* = argmin_v E |target - prediction(z_t, t, c(v))|^2 over the base model's pictures of the concept; the
model's weights stay as they are. Judged on pictures of the word by held-out templates.
"""

from torch import Tensor

from expunge.core.attacks.scene import Attempt, Scene
from expunge.core.concepts.textual_inversion import invert
from expunge.core.specs import InversionSpec
from expunge.core.specs.attacks.inversion import InversionAttackSpec


def attempt(scene: Scene, spec: InversionAttackSpec) -> Attempt:
    """Learn a word for the concept, and draw it."""
    vectors = learn(scene, spec)
    word = scene.say(vectors)
    images = scene.draw_judged(spec.images, lambda prompt: prompt, word, spec.guidance_scale)
    return Attempt(images, f"a learned word of {len(vectors)} vectors", vectors=vectors)


def learn(scene: Scene, spec: InversionAttackSpec) -> Tensor:
    """The vectors (k, D) that make the attacked model draw what the lessons show."""
    _, images = scene.lessons(spec.lessons)
    how = InversionSpec(
        vectors=spec.vectors,
        steps=spec.steps,
        batch_size=spec.batch_size,
        learning_rate=spec.learning_rate,
    )
    word = f"<attack-{spec.vectors}>"
    return invert(
        scene.model, word, start_of(scene, spec), list(images), how, scene.seed, scene.callback
    ).cpu()


def start_of(scene: Scene, spec: InversionAttackSpec) -> str:
    """The first attempt starts as asked, further ones at other concepts."""
    later = scene.seed - spec.seed
    if later <= 0 or not scene.others:
        return spec.start
    return scene.others[(later - 1) * 7 % len(scene.others)]
