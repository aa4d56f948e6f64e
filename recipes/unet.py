"""Stage 4: UNet2DConditionModel on precomputed latents and text states; DDPM objective, min-SNR weighting,
EMA.
"""

import os

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image

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
def latents(pictures: np.ndarray) -> torch.Tensor:
    """COPIES latents of every picture under small shifts and flips: (copies, concepts, styles, 4, 16, 16)."""
    cached = WORK / "latents.safetensors"
    if cached.exists():
        return load_checkpoint(cached)[0]["latents"]
    vae = AutoencoderKL.from_pretrained(WORK / "vae").eval()
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


def contexts(names: list[str], rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Text states of every prompt: (concepts, 1 + styles, prompts, length, width); the last two prompts
    carry stray words. And the empty prompt's.
    """
    tokenizer, model = text_encoder.load()
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


def main() -> None:
    if (OUT / "config.json").exists():
        return
    seed_everything(3)
    pictures, meta = data.load()
    z0 = latents(pictures)
    context, empty = contexts(meta["concepts"], np.random.default_rng(3))
    log(
        "unet",
        latents=list(z0.shape),
        contexts=list(context.shape),
        mean=z0.mean().item(),
        std=z0.std().item(),
    )
    vae = AutoencoderKL.from_pretrained(WORK / "vae").eval()
    alphas = scheduler().alphas_cumprod
    snr = alphas / (1 - alphas)
    weight = torch.minimum(snr, torch.full_like(snr, GAMMA)) / snr

    unet = build().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(unet.parameters(), lr=PEAK, weight_decay=1e-2, fused=True)
    ema = {k: v.clone() for k, v in unet.state_dict().items()}
    start = 0
    if CKPT.exists():
        tensors, state = load_checkpoint(CKPT)
        unpack(tensors, unet, optimiser, ema)
        start = state["step"]
    running = 0.0
    for step in range(start, STEPS):
        g = torch.Generator().manual_seed(step)

        def pick(n: int, g: torch.Generator = g) -> torch.Tensor:
            return torch.randint(n, (BATCH,), generator=g)

        for group in optimiser.param_groups:
            group["lr"] = cosine(step, STEPS, PEAK)
        copy, concept, prompt = pick(z0.shape[0]), pick(z0.shape[1]), pick(context.shape[2])
        style = torch.multinomial(torch.tensor(STYLE_SHARE), BATCH, replacement=True, generator=g)
        named = torch.rand(BATCH, generator=g) < NAMED
        c = context[concept, torch.where(named, style + 1, 0), prompt]
        c = torch.where((torch.rand(BATCH, generator=g) < DROP)[:, None, None], empty, c)
        z, noise, t = z0[copy, concept, style], torch.randn(BATCH, 4, 16, 16, generator=g), pick(1000)
        a = alphas[t].view(-1, 1, 1, 1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = unet(
                (a.sqrt() * z + (1 - a).sqrt() * noise).contiguous(memory_format=torch.channels_last), t, c
            ).sample
        loss = (weight[t] * (out.float() - noise).square().mean((1, 2, 3))).mean()
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
            log("unet", step=step + 1, total=STEPS, loss=running / 50)
            running = 0.0
        if (step + 1) % 250 == 0:
            save_checkpoint(CKPT, pack(unet, optimiser, ema), step=step + 1)
        if (step + 1) % 1000 == 0 or step == STEPS - 1:
            trial = build()
            trial.load_state_dict(ema)
            rows = torch.arange(0, len(meta["concepts"]), 14)
            images = [
                vae.decode(draw(trial.eval(), context[rows, s + 1, 2], empty, seed=s)).sample
                for s in range(len(STYLES))
            ]
            grid = torch.cat([torch.cat(list(i), -1) for i in images], -2).clamp(-1, 1)
            Image.fromarray(((grid + 1) * 127.5).byte().permute(1, 2, 0).numpy()).save(
                WORK / f"unet-{step + 1}.png"
            )
    unet.load_state_dict(ema)
    unet.save_pretrained(OUT)


if __name__ == "__main__":
    main()
