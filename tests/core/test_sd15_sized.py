"""The same code on a network of Stable Diffusion 1.5's true size, with random weights."""

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from core.erasure import erase
from core.models import StableDiffusion
from core.specs import AgeSpec, EraseSpec, LoraSpec


def sd15_sized(tokenizer: CLIPTokenizer) -> StableDiffusion:
    """The published configuration of stable-diffusion-v1-5's U-Net and text encoder, at 256 px so that a step takes seconds; a small VAE, which erasing never runs."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=32, in_channels=4, out_channels=4, layers_per_block=2, block_out_channels=(320, 640, 1280, 1280), attention_head_dim=8,
        cross_attention_dim=768, down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    )  # fmt: skip
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    ))  # fmt: skip
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL(block_out_channels=(32,)), text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    return StableDiffusion(pipe)


@pytest.mark.slow
def test_age_trains_and_exports_a_lora_on_a_network_of_sd15_size(tiny_sd, tmp_path):
    model = sd15_sized(CLIPTokenizer.from_pretrained(tiny_sd / "tokenizer"))
    assert sum(p.numel() for p in model.unet.parameters()) == 859_520_964  # stable-diffusion-v1-5's
    method = AgeSpec(steps=2, batch_size=1, trajectories=1, sampling_steps=2, candidates=2, guidance_scale=1.0, lora=LoraSpec(rank=4))
    delta = erase(model, EraseSpec(concepts=["church"], method=method))
    assert len(delta.info["history"]) == 2
    assert len(delta.tensors) == 16 * 4 * 2  # q, k, v, out of sixteen cross-attentions, two factors each
    assert any(v.abs().max() > 0 for k, v in delta.tensors.items() if "lora_B" in k)
    with safe_open(delta.save(tmp_path), "pt") as file:
        assert file.get_tensor("unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight").shape == (4, 768)
    z, t, context = torch.randn(1, *model.latent_shape), torch.tensor([500]), model.encode(["a church"])
    with torch.no_grad():
        trained = model.predict(z, t, context)
        model.load_delta(tmp_path)
        torch.testing.assert_close(model.predict(z, t, context), trained, atol=1e-4, rtol=1e-3)
