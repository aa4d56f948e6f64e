"""EraseAnything (Gao et al., ICML 2025), as far as its losses apply to a U-Net.

Two turns, one after the other. Lower: ESD's loss and the attention that the concept's tokens still get.
Upper: the base model's predictions of other concepts are held, and a reversed InfoNCE on attention maps draws
the concept's away from its synonym's and towards those of concepts that have nothing to do with it. InfoNCE's
anchor is the synonym in the authors' code, which descends the log of what it gives its target and has no
lower bound; here it is the concept, and -log(1 - p) of the synonym is descended. Written for FLUX's flow and
joint attention: here the network's prediction stands for the flow, cross-attention for the text's part of the
joint one; synonym and strangers come from the concept space instead of a language model, and the held
prediction is the base model's, not the adapted one's.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from expunge.core.concepts import distances, excluding, nearest
from expunge.core.erasure.attention import at_size, named_tokens, token_maps
from expunge.core.erasure.losses import drift, error, guided_away
from expunge.core.erasure.method import Method, Run, few
from expunge.core.models import Denoiser, Text
from expunge.core.sampling import Latents, cat
from expunge.core.specs import EraseAnythingSpec


def lower_loss(
    model: Denoiser, x: Latents, concept: Text, target: Text, tokens: Tensor, spec: EraseAnythingSpec
) -> Tensor:
    """ESD's loss plus the sum over layers of |attention to the concept's tokens|; concept, target (or the
    empty prompt): B texts; tokens: (B, L). Scalar out.
    """
    with model.frozen(), torch.no_grad():
        old_a, old_c = model.predict(*cat(x, x), Text.cat([target, concept])).chunk(2)
    with model.recorded_attention() as probabilities:
        new = model.predict(x.z, x.t, concept)
    attended = torch.stack(
        [m.square().sum(1).clamp_min(1e-12).sqrt().mean() for m in token_maps(probabilities, tokens)]
    ).sum()
    weights = model.schedule.weights(x.t, spec.space)
    return error(new, guided_away(old_a, old_c, spec.eta), weights) + spec.attention_weight * attended


def reversed_info_nce(concept: Tensor, synonym: Tensor, strangers: Tensor, temperature: float) -> Tensor:
    """-log sum_k exp(<f, f_k> / tau) / (exp(<f, f_syn> / tau) + sum_k exp(<f, f_k> / tau)), mean over rows;
    f: (B, F), strangers: (K, B, F).
    """
    f = normalize(concept, dim=-1)
    near = (f * normalize(synonym, dim=-1)).sum(-1) / temperature
    far = torch.logsumexp((f * normalize(strangers, dim=-1)).sum(-1) / temperature, 0)
    return (torch.logaddexp(near, far) - far).mean()


class EraseAnything(Method[EraseAnythingSpec]):
    """One synonym and `strangers` strangers a concept; lower and upper turns alternate."""

    def __init__(self, run: Run[EraseAnythingSpec]) -> None:
        super().__init__(run)
        spec, model = run.spec, run.model
        self.concepts = [run.texts(names) for names in run.names]
        self.tokens = [torch.cat([named_tokens(model, n) for n in names]) for names in run.names]
        self.target_names, self.targets = run.targets()

        # Whom the concept's attention is drawn away from, and towards.
        self.others: list[list[str]] = []
        for concept in run.concepts:
            space = nearest(model, concept, run.concepts)
            farthest = distances(model, concept.name, space).argsort(descending=True, stable=True)
            strangers = [space[k] for k in farthest[: spec.strangers].tolist()]
            self.others.append([concept.synonyms[0] if concept.synonyms else space[0], *strangers])

        # What is held; a synonym is erased with its concept.
        others = excluding(model, [n for names in self.others for n in names], run.concepts)
        held = dict.fromkeys([*run.preserve, *others])
        self.kept = {f"keep/{n}": run.texts([n]) for n in held}
        if spec.latents == "buffer":
            erased = {f"erase/{i}": texts for i, texts in enumerate(self.concepts)}
            run.trajectories.prefill(erased, spec.trajectories, run.callback)
            run.trajectories.prefill(self.kept, few(spec.trajectories), run.callback)

    def held(self) -> list[str] | None:
        return [*(key.removeprefix("keep/") for key in self.kept), *self.target_names]

    def step(self, i: int, step: int) -> tuple[Tensor, str | None]:
        run, spec, g = self.run, self.run.spec, self.run.generator(step)
        concept, targets, tokens = self.concepts[i], self.targets[i], self.tokens[i]
        x = run.trajectories.draw(f"erase/{i}", concept, g, spec.batch_size, spec.trajectories)
        row = torch.randint(len(concept), (spec.batch_size,), generator=g)
        if (step // len(run.concepts)) % 2 == 0:
            loss = lower_loss(run.model, x, concept[row], targets[row % len(targets)], tokens[row], spec)
            return loss, self.target_names[i] or None
        key = list(self.kept)[int(torch.randint(len(self.kept), (1,), generator=g))]
        return self.upper_loss(i, x, row, key, g), key.removeprefix("keep/")

    def upper_loss(self, i: int, x: Latents, row: Tensor, key: str, g: torch.Generator) -> Tensor:
        """What is held, and the contrast of the concept's attention with others'."""
        run, spec, texts = self.run, self.run.spec, self.kept[key]
        y = run.trajectories.draw(key, texts, g, spec.batch_size, few(spec.trajectories))
        text = texts[torch.randint(len(texts), (spec.batch_size,), generator=g)]
        held = drift(run.model, y, text, spec.space)
        if not spec.contrast_weight:
            return spec.hold_weight * held
        features = [self.features(x, self.concepts[i][row], self.tokens[i][row])]
        with torch.no_grad():
            for name in self.others[i]:
                other, tokens = run.texts([name]), named_tokens(run.model, name)
                features.append(self.features(x, other[row % len(other)], tokens[row % len(tokens)]))
        contrast = reversed_info_nce(features[0], features[1], torch.stack(features[2:]), spec.temperature)
        return spec.hold_weight * held + spec.contrast_weight * contrast

    def features(self, x: Latents, text: Text, tokens: Tensor) -> Tensor:
        """Where the concept's tokens are attended to, over all layers, (B, positions), its mean taken off."""
        model = self.run.model
        with model.recorded_attention() as probabilities:
            model.predict(x.z, x.t, text)
        flat = at_size(token_maps(probabilities, tokens), model.latent_shape[1]).flatten(1)
        return flat - flat.mean(1, keepdim=True)


METHOD = EraseAnything
