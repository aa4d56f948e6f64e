"""EraseFlow: its balance against an independent computation, its paths, and what log Z follows."""

import numpy as np
import pytest
import torch

from expunge.core.erasure.layers import add_trained
from expunge.core.erasure.method import Run
from expunge.core.erasure.methods import erase_flow
from expunge.core.erasure.methods.erase_flow import LOG_PARTITION, EraseFlow, log_ratio
from expunge.core.models import Text, load_model
from expunge.core.progress import ignore
from expunge.core.sampling import ancestral_path, seeded
from expunge.core.specs import Concept, EraseFlowSpec, EraseSpec, LoraSpec
from tests.support.numpy_losses import ALPHAS, Linear, by_hand, inputs

SMALL = {"steps": 2, "trajectories": 4, "sampling_steps": 6, "batch_size": 3, "lora": LoraSpec(rank=2)}


class Guided(Linear):
    def predict_guided(self, z, t, text, empty, guidance):
        old_0, old_c = self.predict(z, t, empty), self.predict(z, t, text)
        return old_0 + guidance * (old_c - old_0)


def normal(x, mean, deviation):
    density = np.exp(-(((x - mean) / deviation) ** 2) / 2) / (deviation * np.sqrt(2 * np.pi))
    return np.log(density).mean((1, 2, 3))


def test_a_steps_log_ratio_is_that_of_two_normals():
    (x, c), (after, e) = inputs(0), inputs(1)
    got = log_ratio(Guided(), x.z, after.z, (7, 4), Text(c), Text(e), 3.0)
    z, t = x.z.numpy().astype(np.float64), np.full(3, 7)
    c, e = c.numpy(), e.numpy()
    out = by_hand(z, t, e, 2.5) + 3.0 * (by_hand(z, t, c, 2.5) - by_hand(z, t, e, 2.5))
    a, b = float(ALPHAS[7]), float(ALPHAS[4])
    x0 = (z - np.sqrt(1 - a) * out) / np.sqrt(a)
    variance = (1 - b) / (1 - a) * (1 - a / b)
    mean = np.sqrt(b) * x0 + np.sqrt(1 - b - variance) * out
    drawn = normal(after.z.numpy(), mean, np.sqrt(variance))
    noised = normal(z, np.sqrt(a / b) * after.z.numpy(), np.sqrt(1 - a / b))
    np.testing.assert_allclose(got.detach().numpy(), drawn - noised, rtol=1e-4)


def method_of(model, **more):
    spec = EraseFlowSpec(**{**SMALL, **more})
    concept = Concept(name="church", target="mosque", synonyms=["chapel"])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trained = add_trained(model, spec)
    run = Run(model, EraseSpec(concepts=[concept], method=spec), spec, ignore)
    return EraseFlow(run), trained


def test_the_loss_is_the_square_of_all_chosen_steps_balance(tiny_sd):
    model = load_model(tiny_sd)
    method, trained = method_of(model)
    spec, g = method.run.spec, method.run.generator(0)
    paths, row = method.paths(0, g)
    text = method.concepts[0][torch.randint(len(method.concepts[0]), row.shape, generator=g)]
    chosen = method.chosen(g)
    balance = sum(
        log_ratio(
            model,
            paths[:, k],
            paths[:, k + 1],
            method.moves[k],
            text,
            method.empty.expand(3),
            spec.guidance_scale,
        )
        for k in chosen
    )
    expected = (balance + LOG_PARTITION - spec.log_reward).square().mean()
    loss, target = method.step(0, 0)
    assert target == "mosque"
    torch.testing.assert_close(loss, expected)
    # A step at a time or at once: the same gradients
    for got, wanted in zip(model.gradients(loss, trained), model.gradients(expected, trained), strict=True):
        torch.testing.assert_close(got, wanted)
    # log Z follows its own gradient, by one step of Adam
    residual = float((balance + LOG_PARTITION - spec.log_reward).detach().mean())
    moved = float(method.log_partition[0]) - LOG_PARTITION
    assert moved == pytest.approx(-np.sign(residual) * spec.partition_learning_rate, rel=1e-3)


