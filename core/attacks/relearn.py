"""Relearning: a small LoRA is fine-tuned beside the delta, on pictures of the concept or on unrelated ones.

Few steps on the concept show how near it still is; steps on other concepts, whether it comes back by itself
(concept resurgence, Suriyakumar et al., arXiv 2410.08074). Trained on the base model it is a foreign LoRA, as
people share them, merged into the sanitized model. The base model's denoising loss, Adam.
"""

from contextlib import nullcontext

import torch

from expunge.core.attacks.scene import LESSON_SEED, Attempt, Images, Scene, cycled
from expunge.core.concepts.textual_inversion import loss, moments
from expunge.core.progress import Clock
from expunge.core.sampling import draw_noise, seeded
from expunge.core.specs.attacks.relearn import RelearnSpec


def attempt(scene: Scene, spec: RelearnSpec) -> Attempt:
    """Fine-tune, and draw the concept's own prompts after some of the steps and at the end."""
    model, g = scene.model, seeded(scene.seed, *b"relearn")
    prompts, images = pictures(scene, spec)
    mean, deviation = moments(model, list(images))
    curve, clock = dict[int, Images](), Clock(spec.steps)

    def judged() -> Images:
        return scene.draw_judged(spec.images, lambda prompt: prompt)

    with model.beside(model.layers("xattn"), spec.rank, g) as parameters:
        optimiser = torch.optim.Adam(parameters, lr=spec.learning_rate)
        for step in range(spec.steps):
            if step in spec.judged_after:
                curve[step] = judged()
            rows = torch.randint(len(images), (spec.batch_size,), generator=g)
            t = torch.randint(model.schedule.visible, (spec.batch_size,), generator=g).to(model.device)
            jitter, noise = (draw_noise(model, g, spec.batch_size) for _ in range(2))
            x = mean[rows] + deviation[rows] * jitter
            with model.frozen() if spec.trained_on == "base" else nullcontext():
                value = loss(model, x, noise, t, model.encode([prompts[i] for i in rows.tolist()]))
                gradients = model.gradients(value, parameters)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimiser.step()
            done = step + 1
            scene.tell(done, clock)
        last = judged()
    what = "the concept's pictures" if spec.on == "concept" else "unrelated pictures"
    return Attempt(last, f"{spec.steps} steps on {what} beside the {spec.trained_on} model", curve=curve)


def pictures(scene: Scene, spec: RelearnSpec) -> tuple[list[str], Images]:
    """What the LoRA is trained on, by the base model: the concept, or other concepts."""
    if spec.on == "concept":
        return scene.lessons(spec.lessons)
    vocabulary = scene.model.vocabulary
    prompts = [vocabulary.prompts(name)[0] for name in cycled(list(scene.others), spec.lessons)]
    return prompts, scene.drawn_by_base(prompts, [LESSON_SEED + i for i in range(spec.lessons)])
