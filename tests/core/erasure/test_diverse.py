"""Diversified prompts: what is asked in training, and that nothing else knows of it."""

import pytest

from expunge.core.attacks.scene import judged_prompts
from expunge.core.checkpoints import DirectoryCheckpoints
from expunge.core.erasure import erase
from expunge.core.erasure.diverse import definitions, described, diversified
from expunge.core.errors import CoreError
from expunge.core.evaluation.unseen_prompts import indirect, unseen
from expunge.core.hiding import hide
from expunge.core.leakage.prompts import held_out
from expunge.core.models import load_model
from expunge.core.models.vocabulary import SCENES
from expunge.core.specs import METHODS, Concept, EraseSpec, EsdSpec, HideSpec, NaiveSpec, TrainSpec
from tests.support.killed_runs import resumed_to_the_same_bytes
from tests.support.small_jobs import NAIVE, small

SMALL = {"steps": 2, "trajectories": 2, "sampling_steps": 3, "batch_size": 2, "checkpoint_every": 1}
DIVERSE = EraseSpec(concepts=["church"], method=EsdSpec(diverse_prompts=True, **SMALL))


def asked(model, run):
    """All prompts that are encoded while something runs."""
    prompts, encode = [], model.encode
    model.encode = lambda given: prompts.extend(given) or encode(given)
    run()
    return set(prompts)


def test_concept_target_and_what_is_held_are_asked_for_in_scenes(tiny_sd):
    model = load_model(tiny_sd)
    method = NaiveSpec(diverse_prompts=True, **SMALL)
    given = Concept(name="church", target="mosque", synonyms=["chapel"])
    spec = EraseSpec(concepts=[given], preserve=["teapot"], method=method)
    prompts = asked(model, lambda: erase(model, spec))
    for name in ("church", "chapel", "mosque", "teapot"):
        assert {f"a {scene.format(name)}" for scene in SCENES} <= prompts
    assert not {f"a {SCENES[0].format('church')}"} & asked(
        load_model(tiny_sd),
        lambda: erase(load_model(tiny_sd), EraseSpec(concepts=["church"], method=EsdSpec(**SMALL))),
    )


TRAINED = [name for name, method in METHODS.items() if issubclass(method, TrainSpec)]


@pytest.mark.parametrize("name", [*TRAINED, "hide"])
def test_whatever_trains_takes_it_and_leaves_the_vocabulary_as_it_was(name, tiny_sd):
    model = load_model(tiny_sd)
    before, with_graph, told = model.vocabulary, model.encode_with_graph, list[str]()
    model.encode_with_graph = lambda prompts, *more: told.extend(prompts) or with_graph(prompts, *more)

    def run():
        method = (NAIVE if name == "hide" else small(METHODS[name])) | {"diverse_prompts": True}
        job = {"concepts": ["church"], "method": method}
        if name == "hide":
            hide(model, HideSpec(**job, recovery={"length": 2, "steps": 1}))
        else:
            erase(model, EraseSpec.model_validate(job))

    prompts = asked(model, run) | set(told)
    assert prompts & {f"a {scene.format('church')}" for scene in SCENES}
    assert model.vocabulary is before


def test_a_run_that_fails_leaves_the_vocabulary_as_it_was(tiny_sd):
    model = load_model(tiny_sd)
    before = model.vocabulary
    model.gradients = lambda _, inputs: [p * float("nan") for p in inputs]
    with pytest.raises(CoreError, match="the loss became nan"):
        erase(model, DIVERSE)
    assert model.vocabulary is before


def test_a_killed_run_resumes_to_the_same_bytes_and_the_option_is_part_of_what_is_asked(tiny_sd, tmp_path):
    resumed_to_the_same_bytes(tiny_sd, DIVERSE, 1, tmp_path)
    folder = DirectoryCheckpoints(tmp_path)
    plain = EraseSpec(concepts=["church"], method=EsdSpec(**SMALL))
    assert "diverse_prompts" not in plain.model_dump_json()
    assert erase(load_model(tiny_sd), plain, checkpoints=folder).info["resumed_at"] == 0


def test_a_style_is_asked_for_around_things_in_scenes_with_its_target_on_the_same(tiny_sd):
    model = load_model(tiny_sd)
    diverse = model.vocabulary.diverse()
    own, other = diverse.prompts("noto"), diverse.replaced("noto", "twemoji")
    more = [p for p in own if p not in model.vocabulary.prompts("noto")]
    assert len(more) == len(SCENES)
    assert [p.replace("noto", "twemoji") for p in own] == other
    assert len(diverse.places("noto")) == len(diverse.around("noto")) == len(own)
    assert all(p[a:b] == "noto" for p, (a, b) in zip(own, diverse.places("noto"), strict=True))


def test_no_wording_of_training_is_one_of_an_evaluation():
    model = load_model("bundled:emoji")
    diverse = model.vocabulary.diverse()
    for name in (*model.vocabulary.concepts, *model.vocabulary.styles):
        judged = {p for prompts in unseen(model.vocabulary, Concept(name=name)).values() for p in prompts}
        judged |= {*held_out(model.vocabulary, name), *judged_prompts(model.vocabulary, name, 64)}
        assert not judged & set(diverse.prompts(name))


def words(text):
    small = {
        "a",
        "an",
        "the",
        "of",
        "in",
        "on",
        "at",
        "to",
        "it",
        "is",
        "and",
        "or",
        "by",
        "that",
        "with",
        "for",
    }
    return {word.rstrip("s") for word in text.lower().replace(",", " ").split()} - small


def test_definitions_neither_name_their_concept_nor_say_what_an_evaluation_says():
    for name, text in definitions().items():
        assert not words(name) & words(text), name
        known = indirect().get(name, {})
        for other in (*known.get("implicit", []), *known.get("synonyms", [])):
            fewer = min(len(words(text)), len(words(other)))
            assert len(words(text) & words(other)) <= 0.5 * fewer or fewer == 1, (name, other)


def test_a_definition_is_a_name_where_the_text_encoder_takes_it_for_the_concept():
    model = load_model("bundled:emoji")
    assert described(model, Concept(name="teapot")) == [definitions()["teapot"]]
    assert described(model, Concept(name="church")) == []  # nearer to others, for this text encoder
    spec = EraseSpec(concepts=["teapot", "church"], method=DIVERSE.method)
    with diversified(model, spec) as trained:
        assert [c.synonyms for c in trained.concepts] == [[definitions()["teapot"]], []]
    with diversified(model, spec.model_copy(update={"method": EsdSpec(**SMALL)})) as trained:
        assert [c.synonyms for c in trained.concepts] == [[], []]
