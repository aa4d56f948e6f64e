"""The noise-based probe of Lu et al. (NeurIPS 2025): the sampler adds more noise than the model expects.

x_{t-1} = sqrt(a') x0 + sqrt|1 - a' - (eta s)^2| eps + v eta s noise, with a' the next level and s DDIM's
standard deviation at eta = 1. A model whose erasure only steers the trajectory away comes back to the
concept; one that has lost it does not.
"""

import torch
from torch import Tensor

from expunge.core.attacks.scene import Attempt, Scene, judged_prompts
from expunge.core.memory import in_batches
from expunge.core.models import Text
from expunge.core.specs.attacks.noise_probe import NoiseProbeSpec


def attempt(scene: Scene, spec: NoiseProbeSpec) -> Attempt:
    """Each prompt and seed with every eta and scale."""
    variants = [(eta, scale) for eta in spec.etas for scale in spec.scales]
    prompts = [p for p in judged_prompts(scene.model.vocabulary, scene.name, spec.images) for _ in variants]
    seeds = [seed for seed in scene.own_seeds(spec.images) for _ in variants]
    noise = [variants[i % len(variants)] for i in range(len(prompts))]
    text = scene.model.encode(prompts)

    def draw(start: int, end: int) -> Tensor:
        return sample(scene, text[start:end], seeds[start:end], noise[start:end])

    latents = torch.cat(in_batches(len(prompts), scene.batch, draw))
    return Attempt(scene.model.decode(latents), "the concept's own prompts", together=len(variants))


@torch.no_grad()
def sample(scene: Scene, text: Text, seeds: list[int], noise: list[tuple[float, float]]) -> Tensor:
    """Clean latents (B, C, h, w) of the texts; row i adds noise by eta and scale `noise[i]`."""
    model, sampler = scene.model, scene.model.sampler(scene.steps)
    empty = model.unconditional().expand(len(text))
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def fresh() -> Tensor:
        return torch.stack([torch.randn(model.latent_shape, generator=g) for g in generators]).to(
            model.device
        )

    eta, scale = (
        torch.tensor(each, device=model.device).view(-1, 1, 1, 1) for each in zip(*noise, strict=True)
    )
    z = fresh()
    for k, t in enumerate(sampler.timesteps.to(model.device)):
        if sampler.is_blind(k):
            continue
        out = model.predict_guided(z, t.expand(len(z)), text, empty, scene.guidance)
        x0 = model.schedule.x0(z, out, t.expand(len(z)))
        level = sampler.levels[k].to(model.device)
        following = sampler.levels[k + 1].to(model.device) if k + 1 < len(sampler) else level.new_ones(())
        noise_of = (z - level.sqrt() * x0) / (1 - level).sqrt()
        deviation = eta * ((1 - following) / (1 - level) * (1 - level / following)).clamp_min(0).sqrt()
        kept = (1 - following - deviation**2).abs().sqrt()
        z = following.sqrt() * x0 + kept * noise_of + scale * deviation * fresh()
    return z
