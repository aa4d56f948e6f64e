"""SCORE: its loss, its critic, what it measures, and which layers it trains."""

import numpy as np
import pytest
import torch

from expunge.core.erasure import erase
from expunge.core.erasure.critic import Critic, bce
from expunge.core.erasure.method import Run
from expunge.core.erasure.methods import score
from expunge.core.erasure.saliency import train_the_salient
from expunge.core.models import Text, load_model
from expunge.core.progress import ignore
from expunge.core.run import run_erase
from expunge.core.specs import EraseSpec, EvaluationSpec, LoraSpec, ScoreSpec
from tests.support.numpy_losses import ALPHAS, Linear, by_hand, inputs, weighted

SMALL = {
    "steps": 2,
    "trajectories": 4,
    "sampling_steps": 4,
    "batch_size": 2,
    "candidates": 3,
    "leakage_pictures": 4,
    "lora": LoraSpec(rank=2),
}


def linear_critic(x, t):
    return 0.3 * x.flatten(1) + t[:, None]


def begun(model):
    request = EraseSpec(concepts=["church"], method=ScoreSpec(**SMALL))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.add_lora(request.method.lora)
    return score.Score(Run(model, request, request.method, ignore))


def arguments(seed=0):
    (x_e, concept), (x_n, neighbour) = inputs(seed), inputs(seed + 1)
    return x_e, x_n, concept, neighbour, torch.full_like(concept, 0.1)


def loss_of(model, critic, x_e, x_n, concept, neighbour, empty, spec):
    return score.loss(model, critic, x_e, x_n, Text(concept), Text(neighbour), Text(empty), spec)


@pytest.mark.parametrize("eta", [0.0, 1.5])
def test_the_loss_is_confusion_upper_bound_and_trajectory_consistency(eta):
    x_e, x_n, concept, neighbour, empty = arguments()
    spec = ScoreSpec(adversarial_weight=0.4, upper_weight=0.6, trajectory_weight=0.8, eta=eta, keep=0.3)
    total, x0, other = loss_of(Linear(), linear_critic, x_e, x_n, concept, neighbour, empty, spec)
    z, y, t = x_e.z.numpy(), x_n.z.numpy(), x_e.t.numpy()
    c, n, e, alphas = (
        concept.numpy(),
        neighbour.numpy(),
        empty.numpy(),
        ALPHAS.numpy()[t][:, None, None, None],
    )
    new_c = by_hand(z, t, c, 2.5)
    drawn = (z - np.sqrt(1 - alphas) * new_c) / np.sqrt(alphas)
    np.testing.assert_allclose(x0.numpy(), 4 * np.tanh(drawn / 4), rtol=1e-4, atol=1e-5)
    beside = (y - np.sqrt(1 - alphas) * by_hand(y, t, n, 2.0)) / np.sqrt(alphas)
    np.testing.assert_allclose(other.numpy(), 4 * np.tanh(beside / 4), rtol=1e-4, atol=1e-5)
    logits = 0.3 * 4 * np.tanh(drawn / 4).reshape(3, -1) + t[:, None] / 10
    confusion = np.mean(np.log1p(np.exp(logits)) - 0.5 * logits)
    upper = weighted(new_c, (1 + eta) * by_hand(z, t, n, 2.0) - eta * by_hand(z, t, c, 2.0), t, "eps")
    consistency = sum(weighted(by_hand(y, t, k, 2.5), by_hand(y, t, k, 2.0), t, "eps") for k in (n, e))
    consistency += np.mean((new_c[2] - by_hand(z, t, c, 2.0)[2]) ** 2) / 3  # of t = 1, 4, 8 only 8 is early
    assert total.item() == pytest.approx(0.4 * confusion + 0.6 * upper + 0.8 * consistency, rel=1e-4)


