"""The adversary that searches for noise: a shift of the latents under which the trained network, asked by the
concept's own prompts, says what the base model says.

d descends |eps'(z + d, c) - eps(z + d, c)|^2 within |d| <= radius |z|, for each batch anew.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor

from expunge.core.erasure.losses import error
from expunge.core.erasure.method import Run
from expunge.core.models import Text
from expunge.core.sampling import Latents
from expunge.core.specs import AdversarySpec

STEP = 0.5  # of the radius


class Noise:
    """Keeps nothing between steps."""

    def __init__(self, run: Run[Any], spec: AdversarySpec) -> None:
        self.run, self.spec = run, spec

    def asked(self, _: int, own: Text, __: Generator) -> Text:
        """The texts as they are."""
        return own

    @torch.enable_grad()
    def shifted(self, _: int, x: Latents, own: Text, g: Generator) -> Latents:
        """The latents where the trained network is nearest to the base model, B rows."""
        model, spec = self.run.model, self.spec
        radius = spec.radius * size(x.z)
        away = torch.randn(x.z.shape, generator=g).to(x.z)
        shift = radius * STEP * away / size(away)
        for _step in range(spec.noise_steps):
            shift.requires_grad_(True)
            with model.frozen():
                old = model.predict(x.z + shift, x.t, own)
            (gradient,) = model.gradients(error(model.predict(x.z + shift, x.t, own), old), [shift])
            assert gradient is not None
            with torch.no_grad():
                shift = shift - radius * STEP * gradient / size(gradient).clamp_min(1e-12)
                shift = shift * (radius / size(shift)).clamp_max(1)
        return replace(x, z=x.z + shift.detach(), target=None)  # its noise is not what was added any more

    def prepare(self, i: int, turn: int) -> None:
        """Nothing is searched before a step."""

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        pass


def size(x: Tensor) -> Tensor:
    """|x| of each row, (B, 1, 1, 1)."""
    lengths: Tensor = x.flatten(1).norm(dim=1)
    return lengths.view(-1, 1, 1, 1)
