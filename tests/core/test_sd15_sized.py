"""The same code on a network of Stable Diffusion 1.5's true size, with random weights."""

import pytest
import torch
from safetensors import safe_open
from transformers import CLIPTokenizer

from benchmarks.memory import sd15_sized
from expunge.core.erasure import erase
from expunge.core.specs import AgeSpec, EraseSpec, LoraSpec


@pytest.mark.slow
def test_age_trains_and_exports_a_lora_on_a_network_of_sd15_size(tiny_sd, tmp_path):
    model = sd15_sized(CLIPTokenizer.from_pretrained(tiny_sd / "tokenizer"), pixels=64)
    assert sum(p.numel() for p in model.unet.parameters()) == 859_520_964  # stable-diffusion-v1-5's
    method = AgeSpec(
        steps=2,
        batch_size=1,
        trajectories=1,
        sampling_steps=2,
        candidates=2,
        concept_space=["castle", "mosque", "barn", "ship"],  # 3,597 words take CLIP's encoder five minutes
        guidance_scale=1.0,
        lora=LoraSpec(rank=4),
    )
    delta = erase(model, EraseSpec(concepts=["church"], method=method))
    assert len(delta.info["history"]) == 2
    assert len(delta.tensors) == 16 * 4 * 2  # q, k, v, out of sixteen cross-attentions, two factors each
    assert any(v.abs().max() > 0 for k, v in delta.tensors.items() if "lora_B" in k)
    with safe_open(delta.save(tmp_path), "pt") as file:
        assert file.get_tensor(
            "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight"
        ).shape == (4, 768)
    z, t, context = torch.randn(1, *model.latent_shape), torch.tensor([500]), model.encode(["a church"])
    with torch.no_grad():
        trained = model.predict(z, t, context)
        model.load_delta(tmp_path)
        torch.testing.assert_close(model.predict(z, t, context), trained, atol=1e-4, rtol=1e-3)