def test_confusion_gives_gradient_to_theta_and_none_to_a_critic_held_still():
    model, critic = Linear(), Critic(4, 8).requires_grad_(False)
    spec = ScoreSpec(adversarial_weight=1.0, upper_weight=0.0, trajectory_weight=0.0)
    x_e, x_n, concept, neighbour, empty = arguments()
    neighbour.requires_grad_(True)
    x_e, x_n = (type(x)(torch.nn.functional.interpolate(x.z, 8), x.t) for x in (x_e, x_n))
    loss_of(model, critic, x_e, x_n, concept, neighbour, empty, spec)[0].backward()
    assert model.delta.grad.abs() > 0
    assert all(p.grad is None for p in critic.parameters())
    assert neighbour.grad is None or neighbour.grad.abs().max() == 0


def test_a_step_teaches_the_critic_and_leaves_no_gradient_of_its_own_on_theta(tiny_sd):
    model = load_model(tiny_sd)
    method = begun(model)
    before = {k: v.clone() for k, v in method.critic.named_parameters()}
    total, name = method.step(0, 0)
    assert name in method.near[0]
    assert any(not torch.equal(v, before[k]) for k, v in method.critic.named_parameters())
    assert all(p.grad is None for n, p in model.unet.named_parameters() if "lora_" in n)
    total.backward()
    assert any(
        p.grad is not None and p.grad.abs().max() > 0
        for n, p in model.unet.named_parameters()
        if "lora_" in n
    )


def test_the_critics_state_comes_back_with_its_optimiser(tiny_sd):
    one, two = (begun(load_model(tiny_sd)) for _ in range(2))
    one.step(0, 0)
    two.load_state({k: v.clone() for k, v in one.state().items()})
    for method in (one, two):
        method.step(0, 1)
    assert one.state().keys() == two.state().keys()
    assert all(torch.equal(v, two.state()[k]) for k, v in one.state().items())


def test_cross_entropy_is_the_formula():
    logits = torch.tensor([[0.3, -2.0]])
    p = 1 / (1 + np.exp(-logits.numpy()))
    assert bce(logits, 0.8).item() == pytest.approx(
        float(np.mean(-0.8 * np.log(p) - 0.2 * np.log(1 - p))), rel=1e-5
    )


def test_salient_layers_are_those_with_the_largest_gradient(tiny_sd):
    model = load_model(tiny_sd)
    context, t = model.encode(["church", "a church"]), torch.tensor([300, 600])
    z = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))

    def loss(_):
        return model.predict(z, t, context).square().mean()

    model.add_lora(LoraSpec(rank=64))  # many columns: a projection that says much
    chosen = train_the_salient(model, 0.25, 1, loss)
    bases = {
        n: m.base_layer.weight.requires_grad_(True)
        for n, m in model.unet.named_modules()
        if hasattr(m, "base_layer")
    }
    loss(0).backward()
    true = sorted(bases, key=lambda n: float(bases[n].grad.norm() / bases[n].numel() ** 0.5), reverse=True)
    assert len(chosen) == round(0.25 * len(bases))
    assert len(set(chosen) & set(true[: len(chosen)])) >= 0.75 * len(chosen)


def test_layers_that_are_not_salient_stay_as_they_were(tiny_sd):
    delta = erase(
        load_model(tiny_sd), EraseSpec(concepts=["church"], method=ScoreSpec(saliency=0.25, **SMALL))
    )
    moved = [k for k, v in delta.tensors.items() if "lora_B" in k and v.abs().max() > 0]
    assert (
        len(moved) == delta.info["salient_layers"] == round(0.25 * sum("lora_B" in k for k in delta.tensors))
    )


def test_the_leakage_is_in_the_report(tiny_judged, tmp_path):
    judging = EvaluationSpec(erased_images=1, preserved_count=2, preserved_images=1, sampling_steps=2)
    spec = EraseSpec(concepts=["church"], method=ScoreSpec(**SMALL), evaluation=judging)
    run_erase(spec, tmp_path / "out", source=str(tiny_judged), cache=tmp_path / "cache")
    assert "leakage_nats" in (tmp_path / "out" / "report.json").read_text()
    assert "nats" in (tmp_path / "out" / "README.md").read_text()
