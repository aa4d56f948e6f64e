"""Fifty concepts at once in closed form and ten fine-tuned, on the bundled model."""

import pytest
import torch

from expunge.core.erasure import erase
from expunge.core.erasure.closed_form import columns
from expunge.core.models import Denoiser, load_model
from expunge.core.specs import EraseSpec, LoraSpec, UceSpec

SOURCE = "bundled:emoji"
FEW = {"steps": 2, "trajectories": 1, "sampling_steps": 3, "batch_size": 1, "lora": LoraSpec(rank=2)}


def fifty(model: Denoiser) -> list[str]:
    return model.vocabulary.concepts[::4][:50]


def moved(model: Denoiser, words: list[str]) -> float:
    """Mean squared change, in a cross-attention layer, of the values that are edited: those of each prompt's
    last token.
    """
    layer = next(m for n, m in model.unet.named_modules() if n.endswith("attn2.to_v"))
    states = columns(model, [f"a photo of a {w}" for w in words], UceSpec().tokens)
    with torch.no_grad():
        return float((layer(states) - layer.base_layer(states)).square().mean())


@pytest.mark.parametrize(("method", "times"), [("uce", 4), ("rece", 1)])
def test_fifty_concepts_leave_in_one_closed_form_and_the_rest_is_held(method, times):
    model = load_model(SOURCE)
    delta = erase(model, EraseSpec(concepts=fifty(model), method={"name": method, "hold_vocabulary": True}))
    # More columns than that fold into one full-rank factor
    assert delta.info["rank"] == model.unet.config.cross_attention_dim
    assert delta.info["unet_evaluations"] == 0
    others = [c for c in model.vocabulary.concepts if c not in fifty(model)]
    assert moved(model, fifty(model)) > times * moved(model, others)


@pytest.mark.parametrize("method", ["age", "esd"])
def test_ten_concepts_take_turns_and_none_of_them_is_another_ones_target(method):
    model = load_model(SOURCE)
    ten = model.vocabulary.concepts[:10]  # churches, mosques, castles: each other's nearest neighbours
    options = FEW | ({"candidates": 20} if method == "age" else {})
    delta = erase(model, EraseSpec(concepts=ten, method={"name": method} | options))
    targets = {h["target"] for h in delta.info["history"]}
    assert len(delta.info["history"]) == 20
    assert not targets & set(ten)
    assert all(v.isfinite().all() for v in delta.tensors.values())


def test_candidates_that_concepts_share_are_drawn_once():
    drawn: list[int] = []

    def watch(progress):
        if progress["phase"] == "trajectories":
            drawn.append(progress["total"])

    model = load_model(SOURCE)
    erase(
        model,
        EraseSpec(concepts=model.vocabulary.concepts[:10], method={"name": "age", "candidates": 20} | FEW),
        callback=watch,
    )
    assert drawn[0] == 10
    assert 20 <= drawn[-1] < 10 * 20 / 2
