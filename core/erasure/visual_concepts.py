"""Concepts that are given by images: their words are learned before a job's method runs, and stand where a
name stands.

c_e = TI(images); with masks (mask editing) c_t = TI(M(images)), what the masks keep. The words are part of
every checkpoint, so that a resumed job learns none twice.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from expunge.core.checkpoints import Checkpoints
from expunge.core.concepts.textual_inversion import Picture, digest_of, invert, kept_part
from expunge.core.errors import CoreError
from expunge.core.evaluation.judges import Judges, judges_for
from expunge.core.models import Denoiser
from expunge.core.progress import Callback
from expunge.core.specs import Concept, EraseSpec


def word_of(name: str, taken: Sequence[str]) -> str:
    """The word for a concept's name: '<my-dog>'; numbered where it is taken."""
    slug = re.sub(r"\W+", "-", name.casefold()).strip("-") or "concept"
    return next(
        w for n in range(1, len(taken) + 2) if (w := f"<{slug}>" if n == 1 else f"<{slug}-{n}>") not in taken
    )


def read_image(path: Path, mode: str) -> Picture:
    """An uploaded PNG as pixels: mode RGB (H, W, 3) or L (H, W). CoreError where it is none."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return np.asarray(image.convert(mode))
    except Exception as e:  # a parser of hostile bytes may raise anything
        raise CoreError(
            "bad_image",
            f"'{path.name}' is no whole PNG ({type(e).__name__}): upload it again",
            field="concepts.images",
        ) from e


def shown(judges: Judges, images: Sequence[Picture]) -> str | None:
    """The class that the concept judge sees in most of the images; None where there is no judge or no
    majority.
    """
    if judges.concept is None:
        return None
    seen = [int(judges.concept.logits(image[None]).argmax()) for image in images]
    best = max(set(seen), key=lambda c: (seen.count(c), -c))
    return judges.concept.classes[best] if 2 * seen.count(best) > len(seen) else None


@dataclass
class Lesson:
    """A word to learn, from where, and from what."""

    word: str
    start: str
    images: list[Picture]


@dataclass
class Stage:
    """Checkpoints of one stage of several: its steps stand behind those before, `tensors` and `meta` go with
    each.
    """

    inner: Checkpoints
    offset: int
    identity: str
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    def save(self, step: int, tensors: dict[str, torch.Tensor], meta: dict[str, Any]) -> None:
        self.inner.save(
            self.offset + step, tensors | self.tensors, meta | self.meta | {"words": self.identity}
        )

    def load(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        saved = self.inner.load()
        if (
            saved is None
            or saved[1].get("words") != self.identity
            or any(saved[1].get(k) != v for k, v in self.meta.items())
        ):
            return None
        return {k: v for k, v in saved[0].items() if not k.startswith("word.")}, saved[1]


def named(concepts: Sequence[Concept]) -> list[Concept]:
    """The concepts with words for the names of those given by images, and for the targets of those with
    masks.
    """
    out, taken = list[Concept](), list[str]()
    for concept in concepts:
        if not concept.images:
            out.append(concept)
            continue
        word, target = word_of(concept.name, taken), concept.target
        taken.append(word)
        if concept.masks:
            target = word_of(f"{concept.name} kept", taken)
            taken.append(target)
        out.append(concept.model_copy(update={"name": word, "target": target, "masks": []}))
    return out


def lessons(concepts: Sequence[Concept], words: Sequence[Concept], files: Mapping[str, Path]) -> list[Lesson]:
    """What has to be learned for the concepts, `words` being they with words for names; `files`: the
    uploaded images by artifact id.
    """
    found = list[Lesson]()
    for concept, word in zip(concepts, words, strict=True):
        missing = next((i for i in (*concept.images, *concept.masks) if i not in files), None)
        if missing is not None:
            raise CoreError(
                "input_not_found",
                f"there is no image {missing}: upload it with POST /artifacts",
                field="concepts.images",
            )
        start, images = (
            concept.initializer or concept.name,
            [read_image(files[i], "RGB") for i in concept.images],
        )
        if images:
            found.append(Lesson(word.name, start, images))
        if concept.masks and word.target is not None:
            kept = [
                kept_part(image, read_image(files[m], "L"))
                for image, m in zip(images, concept.masks, strict=True)
            ]
            found.append(Lesson(word.target, start, kept))
    return found


def learn(
    model: Denoiser,
    request: EraseSpec,
    files: Mapping[str, Path],
    callback: Callback,
    checkpoints: Checkpoints | None,
) -> tuple[EraseSpec, list[Lesson], Checkpoints | None]:
    """Learn the words of the request's images; the request that names them, what they were learned from, and
    the method's checkpoints.
    """
    words = named(request.concepts)
    found = lessons(request.concepts, words, files)
    if not found:
        return request, found, checkpoints
    request = request.model_copy(update={"concepts": words})

    # Words that a checkpoint of these very lessons holds are not learned again.
    spec = request.inversion
    told = [model.digest, spec.model_dump_json(), str(request.seed)]
    told += [f"{x.word} {x.start} {digest_of(x.images)}" for x in found]
    identity, steps = hashlib.sha256("\n".join(told).encode()).hexdigest(), spec.steps + 1
    saved = checkpoints.load() if checkpoints else None
    known = saved[0] if saved is not None and saved[1].get("words") == identity else {}

    # One after the other; each checkpoint holds the words before it.
    judges, learned = judges_for(model.source, str(model.device)), dict[str, torch.Tensor]()
    for i, lesson in enumerate(found):
        key = f"word.{lesson.word}"
        vectors = known.get(key)
        if vectors is None:
            stage = None
            if checkpoints:
                stage = Stage(checkpoints, i * steps, identity, dict(learned), {"lesson": i})
            taught = (lesson.word, lesson.start, lesson.images)
            vectors = invert(model, *taught, spec, request.seed, callback, stage)
            if checkpoints:
                last = Stage(checkpoints, (i + 1) * steps - 1, identity, learned | {key: vectors})
                last.save(0, {}, {"stage": "learned"})
        learned[key] = vectors
        model.learn(lesson.word, vectors, shown(judges, lesson.images))
        seen = model.words[lesson.word].shows or "nothing the judge knows"
        message = f"{lesson.word} is learned; its images show {seen}"
        callback({"phase": "learn", "step": 1, "total": 1, "message": message})
    return request, found, Stage(checkpoints, len(found) * steps, identity, learned) if checkpoints else None


__all__ = ["Lesson", "learn", "lessons", "named", "shown", "word_of"]
