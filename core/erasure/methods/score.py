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
from expunge.core.erasure.critic import Critic, bce, leakage
from expunge.core.erasure.loop import Run
from expunge.core.erasure.losses import Latents, cat, error, predicted
from expunge.core.erasure.saliency import train_the_salient
from expunge.core.erasure.trajectory_buffer import denoise
from expunge.core.models import Denoiser
from expunge.core.models.vocabulary import article
from expunge.core.specs import ScoreSpec

HELD_OUT = ("the {}", "one {}", "a drawing of a {}")


def loss(
    model: Denoiser,
    critic: Critic,
    x_e: Latents,
    x_n: Latents,
    concept: Tensor,
    neighbour: Tensor,
    empty: Tensor,
    spec: ScoreSpec,
) -> tuple[Tensor, Tensor, Tensor]:
    """What theta' descends (scalar), and what the critic is shown next, without a graph: x0 (B, 4, h, w) of
    the concept and of the neighbour.

    x_e, x_n: latents of the concept and of a neighbour; concept, neighbour, empty: (B, L, D).
    """
    length = len(model.alphas)
    with model.frozen(), torch.no_grad():
        old_a, old_n, old_0, old_c = model.predict(
            *cat(x_e, x_n, x_n, x_e), torch.cat([neighbour, neighbour, empty, concept])
        ).chunk(4)
    new_c, new_n, new_0 = model.predict(*cat(x_e, x_n, x_n), torch.cat([concept, neighbour, empty])).chunk(3)
    alphas_e, alphas_n = model.alphas[x_e.t], model.alphas[x_n.t]
    x0 = bounded(predicted(x_e.z, new_c, alphas_e))
    confusion = bce(critic(x0, x_e.t / length), 0.5)
    upper = error(new_c, (1 + spec.eta) * old_a - spec.eta * old_c, alphas_e, spec.space)
    early = (x_e.t >= (1 - spec.keep) * length).view(-1, 1, 1, 1)
    consistency = error(new_n, old_n, alphas_n, spec.space) + error(new_0, old_0, alphas_n, spec.space)
    consistency = consistency + error(new_c * early, old_c * early, alphas_e, spec.space)
    total = (
        spec.adversarial_weight * confusion + spec.upper_weight * upper + spec.trajectory_weight * consistency
    )
    return total, x0.detach(), bounded(predicted(x_n.z, old_n, alphas_n))


def bounded(x0: Tensor) -> Tensor:
    """Predicted pictures of very noisy steps are far outside the latents' range; the critic sees them softly
    clipped.
    """
    return 4 * torch.tanh(x0 / 4)


def held_out(model: Denoiser, word: str) -> list[str]:
    """Prompts of a concept or a style that `Run.contexts` does not hold; of a style around so few objects
    that it holds them all, in other words.
    """
    style, seen = model.vocabulary.style(word), model.vocabulary.prompts(word)
    if style is None:
        return [article(p.format(word)) for p in HELD_OUT]
    others = [p for o in model.vocabulary.concepts if (p := model.vocabulary.styled(o, style)) not in seen]
    return others or [f"a picture of {p}" for p in seen]


