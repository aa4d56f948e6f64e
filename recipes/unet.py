"""Stage 4: UNet2DConditionModel on precomputed latents and text states; DDPM objective, min-SNR weighting,
EMA.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from recipes import data, text_encoder
from recipes.common import (
    STYLES,
    WORK,
    cosine,
    load_checkpoint,
    log,
    pack,
    prompts,
    save_checkpoint,
    seed_everything,
    unpack,
)
from recipes.vae import to_tensor

STEPS, BATCH, PEAK = int(os.environ.get("UNET_STEPS", 10500)), 48, 8e-4
COPIES, SHIFT, DROP, GAMMA, DECAY = 12, 2, 0.1, 5.0, 0.999
NAMED = 0.85  # of the prompts name the style
STYLE_SHARE = (0.3, 0.28, 0.28, 0.14)  # Noto, Twemoji and Fluent are hard to tell apart, high contrast is not
HALF = torch.backends.cpu.get_cpu_capability() == "AVX512"  # where the CPU is faster in bfloat16
CKPT = WORK / "unet.ckpt.safetensors"
OUT = WORK / "unet"


def build() -> UNet2DConditionModel:
    """Cross-attention at 8x8, 4x4 and the middle; the outermost level is convolutional, as in SDXL."""
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(64, 128, 192),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=text_encoder.WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    # Plain attention trains faster in bf16 on a CPU than the fused one
    unet.set_attn_processor(AttnProcessor())
    return unet


def scheduler() -> DDIMScheduler:
    """Stable Diffusion 1's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


@torch.no_grad()
def latents(pictures: np.ndarray, vae: AutoencoderKL, cached: Path) -> torch.Tensor:
    """COPIES latents of every picture under small shifts and flips: (copies, concepts, styles, 4, 16, 16)."""
    if cached.exists():
        return load_checkpoint(cached)[0]["latents"]
    x, generator, copies = to_tensor(pictures), torch.Generator().manual_seed(4), []
    for i in range(COPIES):
        shifts = torch.randint(-SHIFT, SHIFT + 1, (len(x), 2), generator=generator) * (i > 0)
        moved = torch.stack(
            [
                torch.roll(torch.nn.functional.pad(p, (4,) * 4, value=1.0), tuple(s.tolist()), (1, 2))[
                    :, 4:-4, 4:-4
                ]
                for p, s in zip(x, shifts, strict=True)
            ]
        )
        if i % 4 == 3:
            moved = moved.flip(-1)
        copies.append(torch.cat([vae.encode(b).latent_dist.mean for b in moved.split(64)]))
    z = torch.stack(copies).view(COPIES, *pictures.shape[:2], 4, 16, 16)
    save_checkpoint(cached, {"latents": z})
    return z


def contexts(
    names: list[str], rng: np.random.Generator, tokenizer: CLIPTokenizer, model: CLIPTextModel
) -> tuple[torch.Tensor, torch.Tensor]:
    """Text states of every prompt: (concepts, 1 + styles, prompts, length, width); the last two prompts
    carry stray words. And the empty prompt's.
    """
    words = text_encoder.english()
    texts = []
    for name in names:
        for style in (None, *STYLES):
            plain = prompts(name, style)
            stray = [
                f"{rng.choice(words)} {plain[rng.integers(len(plain))]}",
                f"{plain[rng.integers(len(plain))]} {' '.join(rng.choice(words, 2))}",
            ]
            texts += plain + stray
    states, _ = text_encoder.encode(tokenizer, model, [*texts, ""])
    return states[:-1].view(len(names), 1 + len(STYLES), -1, *states.shape[1:]), states[-1]


@torch.no_grad()
def draw(
    unet: UNet2DConditionModel,
    context: torch.Tensor,
    empty: torch.Tensor,
    seed: int,
    guidance: float = 7.5,
    steps: int = 25,
) -> torch.Tensor:
    """DDIM with classifier-free guidance: contexts (B, L, D) -> latents (B, 4, 16, 16)."""
    s = scheduler()
    s.set_timesteps(steps)
    z = torch.randn(len(context), 4, 16, 16, generator=torch.Generator().manual_seed(seed))
    both = torch.cat([empty.expand_as(context), context])
    for t in s.timesteps:
        eps_0, eps_c = unet(torch.cat([z, z]), t, both).sample.chunk(2)
        z = s.step(eps_0 + guidance * (eps_c - eps_0), t, z).prev_sample
    return z


