"""Which pictures are drawn, and that none is drawn twice."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from expunge.core.errors import CoreError
from expunge.core.evaluation import pictures
from expunge.core.models import Denoiser, load_model
from expunge.core.progress import Progress
from expunge.core.specs import Concept, EvaluationSpec
from expunge.core.specs.cost import erased_images

SPEC = EvaluationSpec(
    erased_images=5, held_out_images=0, preserved_images=2, preserved_count=4, sampling_steps=2, seed=7
)


@pytest.fixture(scope="module")
def model(tiny_sd: Path) -> Denoiser:
    return load_model(tiny_sd)


def drawn_again(
    model: Denoiser,
    plan: list[pictures.Picture],
    cache: Path,
    delta: str | None = None,
    spec: EvaluationSpec = SPEC,
) -> int:
    """U-Net evaluations that drawing costs."""
    before = model.evaluations
    pictures.draw(model, plan, spec, cache=cache, delta_digest=delta)
    return model.evaluations - before


def test_erased_pictures_go_round_templates_and_synonyms_with_rising_seeds(model: Denoiser):
    plan = pictures.plan(model.vocabulary, [Concept(name="church", synonyms=["chapel"])], ["dog"], SPEC)
    erased = [p for p in plan if p.role == "erased"]
    assert [p.prompt for p in erased] == ["church", "chapel", "a church", "a chapel", "a photo of a church"]
    assert [p.seed for p in erased] == [7, 8, 9, 10, 11]
    assert {p.concept for p in erased} == {"church"}
    assert [(p.prompt, p.seed) for p in plan if p.role == "preserved"] == [("dog", 7), ("a dog", 8)]


def test_a_style_is_asked_for_around_objects(model: Denoiser):
    plan = pictures.plan(model.vocabulary, [Concept(name="in noto style")], [], SPEC)
    assert all(p.prompt.endswith("in noto style") for p in plan)
    assert len({p.prompt for p in plan}) == 5


def test_a_styles_pictures_know_their_objects_and_a_preserved_style_has_as_many(model: Denoiser):
    plan = pictures.plan(model.vocabulary, [Concept(name="noto")], ["twemoji", "dog"], SPEC)
    assert all(p.subject in p.prompt for p in plan if p.concept != "dog")
    assert [sum(p.concept == name for p in plan) for name in ("noto", "twemoji", "dog")] == [5, 5, 2]
    assert {p.subject for p in plan if p.concept == "dog"} == {None}


def test_the_neighbours_of_a_style_are_the_other_styles(model: Denoiser):
    chosen = pictures.preserved_concepts(model, [Concept(name="in noto style")], [], SPEC)
    assert chosen[0] == "twemoji"
    assert len(chosen) == 4
    assert set(chosen[1:]) <= set(model.vocabulary.concepts)


@pytest.mark.parametrize(("concepts", "each"), [(1, 24), (8, 24), (10, 19), (32, 6), (64, 6)])
def test_many_concepts_share_a_bounded_number_of_pictures(concepts: int, each: int):
    assert erased_images(EvaluationSpec(), concepts) == each
    assert erased_images(EvaluationSpec(erased_images=48), concepts) == 48


def test_preserved_concepts_are_neighbours_and_strangers_never_the_erased(model: Denoiser):
    erased = [Concept(name="Church", synonyms=["mosque"])]
    chosen = pictures.preserved_concepts(model, erased, [], SPEC)
    assert len(chosen) == len(set(chosen)) == 4
    assert not {"church", "mosque"} & set(chosen)
    assert chosen == pictures.preserved_concepts(model, erased, [], SPEC)
    everyone = pictures.preserved_concepts(
        model, erased, [], SPEC.model_copy(update={"preserved_count": 100})
    )
    assert sorted(everyone) == sorted(set(model.vocabulary.concepts) - {"church", "mosque"})


def test_the_nearest_come_first(model: Denoiser):
    pool = [c for c in model.vocabulary.concepts if c != "church"]
    away = {name: float(d) for name, d in zip(pool, pictures.distances(model, "church", pool), strict=True)}
    near, far = (
        pictures.neighbours_and_strangers(model, ["church"], pool, 4)[:2],
        sorted(pool, key=away.__getitem__),
    )
    assert near == far[:2]
    assert not set(pictures.neighbours_and_strangers(model, ["church"], pool, 4)[2:]) & set(far[:2])


def test_named_concepts_are_taken_and_the_jobs_preserve_list_is_always_judged(model: Denoiser):
    spec = SPEC.model_copy(update={"preserved_concepts": ["dog", "cat"]})
    assert pictures.preserved_concepts(model, [Concept(name="church")], ["cat", "wolf"], spec) == [
        "cat",
        "wolf",
        "dog",
    ]


def test_an_erased_concept_cannot_be_judged_as_preserved(model: Denoiser):
    spec = SPEC.model_copy(update={"preserved_concepts": ["noto"]})
    with pytest.raises(CoreError, match="'noto' is to be erased") as error:
        pictures.preserved_concepts(model, [Concept(name="in noto style")], [], spec)
    assert error.value.field == "evaluation.preserved_concepts"


def test_a_cached_picture_is_never_drawn_twice(model: Denoiser, tmp_path: Path):
    plan = pictures.plan(model.vocabulary, [Concept(name="church")], ["dog"], SPEC)
    first = pictures.draw(model, plan, SPEC, cache=tmp_path, delta_digest=None)
    before = model.evaluations
    assert np.array_equal(first, pictures.draw(model, plan, SPEC, cache=tmp_path, delta_digest=None))
    assert model.evaluations == before


def test_whatever_changes_a_picture_draws_it_anew(model: Denoiser, tmp_path: Path):
    plan = [pictures.Picture("church", "erased", "church", 1)]
    cost = drawn_again(model, plan, tmp_path)
    assert cost > 0
    assert drawn_again(model, plan, tmp_path, delta="0" * 64) == cost
    assert drawn_again(model, [pictures.Picture("church", "erased", "church", 2)], tmp_path) == cost
    assert drawn_again(model, plan, tmp_path, spec=SPEC.model_copy(update={"guidance_scale": 3.0})) == cost
    assert drawn_again(model, plan, tmp_path, spec=SPEC.model_copy(update={"erased_images": 99})) == 0


def test_drawing_stopped_half_way_goes_on_where_it_stopped(model: Denoiser, tmp_path: Path):
    class Stop(Exception):
        pass

    def stop_at_16(progress: Progress) -> None:
        if progress["step"] >= 16:
            raise Stop

    plan = [pictures.Picture("church", "erased", "church", seed) for seed in range(20)]
    with pytest.raises(Stop):
        pictures.draw(model, plan, SPEC, cache=tmp_path, delta_digest=None, callback=stop_at_16)
    assert drawn_again(model, plan, tmp_path) == 4 * SPEC.sampling_steps * 2


def test_a_torn_cache_file_is_drawn_again(model: Denoiser, tmp_path: Path):
    plan = [pictures.Picture("church", "erased", "church", 1)]
    whole = pictures.draw(model, plan, SPEC, cache=tmp_path, delta_digest=None)
    (file,) = tmp_path.rglob("*.png")
    file.write_bytes(file.read_bytes()[:100])
    assert np.array_equal(whole, pictures.draw(model, plan, SPEC, cache=tmp_path, delta_digest=None))


def test_writers_and_readers_of_one_picture_do_not_disturb_each_other(tmp_path: Path):
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    file = tmp_path / "ab" / "picture.png"

    def write_and_read(_: int) -> bool:
        pictures.write(file, image)
        read = pictures.read(file)
        return read is not None and np.array_equal(read, image)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(write_and_read, range(100)))
    assert [f.name for f in file.parent.iterdir()] == ["picture.png"]
    assert np.array_equal(np.asarray(Image.open(file)), image)


def test_pruning_drops_what_was_longest_unused(tmp_path: Path):
    image = np.zeros((8, 8, 3), np.uint8)
    files = [tmp_path / f"{i:02x}" / f"{i:02x}{'0' * 62}.png" for i in range(4)]
    for age, file in enumerate(files):
        pictures.write(file, image)
        os.utime(file, (1000 + age, 1000 + age))
    assert pictures.read(files[0]) is not None  # now the latest used
    pictures.prune(tmp_path, limit=2 * files[0].stat().st_size)
    assert [f.exists() for f in files] == [True, False, False, True]


def test_pruning_leaves_what_the_cache_never_wrote(tmp_path: Path):
    image = np.zeros((8, 8, 3), np.uint8)
    theirs = [
        tmp_path / "holiday.png",
        tmp_path / "ab" / "logo.png",
        tmp_path / "ab" / f"{'cd' * 32}.png",
        tmp_path / "a" / "b" / "c.png",
    ]
    ours = tmp_path / "ab" / f"{'ab' * 32}.png"
    for file in (*theirs, ours):
        pictures.write(file, image)
    pictures.prune(tmp_path, limit=0)
    assert [f.exists() for f in (*theirs, ours)] == [True] * 4 + [False]
