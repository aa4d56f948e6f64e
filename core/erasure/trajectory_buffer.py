"""Where z_t comes from: whole denoising trajectories, kept and reused, or a fresh partial denoising at every
step.

The papers denoise from pure noise to a random step for every optimiser step and throw all but the last latent
away: about 98 of AGE's 103 U-Net evaluations. A kept trajectory gives every one of its latents.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Generator, Tensor

from expunge.core.erasure.losses import Latents
from expunge.core.memory import in_batches
from expunge.core.models import Denoiser
from expunge.core.models.schedule import visible
from expunge.core.progress import Callback, Clock
from expunge.core.specs import LatentsSpec

ROWS = (
    8  # trajectories drawn at once: as many as one concept keeps, so that many concepts need no more memory
)


def seeded(*parts: int) -> Generator:
    """A CPU generator that depends on its parts alone, so that no generator state needs saving."""
    state = 0x9E3779B97F4A7C15
    for part in parts:
        state = ((state ^ (part + 0x7F4A7C15)) * 0xBF58476D1CE4E5B9 + (state >> 29)) % 2**63
    return Generator().manual_seed(state)


@torch.no_grad()
def denoise(model: Denoiser, z: Tensor, context: Tensor, spec: LatentsSpec, until: int) -> list[Tensor]:
    """DDIM from noise z (B, 4, h, w) with guidance: the latents before steps 0 .. until, both halves of CFG
    in one call.

    The steps are the stock pipeline's, on what the network predicts. Where nothing of the picture is left
    (zero terminal SNR), noise alone says nothing of it: that step is left out, and z stays pure noise.
    """
    scheduler, empty = model.scheduler, model.encode([""]).expand_as(context)
    # On the CPU: its step reads them as numbers, and would wait for the device each time
    scheduler.set_timesteps(spec.sampling_steps)
    blind = (
        scheduler.alphas_cumprod[scheduler.timesteps] == 0
        if scheduler.config.prediction_type == "epsilon"
        else None
    )
    states = [z]
    for k, (step, t) in enumerate(
        zip(scheduler.timesteps[:until], scheduler.timesteps.to(model.device), strict=False)
    ):
        if blind is not None and blind[k]:
            states.append(z)
            continue
        if spec.guidance_scale > 1:
            both = model.output(torch.cat([z, z]), t.expand(2 * len(z)), torch.cat([empty, context]))
            out_0, out_c = both.chunk(2)
            out = out_0 + spec.guidance_scale * (out_c - out_0)
        else:
            out = model.output(z, t.expand(len(z)), context)
        z = scheduler.step(out, step, z).prev_sample
        states.append(z)
    return states


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


class Trajectories:
    """Draws (z_t, t) for a concept's contexts, from the buffer or fresh, as the spec says.

    `timesteps`: those of a trajectory that latents are taken at, all but a first one, `first` in number, at
    which z_t is noise alone; `levels`: the same, on the CPU.
    """

    def __init__(self, model: Denoiser, spec: LatentsSpec, seed: int) -> None:
        self.model, self.spec, self.seed, self.round = model, spec, seed, 0
        self.kept: dict[str, Tensor] = {}
        model.scheduler.set_timesteps(spec.sampling_steps)
        self.length, seen = (
            len(model.scheduler.timesteps),
            visible(model.scheduler, model.scheduler.timesteps),
        )
        self.first, self.levels, self.timesteps = self.length - len(seen), seen, seen.to(model.device)

    def noise(self, generator: Generator, count: int) -> Tensor:
        return torch.randn(count, *self.model.latent_shape, generator=generator).to(self.model.device)

    def rows(self, key: str, contexts: int, count: int) -> tuple[Tensor, Generator]:
        """Which of its contexts each trajectory of a concept is drawn with, (count,); and what their noise
        comes from next.
        """
        g = seeded(self.seed, self.round, *key.encode())
        return torch.randint(contexts, (count,), generator=g), g

    def fill(self, key: str, contexts: Tensor, count: int, *, clean: bool = False) -> Tensor:
        """Whole trajectories of a concept, (count, len(timesteps), 4, h, w), or only where they end, the
        clean latents (count, 1, 4, h, w).

        Contexts (T, L, D) are drawn at random. The first round is the frozen model's.
        """
        if key not in self.kept:
            self.fill_together({key: contexts}, count, clean=clean)
        return self.kept[key]

    def fill_together(self, wanted: Mapping[str, Tensor], count: int, *, clean: bool = False) -> None:
        """`fill` for several concepts in one batch; each one's noise and contexts depend on its key alone."""
        contexts, noises = list[Tensor](), list[Tensor]()
        for key, states in wanted.items():
            rows, g = self.rows(key, len(states), count)
            contexts.append(states[rows])
            noises.append(self.noise(g, count))
        until = self.length - (0 if clean else 1)
        with nullcontext() if self.round else self.model.frozen():
            noise, context = torch.cat(noises), torch.cat(contexts)

            def path(start: int, end: int) -> Tensor:
                states = denoise(self.model, noise[start:end], context[start:end], self.spec, until)
                return torch.stack(states[-1:] if clean else states[self.first :], 1)

            together = torch.cat(in_batches(len(noise), len(noise), path))
        self.kept |= {key: together[i * count : (i + 1) * count].clone() for i, key in enumerate(wanted)}

    def prefill(
        self, wanted: Mapping[str, Tensor], count: int, callback: Callback, *, clean: bool = False
    ) -> None:
        """Fill for several concepts, ROWS trajectories a batch, with progress; after a refresh each is drawn
        when it is first wanted, by the model as it is then."""
        if self.round:
            return
        missing = [key for key in wanted if key not in self.kept]
        ready, size, clock = len(wanted) - len(missing), max(1, ROWS // count), Clock(len(missing))
        for start in range(0, len(missing), size):
            keys = missing[start : start + size]
            self.fill_together({key: wanted[key] for key in keys}, count, clean=clean)
            done = start + len(keys)
            callback(
                {
                    "phase": "trajectories",
                    "step": ready + done,
                    "total": len(wanted),
                    "eta_s": clock.eta(done),
                }
            )

    def draw(self, key: str, contexts: Tensor, generator: Generator, size: int, count: int) -> Latents:
        """z_t (size, 4, h, w) and t (size,) of a concept with contexts (T, L, D)."""
        if self.spec.latents == "fresh":
            k = int(torch.randint(len(self.timesteps), (1,), generator=generator))
            context = contexts[torch.randint(len(contexts), (size,), generator=generator)]
            z = denoise(self.model, self.noise(generator, size), context, self.spec, self.first + k)[-1]
            return Latents(z, self.timesteps[k].expand(size))
        states = self.fill(key, contexts, count)
        row = torch.randint(len(states), (size,), generator=generator)
        k_each = torch.randint(states.shape[1], (size,), generator=generator)
        return Latents(states[row, k_each], self.timesteps[k_each])

    def noised(self, key: str, contexts: Tensor, generator: Generator, size: int, count: int) -> Latents:
        """Clean latents of a concept with fresh noise at any of the timesteps, as in training: z (size, 4, h,
        w), t (size,).
        """
        clean = self.fill(key, contexts, count, clean=True)[:, 0]
        drawn = torch.randint(len(clean), (size,), generator=generator)
        x, row = clean[drawn], self.rows(key, len(contexts), count)[0][drawn]
        t = torch.randint(self.model.training_steps, (size,), generator=generator).to(self.model.device)
        a = self.model.alphas[t].view(-1, 1, 1, 1)
        noise = self.noise(generator, size)
        return Latents(a.sqrt() * x + (1 - a).sqrt() * noise, t, noise, row)

    def advance(self, step: int) -> None:
        """Forget the trajectories when the spec's refresh interval is over."""
        if self.spec.refresh_every and step and step % self.spec.refresh_every == 0:
            self.round, self.kept = self.round + 1, {}

    def state(self) -> dict[str, Tensor]:
        return {f"latents.{k}": v for k, v in self.kept.items()}

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        self.kept = {k: v.to(self.model.device) for k, v in part(tensors, "latents.").items()}
        self.round = meta["round"]
