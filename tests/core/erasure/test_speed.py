"""SPEED against its formula, computed independently, and what its null space promises."""

import numpy as np
import pytest
import torch

from expunge.core.erasure import erase
from expunge.core.erasure.closed_form import columns
from expunge.core.erasure.methods import speed
from expunge.core.errors import CoreError
from expunge.core.models import load_model
from expunge.core.specs import Concept, EraseSpec, SpeedSpec

PLAIN = {"filter": False, "augmentations": 0}


def product(delta, name):
    up, down = (delta.tensors[f"unet.{name}.lora_{half}.weight"].double() for half in "BA")
    return (up @ down).numpy()


def layers(model):
    return [n for n, _ in model.unet.named_modules() if n.endswith("attn2.to_v")]


def test_the_lora_is_the_papers_formula_of_the_columns(tiny_sd):
    base = load_model(tiny_sd)
    words = ["dog", "violin"]
    base.vocabulary = base.vocabulary.without([w for w in base.vocabulary.concepts if w not in words])
    base.vocabulary = base.vocabulary.without(base.vocabulary.styles)
    asked = Concept(name="church", target="mosque")
    prompts = base.vocabulary.prompts
    name = layers(base)[0]
    w = base.unet.get_submodule(name).weight.detach().double().numpy()
    t, a, r = (
        columns(base, texts, "last").double().numpy()
        for texts in (prompts("church"), prompts("mosque"), prompts("dog") + prompts("violin"))
    )
    empty = base.encode([""]).states[0].double().numpy()

    unit = np.sqrt(speed.NORM / np.square(t).sum(1).mean())
    t, a, r, empty = t * unit, a * unit, r * unit, empty * unit
    target = np.mean([np.outer(x, x) for x in t], 0)
    anchor = np.mean([np.outer(y, x) for x, y in zip(t, a, strict=True)], 0)
    values, vectors = np.linalg.eigh(np.mean([np.outer(x, x) for x in r], 0))
    p = vectors[:, values < 0.1] @ vectors[:, values < 0.1].T
    m = np.linalg.inv(target @ p + 0.5 * np.eye(len(p)))
    _, sizes, directions = np.linalg.svd(empty[1:], full_matrices=False)
    k = np.stack([empty[0], *(sizes[:3, None] * directions[:3])]).T
    middle = np.linalg.pinv(k.T @ p @ m @ k + 0.25 * np.eye(4))
    expected = w @ (anchor - target) @ p @ (np.eye(len(p)) - m @ k @ middle @ k.T @ p) @ m

    method = SpeedSpec(**PLAIN, retain_scale=0.5, invariant_ridge=0.25)
    delta = erase(base, EraseSpec(concepts=[asked], method=method))
    np.testing.assert_allclose(product(delta, name), expected, atol=1e-4)
    assert np.abs(expected).max() > 1e-3


def test_what_is_retained_and_the_empty_prompt_stay_and_the_concept_moves(tiny_sd):
    model = load_model(tiny_sd)
    names = model.vocabulary.concepts[:3]
    method = SpeedSpec(
        **PLAIN, hold_vocabulary=False, preserve=[n for n in names if n != "church"], retain_scale=1e-3
    )
    kept = columns(model, [p for n in method.preserve for p in model.vocabulary.prompts(n)], "last").double()
    gone = columns(model, model.vocabulary.prompts("church"), "last").double()
    start = model.encode([""]).states[0, :1].double()
    delta = erase(model, EraseSpec(concepts=["church"], method=method))
    for name in layers(model):
        change = torch.from_numpy(product(delta, name))
        moved = (gone @ change.T).norm(dim=1).min()
        assert (kept @ change.T).norm(dim=1).max() < 0.2 * moved
        assert (start @ change.T).norm() < 1e-3 * moved
    assert delta.info["held"] == method.preserve
    assert all("to_v" in key for key in delta.tensors)


def test_the_filter_keeps_what_a_plain_edit_moves_more_than_the_mean():
    g = torch.Generator().manual_seed(0)
    weight, t, a = (torch.randn(n, 8, generator=g, dtype=torch.float64) for n in (6, 2, 2))
    near, far = t[:1] * 0.9, torch.linalg.svd(t).Vh[-1:]  # moved as the concept is; not moved at all
    spec = SpeedSpec(augmentations=0)

    def moment(**changes):
        asked = spec.model_copy(update=changes)
        return speed.second_moment(weight, t, a, torch.cat([near, far]), asked, torch.zeros)

    torch.testing.assert_close(moment(), near.T @ near)
    torch.testing.assert_close(moment(filter=False), (near.T @ near + far.T @ far) / 2)
    least = torch.linalg.svd(weight).Vh[-1]
    beside = near[0] + 2 * least
    found = speed.second_moment(
        weight,
        t,
        a,
        near,
        SpeedSpec(augmentations=1, filter=False),
        lambda *shape: torch.full(shape, 2.0).double(),
    )
    torch.testing.assert_close(found, (near.T @ near + torch.outer(beside, beside)) / 2)


def test_where_no_direction_is_free_the_error_says_what_to_change(tiny_sd):
    with pytest.raises(CoreError, match="null_threshold") as raised:
        erase(
            load_model(tiny_sd),
            EraseSpec(concepts=["church"], method=SpeedSpec(null_threshold=1e-12, filter=False)),
        )
    assert raised.value.field == "method.null_threshold"


def test_variants_are_summed_as_if_they_were_there():
    g = torch.Generator().manual_seed(1)
    r, v, z = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((3, 5), (5,), (3, 4)))
    through, along = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((3, 2), (2,)))
    factor = torch.randn(6, 2, generator=g, dtype=torch.float64)
    kept = speed.moved_most(through, along, factor.T @ factor, z)
    moves = ((through[:, None] + z[..., None] * along) @ factor.T).norm(dim=2)
    assert torch.equal(kept, (moves > moves.mean()).double())
    assert 0 < kept.sum() < kept.numel()
    every = (r[:, None] + z[..., None] * v)[kept.bool()]
    torch.testing.assert_close(speed.square_of_variants(r, v, z, kept), every.T @ every)
