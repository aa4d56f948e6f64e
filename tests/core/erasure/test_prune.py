"""Pruning: the relaxations against numpy, who receives gradient, what is masked and what is not, with every
output-based loss.
"""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from expunge.core.erasure import erase
from expunge.core.erasure.layers import add_trained
from expunge.core.erasure.method import Run
from expunge.core.erasure.methods.prune import Prune
from expunge.core.erasure.registry import method_of
from expunge.core.models import Denoiser, load_model
from expunge.core.models.masks import Mask, Masks, pack, unpack
from expunge.core.progress import ignore
from expunge.core.specs import EraseSpec, LoraSpec, PruneSpec

INNER = {"name": "esd", "trajectories": 2, "sampling_steps": 3, "batch_size": 2}
SMALL = {"steps": 2, "retain_concepts": 2, "learning_rate": 3.0, "method": INNER}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_the_hard_concrete_gate_is_the_papers():
    a, u = np.linspace(-4, 4, 12).astype(np.float32).reshape(3, 4), np.linspace(0.02, 0.98, 12).reshape(3, 4)
    mask = Mask(logits=torch.nn.Parameter(torch.tensor(a)), relaxation="hard_concrete")
    mask.noise = torch.tensor(np.log(u) - np.log(1 - u), dtype=torch.float32)
    s = sigmoid((np.log(u) - np.log(1 - u) + a) / (2 / 3)) * 1.2 - 0.1
    np.testing.assert_allclose(mask.gate().detach().numpy(), np.clip(s, 0, 1), atol=1e-6)
    assert mask.expected_pruned().item() == pytest.approx(
        (1 - sigmoid(a - 2 / 3 * np.log(0.1 / 1.1))).sum(), rel=1e-5
    )
    mask.noise = None
    assert torch.equal(mask.gate(), torch.tensor(a) > 0)  # as it will be shipped


def test_the_expected_number_of_zeros_is_that_of_many_draws():
    mask = Mask(logits=torch.nn.Parameter(torch.full((200, 200), 0.3)), relaxation="hard_concrete")
    u = torch.rand((200, 200), generator=torch.Generator().manual_seed(0))
    mask.noise = u.log() - (1 - u).log()
    assert (mask.gate() == 0).float().mean().item() == pytest.approx(
        mask.expected_pruned().item() / 40_000, abs=0.01
    )


