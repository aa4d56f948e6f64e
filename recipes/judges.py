"""Stage 5: the judges, each separate from the model it judges: two timm ResNets (concept, style) and an
open_clip model.
"""

import json

import numpy as np
import open_clip
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from recipes import data
from recipes.common import WORK, cosine, log, prompts, seed_everything
from recipes.vae import to_tensor

OUT = WORK / "judges"
ARCHITECTURE = "test_resnet"  # timm's smallest ResNet
CLASSIFIER_STEPS, CLIP_STEPS = {"concept": 1000, "style": 1200}, 1600
CLIP = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": data.SIZE, "layers": [1, 1, 1, 1], "width": 16},  # CLIP's own ResNet, slim
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
}
MEAN, STD = [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]


def jitter(x: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    """Shift, scale, rotate, flip, tint, blur and add noise: (B, 3, H, W) in [-1, 1], on white."""
    n = len(x)

    def u(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=g)

    angle, scale, flip = u(-0.2, 0.2), u(0.85, 1.2), torch.where(torch.rand(n, generator=g) < 0.5, -1.0, 1.0)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    theta = torch.stack(
        [
            torch.stack([cos * flip, -sin, u(-0.12, 0.12)], 1),
            torch.stack([sin * flip, cos, u(-0.12, 0.12)], 1),
        ],
        1,
    )
    x = (
        F.grid_sample(x - 1, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)
        + 1
    )
    x = x * u(0.8, 1.1, 3, 1, 1) + u(-0.08, 0.08, 3, 1, 1)
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = torch.lerp(x, soft, u(-0.2, 0.6, 1, 1, 1))
    return (x + u(0, 0.08, 1, 1, 1) * torch.randn(x.shape, generator=g)).clamp(-1, 1)


@torch.no_grad()
def corpus() -> tuple[torch.Tensor, torch.Tensor]:
    """Real pictures and the same after a VAE round trip: (2, concepts * styles, 3, H, W)."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(WORK / "vae").eval()
    real = to_tensor(data.load()[0])
    return torch.stack(
        [
            real,
            torch.cat([vae.decode(vae.encode(b).latent_dist.mean).sample for b in real.split(64)]).clamp(
                -1, 1
            ),
        ]
    )


def save_classifier(name: str, model: torch.nn.Module, classes: list[str]) -> None:
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architecture": ARCHITECTURE,
        "classes": classes,
        "input_size": data.SIZE,
        "mean": MEAN,
        "std": STD,
    }
    save_file(
        {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in model.state_dict().items()},
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def classifier(
    name: str, pictures: torch.Tensor, labels: torch.Tensor, classes: list[str], seed: int
) -> None:
    """AdamW, label smoothing; accuracy is measured on pictures augmented with a seed never trained on."""
    if (OUT / name / "config.json").exists():
        return
    seed_everything(seed)
    model = (
        timm.create_model(ARCHITECTURE, num_classes=len(classes))
        .to(memory_format=torch.channels_last)
        .train()
    )
    optimiser, steps = (
        torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.02),
        CLASSIFIER_STEPS[name],
    )
    for step in range(steps):
        g = torch.Generator().manual_seed(seed * 10**6 + step)
        for group in optimiser.param_groups:
            group["lr"] = cosine(step, steps, 4e-3)
        index, trip = (
            torch.randint(pictures.shape[1], (96,), generator=g),
            torch.randint(2, (96,), generator=g),
        )
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(
                jitter(pictures[trip, index], g).contiguous(memory_format=torch.channels_last)
            ).float()
        loss = F.cross_entropy(logits, labels[index], label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 100 == 0:
            log(f"judge {name}", step=step, total=steps, loss=loss.item())
    model.eval()
    g = torch.Generator().manual_seed(99)
    with torch.no_grad():
        right = [
            (model(jitter(pictures[0, i], g)).argmax(1) == labels[i]).float()
            for _ in range(4)
            for i in torch.arange(pictures.shape[1]).split(110)
        ]
    log(f"judge {name}", accuracy_on_augmented=torch.cat(right).mean().item())
    save_classifier(name, model, classes)


def clip(pictures: torch.Tensor, names: list[str], styles: list[str], seed: int) -> None:
    """Symmetric InfoNCE over batches of distinct concepts."""
    if (OUT / "clip" / "open_clip_config.json").exists():
        return
    seed_everything(seed)
    config = WORK / "open_clip" / "emoji-clip.json"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(json.dumps(CLIP))
    open_clip.add_model_config(config)
    model, tokenizer = open_clip.create_model("emoji-clip").train(), open_clip.get_tokenizer("emoji-clip")
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
    shaped = pictures.view(2, len(names), len(styles), *pictures.shape[2:])
    for step in range(CLIP_STEPS):
        g, rng = torch.Generator().manual_seed(seed * 10**6 + step), np.random.default_rng(step)
        for group in optimiser.param_groups:
            group["lr"] = cosine(step, CLIP_STEPS, 2e-3)
        chosen = torch.randperm(len(names), generator=g)[:96]
        style, trip = torch.randint(len(styles), (96,), generator=g), torch.randint(2, (96,), generator=g)
        named = torch.rand(96, generator=g) < 0.5
        captions = [
            str(rng.choice(prompts(names[c], styles[s] if k else None)))
            for c, s, k in zip(chosen, style, named, strict=True)
        ]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            image, text, scale = model(jitter(shaped[trip, chosen, style], g), tokenizer(captions))
        logits, target = scale * image.float() @ text.float().T, torch.arange(96)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=4.6)
        if step % 100 == 0:
            log("judge clip", step=step, total=CLIP_STEPS, loss=loss.item())
    model.eval()
    with torch.no_grad():
        text = F.normalize(model.encode_text(tokenizer([f"a photo of a {n}" for n in names])), dim=-1)
        g = torch.Generator().manual_seed(99)
        features = torch.cat(
            [F.normalize(model.encode_image(jitter(b, g)), dim=-1) for b in pictures[0].split(110)]
        )
    labels = torch.arange(len(names)).repeat_interleave(len(styles))
    log("judge clip", zero_shot_on_augmented=((features @ text.T).argmax(1) == labels).float().mean().item())
    folder = OUT / "clip"
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": CLIP, "preprocess_cfg": preprocess}, indent=1) + "\n"
    )
    save_file(
        {k: v.half().contiguous() for k, v in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )


def main() -> None:
    _, meta = data.load()
    names, styles = meta["concepts"], meta["styles"]
    pictures = corpus()
    order = torch.arange(pictures.shape[1])
    classifier("concept", pictures, order // len(styles), names, seed=11)
    classifier("style", pictures, order % len(styles), styles, seed=12)
    clip(pictures, names, styles, seed=13)


if __name__ == "__main__":
    main()
