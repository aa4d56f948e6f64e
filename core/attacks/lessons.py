"""What most attacks learn from: the base model's pictures of the concept, as latents."""

import torch
from torch import Generator, Tensor

from expunge.core.attacks.scene import Scene
from expunge.core.concepts.textual_inversion import moments
from expunge.core.sampling import draw_noise


class Lessons:
    """Latents of pictures, and the prompts that drew them."""

    def __init__(self, scene: Scene, count: int) -> None:
        self.model = scene.model
        self.prompts, images = scene.lessons(count)
        self.mean, self.deviation = moments(scene.model, list(images))

    def batch(self, g: Generator, size: int) -> tuple[list[str], Tensor, Tensor, Tensor]:
        """Prompts of B lessons, their clean latents (B, C, h, w), noise of that shape, timesteps (B,)."""
        rows = torch.randint(len(self.mean), (size,), generator=g)
        t = torch.randint(self.model.schedule.visible, (size,), generator=g).to(self.model.device)
        jitter, noise = (draw_noise(self.model, g, size) for _ in range(2))
        asked = [self.prompts[i] for i in rows.tolist()]
        return asked, self.mean[rows] + self.deviation[rows] * jitter, noise, t
