"""UCE's closed form: golden values, exactness of the LoRA, its rank."""

import numpy as np
import pytest
import torch

from expunge.core.erasure import closed_form, erase
from expunge.core.erasure.methods import uce
from expunge.core.models import load_model
from expunge.core.specs import Concept, EraseSpec, UceSpec


@pytest.mark.parametrize(("n", "m"), [(3, 5), (3, 0), (40, 7)])
def test_factors_give_the_closed_form_of_the_paper(n, m):
    rng = np.random.default_rng(n)
    d, w = 12, rng.normal(size=(8, 12))
    e, g, p = rng.normal(size=(n, d)), rng.normal(size=(n, d)), rng.normal(size=(m, d))
    bracket = (
        0.3 * np.eye(d)
        + 1.7 * sum(np.outer(x, x) for x in e)
        + 0.6 * sum((np.outer(x, x) for x in p), np.zeros((d, d)))
    )
    edited = (
        0.3 * w
        + 1.7 * sum(w @ np.outer(y, x) for x, y in zip(e, g, strict=True))
        + 0.6 * sum((w @ np.outer(x, x) for x in p), np.zeros_like(w))
    )
    difference, down = closed_form.factors(torch.tensor(e), torch.tensor(g), torch.tensor(p), 0.3, 1.7, 0.6)
    np.testing.assert_allclose(
        torch.tensor(w) @ difference @ down, edited @ np.linalg.inv(bracket) - w, atol=1e-10
    )
    assert down.shape[0] <= min(n, d)


def test_rank_does_not_grow_with_what_is_preserved():
    g = torch.Generator().manual_seed(0)
    e, t, p = (torch.randn(k, 16, generator=g) for k in (2, 2, 50))
    assert (
        closed_form.factors(e, t, p, 0.5)[1].shape[0]
        == closed_form.factors(e, t, p[:0], 0.5)[1].shape[0]
        == 2
    )


def test_columns_that_do_not_move_need_no_factor():
    e = torch.randn(5, 16, generator=torch.Generator().manual_seed(1))
    g = e.clone()
    g[3] += 1
    assert closed_form.factors(e, g, e[:0], 0.5)[1].shape[0] == 1


@pytest.mark.parametrize("tokens", ["last", "all"])
def test_the_lora_on_the_model_is_the_closed_form(tokens, tiny_sd):
    model = load_model(tiny_sd)
    delta = erase(model, EraseSpec(concepts=["church"], method=UceSpec(preserve=["dog"], tokens=tokens)))
    prompts = model.vocabulary.prompts("church")
    e, g, p = (
        closed_form.columns(model, x, tokens)
        for x in (prompts, [""] * len(prompts), model.vocabulary.prompts("dog"))
    )
    difference, down = closed_form.factors(e, g, p, 0.5)
    name, layer = next((n, m) for n, m in model.unet.named_modules() if n.endswith("attn2.to_v"))
    expected = layer.base_layer.weight.double() @ difference @ down
    got = (
        delta.tensors[f"unet.{name}.lora_B.weight"].double()
        @ delta.tensors[f"unet.{name}.lora_A.weight"].double()
    )
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_last_token_edits_one_column_a_prompt(tiny_sd):
    model = load_model(tiny_sd)
    prompts = ["a church", "a delivery truck"]
    states, last = model.encode(prompts).states, closed_form.columns(model, prompts, "last")
    ids = model.pipe.tokenizer(prompts).input_ids
    torch.testing.assert_close(last, torch.stack([s[len(i) - 2] for s, i in zip(states, ids, strict=True)]))
    assert last.shape[0] == 2


def test_a_target_replaces_the_word_inside_the_prompt(tiny_sd):
    model = load_model(tiny_sd)
    delta = erase(model, EraseSpec(concepts=[Concept(name="church", target="mosque")], method="uce"))
    plain = erase(load_model(tiny_sd), EraseSpec(concepts=["church"], method="uce"))
    assert any(not torch.equal(delta.tensors[k], plain.tensors.get(k, torch.zeros(0))) for k in delta.tensors)


def test_a_style_is_replaced_around_its_object_whose_own_tokens_do_not_move(tiny_sd):
    model, request = load_model(tiny_sd), EraseSpec(concepts=["in noto style"], method="uce")
    sources, targets, _ = uce.prompts_of(model, request, UceSpec())
    assert (sources[0], targets[0]) == ("a church in noto style", "a church in twemoji style")
    sources, targets, _ = uce.prompts_of(model, request, UceSpec(guide=""))
    assert (sources[0], targets[0]) == ("a church in noto style", "a church")
    e, g = closed_form.columns(model, sources[:1], "all"), closed_form.columns(model, targets[:1], "all")
    same = len(model.pipe.tokenizer("a church").input_ids) - 1
    assert not closed_form.moved(e, g)[:same].any()
    assert closed_form.moved(e, g)[same:].all()


@pytest.mark.parametrize("tokens", ["last", "all"])
def test_the_rest_of_the_vocabulary_is_held_when_asked(tokens, tiny_sd):
    def moved(**options):
        model = load_model(tiny_sd)
        erase(model, EraseSpec(concepts=["church", "dog"], method=UceSpec(tokens=tokens, **options)))
        layer = next(m for n, m in model.unet.named_modules() if n.endswith("attn2.to_v"))
        with torch.no_grad():
            return [
                float((layer(c) - layer.base_layer(c)).square().mean())
                for c in (
                    closed_form.columns(model, [w], tokens) for w in ("church", "wolf", "a cat in noto style")
                )
            ]

    loose, held = moved(), moved(hold_vocabulary=True)
    assert held[1] < loose[1] / 4
    assert held[2] < loose[2] / 4
    assert held[0] > held[1]
