"""The shipped weights are what the recipes wrote, and plain diffusers draws with them."""

import hashlib

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from expunge.core.evaluation.judges import load_classifier
from expunge.core.evaluation.judges.none_of_these import look
from expunge.core.models import load_model
from expunge.core.models.folders import BUNDLED


def test_every_shipped_file_has_its_recorded_digest():
    recorded = dict(reversed(line.split("  ")) for line in (BUNDLED / "SHA256SUMS").read_text().splitlines())
    found = {
        f.relative_to(BUNDLED).as_posix()
        for f in BUNDLED.rglob("*")
        if f.is_file() and f.name != "SHA256SUMS"
    }
    assert found == set(recorded)
    for name, digest in recorded.items():
        assert hashlib.sha256((BUNDLED / name).read_bytes()).hexdigest() == digest, name


def test_plain_diffusers_draws_what_the_judge_recognises():
    pipe = StableDiffusionPipeline.from_pretrained(str(BUNDLED / "emoji"))
    pipe.set_progress_bar_config(disable=True)
    names = ["church", "pizza", "umbrella", "guitar"]
    seeds = [torch.Generator().manual_seed(1) for _ in names]
    images = pipe(
        [f"a photo of a {n}" for n in names], generator=seeds, num_inference_steps=20, output_type="np"
    ).images
    judge = load_classifier(BUNDLED / "judges" / "concept")
    top5 = judge.logits((images * 255).round().astype(np.uint8)).topk(5).indices.tolist()
    assert all(name in [judge.classes[i] for i in top] for name, top in zip(names, top5, strict=True))
    assert not judge.sees_none((images * 255).round().astype(np.uint8)).any()


def test_the_judge_says_none_of_these_of_what_is_no_picture_and_its_guesses_are_the_classifiers_own():
    judge = load_classifier(BUNDLED / "judges" / "concept")
    x, y = np.meshgrid(np.arange(64), np.arange(64))
    lattice = np.where(((x % 8 < 3) | (y % 8 < 3))[..., None], [0, 180, 200], 255).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    black, grey = np.zeros_like(noise), np.full_like(noise, 128)
    junk = np.stack([lattice, noise, black, grey])
    assert judge.sees_none(junk).all()
    pixels = torch.stack([judge.transform(Image.fromarray(picture)) for picture in junk])
    with torch.inference_mode():
        assert torch.equal(look(judge.model, pixels)[0], judge.model(pixels))


def test_neighbours_are_neighbours_and_unknown_words_do_no_harm():
    model = load_model("bundled:emoji")
    words = ["a church", "a mosque", "a teapot", "a lovely blorp church, please"]
    lengths = [len(ids) for ids in model.text.token_ids(words)]
    ends = model.encode(words).states[range(len(words)), [n - 1 for n in lengths]]
    church, mosque, teapot, wordy = torch.nn.functional.normalize(ends, dim=-1)
    assert church @ mosque > church @ teapot
    assert church @ wordy > church @ mosque
