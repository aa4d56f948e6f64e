"""UnlearnDiffAtk (Zhang et al., ECCV 2024): tokens before the prompt, chosen by the attacked model itself.

min over a distribution p (k, V) of E |target - prediction(z_t, t, c([tokens ~ p] + prompt))|^2 on the base
model's pictures of the concept. Each step draws tokens from p, passes the gradient straight through to p, and
projects p onto the simplex (by sorting, Duchi et al. 2008; the authors bisect). No second model is needed.
The likeliest tokens are judged.
"""

import torch
from torch import Tensor

from expunge.core.attacks.lessons import Lessons
from expunge.core.attacks.scene import Attempt, Images, Scene
from expunge.core.attacks.tokens import allowed_ids, read_tokens, vectors_of
from expunge.core.concepts.textual_inversion import loss
from expunge.core.progress import Clock
from expunge.core.sampling import seeded
from expunge.core.specs.attacks.unlearn_diff_atk import UnlearnDiffAtkSpec


def attempt(scene: Scene, spec: UnlearnDiffAtkSpec) -> Attempt:
    """Find a prefix, and draw the concept's prompts behind it."""
    ids = learn(scene, spec)
    found = f"{read_tokens(scene.model, ids.tolist())} + the prompt"
    return Attempt(drawn(scene, ids, spec.images), found, vectors=vectors_of(scene, ids))


def drawn(scene: Scene, ids: Tensor, count: int) -> Images:
    """The concept's prompts behind the tokens (k,)."""
    word = scene.say(vectors_of(scene, ids))
    return scene.draw_judged(count, lambda prompt: f"{word} {prompt}")


def learn(scene: Scene, spec: UnlearnDiffAtkSpec) -> Tensor:
    """Ids of the prefix's tokens, (k,)."""
    model, lessons = scene.model, Lessons(scene, spec.lessons)
    allowed = allowed_ids(scene.model, scene.concept)
    table = model.text.token_embeddings()[allowed]
    g = seeded(scene.seed, *b"unlearn_diff_atk")
    p = project(torch.rand(spec.tokens, len(allowed), generator=g)).to(model.device).requires_grad_(True)
    optimiser = torch.optim.Adam([p], lr=spec.learning_rate, weight_decay=spec.weight_decay)

    def likeliest() -> Tensor:
        return allowed[p.detach().argmax(1).cpu()]

    def judged(count: int) -> Images:
        return drawn(scene, likeliest(), count)

    clock = Clock(spec.steps)
    for step in range(spec.steps):
        # Tokens drawn from p; what the gradient says of them is said of p
        tokens = torch.multinomial(p.detach().cpu(), 1, generator=g)[:, 0].to(model.device)
        prefix = straight_through(p, tokens, table)

        prompts, x, noise, t = lessons.batch(g, spec.batch_size)
        value = loss(model, x, noise, t, model.encode_with_graph(prompts, prefix))
        (p.grad,) = model.gradients(value, [p])
        optimiser.step()
        with torch.no_grad():
            p.copy_(project(p))
        scene.tell(step + 1, clock)
        if scene.has_won(judged, spec.images, step + 1, spec.steps):
            break
    return likeliest()


def straight_through(p: Tensor, drawn: Tensor, table: Tensor) -> Tensor:
    """The embeddings (k, D) of the tokens drawn (k,), rows of the table (V, D), with their gradient to p (k,
    V).
    """
    one_hot = torch.nn.functional.one_hot(drawn, len(table)).float()
    through = torch.nn.functional.hardtanh(p)
    return (one_hot + through - through.detach()) @ table


def project(p: Tensor) -> Tensor:
    """The nearest point of the simplex to each row of p (k, V): Duchi et al. (2008), Figure 1."""
    ordered = p.sort(dim=1, descending=True).values
    sums = ordered.cumsum(1) - 1
    places = torch.arange(1, p.shape[1] + 1, device=p.device)
    last = (ordered > sums / places).sum(1, keepdim=True)
    return (p - sums.gather(1, last - 1) / last).clamp_min(0)
