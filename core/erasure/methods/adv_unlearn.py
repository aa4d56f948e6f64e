"""AdvUnlearn, Defensive Unlearning with Adversarial Training for Robust Concept Erasure in Diffusion Models
(Zhang et al., NeurIPS 2024).

ESD's loss reaches the text encoder tau' through a U-Net that is never changed; the concept's prompt stands
behind an adversarial prefix d:

|eps(z, tau'(d + c)) - (eps(z, 0) - eta [eps(z, c) - eps(z, 0)])|^2  +  lambda |eps(z_r, tau'(c_r)) - eps(z_r,
tau(c_r))|^2

d descends, by sign-gradient steps on a token's embedding, what an attacker would: |eps(z, tau'(d + c)) -
eps(z, tau(c))|^2. d starts from a random token at every step (ours; the authors' default goes on from the
latest attack). With the stock text encoder the concept is back.
"""

from typing import Any

import torch
from torch import Generator, Tensor

from expunge.core.erasure.loop import Run
from expunge.core.erasure.losses import Latents, cat, error, guided_away
from expunge.core.erasure.retained_concepts import retained
from expunge.core.models import Denoiser
from expunge.core.specs import AdvUnlearnSpec


def loss(
    model: Denoiser,
    x: Latents,
    x_r: Latents,
    new: Tensor,
    old: Tensor,
    anchor: Tensor,
    new_kept: Tensor,
    old_kept: Tensor,
    spec: AdvUnlearnSpec,
) -> Tensor:
    """What tau' descends. x, x_r: latents of the concept and of what is retained; new, new_kept: states of
    tau' (B, L, D), with a graph; old, anchor, old_kept: states of tau. Scalar out.
    """
    with torch.no_grad():
        eps_a, eps_c = model.predict(*cat(x, x), torch.cat([anchor, old])).chunk(2)
        eps_r = model.predict(x_r.z, x_r.t, old_kept)
    both = model.predict(*cat(x, x_r), torch.cat([new, new_kept]))
    new_c, new_r = both[: len(x.z)], both[len(x.z) :]
    erase = error(new_c, guided_away(eps_a, eps_c, spec.eta), model.alphas[x.t], spec.space)
    return erase + spec.retain_weight * error(new_r, eps_r, model.alphas[x_r.t], spec.space)


def attack_loss(model: Denoiser, x: Latents, new: Tensor, old: Tensor, spec: AdvUnlearnSpec) -> Tensor:
    """What the prefix descends through `new` (B, L, D): the sanitized model's distance from the base model's
    prediction of the concept.
    """
    with torch.no_grad():
        aim = model.predict(x.z, x.t, old)
    return error(model.predict(x.z, x.t, new), aim, model.alphas[x.t], spec.space)


class AdvUnlearn:
    """Each step attacks the encoder as it then is, from a random token, and trains it on the prefix found."""

    def __init__(self, run: Run[AdvUnlearnSpec]) -> None:
        self.run, model = run, run.model
        self.prompts = [run.prompts(words) for words in run.words]
        self.contexts = [run.contexts(words) for words in run.words]
        self.named, self.anchors = run.aims()
        self.kept = [run.prompts([name]) for name in retained(run, run.spec.retain_concepts, 2)]
        self.old = [model.encode(prompts) for prompts in self.kept]
        self.tokens: Tensor = model.pipe.text_encoder.get_input_embeddings().weight.detach().float()
        if run.spec.latents == "buffer":
            wanted = {f"erase/{i}": c for i, c in enumerate(self.contexts)}
            run.trajectories.prefill(wanted, run.spec.trajectories, run.callback)
            run.trajectories.prefill(
                {f"keep/{k}": c for k, c in enumerate(self.old)}, self.each, run.callback
            )

    @property
    def each(self) -> int:
        """Trajectories a retained concept keeps: a few each, for there are many."""
        return max(1, self.run.spec.trajectories // 4)

    def prefix(self, x: Latents, prompts: list[str], old: Tensor, g: Generator) -> Tensor:
        """An adversarial prefix (k, D) against the text encoder as it is: sign-gradient descent from random
        tokens of the vocabulary.
        """
        run, spec = self.run, self.run.spec
        found = self.tokens[torch.randint(len(self.tokens), (spec.prefix_tokens,), generator=g)].clone()
        size = spec.attack_learning_rate * self.tokens.square().mean().sqrt()
        for _ in range(spec.attack_steps):
            found.requires_grad_(True)
            (gradient,) = run.model.gradients(
                attack_loss(run.model, x, run.model.text_states(prompts, found), old, spec), [found]
            )
            assert gradient is not None
            found = (found - size * gradient.sign()).detach()
        return found

    def drawn_with(self, prompts: list[str], old: Tensor) -> Tensor:
        """The states that latents are drawn with: the frozen encoder's for the first buffer, else the current
        one's.
        """
        first = self.run.spec.latents == "buffer" and self.run.trajectories.round == 0
        return old if first else self.run.model.encode(prompts)

    def step(self, i: int, step: int) -> tuple[Tensor, str | None]:
        run, spec, g = self.run, self.run.spec, self.run.generator(step)
        x = run.trajectories.draw(
            f"erase/{i}",
            self.drawn_with(self.prompts[i], self.contexts[i]),
            g,
            spec.batch_size,
            spec.trajectories,
        )
        row = torch.randint(len(self.prompts[i]), (spec.batch_size,), generator=g)
        prompts, old = [self.prompts[i][k] for k in row.tolist()], self.contexts[i][row]
        warm = step < spec.warm_up * spec.steps * len(run.concepts)
        prefix = (
            None if warm or not spec.attack_steps else self.prefix(x, prompts, old, run.generator(step, 1))
        )
        k = int(torch.randint(len(self.kept), (1,), generator=g))
        x_r = run.trajectories.draw(
            f"keep/{k}", self.drawn_with(self.kept[k], self.old[k]), g, spec.retain_batch, self.each
        )
        row_r = torch.randint(len(self.kept[k]), (spec.retain_batch,), generator=g)
        new_kept = run.model.text_states([self.kept[k][j] for j in row_r.tolist()])
        aim = self.anchors[i][row % len(self.anchors[i])]
        total = loss(
            run.model,
            x,
            x_r,
            run.model.text_states(prompts, prefix),
            old,
            aim,
            new_kept,
            self.old[k][row_r],
            spec,
        )
        return total, self.named[i] or None

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None: ...

    def finish(self) -> dict[str, Any]:
        return {}
