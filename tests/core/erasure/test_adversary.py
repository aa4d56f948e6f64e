"""An adversary in the loop: what it finds, that it stands in the concept's place, and that a run resumes."""

import pytest
import torch
from pydantic import ValidationError

from expunge.core.erasure import erase
from expunge.core.erasure.adversary import Defended
from expunge.core.erasure.adversary.noise import size
from expunge.core.erasure.loop import add_trained
from expunge.core.erasure.method import Run
from expunge.core.erasure.registry import method_of
from expunge.core.hiding import hide
from expunge.core.models import Text, load_model
from expunge.core.progress import ignore
from expunge.core.sampling import seeded
from expunge.core.specs import (
    AdversarySpec,
    AgeSpec,
    AllButOneSpec,
    AntSpec,
    ApSpec,
    CaSpec,
    EraseSpec,
    EsdSpec,
    HideSpec,
    LoraSpec,
    NaiveSpec,
    PruneSpec,
    RecoverySpec,
    ScoreSpec,
)
from tests.support.killed_runs import resumed_to_the_same_bytes

INNER = {"trajectories": 2, "sampling_steps": 4, "batch_size": 3}
SMALL = {**INNER, "steps": 2, "checkpoint_every": 1, "lora": LoraSpec(rank=2)}
WORDS = {"rounds": 2, "restarts": 2, "vectors": 2, "search_steps": 2, "search_batch": 2, "steps": 2}
KINDS = {
    "embedding": AdversarySpec(retain_concepts=2, **WORDS),
    "tokens": AdversarySpec(kind="tokens", retain_concepts=2, **WORDS),
    "noise": AdversarySpec(kind="noise", rounds=2, steps=2, noise_steps=2, retain_concepts=2),
}
METHODS = {
    "esd": EsdSpec,
    "naive": NaiveSpec,
    "ca": CaSpec,
    "all_but_one": AllButOneSpec,
    "ant": AntSpec,
    "ap": ApSpec,
    "age": AgeSpec,
    "score": ScoreSpec,
}


def spec_of(name, kind, **more):
    extra = {"score": {"leakage_pictures": 0, "candidates": 3}, "ca": {"pictures": 2}}.get(name, {})
    return METHODS[name](adversary=KINDS[kind], **{**SMALL, **extra, **more})


def defended(model, spec, **adversary):
    """A run of a method against an adversary, at its start."""
    given = AdversarySpec(**{**spec.adversary.model_dump(), **adversary})
    run = Run(model, EraseSpec(concepts=["church"], method=spec), spec, ignore)
    return run, Defended(run, method_of(spec)(run), given, spec.steps)


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "embedding") for name in METHODS), ("esd", "tokens"), ("age", "noise"), ("ca", "noise")],
)
def test_every_output_based_method_goes_on_against_it(name, kind, tiny_sd):
    seen = []
    request = EraseSpec(concepts=["church", "dog"], method=spec_of(name, kind))
    delta = erase(load_model(tiny_sd), request, callback=seen.append)
    assert all(v.isfinite().all() for v in delta.tensors.values())
    assert len(delta.info["history"]) == 2 * (2 + 2 * 2)  # concepts x (its own steps, the rounds')
    rounds = [p["message"] for p in seen if p["phase"] == "search" and p["step"] == 1]
    expected = [f"round {n} of 2: what brings '{c}' back" for n in (1, 2) for c in ("church", "dog")]
    assert rounds == ([] if kind == "noise" else expected)


def test_its_own_steps_are_those_of_a_run_without_one(tiny_sd):
    spec = spec_of("age", "embedding")
    alone, against = (
        erase(load_model(tiny_sd), EraseSpec(concepts=["church"], method=method)).info["history"]
        for method in (spec.model_copy(update={"adversary": None}), spec)
    )
    assert against[: len(alone)] == alone


@pytest.mark.parametrize(
    ("name", "kind", "at"), [("age", "embedding", 4), ("esd", "tokens", 5), ("esd", "noise", 5)]
)
def test_a_killed_run_resumes_to_the_same_bytes(name, kind, at, tiny_sd, tmp_path):
    request = EraseSpec(concepts=["church"], preserve=["teapot"], method=spec_of(name, kind))
    resumed_to_the_same_bytes(tiny_sd, request, at, tmp_path)


def test_a_mask_and_a_hidden_concept_meet_it_too(tiny_sd):
    inner = EsdSpec(adversary=KINDS["embedding"], **INNER)
    pruned = erase(
        load_model(tiny_sd),
        EraseSpec(
            concepts=["church"], method=PruneSpec(method=inner, steps=2, learning_rate=1.0, retain_concepts=2)
        ),
    )
    assert len(pruned.info["history"]) == 6
    hidden = HideSpec(
        concepts=["church"],
        method=spec_of("esd", "embedding"),
        recovery=RecoverySpec(length=2, steps=1),
    )
    delta, keys = hide(load_model(tiny_sd), hidden)
    assert len(delta.info["history"]) == 6
    assert set(keys) == {"church"}


