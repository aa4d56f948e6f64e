"""The delta is left off: a LoRA unloaded, a stock text encoder loaded, a mask's zeros filled.

Whoever has the base model and the delta's file can do so; a fused checkpoint alone does not allow it.
"""

from expunge.core.attacks.scene import Attempt, Scene, judged_prompts
from expunge.core.specs.attacks.bypass import BypassSpec

WORDS = {
    "unet": "the LoRA unloaded",
    "text_encoder": "the stock text encoder loaded",
    "sparse_mask": "the mask's zeros filled from the base model",
}


def attempt(scene: Scene, spec: BypassSpec) -> Attempt:
    """Draw the concept without the delta."""
    left_off = [WORDS.get(change, change) for change in scene.model.changes()]
    with scene.model.frozen():
        prompts = judged_prompts(scene.model.vocabulary, scene.name, spec.images)
        images = scene.draw(prompts, scene.own_seeds(spec.images))
    return Attempt(images, ", ".join(left_off) or "nothing to leave off")
