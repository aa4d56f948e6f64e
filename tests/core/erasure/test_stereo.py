"""STEREO: its losses against an independent computation, its two stages, and that a run resumes."""

import pytest
import torch

from expunge.core.attacks.scene import judged_prompts
from expunge.core.erasure import erase
from expunge.core.erasure.layers import add_trained
from expunge.core.erasure.method import Run
from expunge.core.erasure.methods import stereo
from expunge.core.evaluation.unseen_prompts import unseen
from expunge.core.leakage.prompts import held_out
from expunge.core.models import Text, load_model
from expunge.core.progress import ignore
from expunge.core.specs import Concept, EraseSpec, LoraSpec, StereoSpec
from expunge.core.specs.cost import optimiser_steps
from tests.support.killed_runs import resumed_to_the_same_bytes
from tests.support.numpy_losses import Linear, by_hand, inputs, weighted

SMALL = {
    "steps": 3,
    "rounds": 2,
    "round_steps": 2,
    "restarts": 2,
    "vectors": 2,
    "search_steps": 2,
    "search_batch": 2,
    "anchors": 3,
    "trajectories": 2,
    "sampling_steps": 4,
    "batch_size": 3,
    "checkpoint_every": 1,
    "lora": LoraSpec(rank=2),
}
SPEC = StereoSpec(**SMALL)


@pytest.mark.parametrize("space", ["eps", "x0"])
@pytest.mark.parametrize("guidance", [2.0, 3.5])
def test_the_first_stage_takes_what_was_found_to_the_empty_prompt_and_beyond(space, guidance):
    (x, v), (_, e) = inputs(0), inputs(1)
    spec = StereoSpec(space=space, guidance=guidance)
    got = stereo.search_loss(Linear(), x, Text(v), Text(e), spec).item()
    z, t = x.z.numpy(), x.t.numpy()
    old, old_0 = by_hand(z, t, v.numpy(), 2.0), by_hand(z, t, e.numpy(), 2.0)
    wanted = old - (guidance - 1) * (old - old_0)
    assert got == pytest.approx(weighted(by_hand(z, t, v.numpy(), 2.5), wanted, t, space), rel=1e-4)


@pytest.mark.parametrize("space", ["eps", "x0"])
@pytest.mark.parametrize("guidance", [2.0, 3.5])
def test_the_second_takes_concept_and_words_out_of_an_anchor(space, guidance):
    (x, v), (_, u), (_, a), (_, e) = (inputs(k) for k in range(4))
    model, spec = Linear(), StereoSpec(space=space, guidance=guidance)
    loss = stereo.erase_loss(model, x, Text(v), [Text(v), Text(u)], Text(a), Text(e), spec)
    z, t = x.z.numpy(), x.t.numpy()
    old_v, old_u, old_a, old_0 = (by_hand(z, t, each.numpy(), 2.0) for each in (v, u, a, e))
    away = ((old_v - old_0) + (old_u - old_0)) / 2
    wanted = old_0 + (guidance - 1) * (old_a - old_0) - (guidance + 1) * away
    assert loss.item() == pytest.approx(weighted(by_hand(z, t, v.numpy(), 2.5), wanted, t, space), rel=1e-4)
    # Gradient reaches the trained network's prediction alone
    loss.backward()
    before = model.delta.grad.clone()
    model.delta.grad = None
    aim = torch.from_numpy(wanted)
    stereo.error(model.predict(x.z, x.t, Text(v)), aim, model.schedule.weights(x.t, space)).backward()
    torch.testing.assert_close(model.delta.grad, before, rtol=1e-4, atol=1e-5)


def watched(model, spec=SPEC, concepts=("church",)):
    """A run's reports, and the adapter's `B` factors' size at each step's beginning."""
    sizes, make = [], stereo.Stereo.step

    def step(self, i, step):
        before = sum(float(p.abs().sum()) for k, p in model.adapter_state().items() if "lora_B" in k)
        found = make(self, i, step)
        after = sum(float(p.abs().sum()) for k, p in model.adapter_state().items() if "lora_B" in k)
        sizes.append((before, after))
        return found

    return sizes, step


def test_what_was_trained_is_put_back_between_the_stages_and_the_words_stay(tiny_sd, monkeypatch):
    model, seen = load_model(tiny_sd), []
    sizes, step = watched(model)
    monkeypatch.setattr(stereo.Stereo, "step", step)
    delta = erase(model, EraseSpec(concepts=["church", "dog"], method=SPEC), callback=seen.append)
    first = SPEC.rounds * SPEC.round_steps * 2
    assert len(delta.info["history"]) == first + SPEC.steps * 2
    for k, (before, after) in enumerate(sizes):
        assert (after == 0) == (k in (0, first))  # as it was put on, at the start of each stage alone
        assert (before > 0) == (k > 0)
    searches = [p["message"] for p in seen if p["phase"] == "search" and p["step"] == 1]
    assert searches == [f"round {n} of 2: what brings '{c}' back" for n in (1, 2) for c in ("church", "dog")]
    assert all(v.isfinite().all() for v in delta.tensors.values())


def test_each_round_erases_what_the_last_one_found(tiny_sd, monkeypatch):
    asked = []
    right = stereo.search_loss
    monkeypatch.setattr(
        stereo, "search_loss", lambda m, x, text, *rest: asked.append(text.states) or right(m, x, text, *rest)
    )
    model = load_model(tiny_sd)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        add_trained(model, SPEC)
    run = Run(model, EraseSpec(concepts=["church"], method=SPEC), SPEC, ignore)
    method = stereo.Stereo(run)
    own = method.concepts[0].states
    for step in range(4):
        method.step(0, step)
    assert len(method.words.found[0]) == 2
    for k, states in enumerate(asked):
        names = [bool((row == own).flatten(1).all(1).any()) for row in states]
        assert all(names) if k < 2 else not any(names)


@pytest.mark.parametrize("at", [2, 4, 6])
def test_a_run_that_is_killed_in_either_stage_resumes_to_the_same_bytes(at, tiny_sd, tmp_path):
    resumed_to_the_same_bytes(tiny_sd, EraseSpec(concepts=["church"], method=SPEC), at, tmp_path)


def test_a_style_is_taken_too(tiny_sd):
    delta = erase(load_model(tiny_sd), EraseSpec(concepts=["in noto style"], method=SPEC))
    assert all(v.isfinite().all() for v in delta.tensors.values())


def test_anchors_name_the_concept_beside_others_in_words_that_no_evaluation_uses(tiny_sd):
    model = load_model(tiny_sd)
    request = EraseSpec(concepts=["church"], method=SPEC)
    add_trained(model, SPEC)
    method = stereo.Stereo(Run(model, request, SPEC, ignore))
    anchors = method.anchors_of(Concept(name="church"), method.beside[0])
    assert method.held() == method.beside[0]
    assert all(any(other in anchor for anchor in anchors) for other in method.beside[0])
    assert len(anchors) == 3
    assert all("church" in anchor and anchor.count("church") == 1 for anchor in anchors)
    judged = {p for prompts in unseen(model.vocabulary, Concept(name="church")).values() for p in prompts}
    judged |= {*held_out(model.vocabulary, "church"), *judged_prompts(model.vocabulary, "church", 64)}
    assert not judged & set(anchors)


def test_its_first_stage_and_its_searches_are_counted():
    found = optimiser_steps(EraseSpec(concepts=["church", "dog"], method=SPEC))
    assert found["method.steps"] == 6
    assert found["method.round_steps"] == 2 * 2 * 2
    assert found["method.search_steps"] == 2 * 2 * 2 * 2