def test_words_descend_towards_the_base_models_prediction(tiny_sd):
    model = load_model(tiny_sd)
    spec = spec_of("esd", "embedding")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for p in add_trained(model, spec):
            torch.nn.init.normal_(p, std=0.3)
    run, method = defended(model, spec, search_steps=40, search_batch=8)
    losses = []
    run.callback = lambda p: losses.append(p["loss"])
    method.adversary.prepare(0, 0)
    assert sum(losses[-10:]) < sum(losses[:10])
    assert len(method.adversary.found[0]) == 2
    # Each restart by itself: its words are those that it finds alone
    assert not torch.equal(*method.adversary.found[0])
    method.adversary.prepare(0, 0)
    assert len(losses) == 40, "once in a round"


def test_tokens_are_the_vocabularys_and_never_spell_the_concept(tiny_sd):
    model = load_model(tiny_sd)
    _, method = defended(model, spec_of("esd", "tokens"))
    method.adversary.prepare(0, 0)
    table = model.text.token_embeddings()
    for vectors in method.adversary.found[0]:
        ids = [int((table - v).abs().sum(1).argmin()) for v in vectors]
        assert torch.equal(table[ids], vectors)
        spelled = {index: token for token, index in model.text.vocabulary_ids().items()}
        assert all("church" not in spelled[i] for i in ids)


def test_a_shift_is_within_its_radius_and_brings_the_networks_nearer(tiny_sd):
    model = load_model(tiny_sd)
    spec = spec_of("esd", "noise")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for p in add_trained(model, spec):
            torch.nn.init.normal_(p, std=0.3)
    run, method = defended(model, spec, noise_steps=8)
    g = seeded(1)
    texts = run.texts(["church"])[:2]
    x = run.trajectories.draw("erase/0", run.texts(["church"]), g, 2, 2)
    moved = method.adversary.shifted(0, x, texts, g)
    assert (size(moved.z - x.z) <= 0.1 * size(x.z) * 1.001).all()

    def apart(z):
        with torch.no_grad():
            new = model.predict(z, x.t, texts)
            with model.frozen():
                return float((new - model.predict(z, x.t, texts)).square().mean())

    away = torch.randn(x.z.shape, generator=seeded(2))
    anywhere = x.z + 0.1 * size(x.z) * away / size(away)
    assert apart(moved.z) < apart(anywhere)


def test_what_was_found_stands_in_the_concepts_place_and_the_base_model_is_asked_its_own(tiny_sd):
    model = load_model(tiny_sd)
    run, method = defended(model, spec_of("esd", "embedding"), own_share=0.0)
    asked: list[tuple[bool, Text]] = []
    predict = model.predict

    def spy(z, t, text):
        asked.append((torch.is_grad_enabled(), text))
        return predict(z, t, text)

    method.adversary.prepare(0, 0)
    model.predict = spy
    method.step(0, method.own)
    own = run.texts(["church"]).states
    frozen = next(text for graph, text in asked if not graph)
    trained = next(text for graph, text in asked if graph)

    def is_own(row):
        return any(torch.allclose(row, each) for each in own)

    assert all(is_own(row) for row in frozen.states[3:])
    assert not any(is_own(row) for row in trained.states)
    assert run.adversary is None


@pytest.mark.parametrize("how", [{"refresh_every": 1}, {"latents": "fresh"}])
def test_it_searches_on_the_base_models_latents_whatever_the_method_draws_anew(how, tiny_sd):
    model = load_model(tiny_sd)
    spec = spec_of("esd", "embedding", **how)
    run, method = defended(model, spec)
    (first, second), (third, fourth) = (
        [method.adversary.latents(0, seeded(n), 2) for n in range(2)] for _ in range(2)
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for p in add_trained(model, spec):
            torch.nn.init.normal_(p, std=0.3)
    run.trajectories.advance(1)
    again = [method.adversary.latents(0, seeded(n), 2) for n in range(2)]
    for before, same, after in ((first, third, again[0]), (second, fourth, again[1])):
        assert torch.equal(before.z, same.z)
        assert torch.equal(before.z, after.z)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"kind": "noise", "vectors": 2}, "vectors: not used where the adversary searches noise"),
        ({"kind": "tokens", "radius": 0.5}, "radius: not used where the adversary searches tokens"),
        ({"kind": "pixels"}, "kind"),
        ({"rounds": 0}, "rounds"),
    ],
)
def test_what_an_adversary_does_not_read_is_refused(given, told):
    with pytest.raises(ValidationError, match=told):
        EsdSpec(adversary=given)


def test_a_concept_that_stays_has_no_adversary():
    with pytest.raises(ValidationError, match=r"there is nothing to bring back: omit method\.adversary"):
        EraseSpec.model_validate(
            {
                "concepts": [{"name": "person", "attributes": ["a {} smiling", "a {} frowning"]}],
                "method": {"name": "age", "adversary": {}},
            }
        )


def test_without_one_a_spec_says_nothing_of_it():
    assert "adversary" not in EsdSpec().model_dump_json()
    assert EsdSpec.model_validate(EsdSpec(adversary={}).model_dump()).adversary == AdversarySpec()
