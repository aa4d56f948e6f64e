"""Evaluation where memory runs out: it goes on with fewer pictures at once, and the figures are those of the
small batch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from expunge.core.evaluation.evaluate import evaluate
from expunge.core.evaluation.judges import judges_for
from expunge.core.memory import in_batches
from expunge.core.models import Denoiser, load_model
from expunge.core.specs import Concept, EvaluationSpec
from expunge.worker.out_of_memory import shrink

PROMPTS, SEEDS = ["a church", "a dog", "a wolf", "a cat", "a castle", "a house"], [0, 1, 2, 3, 4, 5]


@contextmanager
def room_for(rows: int, *modules: torch.nn.Module) -> Iterator[list[int]]:
    """The modules' allocations fail, as a device's do, for more than so many rows; yields the sizes that were
    refused.
    """
    refused: list[int] = []

    def allocate(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if len(args[0]) > rows:
            refused.append(len(args[0]))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    hooks = [module.register_forward_pre_hook(allocate) for module in modules]
    yield refused
    for hook in hooks:
        hook.remove()


@pytest.fixture
def model(tiny_judged: Path) -> Denoiser:
    return load_model(tiny_judged)


def test_pictures_are_drawn_fewer_at_once_until_they_fit(model: Denoiser, tiny_judged: Path):
    expected = load_model(tiny_judged).draw(PROMPTS, SEEDS, steps=2, batch=1)
    with room_for(3, model.unet) as refused:  # with guidance each picture has two rows
        drawn = model.draw(PROMPTS, SEEDS, steps=2)
        assert refused == [12, 6]
        assert np.array_equal(model.draw(PROMPTS, SEEDS, steps=2), drawn)
        assert refused == [12, 6]  # remembered
    assert np.array_equal(drawn, expected)


def test_pictures_are_decoded_one_by_one_once_memory_was_short(model: Denoiser):
    expected = model.draw(PROMPTS, SEEDS, steps=2, batch=3)
    with room_for(1, model.pipe.vae.decoder) as refused:
        drawn = model.draw(PROMPTS, SEEDS, steps=2)
    assert refused == [6]
    assert model.at_once == 3
    assert np.abs(drawn.astype(int) - expected).max() <= 1  # the decoder rounds otherwise in a batch


def test_one_picture_that_does_not_fit_is_an_error_of_memory(model: Denoiser):
    with room_for(1, model.unet) as refused, pytest.raises(torch.OutOfMemoryError):
        model.draw(PROMPTS, SEEDS, steps=2)
    assert refused == [12, 6, 2]


def test_an_evaluation_that_runs_out_of_memory_gives_the_figures_of_the_small_batch(
    tiny_judged: Path, tmp_path: Path
):
    spec = EvaluationSpec(erased_images=4, preserved_count=2, preserved_images=2, sampling_steps=2)
    reports = []
    for cramped in (False, True):
        model, judges = load_model(tiny_judged), judges_for(tiny_judged)
        modules = (model.unet, judges.concept.model, judges.clip.model.visual) if cramped else ()
        with room_for(2, *modules) as refused:
            how = spec if cramped else spec.model_copy(update={"batch_size": 1})
            found = evaluate(
                model,
                [Concept(name="church")],
                how,
                judges=judges,
                cache=tmp_path / str(cramped),
                delta_digest="none",
            )
        assert (max(refused) > 2) if cramped else not refused
        reports.append(found.report.model_dump(include={"metrics", "verdict", "erased", "preserved"}))
    for metric, other in zip(reports[0].pop("metrics"), reports[1].pop("metrics"), strict=True):
        assert metric == pytest.approx(other, abs=1e-4)
    assert reports[0] == reports[1]


def test_another_error_is_not_taken_for_want_of_memory():
    def fail(start: int, end: int) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        in_batches(4, 4, fail)


def test_a_run_that_does_not_fit_is_repeated_with_smaller_batches_of_its_own_not_of_its_evaluation():
    spec = {
        "method": {"batch_size": 4, "retain_batch": 4, "gradient_checkpointing": True},
        "evaluation": {"batch_size": 16},
    }
    made, changes = shrink(spec) or ({}, "")
    assert made == {
        "method": {"batch_size": 2, "retain_batch": 2, "gradient_checkpointing": True},
        "evaluation": {"batch_size": 16},
    }
    assert changes == "method.batch_size 2, method.retain_batch 2"
    assert shrink({"method": {"name": "uce"}, "evaluation": {"batch_size": 16}}) is None
