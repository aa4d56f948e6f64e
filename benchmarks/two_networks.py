"""The authors' schedules, written from their formulas: what `expunge.core.erasure` is measured against.

Two whole networks in memory, theta frozen and theta' with its attn2 matrices trained in full; for every
optimiser step a fresh partial denoising from pure noise, with guidance, for every latent the step reads; for
AGE also one such step of the search for each of the weights.
"""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.core.concepts import candidates
from expunge.core.erasure.closed_form import wear
from expunge.core.erasure.losses import error, guided_away
from expunge.core.erasure.search import Search
from expunge.core.models import Denoiser, Text
from expunge.core.models.stable_diffusion import StableDiffusion
from expunge.core.specs import AgeSpec, Concept, EsdSpec


@dataclass
class Cost:
    """U-Net evaluations of both networks, and wall seconds."""

    evaluations: int
    seconds: float


class TwoNetworks:
    """theta and theta', and the latents that the papers draw."""

    def __init__(
        self,
        base: StableDiffusion,
        trained: StableDiffusion,
        sampling_steps: int = 50,
        guidance: float = 3.0,
    ) -> None:
        self.base, self.trained, self.guidance = base, trained, guidance
        self.names = trained.layers("xattn")
        self.weights = [trained.unet.get_submodule(n).weight.requires_grad_(True) for n in self.names]
        self.sampler = base.sampler(sampling_steps)
        self.timesteps = self.sampler.timesteps.to(base.device)

    @property
    def evaluations(self) -> int:
        return self.base.evaluations + self.trained.evaluations

    @torch.no_grad()
    def denoise(self, model: Denoiser, z: Tensor, text: Text, k: int) -> Tensor:
        """z_t after k DDIM steps from noise z, both guided halves in one call."""
        empty = model.encode([""]).expand(len(z))
        for i in range(k):
            out = model.predict_guided(z, self.timesteps[i].expand(len(z)), text, empty, self.guidance)
            z = self.sampler.step(out, i, z)
        return z

    def start(self, g: torch.Generator, batch: int) -> tuple[Tensor, int, Tensor]:
        """Noise, the number of steps to denoise it, and the timestep it is then at, (B,)."""
        k = int(torch.randint(len(self.timesteps), (1,), generator=g))
        z = torch.randn(batch, *self.base.latent_shape, generator=g).to(self.base.device)
        return z, k, self.timesteps[k].expand(batch)

    def wear(self) -> None:
        """Put theta' - theta on the base model, so that both can be judged alike: a LoRA of full rank is
        exact.
        """
        layers = {}
        for name in self.names:
            old, new = self.base.unet.get_submodule(name).weight, self.trained.unet.get_submodule(name).weight
            difference = (new.detach() - old).double()
            layers[name] = (difference, torch.eye(difference.shape[1], dtype=torch.float64))
        wide = max(d.shape[1] for d, _ in layers.values())
        padded = {n: (pad(up, wide, 1), pad(down, wide, 0)) for n, (up, down) in layers.items()}
        wear(self.base, padded, lambda _: None)


def pad(x: Tensor, size: int, dim: int) -> Tensor:
    """Zeros behind, up to `size` along `dim`: one rank for all layers."""
    shape = list(x.shape)
    shape[dim] = size - shape[dim]
    return torch.cat([x, x.new_zeros(shape)], dim)


def texts(model: Denoiser, word: str) -> Text:
    return model.encode(model.vocabulary.prompts(word))


def age(nets: TwoNetworks, concept: str, spec: AgeSpec, learning_rate: float, seed: int = 0) -> Cost:
    """Eq. 14 with `spec`'s weights, candidates and number of weight steps; one search step for each, each on
    latents of its own.
    """
    base, new = nets.base, nets.trained
    begun, evaluations = time.monotonic(), nets.evaluations
    optimiser = torch.optim.Adam(nets.weights, lr=learning_rate)
    names = candidates(base, Concept(name=concept), [Concept(name=concept)], spec.candidates)
    search = Search(
        names,
        Text.stack([texts(base, n) for n in names]),
        spec.search_learning_rate,
        spec.temperature,
        spec.hard,
    )
    contexts, g = texts(base, concept), torch.Generator().manual_seed(seed)
    for turn in range(2 * spec.steps):
        climbing, batch = turn % 2 == 0, spec.batch_size
        row = torch.randint(len(contexts), (batch,), generator=g)
        weights = search.sample(g) if climbing else search.sample(g).detach()
        c_e, c_t = contexts[row], search.text(weights, row)
        noise, k, t = nets.start(g, batch)
        z, z_r = nets.denoise(new, noise, c_e, k), nets.denoise(new, noise, c_t.each(Tensor.detach), k)
        with torch.set_grad_enabled(climbing):
            eps_t, eps_p = base.predict(z, t, c_t), base.predict(z_r, t, c_t)
        with torch.no_grad():
            eps_c = base.predict(z, t, c_e)
        erase = error(
            new.predict(z, t, c_e), guided_away(eps_t, eps_c, spec.eta), base.schedule.weights(t, spec.space)
        )
        total = erase + spec.preserve_weight * error(
            new.predict(z_r, t, c_t), eps_p, base.schedule.weights(t, spec.space)
        )
        if climbing:
            search.ascend(total)
        else:
            optimiser.zero_grad(set_to_none=True)
            total.backward()
            optimiser.step()
    return Cost(nets.evaluations - evaluations, time.monotonic() - begun)


def esd(
    nets: TwoNetworks,
    concept: str,
    spec: EsdSpec,
    learning_rate: float,
    iterations: int,
    batch: int,
    seed: int = 0,
) -> Cost:
    """ESD's newer public schedule: latents from the frozen network, 200 iterations at batch 1 (their
    defaults).
    """
    base, new = nets.base, nets.trained
    begun, evaluations = time.monotonic(), nets.evaluations
    optimiser = torch.optim.Adam(nets.weights, lr=learning_rate)
    contexts, g = texts(base, concept), torch.Generator().manual_seed(seed)
    for _ in range(iterations):
        c = contexts[torch.randint(len(contexts), (batch,), generator=g)]
        noise, k, t = nets.start(g, batch)
        z = nets.denoise(base, noise, c, k)
        with torch.no_grad():
            eps_0, eps_c = base.predict(z, t, base.encode([""]).expand(len(c))), base.predict(z, t, c)
        loss = error(
            new.predict(z, t, c), guided_away(eps_0, eps_c, spec.eta), base.schedule.weights(t, spec.space)
        )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return Cost(nets.evaluations - evaluations, time.monotonic() - begun)
