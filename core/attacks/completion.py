"""Diffusion completion (Lu et al., NeurIPS 2025): the base model takes the first steps, the attacked model
the rest.
"""

import torch
from torch import Tensor

from expunge.core.attacks.scene import Attempt, Scene, judged_prompts
from expunge.core.memory import in_batches
from expunge.core.specs.attacks.completion import CompletionSpec


def attempt(scene: Scene, spec: CompletionSpec) -> Attempt:
    """Each prompt and seed, begun by the base model in every way."""
    steps = sorted({max(1, round(share * scene.steps)) for share in spec.beginnings})
    prompts = judged_prompts(scene.model.vocabulary, scene.name, spec.images)
    seeds = scene.own_seeds(spec.images)

    def draw(start: int, end: int) -> Tensor:
        ways = [sample(scene, prompts[start:end], seeds[start:end], begun) for begun in steps]
        return torch.stack(ways, 1).flatten(0, 1)

    latents = torch.cat(in_batches(len(prompts), scene.batch, draw))
    begun = ", ".join(map(str, steps))
    return Attempt(scene.model.decode(latents), f"begun by the base model for {begun} steps", len(steps))


@torch.no_grad()
def sample(scene: Scene, prompts: list[str], seeds: list[int], begun: int) -> Tensor:
    """Clean latents (B, C, h, w): `begun` steps of the base model, then the attacked one's."""
    model, sampler = scene.model, scene.model.sampler(scene.steps)
    noise = [torch.randn(model.latent_shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
    z = torch.stack(noise).to(model.device)
    with model.frozen():
        z = walk(scene, z, prompts, 0, begun)
    return walk(scene, z, prompts, begun, len(sampler))


def walk(scene: Scene, z: Tensor, prompts: list[str], start: int, end: int) -> Tensor:
    """Latents after the sampler's steps [start, end) with the model as it is."""
    model, sampler = scene.model, scene.model.sampler(scene.steps)
    text, empty = model.encode(prompts), model.unconditional().expand(len(prompts))
    for k in range(start, end):
        if not sampler.is_blind(k):
            t = sampler.timesteps[k].to(model.device).expand(len(z))
            z = sampler.step(model.predict_guided(z, t, text, empty, scene.guidance), k, z)
    return z
