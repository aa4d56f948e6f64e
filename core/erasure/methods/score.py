"""SCORE, Secure and Concept-Oriented Robust Erasure (Fu et al., arXiv 2509.12024). A reconstruction: no
public code was found.

Erasure as adversarial independence: a critic D learns whether a predicted picture x0 was asked for by the
concept (C = 1) or by its neighbours (C = 0); theta' makes it answer one half, so that I(C; X) >= log 2 -
BCE(D) falls. With it goes the upper bound, the distance of the two predictions on the concept's trajectory (a
path's KL up to its weights); trajectory consistency on the neighbours, the empty prompt and the early steps;
and saliency, which trains only the layers that the concept moves. C = 1 is the trained network's x0 on the
concept's latents, C = 0 the frozen network's on the neighbour's own: the critic may also tell them by whose
latents they are, a weakness of this reconstruction.
"""

from typing import Any

import torch
from torch import Generator, Tensor

from expunge.core.concepts import candidates
from expunge.core.erasure.critic import Critic, bce
from expunge.core.erasure.losses import error
from expunge.core.erasure.method import Method, Purpose, Run, few
from expunge.core.erasure.saliency import train_the_salient
from expunge.core.leakage.lower import leakage
from expunge.core.leakage.prompts import held_out
from expunge.core.models import Denoiser, Text
from expunge.core.optimisers import load_optimiser_state, optimiser_state
from expunge.core.sampling import Latents, cat, denoise, draw_noise, tensors_under
from expunge.core.specs import ScoreSpec

SALIENCY_BATCHES = 8
DRAWN_AT_ONCE = 16


