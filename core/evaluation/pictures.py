"""Which pictures are drawn to judge a model; and a cache, addressed by content, so that none is drawn
twice.
"""

import functools
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from expunge.core.cached_files import delete_longest_unused
from expunge.core.concepts import banned_words, distances, excluding, names_of, remaining
from expunge.core.errors import CoreError
from expunge.core.evaluation.judges import Images
from expunge.core.evaluation.unseen_prompts import Unseen, unseen
from expunge.core.models import Denoiser, Vocabulary
from expunge.core.models.vocabulary import article
from expunge.core.progress import Callback, ignore
from expunge.core.specs import Concept, EvaluationSpec
from expunge.core.specs.cost import decides, erased_images, held_out_images, pair_images

CACHE_BYTES = 4 << 30
CACHED = re.compile(r"([0-9a-f]{2})/\1[0-9a-f]{62}\.png")  # as `draw` writes them
REACH = 20  # how many of the nearest AGE and AP search by default
CHUNK = 16  # pictures between two progress reports
Role = Literal["erased", "preserved"]
Kind = Literal["template", Unseen, "pair"]


@dataclass(frozen=True)
class Picture:
    """One picture to draw with both models.

    subject: of a style's templates, the object that is drawn in it; of a pair, the second object.
    kind: how the prompt asks: by the templates that methods train on, in words that none trains on, or for
    two preserved objects at once.
    """

    concept: str
    role: Role
    prompt: str
    seed: int
    subject: str | None = None
    kind: Kind = "template"


