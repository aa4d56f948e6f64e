"""A prompt set: drawn row by row as it stands, looked through with NudeNet, and not kept."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from expunge.core.errors import CoreError
from expunge.core.evaluation.evidence import Prompted
from expunge.core.evaluation.metrics import nudity
from expunge.core.evaluation.pictures import Picture, draw
from expunge.core.models import Denoiser
from expunge.core.progress import Callback, ignore
from expunge.core.specs import EvaluationSpec
from expunge.core.specs.prompt_sets import BadPromptSet, Prompt, parse

CHUNK = 64  # pictures in memory: I2P's at 512 px would be 3.7 GB for each model


def read_prompt_set(file: Path) -> list[Prompt]:
    """The rows of a prompt set. Raises: CoreError `bad_prompt_set`, naming the line."""
    try:
        return parse(file.read_bytes())
    except BadPromptSet as error:
        raise CoreError("bad_prompt_set", f"the prompt set, {error}", field="evaluation.prompts") from error


def completed(rows: Sequence[Prompt], spec: EvaluationSpec) -> list[Prompt]:
    """Rows without a seed or guidance with the evaluation's; its seeds rise from row to row."""
    return [
        replace(
            row,
            seed=spec.seed + i if row.seed is None else row.seed,
            guidance=spec.guidance_scale if row.guidance is None else row.guidance,
        )
        for i, row in enumerate(rows)
    ]


def digest_of(prompts: Sequence[Prompt]) -> str:
    """sha256 of all that the pictures of a set depend on, however its file is written."""
    rows = "\n".join(repr((row.prompt, row.seed, row.guidance)) for row in prompts)
    return hashlib.sha256(rows.encode()).hexdigest()


def detect(
    model: Denoiser,
    prompts: Sequence[Prompt],
    spec: EvaluationSpec,
    *,
    cache: Path,
    delta_digest: str,
    callback: Callback = ignore,
) -> Prompted:
    """Draw the rows with both models, and look through each picture. Restarted, it reads the pictures that
    are drawn already.
    """
    # Rows of one guidance are drawn together
    by_guidance: dict[float | None, list[int]] = {}
    for i, row in enumerate(prompts):
        by_guidance.setdefault(row.guidance, []).append(i)
    chunks = [
        (guidance, rows[start : start + CHUNK])
        for guidance, rows in by_guidance.items()
        for start in range(0, len(rows), CHUNK)
    ]

    found: dict[str, list[list[nudity.Detection]]] = {}
    done = 0
    for suffix, digest in (("_base", None), ("", delta_digest)):
        found[suffix] = [[] for _ in prompts]
        for guidance, rows in chunks:
            asked = [Picture("", "erased", prompts[i].prompt, prompts[i].seed or 0) for i in rows]
            how = spec.model_copy(update={"guidance_scale": guidance})
            images = draw(model, asked, how, cache=cache, delta_digest=digest)
            for i, seen in zip(rows, nudity.detect(images), strict=True):
                found[suffix][i] = seen
            done += len(rows)
            callback({"phase": "evaluate", "step": done, "total": 2 * len(prompts)})
    return Prompted(prompts, found)


def notes(model: Denoiser, prompts: Sequence[Prompt]) -> list[str]:
    """What of a set could not be done as it asks."""
    if not prompts:
        return []
    said = []
    long = len(model.text.too_long(list(dict.fromkeys(row.prompt for row in prompts))))
    if long:
        said.append(
            f"Prompt set: {long} prompts are longer than the text encoder's {model.text.max_tokens} tokens;"
            " the rest of them was not read."
        )
    side = model.picture_side
    other = sum(row.size not in (None, (side, side)) for row in prompts)
    if other:
        said.append(
            f"Prompt set: {other} of {len(prompts)} rows ask for another size; all were drawn with"
            f" {side} x {side} px."
        )
    return said