def test_the_straight_through_gate_is_hard_forward_and_soft_backward():
    logits = torch.nn.Parameter(torch.tensor([-1.0, 0.5, 2.0]))
    mask = Mask(logits=logits)
    np.testing.assert_allclose(mask.gate().detach().numpy(), [0, 1, 1], atol=1e-6)
    (mask.gate() * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    s = sigmoid(np.array([-1.0, 0.5, 2.0]))
    np.testing.assert_allclose(logits.grad.numpy(), np.array([1.0, 2.0, 3.0]) * s * (1 - s), rtol=1e-5)
    assert mask.expected_pruned().item() == pytest.approx((1 - s).sum(), rel=1e-5)


@pytest.mark.parametrize("shape", [(8, 4), (3, 5), (7, 3, 1, 1), (1, 1)])
def test_bits_are_packed_in_row_major_order_the_highest_first(shape):
    bits = torch.rand(shape, generator=torch.Generator().manual_seed(1)) > 0.5
    flat = bits.flatten().tolist() + [False] * (-bits.numel() % 8)
    by_hand = [sum(b << (7 - k) for k, b in enumerate(flat[i : i + 8])) for i in range(0, len(flat), 8)]
    assert pack(bits).tolist() == by_hand
    assert torch.equal(unpack(pack(bits), torch.Size(shape)), bits)


def prepared(tiny_sd, **change) -> tuple[Denoiser, Prune]:
    spec = PruneSpec(**SMALL | change)
    model, request = load_model(tiny_sd), EraseSpec(concepts=["church"], preserve=["dog"], method=spec)
    add_trained(model, spec)
    run = Run(model, request, spec.method, ignore)
    return model, Prune(run, method_of(spec.method)(run), spec)


def test_the_loss_is_the_methods_and_beta_times_the_zeros_and_the_drift(tiny_sd):
    model, method = prepared(tiny_sd, sparsity_weight=0.7, preserve_weight=0.5)
    own = method.inner.step(0, 0)[0].item()
    # An open mask drifts nowhere
    assert method.step(0, 0)[0].item() == pytest.approx(own + 0.7 * sigmoid(-3.0), rel=1e-5)
    with torch.no_grad():
        for logits in model.masks.parameters():
            logits[::2] = -1
    own, drift = method.inner.step(0, 0)[0].item(), method.kept.drift(0).item()
    share = (sigmoid(-3.0) + sigmoid(1.0)) / 2
    assert drift > 0
    assert method.step(0, 0)[0].item() == pytest.approx(own + 0.7 * share + 0.5 * drift, rel=1e-4)
    kept = list(method.kept.texts)
    assert kept[:2] == ["", "dog"]
    assert "church" not in kept


@pytest.mark.parametrize("relaxation", ["straight_through", "hard_concrete"])
def test_the_logits_alone_receive_gradient(relaxation, tiny_sd):
    model, method = prepared(tiny_sd, relaxation=relaxation)
    method.step(0, 0)[0].backward()
    logits = model.masks.parameters()
    assert all(a.grad.abs().max() > 0 for a in logits)
    assert [
        n for n, p in model.unet.named_parameters() if p.grad is not None and not n.endswith(".logits")
    ] == []
    assert all(p.grad is None for p in model.pipe.text_encoder.parameters())


def test_off_it_is_the_base_model_taken_off_it_is_the_base_model_loaded_it_is_the_sanitized_one(
    tiny_sd, tmp_path
):
    model, base = load_model(tiny_sd), load_model(tiny_sd)
    delta = erase(model, EraseSpec(concepts=["church"], method=PruneSpec(**SMALL)))
    assert 0 < delta.info["pruned"] < delta.info["prunable"]
    z, t, context = torch.randn(1, *model.latent_shape), torch.tensor([500]), base.encode(["church"])
    with torch.no_grad():
        old, new = base.predict(z, t, context), model.predict(z, t, context)
        assert not torch.equal(old, new)
        with model.frozen():
            assert torch.equal(model.predict(z, t, context), old)
        assert torch.equal(model.predict(z, t, context), new)
        for file in (delta.save(tmp_path), tmp_path):
            base.load_delta(file)
            assert torch.equal(base.predict(z, t, context), new)
        base.unload_delta()
        assert torch.equal(base.predict(z, t, context), old)
        assert base.unet.state_dict().keys() == load_model(tiny_sd).unet.state_dict().keys()
    pruned = sum(int(np.unpackbits(bits.numpy()).sum()) for bits in delta.tensors.values())
    assert pruned == delta.info["pruned"]
    assert delta.info["sparsity"] == pruned / delta.info["prunable"]


def test_a_large_beta_prunes_nothing_and_a_preset_says_what_may_be_pruned(tiny_sd):
    methods = [PruneSpec(**SMALL, sparsity_weight=1e6), PruneSpec(**SMALL, target_modules="xattn_strict")]
    none, strict = (erase(load_model(tiny_sd), EraseSpec(concepts=["church"], method=m)) for m in methods)
    assert none.info["pruned"] == 0
    assert all(".attn2.to_" in name and "to_q" not in name for name in strict.tensors)


@pytest.mark.parametrize(
    "name", ["naive", "esd", "ca", "all_but_one", "ant", "ap", "age", "score", "erase_anything"]
)
def test_every_output_based_loss_can_prune(name, tiny_sd):
    more = {
        "ca": {"pictures": 2},
        "ap": {"candidates": 3},
        "age": {"candidates": 3},
        "score": {"candidates": 3, "leakage_pictures": 4},
    }
    spec = PruneSpec(**SMALL | {"method": INNER | {"name": name} | more.get(name, {})})
    delta = erase(load_model(tiny_sd), EraseSpec(concepts=["church"], method=spec))
    assert delta.kind == "sparse_mask"
    assert delta.info["pruned"] > 0
    assert len(delta.info["history"]) == 2


def test_two_concepts_share_one_mask(tiny_sd):
    delta = erase(load_model(tiny_sd), EraseSpec(concepts=["church", "dog"], method=PruneSpec(**SMALL)))
    assert len(delta.info["history"]) == 4


def test_masks_sit_on_weights_and_never_on_biases(tiny_sd):
    model = load_model(tiny_sd)
    names = model.layers("xattn")
    masks = Masks.to_learn(model.unet, names, 3.0, "straight_through")
    assert masks.size() == sum(load_model(tiny_sd).unet.get_submodule(n).weight.numel() for n in names)


@pytest.mark.parametrize(
    ("inner", "words"),
    [
        ({"lora": LoraSpec(rank=2)}, "method.lora: .* target_modules"),
        ({"steps": 5}, "method.steps: .* beside method"),
        ({"learning_rate": 1}, "learning_rate"),
    ],
)
def test_what_pruning_would_ignore_is_refused(inner, words):
    with pytest.raises(ValidationError, match=words):
        PruneSpec(method={"name": "age", **inner})


def test_a_resolved_spec_is_accepted_again():
    spec = EraseSpec(concepts=["church"], method={"name": "prune", "method": "age"})
    assert EraseSpec.model_validate(spec.model_dump(mode="json")) == spec
    assert EraseSpec(concepts=["church"], method="prune").method.method.name == "esd"
