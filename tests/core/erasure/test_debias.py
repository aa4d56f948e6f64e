"""Debiasing, Eq. 17: golden values, shares that are kept to, who gets gradient, and a loop that resumes to
the same bytes.
"""

import numpy as np
import pytest
import torch

from expunge.core.checkpoints import DirectoryCheckpoints
from expunge.core.concepts import attribute_phrases
from expunge.core.erasure import erase
from expunge.core.erasure.debias.blend import blended
from expunge.core.erasure.debias.spread import Shares
from expunge.core.errors import CoreError
from expunge.core.evaluation.judges import Judges, judges_for
from expunge.core.evaluation.metrics.attributes import NONE, distance, distribution, judge_of
from expunge.core.models import Text, Vocabulary, load_model
from expunge.core.specs import AgeSpec, Concept, DebiasSpec, EraseSpec, LoraSpec, UceSpec
from tests.support.killed_runs import Killed, killed_when

SMALL = {
    "steps": 6,
    "trajectories": 2,
    "sampling_steps": 4,
    "batch_size": 3,
    "checkpoint_every": 2,
    "lora": LoraSpec(rank=2),
}
COUNT = DebiasSpec(rounds=3, images=4, sampling_steps=2, step_size=1.0, tolerance=0.0)
DOG = Concept(name="dog", attributes=["wolf", "cat"], shares=[0.25, 0.75])


def test_a_blend_is_the_papers_sum_and_changes_nothing_it_was_given():
    rng = np.random.default_rng(0)
    c, a, alpha = rng.normal(size=(5, 7)), rng.normal(size=(3, 5, 7)), np.array([0.4, -0.7, 0.3])
    given, directions = torch.tensor(c), torch.tensor(a - c)
    got = blended(given, directions, torch.tensor(alpha))
    # The alphas sum to 0
    expected = np.array(
        [[c[n, d] + sum(alpha[t] * a[t, n, d] for t in range(3)) for d in range(7)] for n in range(5)]
    )
    np.testing.assert_allclose(got, expected, atol=1e-12)
    blended(given, directions, torch.tensor(alpha))
    np.testing.assert_array_equal(given, c)  # the authors' code adds in place


def test_every_attribute_is_drawn_by_its_share_even_in_small_batches():
    shares, g = (
        Shares(["a", "b", "c"], Text(torch.zeros(3, 1, 1, 1)), [0.5, 0.3, 0.2]),
        torch.Generator().manual_seed(0),
    )
    counts = sum(torch.bincount(shares.pick(g, 4), minlength=3) for _ in range(2000))
    np.testing.assert_allclose(counts / 8000, [0.5, 0.3, 0.2], atol=0.02)
    assert all(torch.bincount(shares.pick(g, 4), minlength=3)[0] == 2 for _ in range(50))


def test_moving_the_shares_weighs_them_by_the_exponential():
    shares = Shares(["a", "b"], Text(torch.zeros(2, 1, 1, 1)), [0.5, 0.5])
    shares.move(torch.tensor([0.5, -0.5], dtype=torch.float64))
    np.testing.assert_allclose(torch.softmax(shares.logs, 0), np.exp([0.5, -0.5]) / np.exp([0.5, -0.5]).sum())


@pytest.mark.parametrize(
    ("concept", "attributes", "phrases"),
    [
        ("dog", ["wolf", "small {}"], ["wolf", "small dog"]),
        ("dog", ["noto", "in twemoji style"], ["dog in noto style", "dog in twemoji style"]),
        ("noto", ["twemoji", "fluent"], ["twemoji", "fluent"]),
    ],
)
def test_an_attribute_is_a_phrase_a_template_or_a_style(concept, attributes, phrases):
    vocabulary = Vocabulary(["dog", "wolf"], styles=["noto", "twemoji", "fluent"])
    assert attribute_phrases(Concept(name=concept, attributes=attributes), vocabulary) == phrases


def test_the_distance_is_the_total_variation_with_none_of_them_counted():
    labels = np.array([0, 0, 0, 1, NONE, NONE, 1, 0])  # 1/2, 1/4, 1/4
    assert distance(labels, [0.25, 0.75]) == pytest.approx((0.25 + 0.5 + 0.25) / 2)
    found = distribution(DOG, "judge", labels, np.full(8, NONE))
    assert [(s.attribute, s.asked, s.value, s.base) for s in found.shares] == [
        ("wolf", 0.25, 0.5, 0),
        ("cat", 0.75, 0.25, 0),
        (None, 0, 0.25, 1),
    ]
    assert all(s.ci_low <= s.value <= s.ci_high for s in found.shares)


