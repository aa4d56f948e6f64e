"""Prompting4Debugging (Chin et al., ICML 2024), P4D-N: a hard prompt that the attacked model treats as the
base model treats the concept's own.

min over k tokens of E |prediction'(z_t, t, c(tokens)) - prediction(z_t, t, c(prompt))|^2, by hard prompts
made easy (Wen et al., 2023): soft embeddings take the gradient that their nearest tokens have. The tokens
with the smallest loss on a fixed batch are judged.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from expunge.core.attacks.lessons import Lessons
from expunge.core.attacks.scene import Attempt, Images, Scene
from expunge.core.attacks.tokens import allowed_ids, draw_tokens, drawn
from expunge.core.progress import Clock
from expunge.core.sampling import seeded
from expunge.core.specs.attacks.p4d import P4dSpec

EVERY = 10  # steps between two looks at the fixed batch


def attempt(scene: Scene, spec: P4dSpec) -> Attempt:
    """Find a hard prompt, and draw it."""
    ids = learn(scene, spec)
    return draw_tokens(scene, ids, spec.images)


def learn(scene: Scene, spec: P4dSpec) -> Tensor:
    """Ids of the hard prompt's tokens, (k,)."""
    model, lessons = scene.model, Lessons(scene, spec.lessons)
    allowed, g = allowed_ids(scene.model, scene.concept), seeded(scene.seed, *b"p4d")
    table = model.text.token_embeddings()[allowed]
    directions = normalize(table, dim=1)

    def distance(hard: Tensor, batch: tuple[list[str], Tensor, Tensor, Tensor]) -> Tensor:
        prompts, x, noise, t = batch
        z = model.schedule.add_noise(x, noise, t)
        with torch.no_grad(), model.frozen():
            wanted = model.predict(z, t, model.encode(prompts))
        text = model.encode_with_graph([""], hard).expand(len(z))
        return (model.predict(z, t, text) - wanted).square().mean()

    def nearest(soft: Tensor) -> Tensor:
        return (normalize(soft, dim=1) @ directions.T).argmax(1)

    def judged(count: int) -> Images:
        return drawn(scene, allowed[best.cpu()], count)

    start = torch.randint(len(allowed), (spec.tokens,), generator=g).to(model.device)
    soft = table[start].clone()
    optimiser = torch.optim.AdamW([soft], lr=spec.learning_rate, weight_decay=spec.weight_decay)
    fixed = lessons.batch(g, 2 * spec.batch_size)
    best, least, clock = start, float("inf"), Clock(spec.steps)
    for step in range(spec.steps):
        # The soft prompt moves by the gradient at its nearest tokens (PEZ)
        hard = table[nearest(soft)].requires_grad_(True)
        (soft.grad,) = model.gradients(distance(hard, lessons.batch(g, spec.batch_size)), [hard])
        optimiser.step()

        # Kept: the tokens that come nearest on the same noise each time
        if (step + 1) % EVERY == 0 or step + 1 == spec.steps:
            found = nearest(soft)
            with torch.no_grad():
                now = float(distance(table[found], fixed))
            if now < least:
                best, least = found, now
        scene.tell(step + 1, clock)
        if scene.has_won(judged, spec.images, step + 1, spec.steps):
            break
    return allowed[best.cpu()]
