"""AGE's concepts that are spread over attributes: which attribute each row of a batch shows."""

from collections.abc import Sequence

import torch
from torch import Tensor

from expunge.core.concepts import attribute_phrases
from expunge.core.erasure.adversarial import Draw, keys_of
from expunge.core.erasure.method import Run
from expunge.core.models import Text
from expunge.core.sampling import Latents, cat
from expunge.core.specs import AgeSpec


class Shares:
    """How often each attribute is drawn, (n,); the attributes' texts are stacked, (n, T, …)."""

    def __init__(self, names: list[str], texts: Text, shares: Sequence[float]) -> None:
        self.names, self.texts = names, texts
        self.logs = torch.tensor(shares, dtype=torch.float64).log()

    def pick(self, generator: torch.Generator, size: int) -> Tensor:
        """Attributes of `size` rows, ascending: a systematic sample, so that small batches too keep to the
        shares.
        """
        at = (torch.rand(1, generator=generator, dtype=torch.float64) + torch.arange(size)) / size
        return torch.searchsorted(torch.softmax(self.logs, 0).cumsum(0), at).clamp_max(len(self.names) - 1)

    def move(self, by: Tensor) -> None:
        """Draw each attribute e^by times as often, (n,)."""
        self.logs = self.logs + by


class Spread:
    """The concepts of a run that have attributes, by their place in it."""

    def __init__(self, run: Run[AgeSpec]) -> None:
        self.run = run
        self.shares: dict[int, Shares] = {}
        for i, concept in enumerate(run.concepts):
            if concept.attributes:
                names = attribute_phrases(concept, run.model.vocabulary)
                texts = Text.stack([run.texts([name]) for name in names])
                self.shares[i] = Shares(names, texts, concept.wanted)

    def buffers(self) -> dict[str, Text]:
        """Every attribute's texts, by their keys in the trajectory buffer."""
        return dict(pair for s in self.shares.values() for pair in keys_of(s.names, s.texts))

    def batch(self, i: int, concept: Text, g: torch.Generator, size: int) -> Draw:
        """`size` rows for concept i, each with an attribute of its own; both latents are that attribute's."""
        shares, spec = self.shares[i], self.run.spec
        keys, picked = keys_of(shares.names, shares.texts), shares.pick(g, size)
        counts = torch.bincount(picked, minlength=len(keys)).tolist()

        def latents() -> Latents:
            parts = [
                self.run.trajectories.draw(key, texts, g, n, spec.trajectories)
                for (key, texts), n in zip(keys, counts, strict=True)
                if n
            ]
            return Latents(*cat(*parts))

        x_concept, x_picked = latents(), latents()
        row = torch.randint(len(concept), (size,), generator=g)
        text = shares.texts[picked, row % shares.texts.states.shape[1]]
        name = shares.names[counts.index(max(counts))]
        return Draw(i, x_concept, x_picked, concept[row], concept[row], text, row, name)

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs: how often each attribute is drawn by now."""
        return {f"{i}.logs": shares.logs for i, shares in self.shares.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        for i, shares in self.shares.items():
            shares.logs = state[f"{i}.logs"]