def loss(
    model: Denoiser,
    critic: Critic,
    x_e: Latents,
    x_n: Latents,
    concept: Text,
    neighbour: Text,
    empty: Text,
    spec: ScoreSpec,
    asked: Text | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """What theta' descends (scalar), and what the critic is shown next, without a graph: x0 (B, C, h, w) of
    the concept and of the neighbour.

    x_e, x_n: latents of the concept and of a neighbour; concept, neighbour, empty: B texts; asked: what
    theta' is asked in the concept's place, where that is another text.
    """
    schedule, length = model.schedule, len(model.schedule)

    # 1. The base model's predictions, and the trained one's.
    with model.frozen(), torch.no_grad():
        old = model.predict(*cat(x_e, x_n, x_n, x_e), Text.cat([neighbour, neighbour, empty, concept]))
        old_a, old_n, old_0, old_c = old.chunk(4)
    read = Text.cat([concept if asked is None else asked, neighbour, empty])
    new_c, new_n, new_0 = model.predict(*cat(x_e, x_n, x_n), read).chunk(3)

    # 2. Confusion: the critic must answer one half of the concept's predicted picture.
    x0 = bounded(schedule.x0(x_e.z, new_c, x_e.t))
    confusion = bce(critic(x0, x_e.t / length), 0.5)

    # 3. The upper bound, and consistency with the base model elsewhere.
    weights_e, weights_n = schedule.weights(x_e.t, spec.space), schedule.weights(x_n.t, spec.space)
    upper = error(new_c, (1 + spec.eta) * old_a - spec.eta * old_c, weights_e)
    early = (x_e.t >= (1 - spec.keep) * length).view(-1, 1, 1, 1)
    consistency = error(new_n, old_n, weights_n) + error(new_0, old_0, weights_n)
    consistency = consistency + error(new_c * early, old_c * early, weights_e)
    total = (
        spec.adversarial_weight * confusion + spec.upper_weight * upper + spec.trajectory_weight * consistency
    )
    return total, x0.detach(), bounded(schedule.x0(x_n.z, old_n, x_n.t))


def bounded(x0: Tensor) -> Tensor:
    """Predicted pictures of very noisy steps are far outside the latents' range; the critic sees them softly
    clipped.
    """
    return 4 * torch.tanh(x0 / 4)


class Score(Method[ScoreSpec]):
    """One critic for all concepts of the job; neighbours are drawn at random from the nearest concepts."""

    def __init__(self, run: Run[ScoreSpec]) -> None:
        super().__init__(run)
        spec = run.spec
        self.concepts = [run.texts(names) for names in run.names]
        self.near: list[list[str]] = []
        for c in run.concepts:
            near = [c.target] if c.target else candidates(run.model, c, run.concepts, spec.candidates)
            self.near.append([*near, *run.preserve])
        self.neighbours = {name: run.texts([name]) for near in self.near for name in near}
        self.empty = run.model.unconditional()
        if spec.latents == "buffer":
            erased = {f"erase/{i}": texts for i, texts in enumerate(self.concepts)}
            near_texts = {f"target/{name}": texts for name, texts in self.neighbours.items()}
            run.trajectories.prefill(erased, spec.trajectories, run.callback)
            run.trajectories.prefill(near_texts, self.few, run.callback)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            self.critic = Critic(run.model.latent_shape[0]).to(run.model.device)
        self.optimiser = torch.optim.Adam(self.critic.parameters(), lr=spec.critic_learning_rate)
        self.salient = train_the_salient(
            run.model,
            spec.saliency,
            SALIENCY_BATCHES,
            lambda k: self.upper(k % len(self.concepts), run.generator(k, Purpose.SALIENCY)),
        )

    @property
    def few(self) -> int:
        """Trajectories that a neighbour keeps."""
        return few(self.run.spec.trajectories, 8)

    def held(self) -> list[str] | None:
        return list(self.neighbours)

    def draw(self, i: int, g: Generator) -> tuple[Latents, Latents, Text, Text, str]:
        """Latents and texts of concept i and of one of its neighbours, and the neighbour's name."""
        run, spec, size = self.run, self.run.spec, self.run.spec.batch_size
        name = self.near[i][int(torch.randint(len(self.near[i]), (1,), generator=g))]
        concept, neighbour = self.concepts[i], self.neighbours[name]
        x_e = run.trajectories.draw(f"erase/{i}", concept, g, size, spec.trajectories)
        x_n = run.trajectories.draw(f"target/{name}", neighbour, g, size, self.few)
        row = torch.randint(len(concept), (size,), generator=g)
        return x_e, x_n, concept[row], neighbour[row % len(neighbour)], name

    def upper(self, i: int, g: Generator) -> Tensor:
        """The concept's distance from a neighbour alone: what saliency is measured by."""
        x_e, _, concept, neighbour, _ = self.draw(i, g)
        model = self.run.model
        with model.frozen(), torch.no_grad():
            wanted = model.predict(x_e.z, x_e.t, neighbour)
        weights = model.schedule.weights(x_e.t, self.run.spec.space)
        return error(model.predict(x_e.z, x_e.t, concept), wanted, weights)

    def step(self, i: int, step: int) -> tuple[Tensor, str | None]:
        run, spec, length, g = self.run, self.run.spec, len(self.run.model.schedule), self.run.generator(step)
        x_e, x_n, concept, neighbour, name = self.draw(i, g)
        asked, x_e = run.asked(i, concept, g), run.shifted(i, x_e, concept, g)

        # theta' against the critic as it is …
        self.critic.requires_grad_(False)
        empty = self.empty.expand(len(concept))
        total, x0, other = loss(run.model, self.critic, x_e, x_n, concept, neighbour, empty, spec, asked)
        self.critic.requires_grad_(True)

        # … and one step of the critic's own.
        telling = bce(self.critic(x0, x_e.t / length), 1.0) + bce(self.critic(other, x_n.t / length), 0.0)
        gradients = torch.autograd.grad(telling / 2, list(self.critic.parameters()))
        for parameter, gradient in zip(self.critic.parameters(), gradients, strict=True):
            parameter.grad = gradient
        self.optimiser.step()
        return total, name

    def state(self) -> dict[str, Tensor]:
        critic = {f"critic.{k}": v for k, v in self.critic.state_dict().items()}
        return critic | {f"optimiser.{k}": v for k, v in optimiser_state(self.optimiser).items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.critic.load_state_dict(tensors_under(state, "critic."))
        load_optimiser_state(self.optimiser, tensors_under(state, "optimiser."))

    def finish(self) -> dict[str, Any]:
        """The leakage of the worst concept in nats, read by fresh critics off pictures of prompts that no
        step has seen.
        """
        run, spec = self.run, self.run.spec
        facts: dict[str, Any] = {"salient_layers": len(self.salient)}
        if not spec.leakage_pictures:
            return facts
        g = run.generator(0, Purpose.LEAKAGE)
        leaks = [
            leakage(self.pictures(names, g), self.pictures(self.near[i], g), run.seed)
            for i, names in enumerate(run.names)
        ]
        return facts | {"leakage_nats": max(leaks), "leakage_pictures": spec.leakage_pictures}

    def pictures(self, names: list[str], g: Generator) -> Tensor:
        """Clean latents (leakage_pictures, C, h, w) that theta' draws for held-out prompts of the names."""
        model, spec = self.run.model, self.run.spec
        prompts = [p for name in names for p in held_out(model.vocabulary, name)]
        chosen = torch.randint(len(prompts), (spec.leakage_pictures,), generator=g).tolist()
        text = model.encode([prompts[k] for k in chosen])
        z, steps = draw_noise(model, g, spec.leakage_pictures), spec.sampling_steps
        drawn = []
        for k in range(0, len(z), DRAWN_AT_ONCE):
            rows = slice(k, k + DRAWN_AT_ONCE)
            drawn.append(denoise(model, z[rows], text[rows], steps, spec.guidance_scale, steps)[-1])
        return torch.cat(drawn)


METHOD = Score
