"""STEREO, A Two-Stage Framework for Adversarially Robust Concept Erasing (Srivatsan et al., CVPR 2025).

Search thoroughly enough: rounds in which what was found last, the concept itself at first, is erased,

    |eps'(v) - [eps(v) - (s - 1) (eps(v) - eps(0))]|^2,

and a word v is searched that brings the concept back. Robustly erase once: what was trained is put back to
its start, and for each v of the concept and all that was found

    |eps'(v) - [eps(0) + (s - 1) (eps(a) - eps(0)) - (s + 1) mean_u (eps(u) - eps(0))]|^2,

u being concept and words, a an anchor: a prompt that names the concept beside something else, which is to
stay. (The authors' code names adaptive projected guidance; with its defaults nothing is projected.) The
frozen network is the base model's throughout, where theirs is the last round's.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from expunge.core.concepts import unerased
from expunge.core.erasure.adversary.words import Words
from expunge.core.erasure.losses import error, guided_away
from expunge.core.erasure.method import Method, Run
from expunge.core.models import Denoiser, Text
from expunge.core.models.vocabulary import article
from expunge.core.sampling import Latents, cat
from expunge.core.specs import Concept, StereoSpec

BESIDE = "a {} with a {}"


def search_loss(model: Denoiser, x: Latents, asked: Text, empty: Text, spec: StereoSpec) -> Tensor:
    """The first stage's, a scalar; x: z (B, C, h, w), t (B,)."""
    with model.frozen(), torch.no_grad():
        old, old_0 = model.predict(*cat(x, x), Text.cat([asked, empty])).chunk(2)
    wanted = guided_away(old_0, old, spec.guidance - 2)
    return error(model.predict(x.z, x.t, asked), wanted, model.schedule.weights(x.t, spec.space))


def erase_loss(
    model: Denoiser,
    x: Latents,
    asked: Text,
    gone: Sequence[Text],
    anchor: Text,
    empty: Text,
    spec: StereoSpec,
) -> Tensor:
    """The second stage's, a scalar; gone: concept and words, B texts each."""
    texts = [empty, anchor, *gone]
    with model.frozen(), torch.no_grad():
        old = model.predict(*cat(*[x] * len(texts)), Text.cat(texts))
        old_0, old_a, *old_gone = old.chunk(len(texts))
        away = torch.stack(old_gone).mean(0) - old_0
    wanted = old_0 + (spec.guidance - 1) * (old_a - old_0) - (spec.guidance + 1) * away
    return error(model.predict(x.z, x.t, asked), wanted, model.schedule.weights(x.t, spec.space))


class Stereo(Method[StereoSpec]):
    """The words that were found against each concept, and the anchors that name it beside others."""

    def __init__(self, run: Run[StereoSpec]) -> None:
        super().__init__(run)
        spec = run.spec
        self.concepts = [run.texts(names) for names in run.names]
        self.beside = [self.companions(c) for c in run.concepts]
        self.anchors = [
            run.model.encode(self.anchors_of(c, o)) for c, o in zip(run.concepts, self.beside, strict=True)
        ]
        self.empty = run.model.unconditional()
        self.words = Words(run, spec.search())
        self.round = spec.round_steps * len(run.concepts)
        self.first_stage = spec.rounds * self.round
        if spec.latents == "buffer":
            wanted = {f"erase/{i}": texts for i, texts in enumerate(self.concepts)}
            run.trajectories.prefill(wanted, spec.trajectories, run.callback)

    def companions(self, concept: Concept) -> list[str]:
        """The concepts that an object is named beside; a style's prompts name objects already."""
        run = self.run
        if run.model.vocabulary.style(concept.name) is not None:
            return []
        others = unerased(run.model, concept, run.concepts)
        return others[:: max(1, len(others) // run.spec.anchors)][: run.spec.anchors]

    def anchors_of(self, concept: Concept, others: Sequence[str]) -> list[str]:
        """Prompts that name the concept beside something else."""
        beside = [article(BESIDE.format(concept.name, other)) for other in others]
        return beside or self.run.model.vocabulary.prompts(concept.name)

    def held(self) -> list[str] | None:
        return [name for others in self.beside for name in others]

    def step(self, i: int, step: int) -> tuple[Tensor, str | None]:
        run, spec, g = self.run, self.run.spec, self.run.generator(step)
        turn, rest = divmod(step, self.round)
        if rest == 0 and 0 < turn <= spec.rounds:
            for k in range(len(run.concepts)):
                self.words.prepare(k, turn - 1)
        if step == self.first_stage:
            run.start_over()
        texts = self.concepts[i]
        x = run.trajectories.draw(f"erase/{i}", texts, g, spec.batch_size, spec.trajectories)
        size, words = spec.batch_size, self.words.found[i]
        own, empty = self.drawn(texts, g), self.empty.expand(size)
        if step < self.first_stage:
            last = own if turn == 0 else self.words.any_of(i, words[-spec.restarts :], size, g)
            return search_loss(run.model, x, last, empty, spec), None
        gone = [own, *(self.words.any_of(i, [word], size, g) for word in words)]
        asked, anchor = self.words.asked(i, own, g), self.drawn(self.anchors[i], g)
        return erase_loss(run.model, x, asked, gone, anchor, empty, spec), None

    def drawn(self, texts: Text, g: Generator) -> Text:
        """Any of these texts, B times."""
        return texts[torch.randint(len(texts), (self.run.spec.batch_size,), generator=g)]

    def state(self) -> dict[str, Tensor]:
        return self.words.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.words.load_state(state)


METHOD = Stereo