class Score:
    """One critic for all concepts of the job; neighbours are drawn at random from the nearest concepts."""

    def __init__(self, run: Run[ScoreSpec]) -> None:
        self.run, spec = run, run.spec
        self.contexts = [run.contexts(words) for words in run.words]
        self.names = [
            [c.target] if c.target else candidates(run.model, c, run.concepts, spec.candidates)
            for c in run.concepts
        ]
        self.names = [[*names, *run.preserve] for names in self.names]
        self.neighbours = {name: run.contexts([name]) for names in self.names for name in names}
        self.empty = run.contexts([""])
        self.salient: list[str] = []
        if spec.latents == "buffer":
            run.trajectories.prefill(
                {f"erase/{i}": c for i, c in enumerate(self.contexts)}, spec.trajectories, run.callback
            )
            run.trajectories.prefill(
                {f"target/{n}": c for n, c in self.neighbours.items()}, self.each, run.callback
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            self.critic = Critic(run.model.latent_shape[0]).to(run.model.device)
        self.optimiser = torch.optim.Adam(self.critic.parameters(), lr=spec.critic_learning_rate)
        self.salient = train_the_salient(
            run.model, spec.saliency, 8, lambda k: self.upper(k % len(self.contexts), run.generator(k, 2))
        )

    @property
    def each(self) -> int:
        return max(1, self.run.spec.trajectories // 8)

    def draw(self, i: int, g: Generator) -> tuple[Latents, Latents, Tensor, Tensor, str]:
        run, spec, size = self.run, self.run.spec, self.run.spec.batch_size
        name = self.names[i][int(torch.randint(len(self.names[i]), (1,), generator=g))]
        states = self.neighbours[name]
        x_e = run.trajectories.draw(f"erase/{i}", self.contexts[i], g, size, spec.trajectories)
        x_n = run.trajectories.draw(f"target/{name}", states, g, size, self.each)
        row = torch.randint(len(self.contexts[i]), (size,), generator=g)
        return x_e, x_n, self.contexts[i][row], states[row % len(states)], name

    def upper(self, i: int, g: Generator) -> Tensor:
        """The concept's distance from a neighbour alone: what saliency is measured by."""
        x_e, _, concept, neighbour, _ = self.draw(i, g)
        with self.run.model.frozen(), torch.no_grad():
            aim = self.run.model.predict(x_e.z, x_e.t, neighbour)
        return error(
            self.run.model.predict(x_e.z, x_e.t, concept),
            aim,
            self.run.model.alphas[x_e.t],
            self.run.spec.space,
        )

    def step(self, i: int, step: int) -> tuple[Tensor, str | None]:
        run, spec, length = self.run, self.run.spec, len(self.run.model.alphas)
        x_e, x_n, concept, neighbour, name = self.draw(i, run.generator(step))
        self.critic.requires_grad_(False)
        total, x0, other = loss(
            run.model, self.critic, x_e, x_n, concept, neighbour, self.empty.expand_as(concept), spec
        )
        self.critic.requires_grad_(True)
        telling = bce(self.critic(x0, x_e.t / length), 1.0) + bce(self.critic(other, x_n.t / length), 0.0)
        gradients = torch.autograd.grad(telling / 2, list(self.critic.parameters()))
        for parameter, gradient in zip(self.critic.parameters(), gradients, strict=True):
            parameter.grad = gradient
        self.optimiser.step()
        return total, name

    def state(self) -> dict[str, Tensor]:
        out = {f"critic.{k}": v for k, v in self.critic.state_dict().items()}
        for i, slots in self.optimiser.state_dict()["state"].items():
            out |= {f"optimiser.{i}.{k}": torch.as_tensor(v) for k, v in slots.items()}
        return out

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.critic.load_state_dict(
            {k.removeprefix("critic."): v for k, v in state.items() if k.startswith("critic.")}
        )
        packed = self.optimiser.state_dict()
        for key, value in state.items():
            if key.startswith("optimiser."):
                _, i, slot = key.split(".")
                packed["state"].setdefault(int(i), {})[slot] = value
        self.optimiser.load_state_dict(packed)

    def finish(self) -> dict[str, Any]:
        """The leakage of the worst concept in nats, read by fresh critics off pictures of prompts that no
        step has seen.
        """
        run, spec = self.run, self.run.spec
        facts: dict[str, Any] = {"salient_layers": len(self.salient)}
        if not spec.leakage_pictures:
            return facts
        g = run.generator(0, 3)
        found = [
            leakage(self.pictures(words, g), self.pictures(self.names[i], g), run.seed)
            for i, words in enumerate(run.words)
        ]
        return facts | {"leakage_nats": max(found), "leakage_pictures": spec.leakage_pictures}

    def pictures(self, words: list[str], g: Generator) -> Tensor:
        """Clean latents (leakage_pictures, 4, h, w) that theta' draws for held-out prompts of the words."""
        run, spec = self.run, self.run.spec
        prompts = [p for word in words for p in held_out(run.model, word)]
        context = run.model.encode(
            [prompts[k] for k in torch.randint(len(prompts), (spec.leakage_pictures,), generator=g).tolist()]
        )
        z = run.trajectories.noise(g, spec.leakage_pictures)
        chunks = [
            denoise(run.model, z[k : k + 16], context[k : k + 16], spec, spec.sampling_steps)[-1]
            for k in range(0, len(z), 16)
        ]
        return torch.cat(chunks)
