"""Which pictures are drawn to judge a model, and a cache, addressed by content, so that none is drawn
twice.
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from expunge.core.concepts import banned_words, distances, excluding, names_of, remaining
from expunge.core.errors import CoreError
from expunge.core.evaluation.judges import Images
from expunge.core.models import Denoiser, Vocabulary
from expunge.core.progress import Callback, ignore
from expunge.core.specs import Concept, EvaluationSpec
from expunge.core.specs.cost import erased_images

CACHE_BYTES = 4 << 30
CACHED = re.compile(r"([0-9a-f]{2})/\1[0-9a-f]{62}\.png")  # as `draw` writes them
CHUNK = 16  # pictures between progress reports; each is on disk before the next chunk starts
Role = Literal["erased", "preserved"]


@dataclass(frozen=True)
class Picture:
    """One picture to draw, with both models; `subject` is the object that a style was asked for around."""

    concept: str
    role: Role
    prompt: str
    seed: int
    subject: str | None = None


def preserved_concepts(
    model: Denoiser, erased: Sequence[Concept], preserve: Sequence[str], spec: EvaluationSpec
) -> list[str]:
    """The concepts named; without names, the nearest neighbours of the erased ones and strangers, half and
    half. Never an erased one.

    Of a style the neighbours are the other styles, up to half of all, and the objects are strangers.
    """
    vocabulary, gone = model.vocabulary, banned_words(model, erased)
    named = [*preserve, *(spec.preserved_concepts or [])]
    clash = next((name for name in named if not remaining(vocabulary, [name], gone)), None)
    if clash is not None:
        raise CoreError(
            "bad_preserved_concept",
            f"'{clash}' is to be erased: it cannot be judged as preserved",
            field="evaluation.preserved_concepts",
        )
    chosen = list(named)
    if spec.preserved_concepts is None:
        styles = [c.name for c in erased if vocabulary.style(c.name) is not None]
        if styles:
            pool = excluding(model, vocabulary.styles, erased)
            chosen += neighbours_and_strangers(model, styles, pool, spec.preserved_count // 2)
        pool = excluding(model, vocabulary.concepts, erased)
        left = spec.preserved_count - (len(chosen) - len(named))
        chosen += neighbours_and_strangers(
            model, [c.name for c in erased if c.name not in styles], pool, left
        )
    unique: dict[str, str] = {}
    for name in chosen:
        unique.setdefault(name.casefold(), name)
    return list(unique.values())


def neighbours_and_strangers(
    model: Denoiser, erased: Sequence[str], pool: list[str], count: int
) -> list[str]:
    """Half the names are the pool's nearest to any erased one, in the text encoder's space; half are drawn,
    with a fixed seed, from the farther ones.

    With nothing erased all are drawn.
    """
    if not pool:
        return []
    if not erased:
        return [pool[i] for i in sorted(np.random.default_rng(0).permutation(len(pool))[:count].tolist())]
    away = torch.stack([distances(model, name, pool) for name in erased]).amin(0)
    order = away.argsort(stable=True).tolist()
    near, rest = order[: count // 2], order[count // 2 :]
    far = rest[min(len(rest) // 2, max(0, len(rest) - count)) :]
    strangers = np.random.default_rng(0).permutation(far)[: count - len(near)].tolist()
    return [pool[i] for i in [*near, *sorted(strangers)]]


def plan(
    vocabulary: Vocabulary, erased: Sequence[Concept], preserved: Sequence[str], spec: EvaluationSpec
) -> list[Picture]:
    """The prompts (templates and synonyms in turn) and seeds (`spec.seed` upwards) of every concept.

    A style is asked for around objects that no method was trained on.
    """
    pictures, count = list[Picture](), erased_images(spec, len(erased))

    def add(name: str, words: Sequence[str], role: Role, images: int) -> None:
        prompts = [
            pair
            for group in zip(*(asked(vocabulary, word) for word in words), strict=False)
            for pair in group
        ]
        for i in range(images):
            prompt, subject = prompts[i % len(prompts)]
            pictures.append(Picture(name, role, prompt, spec.seed + i, subject))

    for concept in erased:
        add(concept.name, names_of(concept), "erased", count)
    for name in preserved:
        images = (
            spec.preserved_images if vocabulary.style(name) is None else max(count, spec.preserved_images)
        )
        add(name, [name], "preserved", images)
    return pictures


def asked(vocabulary: Vocabulary, name: str) -> list[tuple[str, str | None]]:
    """The prompts that ask for a concept, each with its object where the concept is a style."""
    style = vocabulary.style(name)
    if style is None:
        return [(prompt, None) for prompt in vocabulary.prompts(name)]
    return [(vocabulary.styled(o, style), o) for o in vocabulary.objects(held_out=True)]


def draw(
    model: Denoiser,
    pictures: Sequence[Picture],
    spec: EvaluationSpec,
    *,
    cache: Path,
    delta_digest: str | None,
    keys: Tensor | None = None,
    callback: Callback = ignore,
) -> Images:
    """Draw (N, H, W, 3): with the base model when `delta_digest` is None, else with the model as it is.
    Cached pictures are read.

    `keys`, (N, m, D), are the recovery keys to draw with.
    """
    digests = (
        [None] * len(pictures)
        if keys is None
        else [hashlib.sha256(k.numpy().tobytes()).hexdigest() for k in keys]
    )
    addresses = [
        key_of(model, delta_digest, p, spec, digest) for p, digest in zip(pictures, digests, strict=True)
    ]
    files = [cache / address[:2] / f"{address}.png" for address in addresses]
    images = [read(file) for file in files]
    todo = [i for i, image in enumerate(images) if image is None]
    ready = len(pictures) - len(todo)
    callback({"phase": "evaluate", "step": ready, "total": len(pictures)})
    with model.frozen() if delta_digest is None else nullcontext():
        size = max(CHUNK, spec.batch_size)
        for start in range(0, len(todo), size):
            chunk = todo[start : start + size]
            drawn = model.draw(
                [pictures[i].prompt for i in chunk],
                [pictures[i].seed for i in chunk],
                steps=spec.sampling_steps,
                guidance=spec.guidance_scale,
                batch=spec.batch_size,
                key=None if keys is None else keys[chunk],
            )
            for i, image in zip(chunk, drawn, strict=True):
                images[i] = image
                write(files[i], image)
            callback({"phase": "evaluate", "step": ready + start + len(chunk), "total": len(pictures)})
    return np.stack([image for image in images if image is not None])


def key_of(
    model: Denoiser,
    delta_digest: str | None,
    picture: Picture,
    spec: EvaluationSpec,
    recovery_key: str | None = None,
) -> str:
    """sha256 of everything a picture depends on; of a recovery key, its digest."""
    parts: dict[str, Any] = {
        "model": model.digest,
        "delta": delta_digest,
        "prompt": picture.prompt,
        "seed": picture.seed,
        "steps": spec.sampling_steps,
        "guidance": spec.guidance_scale,
        "scheduler": model.sampler_settings,
        "device": str(model.device).split(":")[0],
        "dtype": str(model.dtype),
        "libraries": [version(name) for name in ("torch", "diffusers", "transformers")],
    }
    if recovery_key is not None:
        parts["recovery_key"] = recovery_key
    words = {name: word.digest for name, word in model.words.items() if name in picture.prompt}
    parts |= {"words": words} if words else {}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def prune(cache: Path, limit: int = CACHE_BYTES) -> None:
    """Drop the pictures longest unused until the cache fits; a picture that is wanted again is drawn
    again.
    """
    found = []
    for file in cache.glob("??/*.png"):
        if not CACHED.fullmatch(file.relative_to(cache).as_posix()):
            continue  # the folder may be anybody's: only what `draw` names is ours
        with suppress(FileNotFoundError):
            found.append((file.stat().st_mtime, file.stat().st_size, file))
    excess = sum(size for _, size, _ in found) - limit
    for _, size, file in sorted(found):
        if excess <= 0:
            return
        file.unlink(missing_ok=True)
        excess -= size


def read(file: Path) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
    """A cached picture; None when it is not there or not whole."""
    try:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB"))
        os.utime(file)  # used now: see prune
        return pixels
    except Exception:  # a broken file may make the parser raise anything
        return None


def write(file: Path, image: np.ndarray[Any, Any]) -> None:
    """Write through a rename: of two writers of one picture either may win, and a reader sees a whole
    file.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
    with os.fdopen(handle, "wb") as stream:
        Image.fromarray(image).save(stream, format="PNG")
    os.replace(name, file)
