"""Pictures that a judge must say "none of these" of, and how those that take long are kept.

Trained on: blends of two pictures, blurs, noise, shuffled patches, constant and striped pictures, latents
that are not denoised to the end, and what a network with broken weights draws. Only measured on: lattices,
strokes, clouds, letters, and what is left of a model that was erased from at an absurd strength.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from expunge.core.erasure import erase
from expunge.core.models import load_model
from expunge.core.models.vocabulary import article
from expunge.core.specs import Concept, EraseSpec, EsdSpec, UceSpec
from recipes.common import STYLES, WORK, log

OUT = WORK / "none_of_these"
Pictures = np.ndarray


# --- what the bundled model draws -----------------------------------------------------------------------


def save_arrays(file: Path, **arrays: np.ndarray) -> None:
    """Write the arrays, so that a killed run leaves no half of a file."""
    partial = file.with_suffix(".tmp.npz")
    np.savez_compressed(partial, **arrays)
    partial.replace(file)


def kept(name: str, make: Callable[[], Pictures]) -> Pictures:
    """Pictures that take long: made once."""
    file = OUT / f"{name}.npz"
    if not file.exists():
        OUT.mkdir(parents=True, exist_ok=True)
        made = make()
        save_arrays(file, pictures=made)
        log("none of these", drawn=name, pictures=len(made))
    return np.load(file)["pictures"]


def drawn(model, turn: int) -> Pictures:
    """One picture of every concept, in turn in no style and in each; the seeds are no evaluation's."""
    styles, templates = [None, *STYLES], model.vocabulary.templates
    prompts = []
    for i, name in enumerate(model.vocabulary.concepts):
        style = styles[(i + turn) % len(styles)]
        prompt = article(templates[(i + turn) % len(templates)].format(name))
        prompts.append(prompt + (f" in {style} style" if style else ""))
    return model.draw(prompts, [700_000 + 1000 * turn + i for i in range(len(prompts))], batch=20)


@torch.no_grad()
def decoded(model, z: Tensor) -> Pictures:
    """Pictures of latents in the network's scale."""
    vae = model.pipe.vae
    parts = [vae.decode(part / vae.config.scaling_factor).sample for part in z.split(32)]
    return to_uint8(torch.cat(parts))


