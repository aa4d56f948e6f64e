"""Stage 2: AutoencoderKL, 64 px -> 16 x 16 x 4, trained on the pictures alone.

The error is taken in YCbCr with chroma weighed double: plain L1 in RGB settles in a minimum that loses a
colour axis. Channel permutations and inversions as augmentation make every hue common.
"""

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image

from recipes import data
from recipes.common import WORK, cosine, load_checkpoint, log, pack, save_checkpoint, seed_everything, unpack

STEPS, BATCH, PEAK = 2600, 24, 2e-3
CKPT = WORK / "vae.ckpt.safetensors"
OUT = WORK / "vae"
YCBCR = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


def build() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        sample_size=data.SIZE,
        scaling_factor=1.0,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
    )


def augment(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Flips, shifts of up to 6 px, channel permutations, inversions; (B, 3, H, W) in [-1, 1]."""
    out = []
    for x in pictures:
        r = torch.rand(4, generator=generator)
        if r[0] < 0.5:
            x = x.flip(-1)
        if r[1] < 0.4:
            x = x[torch.randperm(3, generator=generator)]
        if r[2] < 0.1:
            x = -x
        dx, dy = torch.randint(-6, 7, (2,), generator=generator).tolist()
        out.append(
            F.pad(x[None], (6, 6, 6, 6), mode="replicate")[
                0, :, 6 + dy : 6 + dy + data.SIZE, 6 + dx : 6 + dx + data.SIZE
            ]
        )
    return torch.stack(out)


def reconstruction(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """L1 + 4 L2 + 0.5 gradient, in YCbCr with chroma doubled."""
    d = torch.einsum("cd,bdhw->bchw", YCBCR, a - b) * torch.tensor([1.0, 2.0, 2.0]).view(1, 3, 1, 1)
    gradient = d.diff(dim=-1).abs().mean() + d.diff(dim=-2).abs().mean()
    return d.abs().mean() + 4 * d.square().mean() + 0.5 * gradient


def normalise(vae: AutoencoderKL, pictures: torch.Tensor) -> None:
    """Fold per-channel mean and deviation of the latents into quant_conv / post_quant_conv: latents leave as
    N(0, 1).
    """
    with torch.no_grad():
        z = torch.cat([vae.encode(x).latent_dist.mean for x in pictures.split(64)])
        mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
        w, b = vae.quant_conv.weight, vae.quant_conv.bias
        w[:4] /= std.view(-1, 1, 1, 1)
        b[:4] = (b[:4] - mean) / std
        b[4:] -= 2 * std.log()  # the log-variance follows the scale
        w, b = vae.post_quant_conv.weight, vae.post_quant_conv.bias
        b += (w[:, :, 0, 0] * mean).sum(1)
        w *= std.view(1, -1, 1, 1)


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """(..., H, W, 3) uint8 -> (N, 3, H, W) in [-1, 1]."""
    return (
        torch.from_numpy(pictures.reshape(-1, *pictures.shape[-3:])).permute(0, 3, 1, 2).float() / 127.5 - 1
    )


def main() -> None:
    if (OUT / "config.json").exists():
        return
    seed_everything(1)
    pictures = to_tensor(data.load()[0])
    vae = build().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(vae.parameters(), lr=PEAK, betas=(0.9, 0.99), weight_decay=1e-4)
    start = 0
    if CKPT.exists():
        tensors, meta = load_checkpoint(CKPT)
        unpack(tensors, vae, optimiser)
        start = meta["step"]
    for step in range(start, STEPS):
        generator = torch.Generator().manual_seed(step)
        for group in optimiser.param_groups:
            group["lr"] = cosine(step, STEPS, PEAK)
        index = torch.randint(len(pictures), (BATCH,), generator=generator)
        x = augment(pictures[index], generator).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            posterior = vae.encode(x).latent_dist
            y = vae.decode(
                posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=generator)
            ).sample
        loss = reconstruction(y.float(), x) + 1e-4 * posterior.kl().float().mean() / 256
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        if step % 50 == 0 or step == STEPS - 1:
            log("vae", step=step, total=STEPS, loss=loss.item())
        if (step + 1) % 250 == 0:
            save_checkpoint(CKPT, pack(vae, optimiser), step=step + 1)

    vae.eval()
    normalise(vae, pictures)
    with torch.no_grad():
        back = torch.cat(
            [vae.decode(vae.encode(x).latent_dist.mean).sample for x in pictures.split(64)]
        ).clamp(-1, 1)
    psnr = -10 * torch.log10((back - pictures).div(2).square().mean((1, 2, 3))).mean()
    log("vae", psnr=psnr.item())
    rows = torch.cat([torch.cat(list(t[::37][:20]), -1) for t in (pictures, back)], -2)
    Image.fromarray(((rows + 1) * 127.5).byte().permute(1, 2, 0).numpy()).save(WORK / "vae.png")
    vae.save_pretrained(OUT)


if __name__ == "__main__":
    main()
