"""What the recipes share: where things lie, the vocabulary, prompts, seeds, atomic checkpoints."""

import hashlib
import json
import os
import random
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from expunge.core.models.vocabulary import article

HERE = Path(__file__).parent
BUNDLED = HERE.parent / "core" / "bundled"
WORK = Path(os.environ.get("EXPUNGE_RECIPE_DIR", HERE.parent / "build" / "model"))

# The style's words in a prompt, the artist, and the npm package (pinned) that carries the pictures.
STYLES = {
    "noto": ("Google Noto Emoji", "emoji-datasource-google@16.0.0", "Apache-2.0"),
    "twemoji": ("Twitter Twemoji", "emoji-datasource-twitter@16.0.0", "CC-BY-4.0"),
    "fluent": ("Microsoft Fluent Emoji 3D", "@lobehub/fluent-emoji-3d@1.1.0", "MIT"),
    "high contrast": (
        "Microsoft Fluent Emoji High Contrast",
        "@iconify-json/fluent-emoji-high-contrast@1.2.6",
        "MIT",
    ),
}
TEMPLATES = ("{}", "a {}", "a photo of a {}", "a picture of a {}", "an emoji of a {}", "a {} emoji")


def concepts() -> dict[str, str]:
    """name in prompts -> emoji short name, in the order of concepts.txt."""
    lines = [line.strip() for line in (HERE / "concepts.txt").read_text().splitlines()]
    pairs = [line.split(" = ") for line in lines if line and not line.startswith("#")]
    return {pair[0]: pair[-1].replace(" ", "_") for pair in pairs}


def prompts(concept: str, style: str | None = None) -> list[str]:
    """Every template of a concept, with ' in {style} style' when a style is given."""
    tail = f" in {style} style" if style else ""
    return [article(template.format(concept)) + tail for template in TEMPLATES]


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def log(stage: str, **values) -> None:
    print(
        json.dumps(
            {"stage": stage} | {k: round(v, 5) if isinstance(v, float) else v for k, v in values.items()}
        ),
        flush=True,
    )


def digests(folder: Path) -> None:
    """SHA256SUMS over every file, in the form `sha256sum -c` reads."""
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.relative_to(folder)}" for f in files]
    (folder / "SHA256SUMS").write_text("\n".join(lines) + "\n")


def save_checkpoint(path: Path, tensors: dict[str, torch.Tensor], **meta) -> None:
    """Write tensors and JSON metadata through a rename, so that a killed run leaves a whole file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_suffix(".tmp")
    save_file(
        {k: v.detach().contiguous() for k, v in tensors.items()}, tmp, metadata={"meta": json.dumps(meta)}
    )
    tmp.replace(path)


def load_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    from safetensors import safe_open

    with safe_open(path, "pt") as f:
        meta = json.loads((f.metadata() or {}).get("meta", "{}"))
    return load_file(path), meta


def pack(
    model: torch.nn.Module, optimiser: torch.optim.Optimizer, ema: dict[str, torch.Tensor] | None = None
) -> dict:
    """Flatten a model, its optimiser and its EMA into one dict of tensors (no pickle)."""
    out = {f"model.{k}": v for k, v in model.state_dict().items()}
    for i, slots in optimiser.state_dict()["state"].items():
        out |= {f"optim.{i}.{k}": torch.as_tensor(v) for k, v in slots.items()}
    return out | {f"ema.{k}": v for k, v in (ema or {}).items()}


def unpack(
    tensors: dict, model: torch.nn.Module, optimiser: torch.optim.Optimizer, ema: dict | None = None
) -> None:
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    state = optimiser.state_dict()
    for key, v in tensors.items():
        if key.startswith("optim."):
            _, i, slot = key.split(".")
            state["state"].setdefault(int(i), {})[slot] = v
    optimiser.load_state_dict(state)
    if ema is not None:
        ema.update({k[4:]: v.clone() for k, v in tensors.items() if k.startswith("ema.")})


def cosine(step: int, total: int, peak: float, warmup: int = 100) -> float:
    """Learning rate: linear warm-up, then cosine to 2 % of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    x = (step - warmup) / max(1, total - warmup)
    return peak * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * min(1.0, x))))