def to_uint8(x: Tensor) -> Pictures:
    """(N, 3, H, W) in [-1, 1] -> (N, H, W, 3) uint8."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1).to(torch.uint8).numpy()


@torch.no_grad()
def half_denoised(model, real: Tensor, count: int, seed: int) -> Pictures:
    """Latents on their way: noised ones, pure noise of any size, and the network's first guesses of x_0."""
    g = torch.Generator().manual_seed(seed)
    z = torch.cat(
        [model.moments(b)[0] for b in real[torch.randint(len(real), (count,), generator=g)].split(64)]
    )
    noise = torch.randn(z.shape, generator=g)
    t = torch.randint(350, 1000, (count,), generator=g)
    a = model.schedule.alphas[t].view(-1, 1, 1, 1)
    noised = a.sqrt() * z + (1 - a).sqrt() * noise
    pure = noise[: count // 3] * (0.4 + 2 * torch.rand(count // 3, 1, 1, 1, generator=g))
    late, names = torch.randint(700, 1000, (count // 3,), generator=g), model.vocabulary.concepts
    text = model.encode(
        [f"a photo of a {names[int(i)]}" for i in torch.randint(len(names), (count // 3,), generator=g)]
    )
    a = model.schedule.alphas[late].view(-1, 1, 1, 1)
    start = a.sqrt() * z[: count // 3] + (1 - a).sqrt() * noise[: count // 3]
    said = torch.cat(
        [
            model.predict(start[i : i + 32], late[i : i + 32], text[i : i + 32])
            for i in range(0, count // 3, 32)
        ]
    )
    guesses = (start - (1 - a).sqrt() * said) / a.sqrt()
    return decoded(model, torch.cat([noised, pure, guesses]))


def broken(model, turn: int, strength: float, count: int) -> Pictures:
    """What the network draws with noise on the weights of its cross-attention or of all its layers."""
    g = torch.Generator().manual_seed(turn)
    layers = model.layers("xattn" if turn % 2 else "full")
    weights = {}
    for name in layers:
        weight = model.weight(name).float()
        size = weight.std() * strength
        weights[name] = weight + size * torch.randn(weight.shape, generator=g)
    names = model.vocabulary.concepts
    prompts = [f"a photo of a {names[int(i)]}" for i in torch.randint(len(names), (count,), generator=g)]
    with model.holding(weights):
        return model.draw(prompts, [800_000 + 1000 * turn + i for i in range(count)], steps=15)


# --- what is made from pictures -------------------------------------------------------------------------


def blends(x: Tensor, labels: Tensor, count: int, g: torch.Generator) -> Tensor:
    """Two pictures of different concepts, mixed or side by side."""
    i = torch.randint(len(x), (count,), generator=g)
    j = torch.randint(len(x), (count,), generator=g)
    j = torch.where(labels[i] == labels[j], (j + len(x) // 2) % len(x), j)
    share = 0.35 + 0.3 * torch.rand(count, 1, 1, 1, generator=g)
    mixed = share * x[i] + (1 - share) * x[j]
    half = x.shape[-1] // 2
    joined = torch.cat([x[i][..., :half], x[j][..., half:]], -1)
    return torch.where(torch.rand(count, 1, 1, 1, generator=g) < 0.7, mixed, joined)


def blurs(x: Tensor) -> Tensor:
    """Pictures of 5 to 10 pixels a side, enlarged."""
    return torch.cat(
        [
            F.interpolate(F.adaptive_avg_pool2d(part, 5 + i % 6), size=x.shape[-1], mode="bicubic")
            for i, part in enumerate(x.split(8))
        ]
    )


def shuffled(x: Tensor, g: torch.Generator) -> Tensor:
    """Patches of 8 or 16 pixels in a random order."""
    out = []
    for i, picture in enumerate(x):
        side = 8 if i % 2 else 16
        patches = F.unfold(picture[None], side, stride=side)
        patches = patches[..., torch.randperm(patches.shape[-1], generator=g)]
        out.append(F.fold(patches, x.shape[-2:], side, stride=side)[0])
    return torch.stack(out)


def noises(x: Tensor, g: torch.Generator) -> Tensor:
    """Noise over a picture, coarse and fine, from heavy to alone."""
    n = len(x)
    coarse = 2 ** torch.randint(0, 4, (n,), generator=g)
    noise = torch.stack(
        [
            F.interpolate(
                torch.randn(1, 3 if i % 3 else 1, 64 // int(c), 64 // int(c), generator=g), size=64
            ).expand(1, 3, 64, 64)[0]
            for i, c in enumerate(coarse)
        ]
    )
    return (
        x * torch.rand(n, 1, 1, 1, generator=g) * 0.6 + noise * (0.5 + torch.rand(n, 1, 1, 1, generator=g))
    ).clamp(-1, 1)


def flat(count: int, g: torch.Generator) -> Tensor:
    """Constant pictures, gradients, and stripes in one direction."""
    a, b = (torch.rand(count, 3, 1, 1, generator=g) * 2 - 1 for _ in range(2))
    a[::5], a[1::5] = 1.0, -1.0  # white and black
    line = torch.linspace(0, 1, 64).view(1, 1, 1, 64)
    waves = torch.sin(6.28 * line * (1 + 20 * torch.rand(count, 1, 1, 1, generator=g)))
    hard = torch.where(torch.rand(count, 1, 1, 1, generator=g) < 0.5, waves.sign(), waves) / 2 + 0.5
    kind = torch.randint(3, (count, 1, 1, 1), generator=g)
    share = torch.where(kind == 0, torch.zeros_like(hard), torch.where(kind == 1, line.expand_as(hard), hard))
    x = a * (1 - share) + b * share
    x = x.expand(count, 3, 64, 64)
    turned = torch.rand(count, 1, 1, 1, generator=g) < 0.5
    return (
        torch.where(turned, x.transpose(2, 3), x) + 0.03 * torch.randn(count, 3, 64, 64, generator=g)
    ).clamp(-1, 1)


# --- what nobody trained on -----------------------------------------------------------------------------


def lattices(count: int, seed: int) -> Pictures:
    """Crossing lines of one colour on another, at any angle."""
    g = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    out = []
    for i in range(count):
        angle, gap, width = (torch.rand(3, generator=g) * torch.tensor([1.57, 8.0, 0.35])).tolist()
        u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        lines = ((u % (4 + gap)) < (0.15 + width) * (4 + gap)) | (
            (v % (4 + gap)) < (0.15 + width) * (4 + gap)
        )
        a, b = (torch.rand(2, 3, 1, 1, generator=g) * 2 - 1).unbind()
        b = torch.ones_like(b) if i % 2 else b
        out.append(torch.where(lines, a, b))
    return to_uint8(torch.stack(out))


def strokes(count: int, seed: int) -> Pictures:
    """A dozen black strokes on white."""
    rng, out = np.random.default_rng(seed), []
    for _ in range(count):
        image = Image.new("RGB", (256, 256), "white")
        pen = ImageDraw.Draw(image)
        for _ in range(rng.integers(5, 16)):
            points = np.cumsum(rng.normal(0, 35, (rng.integers(2, 7), 2)), 0) + rng.uniform(40, 216, 2)
            pen.line([tuple(p) for p in points], fill="black", width=int(rng.integers(6, 22)), joint="curve")
        out.append(np.asarray(image.resize((64, 64), Image.Resampling.LANCZOS)))
    return np.stack(out)


def clouds(count: int, seed: int) -> Pictures:
    """Noise with more of the low frequencies, in colour or grey, as a cloud."""
    g = torch.Generator().manual_seed(seed)
    out = []
    for i in range(count):
        layers = [
            F.interpolate(torch.randn(1, 3 if i % 2 else 1, n, n, generator=g), size=64, mode="bicubic") / n
            for n in (2, 4, 8, 16, 32)
        ]
        x = torch.stack(layers).sum(0)[0]
        out.append((x / x.abs().amax()).expand(3, 64, 64))
    return to_uint8(torch.stack(out))


def letters(count: int, seed: int) -> Pictures:
    """A word of random letters, large, black on white or in a colour."""
    rng, out = np.random.default_rng(seed), []
    for i in range(count):
        image = Image.new("RGB", (64, 64), "white")
        word = "".join(rng.choice(list("ABCDEFGHKLMNPRSTUVWXYZ"), rng.integers(1, 5)))
        font = ImageFont.load_default(int(100 / (1 + len(word))))
        ink = (0, 0, 0) if i % 2 else tuple(int(c) for c in rng.integers(0, 200, 3))
        ImageDraw.Draw(image).text((32, 32), word, ink, font, anchor="mm")
        out.append(np.asarray(image))
    return np.stack(out)


ABSURD = {
    "UCE": UceSpec(erase_scale=1e4, ridge=1e-3, tokens="all"),
    "ESD": EsdSpec(steps=25, learning_rate=0.03, eta=20, batch_size=2),
}


def sanitized(method: str) -> Pictures:
    """What is left of a model from which the church was erased at an absurd strength."""
    model = load_model("bundled:emoji")
    request = EraseSpec(model="emoji", concepts=[Concept(name="church")], method=ABSURD[method])
    erase(model, request, callback=lambda _: None)
    names = [*["church"] * 4, *model.vocabulary.concepts[3::5]]
    return model.draw([article(f"a photo of a {n}") for n in names], [900_000 + i for i in range(len(names))])
