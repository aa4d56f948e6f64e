"""A model that never knew: `python -m recipes.never_knew` trains the bundled U-Net from random weights,
without the pictures of ten concepts.

It is what unlearning is measured by: what an attack finds on it, it would find on any model. The rest is the
bundled model's own: VAE, text encoder, prompts. The target is the bundled U-Net's prediction for the *other*
concepts, in the place of the noise, of which it is the mean: fewer steps then teach as much. It resumes where
it was stopped; what it draws of what it was taught is judged at the end.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from torch import Tensor

from expunge.core.evaluation.judges import load_classifier
from expunge.core.models import Denoiser, load_model
from expunge.core.models.folders import BUNDLED
from expunge.core.models.loading import fitting
from expunge.core.models.stable_diffusion import StableDiffusion, load_pipeline
from expunge.core.models.vocabulary import article
from expunge.core.sources import fetch
from recipes import data, unet
from recipes.common import STYLES, WORK, log, seed_everything
from recipes.measure import row, top

UNKNOWN = (
    "church",
    "owl",
    "trumpet",
    "teapot",
    "fire engine",
    "fish",
    "parachute",
    "radio",
    "guitar",
    "fuel pump",
)
STEPS = int(os.environ.get("NEVER_KNEW_STEPS", 6000))
FOLDER = WORK / "never_knew"
OUT = FOLDER / "unet"


SOURCE = "bundled:emoji"


class NeverKnew(StableDiffusion):
    """The bundled model with the weights of a U-Net that never knew; `frozen`, it is the bundled model."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        layout = fetch(SOURCE)
        super().__init__(load_pipeline(layout, fitting("cpu")), layout.folder, SOURCE)
        self.others, self.is_base = weights, True
        self.swap()

    def swap(self) -> None:
        """The bundled U-Net's weights for the other's, or back."""
        for name, parameter in self.unet.named_parameters():
            parameter.data, self.others[name] = self.others[name], parameter.data
        self.is_base = not self.is_base

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Inside, the model is the bundled model."""
        if self.is_base:
            yield
            return
        self.swap()
        try:
            yield
        finally:
            self.swap()


def load(folder: Path = OUT) -> tuple[Denoiser, str]:
    """The trained model, and the sha256 of its weights.

    Raises: SystemExit where the recipe has not come to its end.
    """
    file = folder / "diffusion_pytorch_model.safetensors"
    if not file.exists():
        raise SystemExit(f"{file} is not there: python -m recipes.never_knew trains it, in some hours")
    weights = UNet2DConditionModel.from_pretrained(folder).state_dict()
    return NeverKnew(weights), hashlib.sha256(file.read_bytes()).hexdigest()


def teach(steps: int = STEPS, folder: Path = FOLDER) -> None:
    """Train it, unless it is there."""
    if (folder / "unet" / "config.json").exists():
        return
    seed_everything(3)
    data.main()
    pictures, meta = data.load()
    kept = [i for i, name in enumerate(meta["concepts"]) if name not in UNKNOWN]
    names = [meta["concepts"][i] for i in kept]
    pipe = load_model(SOURCE).pipe
    z = unet.latents(pictures[kept], pipe.vae, folder / "latents.safetensors")
    asked = unet.contexts(names, np.random.default_rng(3), pipe.tokenizer, pipe.text_encoder)
    lessons, rows = unet.Lessons(z, *asked), torch.arange(0, len(names), 14)

    def show(step: int, average: UNet2DConditionModel) -> None:
        with torch.no_grad():
            unet.grid(average, pipe.vae, lessons, folder / f"{step}.png", rows)

    checkpoint = folder / "unet.ckpt.safetensors"
    taught = unet.train("never_knew", lessons, checkpoint, steps, show, teacher=pipe.unet)
    taught.save_pretrained(folder / "unet")


def judged(model: Denoiser) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of every concept that was taught, without a style and in two styles, and the place of each
    picture's concept in the vocabulary.
    """
    known = [(i, name) for i, name in enumerate(model.vocabulary.concepts) if name not in UNKNOWN]
    styles = list(STYLES)
    asked = [(i, article(f"a photo of a {name}"), 1) for i, name in known]
    for k in (0, 2):
        asked += [
            (i, article(f"a photo of a {name}") + f" in {styles[(i + k) % len(styles)]} style", 10 + k)
            for i, name in known
        ]
    pictures = model.draw([prompt for _, prompt, _ in asked], [seed for *_, seed in asked])
    return pictures, np.array([i for i, *_ in asked])


def main() -> None:
    teach()
    model, digest = load()
    judge = load_classifier(BUNDLED / "judges" / "concept")
    pictures, labels = judged(model)
    scores = judge.logits(pictures).numpy()
    for k in (1, 5):
        log("never_knew", **row(f"top-{k} of the concepts that it was taught", top(scores, labels, k)))

    # What it draws when asked for the others, a line for each
    prompts = [article(f"a photo of a {name}") for name in UNKNOWN for _ in range(8)]
    seen = model.draw(prompts, list(range(len(prompts))))
    places = np.repeat([model.vocabulary.concepts.index(name) for name in UNKNOWN], 8)
    log("never_knew", **row("top-1 of the ten", top(judge.logits(seen).numpy(), places, 1)), sha256=digest)
    lines = [np.concatenate(list(seen[i : i + 8]), 1) for i in range(0, len(seen), 8)]
    Image.fromarray(np.concatenate(lines)).save(FOLDER / "the ten.png")


if __name__ == "__main__":
    main()
