"""The adversary that searches for words.

Each round, for each concept c, words v descend |eps'(z, v) - eps(z, c)|^2: what the trained network says of v
is to be what the base model says of c, on the base model's latents of c. (A textual inversion's aim is the
noise that was added, whose mean that is.) What was found in any round then stands in the concept's place.
"""

from typing import Any

import torch
from torch import Generator, Tensor

from expunge.core.concepts import unerased
from expunge.core.erasure.adversary.guesses import Embeddings, Guess, Tokens
from expunge.core.erasure.losses import error
from expunge.core.erasure.method import Purpose, Run
from expunge.core.erasure.trajectory_buffer import Trajectories
from expunge.core.models import Text
from expunge.core.progress import Clock
from expunge.core.sampling import Latents, seeded, tensors_under
from expunge.core.specs import AdversarySpec
from expunge.core.specs.adversary import PICTURES


class Words:
    """What was found against each concept of a run, and the search for more."""

    def __init__(self, run: Run[Any], spec: AdversarySpec) -> None:
        self.run, self.spec, vocabulary = run, spec, run.model.vocabulary
        self.found: list[list[Tensor]] = [[] for _ in run.concepts]
        self.around = [vocabulary.around(c.name) for c in run.concepts]
        self.prompts = [vocabulary.prompts(c.name) for c in run.concepts]
        self.concepts = [run.texts([c.name]) for c in run.concepts]
        self.others = [unerased(run.model, c, run.concepts) for c in run.concepts]
        # The base model's own latents, whatever the method draws and redraws
        kept = run.spec.model_copy(update={"latents": "buffer", "refresh_every": 0})
        self.trajectories = Trajectories(run.model, kept, run.seed)
        paths = {f"path/{i}": texts for i, texts in enumerate(self.concepts)}
        self.trajectories.prefill(paths, kept.trajectories, run.callback)
        pictures = {f"picture/{i}": texts for i, texts in enumerate(self.concepts)}
        self.trajectories.prefill(pictures, PICTURES, run.callback, clean=True)

    # What the trained network reads

    def asked(self, i: int, own: Text, g: Generator) -> Text:
        """Texts in the place of concept i's own, B rows: some of them as they are, the others with something
        that was found.
        """
        size = len(own)
        said = self.any_of(i, self.found[i], size, g)
        stays = torch.rand(size, generator=g) < self.spec.own_share
        rows = torch.arange(size)
        return Text.cat([own, said])[torch.where(stays, rows, size + rows)]

    @torch.no_grad()
    def any_of(self, i: int, words: list[Tensor], size: int, g: Generator) -> Text:
        """Any of these words, each (k, D), in any of concept i's prompts, `size` rows, without a graph."""
        row = torch.randint(len(self.around[i]), (size,), generator=g)
        which = torch.randint(len(words), (size,), generator=g)
        return self.said(i, row, torch.stack(words)[which])

    def shifted(self, _: int, x: Latents, __: Text, ___: Generator) -> Latents:
        """The latents as they are."""
        return x

    def said(self, i: int, row: Tensor, vectors: Tensor) -> Text:
        """Texts with their graph: each row's vectors (B, k, D) in its template, or before its prompt."""
        model, rows = self.run.model, row.tolist()
        if self.spec.kind == "tokens":
            return model.encode_with_graph([self.prompts[i][k] for k in rows], vectors)
        halves = [self.around[i][k] for k in rows]
        prompts = [before + behind for before, behind in halves]
        return model.encode_with_graph(prompts, vectors, [before for before, _ in halves])

    # The search

    def prepare(self, i: int, turn: int) -> None:
        """Search against the model as it stands, once in a round, and keep what was found."""
        if len(self.found[i]) > turn * self.spec.restarts:
            return
        run, spec = self.run, self.spec
        guess = self.guess(i, turn)
        optimiser = torch.optim.Adam([guess.parameter], lr=spec.search_learning_rate)
        clock, size = Clock(spec.search_steps), spec.restarts * spec.search_batch
        for step in range(spec.search_steps):
            g = seeded(run.seed, int(Purpose.ADVERSARY), i, turn, step)
            loss = self.distance(i, guess.vectors(g).repeat_interleave(spec.search_batch, 0), size, g)
            # Each restart descends its own mean
            (guess.parameter.grad,) = run.model.gradients(spec.restarts * loss, [guess.parameter])
            optimiser.step()
            guess.settle()
            self.tell(i, turn, step + 1, clock, float(loss.detach()))
        self.found[i] += list(guess.found())

    def distance(self, i: int, vectors: Tensor, size: int, g: Generator) -> Tensor:
        """|eps'(z, v) - eps(z, c)|^2, the mean over rows with their vectors (B, k, D)."""
        model, texts = self.run.model, self.concepts[i]
        x = self.latents(i, g, size)
        row = torch.randint(len(self.around[i]), (size,), generator=g)
        own = texts[torch.randint(len(texts), (size,), generator=g)]
        with model.frozen(), torch.no_grad():
            wanted = model.predict(x.z, x.t, own)
        return error(model.predict(x.z, x.t, self.said(i, row, vectors)), wanted)

    def guess(self, i: int, turn: int) -> Guess:
        """Where a round's search begins: other concepts' mean embeddings, or any tokens."""
        run, spec, others = self.run, self.spec, self.others[i]
        g = seeded(run.seed, int(Purpose.ADVERSARY_START), i, turn)
        if spec.kind == "tokens":
            return Tokens(run.model, run.concepts[i], spec.restarts, spec.vectors, g)
        chosen = torch.randint(len(others), (spec.restarts,), generator=g).tolist()
        means = [run.model.text.token_embeddings(others[k]).mean(0) for k in chosen]
        return Embeddings(torch.stack(means)[:, None].repeat(1, spec.vectors, 1))

    def latents(self, i: int, g: Generator, size: int) -> Latents:
        """The base model's latents of the concept: on its guided trajectories, or its pictures, noised."""
        texts, kept = self.concepts[i], self.trajectories
        if torch.rand((), generator=g) < 0.5:
            return kept.draw(f"path/{i}", texts, g, size, kept.spec.trajectories)
        return kept.noised(f"picture/{i}", texts, g, size, PICTURES)

    def tell(self, i: int, turn: int, step: int, clock: Clock, loss: float) -> None:
        name, rounds = self.run.concepts[i].name, self.spec.rounds
        self.run.callback(
            {
                "phase": "search",
                "step": step,
                "total": clock.total,
                "loss": loss,
                "message": f"round {turn + 1} of {rounds}: what brings '{name}' back",
                "eta_s": clock.eta(step),
            }
        )

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs: all that was found."""
        return {f"{i}.{n}": v for i, found in enumerate(self.found) for n, v in enumerate(found)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        for i, found in enumerate(self.found):
            mine = tensors_under(state, f"{i}.")
            found[:] = [mine[str(n)].to(self.run.model.device) for n in range(len(mine))]