def test_attributes_without_classes_are_told_apart_by_clip_or_not_at_all(tiny_judged):
    judges, vocabulary = judges_for(tiny_judged), load_model(tiny_judged).vocabulary
    assert judge_of(DOG, judges, vocabulary).classes is not None
    judge = judge_of(Concept(name="dog", attributes=["old {}", "young {}"]), judges, vocabulary)
    assert "zero-shot" in judge.name
    assert set(judge.labels(np.random.default_rng(0).integers(0, 255, (6, 64, 64, 3), dtype=np.uint8))) <= {
        0,
        1,
    }
    with pytest.raises(CoreError, match="tell the attributes of 'dog' apart"):
        judge_of(DOG, Judges(None, None, None), vocabulary)


METHODS = {
    "age": AgeSpec(debias=COUNT, **SMALL),
    "uce": UceSpec(debias=COUNT),
    "age uncounted": AgeSpec(debias=DebiasSpec(rounds=0), **SMALL),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_killed_debiasing_resumes_to_the_same_bytes(name, tiny_judged, tmp_path):
    spec = EraseSpec(concepts=[DOG, Concept(name="teapot")], preserve=["violin"], method=METHODS[name])
    kill_at = 3 if name == "uce" else 9

    kill = killed_when(
        lambda progress: progress["phase"] == "erase" and "loss" in progress and progress["step"] == kill_at
    )
    undisturbed = erase(load_model(tiny_judged), spec)
    with pytest.raises(Killed):
        erase(load_model(tiny_judged), spec, checkpoints=DirectoryCheckpoints(tmp_path), callback=kill)
    resumed = erase(load_model(tiny_judged), spec, checkpoints=DirectoryCheckpoints(tmp_path))
    assert resumed.info["resumed_at"] > 0
    assert resumed.serialise() == undisturbed.serialise()
    assert resumed.info["history"] == undisturbed.info["history"]


def test_age_trains_on_every_attribute_and_on_latents_of_the_attributes_alone(tiny_judged):
    from expunge.core.erasure.method import Run
    from expunge.core.erasure.methods.age import Age

    model, spec = load_model(tiny_judged), EraseSpec(concepts=[DOG], method=METHODS["age uncounted"])
    age = Age(Run(model, spec, spec.method, lambda _: None))
    assert set(age.run.trajectories.kept) == {"target/wolf", "target/cat"}
    draw = age.spread.batch(0, age.concepts[0], torch.Generator().manual_seed(0), 8)
    states = [model.encode(model.vocabulary.prompts(w)).states for w in ("wolf", "cat")]
    shown = [
        next(j for j, s in enumerate(states) if any(torch.equal(row, x) for x in s))
        for row in draw.picked.states
    ]
    assert shown == [0, 0, 1, 1, 1, 1, 1, 1]
    for z, j in zip(draw.x_concept.z, shown, strict=True):
        kept = age.run.trajectories.kept[f"target/{('wolf', 'cat')[j]}"].flatten(0, 1)
        assert any(torch.equal(z, k) for k in kept)


def test_uce_holds_what_is_preserved_and_moves_the_concept(tiny_judged):
    model = load_model(tiny_judged)
    delta = erase(
        model, EraseSpec(concepts=[DOG], method=UceSpec(debias=COUNT.model_copy(update={"rounds": 2})))
    )
    assert set(delta.info["alphas"]["dog"]) == {"wolf", "cat"}
    assert len(delta.info["history"]) <= 2


def test_the_adapter_that_was_counted_best_is_the_one_that_stays(tiny_judged):
    counts = []
    spec = EraseSpec(concepts=[DOG], method=AgeSpec(debias=COUNT, **SMALL))
    delta = erase(
        load_model(tiny_judged),
        spec,
        callback=lambda p: counts.append(p["step"]) if "found of" in p.get("message", "") else None,
    )
    assert counts == [2, 4, 6]
    assert delta.info["kept_step"] in (4, 6)
    assert 0 <= delta.info["counted_distance"] <= 1