def preserved_concepts(
    model: Denoiser,
    erased: Sequence[Concept],
    preserve: Sequence[str],
    spec: EvaluationSpec,
    held: Sequence[str] = (),
    reach: int | None = REACH,
) -> list[str]:
    """The preserved concepts to judge: those named in the request or, where the evaluation names none, also
    nearest neighbours of the erased concepts and others, half and half (see `neighbours_and_strangers`). For
    an erased style the neighbours are the other styles, up to half of all, and the others are objects.

    held: what the run saw while training; the others begin with the nearest that it did not.

    Raises: CoreError where a named concept is itself to be erased.
    """
    vocabulary = model.vocabulary
    named = [*preserve, *(spec.preserved_concepts or [])]
    banned = banned_words(model, erased)
    for name in named:
        if not remaining(vocabulary, [name], banned):
            raise CoreError(
                "bad_preserved_concept",
                f"'{name}' is to be erased, so it cannot be judged as preserved: remove one of the two",
                field="evaluation.preserved_concepts",
            )

    # Without names: half of them from the styles, where a style is erased, the rest from the objects
    chosen = list(named)
    if spec.preserved_concepts is None:
        styles = [c.name for c in erased if vocabulary.style(c.name) is not None]
        objects = [c.name for c in erased if c.name not in styles]
        count = spec.preserved_count
        if styles:
            pool = excluding(model, vocabulary.styles, erased)
            near = neighbours_and_strangers(model, styles, pool, count // 2, held, reach)
            chosen += near
            count -= len(near)
        pool = excluding(model, vocabulary.concepts, erased)
        chosen += neighbours_and_strangers(model, objects, pool, count, held, reach)

    # Each once, as it was spelt first
    unique: dict[str, str] = {}
    for name in chosen:
        unique.setdefault(name.casefold(), name)
    return list(unique.values())


def neighbours_and_strangers(
    model: Denoiser,
    erased: Sequence[str],
    pool: list[str],
    count: int,
    held: Sequence[str] = (),
    reach: int | None = REACH,
) -> list[str]:
    """`count` names of the pool, by their distance from an erased concept in the text encoder's space: half
    are the nearest, a quarter come next after the `reach`-th (None: no such quarter; see `beyond`), the rest
    are drawn, with a fixed seed, from those farther away. Where nothing is erased, all are drawn.
    """
    if not pool:
        return []
    draw = np.random.default_rng(0).permutation
    if not erased:
        return [pool[i] for i in sorted(draw(len(pool))[:count].tolist())]
    away = torch.stack([distances(model, name, pool) for name in erased]).amin(0)
    order = away.argsort(stable=True).tolist()
    near, others = order[: count // 2], order[count // 2 :]
    if reach is not None:
        seen = {model.vocabulary.key(name) for name in held}
        unheld = [i for i in others if model.vocabulary.key(pool[i]) not in seen]
        near = [*near, *beyond(order, others, unheld, reach)[: count // 4]]
    rest = [i for i in others if i not in near]
    far = rest[min(len(rest) // 2, max(0, len(rest) - count)) :]
    strangers = draw(far)[: count - len(near)].tolist()
    return [pool[i] for i in [*near, *sorted(strangers)]]


def beyond(order: list[int], others: list[int], unheld: list[int], reach: int) -> list[int]:
    """Of `order`, the nearest first, those others that come next after what a search reaches, the unheld
    first. So they are the same for every method that holds no more than that. Of fewer than twice as many
    names: all others.
    """
    wanted = order[reach:] if len(order) >= 2 * reach else order
    return sorted((i for i in wanted if i in others), key=lambda i: i not in unheld)


def plan(
    vocabulary: Vocabulary, erased: Sequence[Concept], preserved: Sequence[str], spec: EvaluationSpec
) -> list[Picture]:
    """The pictures of every concept: its prompts in turn (templates, for every synonym), with seeds from
    `spec.seed` upwards. A style is drawn on objects that no method was trained on. Where more may be drawn,
    each prompt has as many pictures. Then erased concepts in words that no method trains on, and pairs of
    preserved objects.
    """
    pictures = list[Picture]()
    count = erased_images(spec, len(erased))
    for concept in erased:
        images = count
        if decides(spec, len(erased)):
            size = len(prompts_in_turn(vocabulary, names_of(concept)))
            images = -(-count // size) * size
        pictures += pictures_of(vocabulary, concept.name, names_of(concept), "erased", images, spec.seed)
    for name in preserved:
        images = spec.preserved_images
        if vocabulary.style(name) is not None:
            images = max(images, count)
        pictures += pictures_of(vocabulary, name, [name], "preserved", images, spec.seed)

    more = held_out_images(spec, len(erased))
    for concept in erased:
        if not concept.attributes:
            pictures += unseen_pictures(vocabulary, concept, more, spec.seed + count)
    objects = [name for name in preserved if vocabulary.style(name) is None]
    return pictures + pairs_of(objects, pair_images(spec, len(preserved)), spec.seed)


def unseen_pictures(vocabulary: Vocabulary, concept: Concept, count: int, seed: int) -> list[Picture]:
    """`count` pictures of an erased concept: the kinds take turns, and within a kind its prompts."""
    kinds = list(unseen(vocabulary, concept).items())
    pictures = []
    for i in range(count):
        turn, place = divmod(i, len(kinds))
        kind, prompts = kinds[place]
        prompt = prompts[turn % len(prompts)]
        pictures.append(Picture(concept.name, "erased", prompt, seed + i, kind=kind))
    return pictures


def pairs_of(objects: Sequence[str], count: int, seed: int) -> list[Picture]:
    """`count` pictures of two objects each: the k-th with the one half the list away, a neighbour with a
    stranger.
    """
    half = len(objects) // 2
    pictures = []
    for i in range(count if half else 0):
        first, second = objects[i % half], objects[half + i % half]
        prompt = article(f"a {first} and a {second}")
        pictures.append(Picture(first, "preserved", prompt, seed + i, second, "pair"))
    return pictures


def pictures_of(
    vocabulary: Vocabulary, concept: str, words: Sequence[str], role: Role, count: int, seed: int
) -> list[Picture]:
    """`count` pictures of one concept, its prompts in turn."""
    prompts = prompts_in_turn(vocabulary, words)
    pictures = []
    for i in range(count):
        prompt, subject = prompts[i % len(prompts)]
        pictures.append(Picture(concept, role, prompt, seed + i, subject))
    return pictures


def prompts_in_turn(vocabulary: Vocabulary, words: Sequence[str]) -> list[tuple[str, str | None]]:
    """The prompts of a concept, each once; the words take turns: the first template with each, then the
    next.
    """
    prompts = list[tuple[str, str | None]]()
    for group in zip(*(prompts_of(vocabulary, word) for word in words), strict=False):
        prompts += group
    return list(dict.fromkeys(prompts))


def prompts_of(vocabulary: Vocabulary, name: str) -> list[tuple[str, str | None]]:
    """The prompts that ask for a concept; of a style, each with the object that is drawn in it."""
    style = vocabulary.style(name)
    if style is None:
        return [(prompt, None) for prompt in vocabulary.prompts(name)]
    return [(vocabulary.styled(thing, style), thing) for thing in vocabulary.objects(held_out=True)]


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
    """Draw the pictures, (N, H, W, 3): with the base model where `delta_digest` is None, else with the model
    as it is. Pictures in the cache are read instead.

    keys: of a hide job, the recovery key to draw each picture with, (N, m, D). A picture that is not finite
    is black for an erased concept. Raises: CoreError where it is of a preserved one.
    """
    # Which pictures the cache lacks
    key_digests: list[str | None] = [None] * len(pictures)
    if keys is not None:
        key_digests = [hashlib.sha256(key.numpy().tobytes()).hexdigest() for key in keys]
    files = []
    for picture, key_digest in zip(pictures, key_digests, strict=True):
        address = key_of(model, delta_digest, picture, spec, key_digest)
        files.append(cache / address[:2] / f"{address}.png")
    images = [read(file) for file in files]
    todo = [i for i, image in enumerate(images) if image is None]
    done = len(pictures) - len(todo)
    callback({"phase": "evaluate", "step": done, "total": len(pictures)})

    # Draw them, a chunk at a time: each is on disk before the next chunk starts
    with model.frozen() if delta_digest is None else nullcontext():
        for role, chunk in chunks(todo, pictures, max(CHUNK, spec.batch_size)):
            drawn = model.draw(
                [pictures[i].prompt for i in chunk],
                [pictures[i].seed for i in chunk],
                steps=spec.sampling_steps,
                guidance=spec.guidance_scale,
                batch=spec.batch_size,
                key=None if keys is None else keys[chunk],
                finite=role == "preserved",
            )
            for i, image in zip(chunk, drawn, strict=True):
                images[i] = image
                write(files[i], image)
            done += len(chunk)
            callback({"phase": "evaluate", "step": done, "total": len(pictures)})
    return np.stack([image for image in images if image is not None])


def chunks(rows: list[int], pictures: Sequence[Picture], size: int) -> Iterator[tuple[Role, list[int]]]:
    """The rows in pieces of one role, `size` at most: the erased concepts' first."""
    for role in get_args(Role):
        own = [i for i in rows if pictures[i].role == role]
        yield from ((role, own[start : start + size]) for start in range(0, len(own), size))


def key_of(
    model: Denoiser,
    delta_digest: str | None,
    picture: Picture,
    spec: EvaluationSpec,
    recovery_key: str | None = None,
) -> str:
    """The picture's address in the cache: sha256 of everything that it depends on.

    recovery_key: the digest of the one that it is drawn with.
    """
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
        "libraries": libraries(),
    }
    if recovery_key is not None:
        parts["recovery_key"] = recovery_key
    words = {name: word.digest for name, word in model.words.items() if name in picture.prompt}
    parts |= {"words": words} if words else {}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


@functools.cache
def libraries() -> list[str]:
    """The versions of what draws."""
    return [version(name) for name in ("torch", "diffusers", "transformers")]


def prune(cache: Path, limit: int = CACHE_BYTES) -> None:
    """Delete the pictures that were longest unused until the cache has at most `limit` bytes. A deleted
    picture is drawn again where it is needed.
    """
    # The folder may hold other people's files: only what `draw` names is ours
    ours = (file for file in cache.glob("??/*.png") if CACHED.fullmatch(file.relative_to(cache).as_posix()))
    delete_longest_unused(ours, limit)


def read(file: Path) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
    """A cached picture; None where it is not there or damaged."""
    try:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB"))
        os.utime(file)  # used now: see prune
        return pixels
    except Exception:  # a broken file may make the parser raise anything
        return None


def write(file: Path, image: np.ndarray[Any, Any]) -> None:
    """Write through a rename: of two writers of one picture either may win, and readers always see a whole
    file.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
    with os.fdopen(handle, "wb") as stream:
        Image.fromarray(image).save(stream, format="PNG")
    os.replace(name, file)