def test_the_graph_holds_one_step_however_many_are_balanced(tiny_sd):
    model = load_model(tiny_sd)
    method, _ = method_of(model, sampling_steps=10, drawn_steps=8)
    paths, row = method.paths(0, seeded(0))
    text, empty = method.concepts[0][row], method.empty.expand(len(row))

    def kept(run):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            run()
        return sum(sizes)

    one = kept(lambda: log_ratio(model, paths[:, 0], paths[:, 1], method.moves[0], text, empty, 3.0))
    assert len(method.chosen(seeded(0))) == 10
    assert kept(lambda: method.step(0, 0)) < one


def test_the_last_fifth_of_the_steps_is_always_balanced(tiny_sd):
    method, _ = method_of(load_model(tiny_sd), sampling_steps=10, drawn_steps=3)
    assert len(method.moves) == 10
    drawn = [method.chosen(seeded(k)) for k in range(20)]
    assert all(each[-2:] == [8, 9] and len(each) == len(set(each)) == 5 for each in drawn)
    assert {k for each in drawn for k in each} == set(range(10))


def test_paths_are_the_ancestral_samplers_with_the_anchors_prompts(tiny_sd):
    model = load_model(tiny_sd)
    method, _ = method_of(model)
    paths, row = method.paths(0, seeded(3))
    rows, g = method.run.trajectories.rows("path/0", len(method.anchors[0]), 4)
    noise = torch.stack([torch.randn(len(method.moves) + 1, *model.latent_shape, generator=g) for _ in rows])
    with model.frozen():
        kept = ancestral_path(model, method.anchors[0][rows], noise, 6, 3.0)
    assert torch.equal(method.run.trajectories.kept["path/0"], kept)
    assert all(
        any(torch.equal(p, k) and r == s for k, s in zip(kept, rows, strict=True))
        for p, r in zip(paths, row, strict=True)
    )


def test_a_style_is_asked_for_around_the_object_of_its_path(tiny_sd):
    model = load_model(tiny_sd)
    spec = EraseFlowSpec(**SMALL)
    add_trained(model, spec)
    method = EraseFlow(Run(model, EraseSpec(concepts=["in noto style"], method=spec), spec, ignore))
    asked = []
    predict = model.predict_guided
    model.predict_guided = lambda z, t, text, *rest: asked.append(text) or predict(z, t, text, *rest)
    method.step(0, 0)
    _, row = method.paths(0, method.run.generator(0))
    assert method.names == ["twemoji"]
    assert len(set(row.tolist())) > 1
    assert torch.equal(asked[-1].states, method.concepts[0][row].states)


def test_the_only_style_is_asked_for_around_every_object(tiny_sd):
    model = load_model(tiny_sd)
    only = model.vocabulary.styles[0]
    model.vocabulary = model.vocabulary.without(model.vocabulary.styles[1:])
    spec = EraseFlowSpec(**SMALL)
    add_trained(model, spec)
    method = EraseFlow(Run(model, EraseSpec(concepts=[f"in {only} style"], method=spec), spec, ignore))
    assert method.names == [""]
    asked, predict = [], model.predict_guided
    model.predict_guided = lambda z, t, text, *rest: asked.append(text.states) or predict(z, t, text, *rest)
    for step in range(12):
        method.step(0, step)
    own = method.concepts[0].states
    assert sum(any(torch.equal(o, row) for rows in asked for row in rows) for o in own) > len(own) / 2


def test_paths_are_drawn_before_the_steps_with_progress_whatever_fits_at_once(tiny_sd, monkeypatch):
    told = []
    model = load_model(tiny_sd)
    spec = EraseFlowSpec(**SMALL)
    request = EraseSpec(concepts=["church", "dog"], method=spec)
    add_trained(model, spec)
    first = EraseFlow(Run(model, request, spec, told.append)).run.trajectories.kept
    assert [(p["phase"], p["step"], p["total"]) for p in told] == [
        ("trajectories", 1, 2),
        ("trajectories", 2, 2),
    ]
    monkeypatch.setattr(erase_flow, "ROWS", 1)
    again = EraseFlow(Run(model, request, spec, ignore)).run.trajectories.kept
    for key, paths in first.items():
        torch.testing.assert_close(again[key], paths, atol=1e-4, rtol=1e-4)
