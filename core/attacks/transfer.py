"""A word that was learned on the base model, tried on the attacked one.

Where inversion fails on a model and this succeeds, the defence only hid its gradient.
"""

from torch import Tensor

from expunge.core.attacks import inversion
from expunge.core.attacks.scene import Attempt, Scene
from expunge.core.specs.attacks.transfer import TransferSpec


def attempt(scene: Scene, spec: TransferSpec) -> Attempt:
    """Learn a word on the base model, and draw it with the attacked one."""

    def make() -> tuple[dict[str, Tensor], str]:
        with scene.model.frozen():
            return {"vectors": inversion.learn(scene, spec)}, ""

    vectors = scene.kept.get({**scene.budget(spec), "word": "of the base model"}, make)[0]["vectors"]
    word = scene.say(vectors)
    images = scene.draw_judged(spec.images, lambda prompt: prompt, word, spec.guidance_scale)
    return Attempt(images, f"a word of {len(vectors)} vectors, learned on the base model", vectors=vectors)
