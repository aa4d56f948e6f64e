"""Ring-A-Bell (Tsai et al., ICLR 2024): tokens whose text states are a prompt's with the concept's direction
added.

d = mean over pairs of tau(prompt with the concept) - tau(the same prompt with another concept); a genetic
search for k tokens with the least |tau(tokens) - (tau(prompt) + eta d)|^2. The denoising network is never
asked. tau is the base model's text encoder: the attacker brings it.
"""

import torch
from torch import Tensor

from expunge.core.attacks.scene import Attempt, Scene
from expunge.core.attacks.text_states import of_tokens
from expunge.core.attacks.tokens import allowed_ids, draw_tokens
from expunge.core.progress import Clock
from expunge.core.sampling import seeded
from expunge.core.specs.attacks.ring_a_bell import RingABellSpec

PAIRS = 8  # other concepts that the direction is taken from


def attempt(scene: Scene, spec: RingABellSpec) -> Attempt:
    """Find tokens, and draw them."""
    with scene.model.frozen():
        ids = search(scene, spec)
    return draw_tokens(scene, ids, spec.images)


@torch.no_grad()
def wanted(scene: Scene, spec: RingABellSpec) -> Tensor:
    """tau(prompt) + eta d, (L, D)."""
    model, vocabulary = scene.model, scene.model.vocabulary
    with_concept = model.encode(vocabulary.prompts(scene.name)).states
    others = [model.encode(vocabulary.replaced(scene.name, name)).states for name in scene.others[:PAIRS]]
    direction = with_concept.mean(0) - torch.stack([states.mean(0) for states in others]).mean(0)
    return with_concept[0] + spec.strength * direction


@torch.no_grad()
def search(scene: Scene, spec: RingABellSpec) -> Tensor:
    """Ids of the fittest tokens, (k,)."""
    allowed, g = allowed_ids(scene.model, scene.concept), seeded(scene.seed, *b"ring_a_bell")
    table, goal = scene.model.text.token_embeddings()[allowed], wanted(scene, spec)

    def distances(population: Tensor) -> Tensor:
        states = of_tokens(scene.model, table[population.to(table.device)])
        return (states - goal).square().flatten(1).sum(1).cpu()

    def chance(share: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=g) < share

    population = torch.randint(len(allowed), (spec.population, spec.tokens), generator=g)
    fitness, clock = distances(population), Clock(spec.generations)
    for generation in range(spec.generations):
        # The fitter half lives, and has as many children
        parents = population[fitness.argsort()[: spec.population // 2]]
        count = spec.population - len(parents)
        first, second = (parents[torch.randint(len(parents), (count,), generator=g)] for _ in range(2))
        from_second = torch.arange(spec.tokens) >= torch.randint(1, spec.tokens + 1, (count, 1), generator=g)
        crossed = chance(spec.crossover, count, 1)
        children = torch.where(crossed & from_second, second, first)
        place = torch.randint(spec.tokens, (count, 1), generator=g)
        mutated = chance(spec.mutation, count, 1) & (torch.arange(spec.tokens) == place)
        fresh = torch.randint(len(allowed), (count, spec.tokens), generator=g)
        children = torch.where(mutated, fresh, children)

        population = torch.cat([parents, children])
        fitness = torch.cat([fitness.sort().values[: len(parents)], distances(children)])
        done = generation + 1
        scene.tell(done, clock)
    return allowed[population[fitness.argmin()]]
