"""Textual inversion, An Image is Worth One Word (Gal et al., ICLR 2023), Eq. 18: a new word's embedding for
what images show.

v* = argmin_v E |eps - eps_theta(z_t, t, c(y))|^2, z = E(x), y a prompt with the word in it; U-Net, text
encoder and VAE stay frozen.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from expunge.core.checkpoints import Checkpoints
from expunge.core.errors import CoreError
from expunge.core.models import Denoiser, Text
from expunge.core.optimisers import load_parameter_state, parameter_state
from expunge.core.progress import Callback, Clock
from expunge.core.sampling import draw_noise, seeded, tensors_under
from expunge.core.specs import InversionSpec

Picture = np.ndarray[Any, np.dtype[np.uint8]]


def kept_part(image: Picture, mask: Picture) -> Picture:
    """M(x): what the mask (H, W) shows at 128 and above, on white, in the smallest square around it; (S,
    S, 3).
    """
    kept = mask >= 128
    rows, columns = np.flatnonzero(kept.any(1)), np.flatnonzero(kept.any(0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    part = np.where(kept[..., None], image, np.uint8(255))[box]
    height, width = part.shape[:2]
    side = max(height, width)
    out = np.full((side, side, 3), 255, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    out[top : top + height, left : left + width] = part
    return out


def fitted(image: Picture, size: int) -> Picture:
    """The middle square, (size, size, 3)."""
    picture = Image.fromarray(image)
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return np.asarray(
        picture.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)
    )


@torch.no_grad()
def moments(model: Denoiser, images: Sequence[Picture]) -> tuple[Tensor, Tensor]:
    """Mean and deviation of E(x) for each image, (N, 4, h, w) each, in the U-Net's scale."""
    pixels = np.stack([fitted(image, model.picture_side) for image in images])
    return model.moments(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1)


def loss(model: Denoiser, x: Tensor, noise: Tensor, t: Tensor, text: Text) -> Tensor:
    """Eq. 18 on clean latents x (B, C, h, w), noise of that shape, t (B,), B texts; scalar out."""
    schedule = model.schedule
    wanted = schedule.target(x, noise, t)
    return (wanted - model.predict(schedule.add_noise(x, noise, t), t, text)).square().mean()


def start_of(model: Denoiser, text: str, vectors: int) -> Tensor:
    """Where the search begins: the mean embedding of the text's tokens, once for each vector, (k, D)."""
    return model.text.token_embeddings(text).mean(0).repeat(vectors, 1)


def invert(
    model: Denoiser,
    word: str,
    start: str,
    images: Sequence[Picture],
    spec: InversionSpec,
    seed: int,
    callback: Callback,
    checkpoints: Checkpoints | None = None,
    has_won: Callable[[int, Tensor], bool] | None = None,
) -> Tensor:
    """Learn `word` from images (H, W, 3), starting at the embedding of the text `start`; its vectors (k, D),
    float32. has_won: whether it may end after this step, with these vectors.

    The model knows the word afterwards. The same images, spec and seed give the same vectors (CPU), resumed
    or not.
    """
    model.learn(word, start_of(model, start, spec.vectors))
    vectors = model.words[word].vectors.requires_grad_(True)
    optimiser = torch.optim.Adam([vectors], lr=spec.learning_rate)

    # Go on from a checkpoint, where there is one.
    begun = 0
    if checkpoints and (saved := checkpoints.load()):
        with torch.no_grad():
            vectors.copy_(saved[0]["vectors"])
        load_parameter_state(optimiser, tensors_under(saved[0], "adam."))
        begun = saved[1]["step"]

    # Each step: some images' latents with fresh noise, asked for by prompts with the word in them.
    (mean, deviation), prompts = moments(model, images), model.vocabulary.prompts(word)
    clock = Clock(spec.steps, begun)
    for step in range(begun, spec.steps):
        g = seeded(seed, step, *word.encode())
        rows = torch.randint(len(images), (spec.batch_size,), generator=g)
        t = torch.randint(model.schedule.visible, (spec.batch_size,), generator=g).to(model.device)
        jitter, noise = (draw_noise(model, g, spec.batch_size) for _ in range(2))
        which = torch.randint(len(prompts), (spec.batch_size,), generator=g)
        chosen = [prompts[k] for k in which.tolist()]
        x = mean[rows] + deviation[rows] * jitter
        value = loss(model, x, noise, t, model.encode_with_graph(chosen))
        (vectors.grad,) = model.gradients(value, [vectors])
        optimiser.step()
        done = step + 1
        if not bool(vectors.isfinite().all()):
            raise CoreError(
                "loss_not_finite",
                f"the vectors of '{word}' became NaN or infinite at step {done} of {spec.steps}; lower"
                " inversion.learning_rate",
                field="inversion.learning_rate",
            )
        if checkpoints and done % spec.checkpoint_every == 0:
            slots = {f"adam.{k}": v for k, v in parameter_state(optimiser).items()}
            checkpoints.save(done, {"vectors": vectors.detach(), **slots}, {"step": done})
        callback(
            {
                "phase": "learn",
                "step": done,
                "total": spec.steps,
                "loss": float(value.detach()),
                "target": word,
                "eta_s": clock.eta(done),
            }
        )
        if has_won and has_won(done, vectors.detach()):
            break
    model.learn(word, vectors.detach())
    return vectors.detach()


def digest_of(images: Sequence[Picture]) -> str:
    """sha256 over the images' shapes and pixels."""
    total = hashlib.sha256()
    for image in images:
        total.update(f"{image.shape}\0".encode() + np.ascontiguousarray(image).tobytes())
    return total.hexdigest()
