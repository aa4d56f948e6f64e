"""EraseAnything (Gao et al., ICML 2025), as far as its losses apply to a U-Net.

Two turns, one after the other. Lower: ESD's loss and the attention that the concept's tokens still get.
Upper: the base model's predictions of other concepts are held, and a reversed InfoNCE on attention maps draws
the concept's away from its synonym's and towards those of concepts that have nothing to do with it. The
authors' code takes the synonym as the anchor and descends the log of what it gives its target, which has no
lower bound; here the concept is the anchor and -log(1 - p) of the synonym is descended. Written for FLUX's
flow and joint attention: here the noise prediction stands for the flow, cross-attention for the text's part
of the joint one; synonym and strangers come from the concept space instead of a language model, and the held
prediction is the base model's, not the adapted one's.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from expunge.core.concepts import distances, nearest, unnamed
from expunge.core.erasure.attention import at_size, named_tokens, recorded, token_maps
from expunge.core.erasure.loop import Run
from expunge.core.erasure.losses import Latents, cat, error, guided_away
from expunge.core.models import Denoiser
from expunge.core.specs import EraseAnythingSpec


def lower_loss(
    model: Denoiser, x: Latents, concept: Tensor, aim: Tensor, tokens: Tensor, spec: EraseAnythingSpec
) -> Tensor:
    """ESD's loss plus the sum over layers of |attention to the concept's tokens|; concept, aim (the target or
    the empty prompt): (B, L, D); tokens: (B, L). Scalar out.
    """
    with model.frozen(), torch.no_grad():
        eps_a, eps_c = model.predict(*cat(x, x), torch.cat([aim, concept])).chunk(2)
    with recorded(model) as probabilities:
        new = model.predict(x.z, x.t, concept)
    attended = torch.stack(
        [m.square().sum(1).clamp_min(1e-12).sqrt().mean() for m in token_maps(probabilities, tokens)]
    ).sum()
    return (
        error(new, guided_away(eps_a, eps_c, spec.eta), model.alphas[x.t], spec.space)
        + spec.attention_weight * attended
    )


def reversed_info_nce(concept: Tensor, synonym: Tensor, strangers: Tensor, temperature: float) -> Tensor:
    """-log sum_k exp(<f, f_k> / tau) / (exp(<f, f_syn> / tau) + sum_k exp(<f, f_k> / tau)), mean over rows;
    f: (B, F), strangers: (K, B, F).
    """
    f = normalize(concept, dim=-1)
    near = (f * normalize(synonym, dim=-1)).sum(-1) / temperature
    far = torch.logsumexp((f * normalize(strangers, dim=-1)).sum(-1) / temperature, 0)
    return (torch.logaddexp(near, far) - far).mean()


class EraseAnything:
    """One synonym and `strangers` strangers a concept; lower and upper turns alternate."""

    def __init__(self, run: Run[EraseAnythingSpec]) -> None:
        self.run, spec, model = run, run.spec, run.model
        self.contexts = [run.contexts(words) for words in run.words]
        self.tokens = [torch.cat([named_tokens(model, w) for w in words]) for words in run.words]
        self.named, self.aims = run.aims()
        self.others: list[list[str]] = []
        for concept in run.concepts:
            space = nearest(model, concept, run.concepts)
            away = distances(model, concept.name, space)
            strangers = [
                space[k] for k in away.argsort(descending=True, stable=True)[: spec.strangers].tolist()
            ]
            self.others.append([concept.synonyms[0] if concept.synonyms else space[0], *strangers])
        # A synonym is erased with its concept
        others = unnamed(model, [n for names in self.others for n in names], run.concepts)
        held = dict.fromkeys([*run.preserve, *others])
        self.kept = {f"keep/{n}": run.contexts([n]) for n in held}
        if spec.latents == "buffer":
            run.trajectories.prefill(
                {f"erase/{i}": c for i, c in enumerate(self.contexts)}, spec.trajectories, run.callback
            )
            run.trajectories.prefill(self.kept, max(1, spec.trajectories // 4), run.callback)

    def step(self, i: int, step: int) -> tuple[Tensor, str | None]:
        run, spec, g = self.run, self.run.spec, self.run.generator(step)
        x = run.trajectories.draw(f"erase/{i}", self.contexts[i], g, spec.batch_size, spec.trajectories)
        row = torch.randint(len(self.contexts[i]), (spec.batch_size,), generator=g)
        if (step // len(run.concepts)) % 2 == 0:
            concept = self.contexts[i][row]
            aim = self.aims[i][row % len(self.aims[i])]
            return lower_loss(run.model, x, concept, aim, self.tokens[i][row], spec), self.named[i] or None
        key = list(self.kept)[int(torch.randint(len(self.kept), (1,), generator=g))]
        return self.upper_loss(i, x, row, key, g), key.removeprefix("keep/")

    def upper_loss(self, i: int, x: Latents, row: Tensor, key: str, g: torch.Generator) -> Tensor:
        run, spec, model = self.run, self.run.spec, self.run.model
        y = run.trajectories.draw(key, self.kept[key], g, spec.batch_size, max(1, spec.trajectories // 4))
        context = self.kept[key][torch.randint(len(self.kept[key]), (spec.batch_size,), generator=g)]
        with model.frozen(), torch.no_grad():
            old = model.predict(y.z, y.t, context)
        held = error(model.predict(y.z, y.t, context), old, model.alphas[y.t], spec.space)
        if not spec.contrast_weight:
            return spec.hold_weight * held
        features = [self.features(x, self.contexts[i][row], self.tokens[i][row])]
        with torch.no_grad():
            for name in self.others[i]:
                states, tokens = run.contexts([name]), named_tokens(model, name)
                features.append(self.features(x, states[row % len(states)], tokens[row % len(tokens)]))
        contrast = reversed_info_nce(features[0], features[1], torch.stack(features[2:]), spec.temperature)
        return spec.hold_weight * held + spec.contrast_weight * contrast

    def features(self, x: Latents, context: Tensor, tokens: Tensor) -> Tensor:
        """Where the word's tokens are attended to, over all layers, (B, positions), with its mean taken
        off.
        """
        with recorded(self.run.model) as probabilities:
            self.run.model.predict(x.z, x.t, context)
        flat = at_size(token_maps(probabilities, tokens), self.run.model.latent_shape[1]).flatten(1)
        return flat - flat.mean(1, keepdim=True)

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None: ...

    def finish(self) -> dict[str, Any]:
        return {}
