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

import torch
from torch import Generator, Tensor

from expunge.core.erasure.losses import error, guided_away
from expunge.core.erasure.method import Method, Purpose, Run, few
from expunge.core.erasure.retained_concepts import retained
from expunge.core.models import Denoiser, Text
from expunge.core.sampling import Latents, cat
from expunge.core.specs import AdvUnlearnSpec


def loss(
    model: Denoiser,
    x: Latents,
    x_r: Latents,
    new: Text,
    old: Text,
    target: Text,
    new_kept: Text,
    old_kept: Text,
    spec: AdvUnlearnSpec,
) -> Tensor:
    """What tau' descends. x, x_r: latents of the concept and of what is retained; new, new_kept: texts of
    tau', with a graph; old, target, old_kept: texts of tau; B rows each. Scalar out.
    """
    weights = model.schedule.weights
    with torch.no_grad():
        p_a, p_c = model.predict(*cat(x, x), Text.cat([target, old])).chunk(2)
        p_r = model.predict(x_r.z, x_r.t, old_kept)
    both = model.predict(*cat(x, x_r), Text.cat([new, new_kept]))
    new_c, new_r = both[: len(x.z)], both[len(x.z) :]
    erase = error(new_c, guided_away(p_a, p_c, spec.eta), weights(x.t, spec.space))
    return erase + spec.retain_weight * error(new_r, p_r, weights(x_r.t, spec.space))


def attack_loss(model: Denoiser, x: Latents, new: Text, old: Text, spec: AdvUnlearnSpec) -> Tensor:
    """What the prefix descends through `new`, B texts: the sanitized model's distance from the base model's
    prediction of the concept.
    """
    with torch.no_grad():
        wanted = model.predict(x.z, x.t, old)
    return error(model.predict(x.z, x.t, new), wanted, model.schedule.weights(x.t, spec.space))


class AdvUnlearn(Method[AdvUnlearnSpec]):
    """Each step attacks the encoder as it then is, from a random token, and trains it on the prefix found."""

    def __init__(self, run: Run[AdvUnlearnSpec]) -> None:
        super().__init__(run)
        model, spec = run.model, run.spec
        self.prompts = [run.prompts(names) for names in run.names]
        self.concepts = [run.texts(names) for names in run.names]
        self.target_names, self.targets = run.targets()
        self.retained = retained(run, spec.retain_concepts, Purpose.RETAINED)
        self.kept = [run.prompts([name]) for name in self.retained]
        self.old = [model.encode(prompts) for prompts in self.kept]
        self.tokens = model.text.token_embeddings()
        if spec.latents == "buffer":
            erased = {f"erase/{i}": texts for i, texts in enumerate(self.concepts)}
            kept = {f"keep/{k}": texts for k, texts in enumerate(self.old)}
            run.trajectories.prefill(erased, spec.trajectories, run.callback)
            run.trajectories.prefill(kept, self.few, run.callback)

    @property
    def few(self) -> int:
        """Trajectories that a retained concept keeps."""
        return few(self.run.spec.trajectories)

    def held(self) -> list[str] | None:
        return [*self.retained, *self.target_names]

    def prefix(self, x: Latents, prompts: list[str], old: Text, g: Generator) -> Tensor:
        """An adversarial prefix (k, D) against the text encoder as it is: sign-gradient descent from random
        tokens of the vocabulary.
        """
        model, spec = self.run.model, self.run.spec
        prefix = self.tokens[torch.randint(len(self.tokens), (spec.prefix_tokens,), generator=g)].clone()
        size = spec.attack_learning_rate * self.tokens.square().mean().sqrt()
        for _ in range(spec.attack_steps):
            prefix.requires_grad_(True)
            attacked = attack_loss(model, x, model.encode_with_graph(prompts, prefix), old, spec)
            (gradient,) = model.gradients(attacked, [prefix])
            assert gradient is not None
            prefix = (prefix - size * gradient.sign()).detach()
        return prefix

    def drawn_with(self, prompts: list[str], old: Text) -> Text:
        """The texts that latents are drawn with: the frozen encoder's for the first buffer, else the current
        one's.
        """
        first = self.run.spec.latents == "buffer" and self.run.trajectories.round == 0
        return old if first else self.run.model.encode(prompts)

    def step(self, i: int, step: int) -> tuple[Tensor, str | None]:
        run, spec, g = self.run, self.run.spec, self.run.generator(step)

        # The concept, behind a prefix that is found against the encoder as it is, once it has warmed up.
        texts = self.drawn_with(self.prompts[i], self.concepts[i])
        x = run.trajectories.draw(f"erase/{i}", texts, g, spec.batch_size, spec.trajectories)
        row = torch.randint(len(self.prompts[i]), (spec.batch_size,), generator=g)
        prompts, old = [self.prompts[i][k] for k in row.tolist()], self.concepts[i][row]
        prefix = None
        if spec.attack_steps and step >= spec.warm_up * spec.steps * len(run.concepts):
            prefix = self.prefix(x, prompts, old, run.generator(step, Purpose.SEARCH))

        # One retained concept.
        k = int(torch.randint(len(self.kept), (1,), generator=g))
        kept = self.drawn_with(self.kept[k], self.old[k])
        x_r = run.trajectories.draw(f"keep/{k}", kept, g, spec.retain_batch, self.few)
        row_r = torch.randint(len(self.kept[k]), (spec.retain_batch,), generator=g)
        new_kept = run.model.encode_with_graph([self.kept[k][j] for j in row_r.tolist()])

        target = self.targets[i][row % len(self.targets[i])]
        new = run.model.encode_with_graph(prompts, prefix)
        total = loss(run.model, x, x_r, new, old, target, new_kept, self.old[k][row_r], spec)
        return total, self.target_names[i] or None


METHOD = AdvUnlearn
