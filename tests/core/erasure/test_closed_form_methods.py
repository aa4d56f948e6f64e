"""TIME's alignment and RECE's rounds, against independent computations."""

import numpy as np
import pytest
import torch

from expunge.core.erasure import erase
from expunge.core.erasure.closed_form import columns
from expunge.core.erasure.methods import rece, time
from expunge.core.models import load_model
from expunge.core.specs import Concept, EraseSpec, ReceSpec, TimeSpec, UceSpec

BOS, EOS = 100, 101


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ([1, 2, 7], [1, 2, 8], [0, 1, 2, 3, 4, 5]),  # one word for one word
        # Two tokens become one, the last repeated; EOS and padding follow
        ([1, 7, 8], [1, 9], [0, 1, 2, 2, 3, 4]),
        ([1, 7], [1, 8, 9], [0, 1, 2, 4, 5, 5]),  # one becomes two: EOS becomes EOS
        ([1, 7, 3], [1, 8, 3], [0, 1, 2, 3, 4, 5]),  # the words after it stay
        ([1, 7], [1], [0, 1, 2, 2, 3, 4]),  # nothing left: the word becomes the end of the text
    ],
)
def test_tokens_are_aligned_with_their_like(source, target, expected):
    assert time.alignment([BOS, *source, EOS], [BOS, *target, EOS], 6) == expected


def test_time_is_the_closed_form_of_its_pairs(tiny_sd):
    model = load_model(tiny_sd)
    delta = erase(
        model, EraseSpec(concepts=[Concept(name="church", target="mosque")], method=TimeSpec(ridge=0.2))
    )
    prompts = [("a photo of a {}", "an image of a {}", "a picture of a {}")[k] for k in range(3)]
    pairs = [time.pairs(model, p.format("church"), p.format("mosque")) for p in prompts]
    e, g = (np.concatenate([pair[k].double().numpy() for pair in pairs]) for k in (0, 1))
    name, layer = next((n, m) for n, m in model.unet.named_modules() if n.endswith("attn2.to_v"))
    w = layer.base_layer.weight.detach().double().numpy()
    expected = (0.2 * w + (w @ g.T) @ e) @ np.linalg.inv(0.2 * np.eye(e.shape[1]) + e.T @ e) - w
    got = (
        delta.tensors[f"unet.{name}.lora_B.weight"].double()
        @ delta.tensors[f"unet.{name}.lora_A.weight"].double()
    ).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert np.abs(expected).max() > 1e-3


def test_time_leaves_the_keys_alone_where_asked(tiny_sd):
    delta = erase(load_model(tiny_sd), EraseSpec(concepts=["church"], method=TimeSpec(with_to_k=False)))
    assert delta.tensors
    assert all("to_v" in k for k in delta.tensors)


def test_the_adversarial_embedding_minimises_the_distance_to_the_old_values():
    g = torch.Generator().manual_seed(0)
    old, new = ([torch.randn(9, 6, generator=g, dtype=torch.float64) for _ in range(2)] for _ in range(2))
    c = torch.randn(3, 6, generator=g, dtype=torch.float64)
    best = rece.adversarial(old, new, c, 0.3)

    def cost(x):
        return sum(
            float((w @ x.T - v @ c.T).square().sum()) for w, v in zip(new, old, strict=True)
        ) + 0.3 * float(x.square().sum())

    for _ in range(20):
        assert cost(best + 0.05 * torch.randn(3, 6, generator=g, dtype=torch.float64)) > cost(best)


def test_rounds_take_away_what_still_brings_the_old_values_back(tiny_sd):
    def left(spec):
        """How near any embedding comes to the old values of the concept under the edited model."""
        model = load_model(tiny_sd)
        names = [n for n, _ in model.unet.named_modules() if n.endswith(("attn2.to_k", "attn2.to_v"))]
        old = [model.unet.get_submodule(n).weight.detach().double().clone() for n in names]
        delta = erase(model, EraseSpec(concepts=["church"], method=spec)).tensors
        new = [
            w + (delta[f"unet.{n}.lora_B.weight"].double() @ delta[f"unet.{n}.lora_A.weight"].double())
            for n, w in zip(names, old, strict=True)
        ]
        c = columns(model, model.vocabulary.prompts("church"), "last").double()
        x = rece.adversarial(old, new, c, 1e-3)
        return sum(float((w @ x.T - v @ c.T).square().mean()) for w, v in zip(new, old, strict=True))

    assert (
        left(UceSpec(tokens="last"))
        < left(ReceSpec(ridge=0.5, rounds=1, tokens="last"))
        < left(ReceSpec(ridge=0.5, rounds=4, tokens="last"))
    )