@dataclass(frozen=True)
class Lessons:
    """What a U-Net learns from: latents (copies, concepts, styles, 4, 16, 16), text states (concepts,
    1 + styles, prompts, length, width), and the empty prompt's (length, width).
    """

    latents: torch.Tensor
    contexts: torch.Tensor
    empty: torch.Tensor

    def batch(self, g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents (BATCH, 4, 16, 16) and the text states that ask for them, (BATCH, length, width)."""

        def pick(n: int) -> torch.Tensor:
            return torch.randint(n, (BATCH,), generator=g)

        copy, concept, prompt = (pick(n) for n in (*self.latents.shape[:2], self.contexts.shape[2]))
        style = torch.multinomial(torch.tensor(STYLE_SHARE), BATCH, replacement=True, generator=g)
        named = torch.rand(BATCH, generator=g) < NAMED
        c = self.contexts[concept, torch.where(named, style + 1, 0), prompt]
        c = torch.where((torch.rand(BATCH, generator=g) < DROP)[:, None, None], self.empty, c)
        return self.latents[copy, concept, style], c


def train(
    stage: str,
    lessons: Lessons,
    checkpoint: Path,
    steps: int,
    show: Callable[[int, UNet2DConditionModel], None],
    teacher: UNet2DConditionModel | None = None,
) -> UNet2DConditionModel:
    """A U-Net trained from random weights, its moving average; resumed from a checkpoint that is there.

    show: called now and then with the step and the average so far. teacher: a U-Net whose prediction is the
    target, in the place of the noise, of which it is the mean: the gradient is less noisy.
    """
    alphas = scheduler().alphas_cumprod
    snr = alphas / (1 - alphas)
    weight = torch.minimum(snr, torch.full_like(snr, GAMMA)) / snr

    unet = build().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(unet.parameters(), lr=PEAK, weight_decay=1e-2, fused=True)
    ema = {k: v.clone() for k, v in unet.state_dict().items()}
    start = 0
    if checkpoint.exists():
        tensors, state = load_checkpoint(checkpoint)
        unpack(tensors, unet, optimiser, ema)
        start = state["step"]
    running = 0.0
    for step in range(start, steps):
        g = torch.Generator().manual_seed(step)
        for group in optimiser.param_groups:
            group["lr"] = cosine(step, steps, PEAK)
        z, c = lessons.batch(g)
        noise, t = (
            torch.randn(BATCH, 4, 16, 16, generator=g),
            torch.randint(len(alphas), (BATCH,), generator=g),
        )
        a = alphas[t].view(-1, 1, 1, 1)
        noisy = (a.sqrt() * z + (1 - a).sqrt() * noise).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=HALF):
            with torch.no_grad():
                target = noise if teacher is None else teacher(noisy, t, c).sample.float()
            out = unet(noisy, t, c).sample
        loss = (weight[t] * (out.float() - target).square().mean((1, 2, 3))).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimiser.step()
        decay = min(DECAY, (1 + step) / (10 + step))
        torch._foreach_lerp_(
            [v for v in ema.values()], [v.detach() for v in unet.state_dict().values()], 1 - decay
        )
        running += loss.item()
        if (step + 1) % 50 == 0:
            log(stage, step=step + 1, total=steps, loss=running / 50)
            running = 0.0
        if (step + 1) % 250 == 0:
            save_checkpoint(checkpoint, pack(unet, optimiser, ema), step=step + 1)
        if (step + 1) % 1000 == 0 or step == steps - 1:
            trial = build()
            trial.load_state_dict(ema)
            show(step + 1, trial.eval())
    unet.load_state_dict(ema)
    return unet.eval()


def grid(
    unet: UNet2DConditionModel, vae: AutoencoderKL, lessons: Lessons, file: Path, rows: torch.Tensor
) -> None:
    """Draw the concepts `rows` in every style, a line for each."""
    images = [
        vae.decode(draw(unet, lessons.contexts[rows, s + 1, 2], lessons.empty, seed=s)).sample
        for s in range(len(STYLES))
    ]
    page = torch.cat([torch.cat(list(i), -1) for i in images], -2).clamp(-1, 1)
    Image.fromarray(((page + 1) * 127.5).byte().permute(1, 2, 0).numpy()).save(file)


def main() -> None:
    if (OUT / "config.json").exists():
        return
    seed_everything(3)
    pictures, meta = data.load()
    vae = AutoencoderKL.from_pretrained(WORK / "vae").eval()
    z0 = latents(pictures, vae, WORK / "latents.safetensors")
    lessons = Lessons(z0, *contexts(meta["concepts"], np.random.default_rng(3), *text_encoder.load()))
    log(
        "unet",
        latents=list(z0.shape),
        contexts=list(lessons.contexts.shape),
        mean=z0.mean().item(),
        std=z0.std().item(),
    )
    rows = torch.arange(0, len(meta["concepts"]), 14)

    def show(step: int, unet: UNet2DConditionModel) -> None:
        with torch.no_grad():
            grid(unet, vae, lessons, WORK / f"unet-{step}.png", rows)

    train("unet", lessons, CKPT, STEPS, show).save_pretrained(OUT)


if __name__ == "__main__":
    main()
