"""EraseFlow, Learning Concept Erasure Policies via GFlowNet-Driven Alignment (Kusumba et al., NeurIPS 2025).

A path x_0 .. x_n, from noise to picture, is drawn by the ancestral sampler with an anchor's prompt. Asked for
the concept c, the trained network is to draw that same path as likely as a constant reward wants it:

    L = ( sum_{k in S} [ log p'(x_{k+1} | x_k, c) - log q(x_k | x_{k+1}) ] + log Z - log beta )^2

p' is the sampler's normal about the guided prediction, q the noise that is added in training; both are means
over a latent's elements. log Z is learned. S is the last fifth of the path's steps and some of those before.
"""

from contextlib import nullcontext

import torch
from torch import Generator, Tensor
from torch.utils.checkpoint import checkpoint

from expunge.core.erasure.method import Method, Run
from expunge.core.erasure.trajectory_buffer import ROWS
from expunge.core.memory import in_batches
from expunge.core.models import Denoiser, Text
from expunge.core.optimisers import load_optimiser_state, optimiser_state
from expunge.core.progress import Clock
from expunge.core.sampling import ancestral_path, draw_noise, tensors_under
from expunge.core.specs import EraseFlowSpec

LOG_PARTITION = -0.1953  # log Z at the start, the authors'
LAST = 0.2  # share of a path whose steps are always balanced


def log_ratio(
    model: Denoiser,
    x: Tensor,
    after: Tensor,
    move: tuple[int, int],
    concept: Text,
    empty: Text,
    guidance: float,
) -> Tensor:
    """log p'(after | x, c) - log q(x | after) of one step of B paths, (B,), in nats a latent element.

    x, after: (B, C, h, w); move: their timesteps, the noisier first.
    """
    t, following = (torch.full((len(x),), level, device=x.device) for level in move)
    out = model.predict_guided(x, t, concept, empty, guidance)
    mean, deviation = model.schedule.ancestral(x, out, t, following)
    kept = model.schedule.level(t) / model.schedule.level(following)
    return log_normal(after, mean, deviation) - log_normal(x, kept.sqrt() * after, (1 - kept).sqrt())


def log_normal(x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """The mean over elements of a normal's log density, (B,), but for its constant."""
    density = -((x - mean) / deviation).square() / 2 - deviation.log()
    means: Tensor = density.flatten(1).mean(1)
    return means


class EraseFlow(Method[EraseFlowSpec]):
    """Paths of each concept's anchor, and a log Z for each concept."""

    def __init__(self, run: Run[EraseFlowSpec]) -> None:
        super().__init__(run)
        self.concepts = [run.texts(names) for names in run.names]
        self.names, self.anchors = run.targets()
        # A style's path is asked for around its own object; an object's, in any template
        styles = [run.model.vocabulary.style(c.name) is not None for c in run.concepts]
        self.is_paired = [s and len(a) > 1 for s, a in zip(styles, self.anchors, strict=True)]
        self.empty = run.model.unconditional()
        self.moves = run.model.sampler(run.spec.sampling_steps).moves
        self.log_partition = [torch.tensor(LOG_PARTITION) for _ in run.concepts]
        self.optimiser = torch.optim.Adam(self.log_partition, lr=run.spec.partition_learning_rate)
        if run.spec.latents == "buffer" and not run.trajectories.round:
            clock, count = Clock(len(run.concepts)), len(run.concepts)
            for i in range(count):
                self.fill(i)
                done = i + 1
                run.callback(
                    {"phase": "trajectories", "step": done, "total": count, "eta_s": clock.eta(done)}
                )

    def held(self) -> list[str] | None:
        return [name for name in self.names if name]

    def step(self, i: int, step: int) -> tuple[Tensor, str | None]:
        run, spec = self.run, self.run.spec
        g = run.generator(step)
        paths, row = self.paths(i, g)
        texts, templates = self.concepts[i], len(self.concepts[i]) // len(run.names[i])
        if self.is_paired[i]:
            row = row + templates * torch.randint(len(run.names[i]), row.shape, generator=g)
        else:
            row = torch.randint(len(texts), row.shape, generator=g)
        concept, empty = texts[row], self.empty.expand(len(row))

        # Computed again one by one in the backward pass, so that memory stays that of one step
        balance = torch.zeros(len(row), device=paths.device)
        for k in self.chosen(g):
            balance = balance + checkpoint(
                log_ratio,
                run.model,
                paths[:, k],
                paths[:, k + 1],
                self.moves[k],
                concept,
                empty,
                spec.guidance_scale,
                use_reentrant=False,
                preserve_rng_state=False,
            )
        residual = balance + float(self.log_partition[i]) - spec.log_reward
        self.follow(i, 2 * float(residual.detach().mean()))
        return residual.square().mean(), self.names[i] or None

    def chosen(self, g: Generator) -> list[int]:
        """The moves that enter the balance: the last fifth, and `drawn_steps` of those before."""
        first = len(self.moves) - max(1, round(LAST * len(self.moves)))
        drawn = torch.randperm(first, generator=g)[: self.run.spec.drawn_steps].tolist()
        return [*sorted(drawn), *range(first, len(self.moves))]

    def follow(self, i: int, gradient: float) -> None:
        """One step of log Z of concept i."""
        self.optimiser.zero_grad()
        self.log_partition[i].grad = torch.tensor(gradient)
        self.optimiser.step()

    def paths(self, i: int, g: Generator) -> tuple[Tensor, Tensor]:
        """Paths of concept i's anchor, (batch_size, moves + 1, C, h, w), and which of its texts each has."""
        size = self.run.spec.batch_size
        if self.run.spec.latents == "fresh":
            row = torch.randint(len(self.anchors[i]), (size,), generator=g)
            return self.drawn(i, row, g), row
        kept, row = self.fill(i)
        chosen = torch.randint(len(row), (size,), generator=g)
        return kept[chosen], row[chosen]

    def fill(self, i: int) -> tuple[Tensor, Tensor]:
        """All kept paths of concept i's anchor; the first round is the frozen model's."""
        trajectories, key = self.run.trajectories, f"path/{i}"
        row, g = trajectories.rows(key, len(self.anchors[i]), self.run.spec.trajectories)
        if key not in trajectories.kept:
            with nullcontext() if trajectories.round else self.run.model.frozen():
                trajectories.kept[key] = self.drawn(i, row, g)
        return trajectories.kept[key], row

    def drawn(self, i: int, row: Tensor, g: Generator) -> Tensor:
        """A path for each of these rows of the anchor's texts, few at once."""
        model, spec, texts = self.run.model, self.run.spec, self.anchors[i][row]
        noise = torch.stack([draw_noise(model, g, len(self.moves) + 1) for _ in row])

        def some(start: int, end: int) -> Tensor:
            part = slice(start, end)
            return ancestral_path(model, texts[part], noise[part], spec.sampling_steps, spec.guidance_scale)

        return torch.cat(in_batches(len(row), ROWS, some))

    def state(self) -> dict[str, Tensor]:
        numbers = {f"log_partition.{i}": z for i, z in enumerate(self.log_partition)}
        return numbers | {f"optimiser.{k}": v for k, v in optimiser_state(self.optimiser).items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        for i, z in tensors_under(state, "log_partition.").items():
            self.log_partition[int(i)].copy_(z)
        load_optimiser_state(self.optimiser, tensors_under(state, "optimiser."))


METHOD = EraseFlow
