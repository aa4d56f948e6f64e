"""Where z_t comes from: whole denoising trajectories, kept and reused, or a fresh partial denoising at every
step.

The papers denoise from pure noise to a random step for every optimiser step and throw all but the last latent
away: about 98 of AGE's 103 network evaluations. A kept trajectory gives every one of its latents.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Generator, Tensor

from expunge.core.memory import in_batches
from expunge.core.models import Denoiser, Text
from expunge.core.progress import Callback, Clock
from expunge.core.sampling import Latents, denoise, draw_noise, seeded, tensors_under
from expunge.core.specs import LatentsSpec

# Trajectories drawn at once: as many as one concept keeps, so that many concepts need no more memory.
ROWS = 8


class Trajectories:
    """Draws (z_t, t) for a concept's texts, from the buffer or fresh, as the spec says.

    timesteps: those that latents are taken at, on the model's device: all of a trajectory's but the `first`
    ones, at which z_t is noise alone; levels: the same, on the CPU.
    """

    def __init__(self, model: Denoiser, spec: LatentsSpec, seed: int) -> None:
        self.model, self.spec, self.seed, self.round = model, spec, seed, 0
        self.kept: dict[str, Tensor] = {}
        sampler = model.sampler(spec.sampling_steps)
        self.length, self.first = len(sampler), sampler.first
        self.levels = sampler.timesteps[sampler.first :]
        self.timesteps = self.levels.to(model.device)

    def rows(self, key: str, texts: int, count: int) -> tuple[Tensor, Generator]:
        """Which of its texts each trajectory of a concept is drawn with, (count,); and what their noise comes
        from next.
        """
        g = seeded(self.seed, self.round, *key.encode())
        return torch.randint(texts, (count,), generator=g), g

    def fill(self, key: str, texts: Text, count: int, *, clean: bool = False) -> Tensor:
        """Whole trajectories of a concept, (count, len(timesteps), C, h, w), or only where they end, the
        clean latents (count, 1, C, h, w).

        Texts are drawn at random. The first round is the frozen model's.
        """
        if key not in self.kept:
            self.fill_together({key: texts}, count, clean=clean)
        return self.kept[key]

    def fill_together(self, wanted: Mapping[str, Text], count: int, *, clean: bool = False) -> None:
        """`fill` for several concepts in one batch; each one's noise and texts depend on its key alone."""
        texts, noises = list[Text](), list[Tensor]()
        for key, each in wanted.items():
            rows, g = self.rows(key, len(each), count)
            texts.append(each[rows])
            noises.append(draw_noise(self.model, g, count))
        noise, text = torch.cat(noises), Text.cat(texts)
        steps, guidance = self.spec.sampling_steps, self.spec.guidance_scale
        until = self.length - (0 if clean else 1)

        def path(start: int, end: int) -> Tensor:
            states = denoise(self.model, noise[start:end], text[start:end], steps, guidance, until)
            return torch.stack(states[-1:] if clean else states[self.first :], 1)

        with nullcontext() if self.round else self.model.frozen():
            together = torch.cat(in_batches(len(noise), len(noise), path))
        self.kept |= {key: together[i * count : (i + 1) * count].clone() for i, key in enumerate(wanted)}

    def prefill(
        self, wanted: Mapping[str, Text], count: int, callback: Callback, *, clean: bool = False
    ) -> None:
        """Fill for several concepts, ROWS trajectories a batch, with progress; after a refresh each is drawn
        when it is first wanted, by the model as it is then.
        """
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

    def draw(self, key: str, texts: Text, generator: Generator, size: int, count: int) -> Latents:
        """Latents (size, C, h, w) of a concept with these texts, each at a timestep of its own."""
        if self.spec.latents == "fresh":
            return self.draw_fresh(texts, generator, size)
        states = self.fill(key, texts, count)
        row = torch.randint(len(states), (size,), generator=generator)
        k_each = torch.randint(states.shape[1], (size,), generator=generator)
        return Latents(states[row, k_each], self.timesteps[k_each])

    def draw_fresh(self, texts: Text, generator: Generator, size: int) -> Latents:
        """Latents of one partial denoising by the model as it is, all at one timestep."""
        k = int(torch.randint(len(self.timesteps), (1,), generator=generator))
        text = texts[torch.randint(len(texts), (size,), generator=generator)]
        noise = draw_noise(self.model, generator, size)
        steps, guidance = self.spec.sampling_steps, self.spec.guidance_scale
        z = denoise(self.model, noise, text, steps, guidance, self.first + k)[-1]
        return Latents(z, self.timesteps[k].expand(size))

    def noised(self, key: str, texts: Text, generator: Generator, size: int, count: int) -> Latents:
        """Clean latents of a concept with fresh noise at any of the timesteps, as in training."""
        clean = self.fill(key, texts, count, clean=True)[:, 0]
        drawn = torch.randint(len(clean), (size,), generator=generator)
        x, row = clean[drawn], self.rows(key, len(texts), count)[0][drawn]
        schedule = self.model.schedule
        t = torch.randint(schedule.visible, (size,), generator=generator).to(self.model.device)
        noise = draw_noise(self.model, generator, size)
        return Latents(schedule.add_noise(x, noise, t), t, schedule.target(x, noise, t), row)

    def advance(self, step: int) -> None:
        """Forget the trajectories when the spec's refresh interval is over."""
        if self.spec.refresh_every and step and step % self.spec.refresh_every == 0:
            self.round, self.kept = self.round + 1, {}

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold of the buffer."""
        return {f"latents.{k}": v for k, v in self.kept.items()}

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.kept = {k: v.to(self.model.device) for k, v in tensors_under(tensors, "latents.").items()}
        self.round = meta["round"]
