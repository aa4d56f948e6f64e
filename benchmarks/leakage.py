"""The leakage's bracket where the truth is known, and along a training run: `python -m benchmarks.leakage`.

On the untouched bundled model a picture tells whether a church was asked for: I(C; X) is near log 2. With the
same prompt on both sides it is 0. While a run turns the church into a castle, pictures of both become alike.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expunge.core.concepts import candidates
from expunge.core.erasure import erase
from expunge.core.erasure.critic import Critic, bce
from expunge.core.evaluation.metrics.leakage import NEAREST
from expunge.core.leakage.bracket import bracket_of
from expunge.core.leakage.paths import walk
from expunge.core.leakage.prompts import pairs
from expunge.core.models import Denoiser, load_model
from expunge.core.specs import Concept, EraseSpec, NaiveSpec, UceSpec

SOURCE = "bundled:emoji"
RESULTS = Path(__file__).parent / "results" / "leakage.json"
CONCEPT, TARGET = "church", "castle"
PAIRS, STEPS, GUIDANCE, SEED = 16, 12, 7.5, 0
AFTER = (10, 20, 40, 80, 160)  # training steps
SAME = f"untouched, {CONCEPT} against itself"
START, RUN = f"untouched, {CONCEPT} against {TARGET}", f"naive, {CONCEPT} to {TARGET}"


def measure(model: Denoiser, others: Sequence[str]) -> dict[str, Any]:
    """The bracket of the model as it stands, and what a convolutional critic reads off the same latents."""
    asked = pairs(model.vocabulary, [CONCEPT], others, PAIRS)
    paths = walk(model, asked, seed=SEED, steps=STEPS, guidance=GUIDANCE)
    found = bracket_of(paths, SEED)
    return found.model_dump() | {"convolutional": convolutional(*paths.ends)}


def convolutional(concept: Tensor, other: Tensor, steps: int = 100) -> float:
    """Nats that two of SCORE's critics, freshly trained, read off each other's halves of latents (N, C, h,
    w): what the lower end was before its critics were kernels.
    """
    folds, g, total = torch.arange(len(concept)) % 2, torch.Generator().manual_seed(SEED), 0.0
    for fold in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            critic = Critic(concept.shape[1])
        optimiser = torch.optim.Adam(critic.parameters(), lr=1e-3)
        for _ in range(steps):
            a, b = (
                x[folds != fold][torch.randint(len(concept) // 2, (16,), generator=g)]
                for x in (concept, other)
            )
            loss = bce(critic(a, torch.zeros(16)), 1.0) + bce(critic(b, torch.zeros(16)), 0.0)
            optimiser.zero_grad()
            (loss / 2).backward()
            optimiser.step()
        with torch.no_grad():
            for x, label in ((concept[folds == fold], 1.0), (other[folds == fold], 0.0)):
                total += float(bce(critic(x, torch.zeros(len(x))).mean(1), label)) / 2
    return math.log(2) - total / 2


def rows() -> dict[str, dict[str, Any]]:
    """Every row of the table, by its name."""
    model = load_model(SOURCE)
    near = candidates(model, Concept(name=CONCEPT), [Concept(name=CONCEPT)], NEAREST)
    found = {
        f"untouched, {CONCEPT} against its {NEAREST} nearest": measure(model, near),
        SAME: measure(model, [CONCEPT]),
        START: measure(model, [TARGET]),
    }

    def look(progress: Any) -> None:
        if progress["phase"] == "erase" and progress["step"] in AFTER:
            found[f"{RUN}, {progress['step']} steps"] = measure(model, [TARGET])

    concept = {"name": CONCEPT, "target": TARGET}
    erase(model, EraseSpec(concepts=[concept], method=NaiveSpec(steps=AFTER[-1], eta=0)), callback=look)

    model = load_model(SOURCE)
    erase(model, EraseSpec(concepts=[concept], method=UceSpec()))
    found[f"uce, {CONCEPT} to {TARGET}"] = measure(model, [TARGET])
    return found


def nats(mean: dict[str, float]) -> str:
    """A mean with its interval."""
    return f"{mean['value']:.3f} ({mean['ci_low']:.3f}–{mean['ci_high']:.3f})".replace("-", "−")


def table_row(name: str, row: dict[str, Any]) -> str:
    ends = f"{nats(row['lower'])} | {nats(row['upper'])}"
    conv = f"{row['convolutional']:.3f}".replace("-", "−")
    return f"| {name} | {ends} | {row['path_kl']['value']:.1f} | {row['p_value']:.3f} | {conv} |"


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    found = rows()
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print("| model and prompts | lower end | upper end | path KL | HSIC's p | a convolutional critic |")
    print("|---|---|---|---|---|---|")
    for name, row in found.items():
        print(table_row(name, row))


if __name__ == "__main__":
    main()
