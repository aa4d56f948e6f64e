"""Peak memory of AGE on a network of SD-1.5's size, one network with adapters against the authors' two:
`python -m benchmarks.memory`.

Random weights of the published configuration, 512 px, batch 1; each side is a process of its own. Three
optimiser steps each.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks.two_networks import TwoNetworks, age
from expunge.core.erasure import erase
from expunge.core.models.folders import BUNDLED
from expunge.core.models.stable_diffusion import StableDiffusion
from expunge.core.specs import AgeSpec, EraseSpec

RESULTS = Path(__file__).parent / "results" / "memory.json"
METHOD = AgeSpec(steps=2, batch_size=1, trajectories=1, sampling_steps=2, candidates=2, guidance_scale=1.0)


def sd15_sized(
    tokenizer: CLIPTokenizer, pixels: int = 512, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> StableDiffusion:
    """The published configuration of stable-diffusion-v1-5's U-Net and text encoder with random weights; a
    small VAE, which erasing never runs.
    """
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=pixels // 8,
        in_channels=4,
        out_channels=4,
        layers_per_block=2,
        block_out_channels=(320, 640, 1280, 1280),
        attention_head_dim=8,
        cross_attention_dim=768,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL(block_out_channels=(32,)),
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return StableDiffusion(pipe.to(device=device, dtype=dtype))


def peak(side: str, pixels: int) -> float:
    """GiB of this process after a short AGE run of one side."""
    tokenizer = CLIPTokenizer.from_pretrained(BUNDLED / "emoji" / "tokenizer")
    model = sd15_sized(tokenizer, pixels)
    if side == "one":
        erase(model, EraseSpec(concepts=["church"], method=METHOD))
    else:
        nets = TwoNetworks(model, sd15_sized(tokenizer, pixels), sampling_steps=2, guidance=1.0)
        age(nets, "church", METHOD, 1e-5)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    if len(sys.argv) > 2:
        print(peak(sys.argv[1], int(sys.argv[2])))
        return
    pixels = int(sys.argv[1]) if len(sys.argv) > 1 else 512
    measured = {}
    for side in ("one", "two"):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.memory", side, str(pixels)],
            check=True,
            capture_output=True,
            text=True,
        )
        measured[side] = float(done.stdout.split()[-1])
    ratio = measured["one"] / measured["two"]
    print(
        f"peak memory at {pixels} px: one network with adapters {measured['one']:.1f} GiB, two networks"
        f" {measured['two']:.1f} GiB, ratio {ratio:.2f}"
    )
    RESULTS.write_text(json.dumps(measured | {"pixels": pixels, "ratio": ratio}, indent=1) + "\n")


if __name__ == "__main__":
    main()
