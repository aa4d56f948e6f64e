"""Recorded attention, and the losses of EraseAnything and MACE that read it."""

import numpy as np
import pytest
import torch

from expunge.core.erasure import erase
from expunge.core.erasure.attention import at_size, named_tokens, positions, token_maps
from expunge.core.erasure.method import Run
from expunge.core.erasure.methods import mace, uce
from expunge.core.erasure.methods.erase_anything import EraseAnything, lower_loss, reversed_info_nce
from expunge.core.models import load_model
from expunge.core.models.stable_diffusion import StableDiffusion
from expunge.core.models.vocabulary import Vocabulary, article
from expunge.core.progress import ignore
from expunge.core.sampling import Latents
from expunge.core.specs import Concept, EraseAnythingSpec, EraseSpec, LoraSpec, MaceSpec, UceSpec

SMALL = {"steps": 2, "trajectories": 2, "sampling_steps": 4, "batch_size": 2, "lora": LoraSpec(rank=2)}
PROMPTS = ["a photo of a church", "church"]


@pytest.fixture
def model(tiny_sd):
    return load_model(tiny_sd)


def latents(model, seed=0):
    return Latents(
        torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(seed)),
        torch.tensor([700, 100]),
    )


def by_numpy(model, x, context):
    """Each layer's attention probabilities, the mean over heads, from its queries and keys; (B, positions,
    tokens).
    """
    seen: dict[str, np.ndarray] = {}
    layers = [n for n, _ in model.unet.named_modules() if n.endswith((".attn2.to_q", ".attn2.to_k"))]
    hooks = [
        model.unet.get_submodule(n).register_forward_hook(
            lambda _, __, out, n=n: seen.__setitem__(n, out.detach().double().numpy())
        )
        for n in layers
    ]
    with torch.no_grad():
        model.predict(x.z, x.t, context)
    for hook in hooks:
        hook.remove()
    out = []
    for name in (n for n in seen if n.endswith("to_q")):
        q, k, heads = (
            seen[name],
            seen[name.replace("to_q", "to_k")],
            model.unet.get_submodule(name.rpartition(".")[0]).heads,
        )
        d, total = q.shape[-1] // heads, 0.0
        for h in range(heads):
            part = slice(h * d, (h + 1) * d)
            scores = np.exp(q[..., part] @ k[..., part].transpose(0, 2, 1) / np.sqrt(d))
            total = total + scores / scores.sum(-1, keepdims=True) / heads
        out.append(total)
    return out


def test_recording_changes_nothing_and_keeps_the_probabilities_of_every_cross_attention_layer(model):
    x, context, was = latents(model), model.encode(PROMPTS), dict(model.unet.attn_processors)
    with torch.no_grad(), model.recorded_attention() as kept:
        seen = model.predict(x.z, x.t, context)
    with torch.no_grad():
        torch.testing.assert_close(seen, model.predict(x.z, x.t, context), atol=1e-5, rtol=1e-4)
    assert model.unet.attn_processors == was
    expected = by_numpy(model, x, context)
    assert len(kept) == len(expected) == sum(n.endswith("attn2.to_q") for n, _ in model.unet.named_modules())
    for found, wanted in zip(kept, expected, strict=True):
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)


WITHIN = Vocabulary(
    ["police car", "ox", "delivery truck"], ["car", "noto"], ("{}", "a {}", "a photo of a {}", "a {} photo")
)


@pytest.mark.parametrize(
    ("name", "spelt"),
    [
        ("church", "church"),
        ("Church", "church"),
        ("delivery truck", "delivery truck"),
        ("photo", "photo"),
        ("a", "a"),
        ("of", "of"),
        ("apple", "apple"),
        ("in car style", "car"),
        ("in the style of police car", "police car"),
        ("in noto style", "noto"),
        ("in the style of Ox", "ox"),
    ],
)
def test_only_the_concepts_own_place_in_a_prompt_is_its_tokens(name, spelt, model):
    model.vocabulary = WITHIN
    tokenizer, masks = model.pipe.tokenizer, named_tokens(model, name)
    for prompt, (start, end), mask in zip(WITHIN.prompts(name), WITHIN.places(name), masks, strict=True):
        ids = tokenizer(prompt, padding="max_length", max_length=len(mask)).input_ids
        assert tokenizer.decode([i for i, m in zip(ids, mask.tolist(), strict=True) if m]).strip() == spelt
        template = prompt[:start] + "{}" + prompt[end:]
        assert template in {
            *WITHIN.templates,
            *(article(f"a {o} in {{}} style") for o in WITHIN.concepts),
            "an {}",
            "a photo of an {}",
            "an {} photo",
        }


def test_a_learned_word_has_all_its_tokens(model):
    model.learn("<mine>", torch.zeros(3, 32))
    assert named_tokens(model, "<mine>").sum(1).tolist() == [3] * len(model.vocabulary.templates)


def test_maps_of_several_sizes_are_averaged_at_one():
    small, large = torch.arange(4.0).view(1, 4), torch.ones(1, 16)
    found = at_size([small, large], 4)
    assert found.shape == (1, 4, 4)
    assert found[0, 0, 0] == pytest.approx((0 + 1) / 2)
    assert found[0, 3, 3] == pytest.approx((3 + 1) / 2)


def test_info_nce_is_the_formula_and_its_descent_leaves_the_synonym_for_the_strangers():
    g = torch.Generator().manual_seed(0)
    f, s, k = (
        torch.randn(2, 5, generator=g, requires_grad=True),
        torch.randn(2, 5, generator=g),
        torch.randn(3, 2, 5, generator=g),
    )
    got = reversed_info_nce(f, s, k, 0.5)

    def cosine(a, b):
        return float(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))

    a, b, c = f.detach().numpy(), s.numpy(), k.numpy()
    rows = []
    for i in range(2):
        far = sum(np.exp(cosine(a[i], c[j, i]) / 0.5) for j in range(3))
        rows.append(-np.log(far / (np.exp(cosine(a[i], b[i]) / 0.5) + far)))
    assert got.item() == pytest.approx(np.mean(rows), rel=1e-5)
    got.backward()
    moved = (f - 0.1 * f.grad).detach().numpy()
    assert cosine(moved[0], b[0]) < cosine(a[0], b[0])


def test_the_lower_turn_is_esds_loss_and_the_norm_of_the_attention_to_the_concept(model):
    model.add_lora(LoraSpec(rank=2))
    x, context, empty = latents(model), model.encode(PROMPTS), model.encode(["", ""])
    tokens = torch.stack([positions(model, p, p.index("church"), len(p)) for p in PROMPTS])
    total, esd = (
        lower_loss(model, x, context, empty, tokens, EraseAnythingSpec(attention_weight=w)).item()
        for w in (0.5, 0.0)
    )
    norms = [
        np.sqrt((np.einsum("bpl,bl->bp", p, tokens.numpy()) ** 2).sum(1)).mean()
        for p in by_numpy(model, x, context)
    ]
    assert total - esd == pytest.approx(0.5 * sum(norms), rel=1e-4)
    with torch.no_grad():
        eps_0, eps_c = model.predict(x.z, x.t, empty).numpy(), model.predict(x.z, x.t, context).numpy()
    # The fresh adapter is zero
    assert esd == pytest.approx(float(np.mean((eps_c - (eps_0 - (eps_c - eps_0))) ** 2)), rel=1e-4)


def test_descending_the_attention_term_takes_attention_from_the_concept(model):
    parameters = model.add_lora(LoraSpec(rank=2))
    x, context = latents(model), model.encode(PROMPTS)
    tokens = torch.stack([positions(model, p, p.index("church"), len(p)) for p in PROMPTS])

    def attended():
        with model.recorded_attention() as probabilities:
            model.predict(x.z, x.t, context)
        return torch.stack([m.norm(dim=1).mean() for m in token_maps(probabilities, tokens)]).sum()

    before, optimiser = attended(), torch.optim.SGD(parameters, lr=1e-2)
    before.backward()
    optimiser.step()
    assert attended() < before


def upper(model, weight, **given):
    request = EraseSpec(
        concepts=[Concept(name="church", synonyms=["mosque"])], method=EraseAnythingSpec(**SMALL, **given)
    )
    parameters = model.add_lora(LoraSpec(rank=2))
    method = EraseAnything(Run(model, request, request.method.model_copy(update=weight), ignore))
    return method, parameters


def test_the_contrast_is_with_the_synonym_and_the_strangers_and_they_get_no_gradient(model):
    method, parameters = upper(model, {"hold_weight": 0.0})
    assert method.others[0][0] == "mosque"
    assert len(method.others[0]) == 1 + 3
    # The synonym is erased too, and is not held
    assert list(method.kept) == [f"keep/{n}" for n in method.others[0][1:]]
    loss, name = method.step(0, 1)
    assert name in [k.removeprefix("keep/") for k in method.kept]
    loss.backward()
    moved = [
        p.grad
        for n, p in model.unet.named_parameters()
        if "lora_B" in n and p.grad is not None and p.grad.abs().max() > 0
    ]
    assert moved
    method.others[0] = ["church"] * 4  # were the other side given gradient, equal features would leave none
    for p in parameters:
        p.grad = None
    method.step(0, 1)[0].backward()
    assert all(p.grad is None or p.grad.abs().max() < 1e-6 for p in parameters)


def test_turns_alternate_and_the_upper_one_holds_others_where_they_were(model):
    method, parameters = upper(model, {"contrast_weight": 0.0})
    assert method.step(0, 0)[1] is None
    assert method.step(0, 1)[1] is not None
    assert method.step(0, 1)[0].item() == 0  # a fresh adapter is the base model
    with torch.no_grad():
        for p in parameters:
            p.add_(0.1)
    assert method.step(0, 1)[0].item() > 0


def test_the_solution_of_maces_closed_form_is_the_least_squares():
    rng = np.random.default_rng(0)
    wanted, e, p = rng.normal(size=(5, 3)), rng.normal(size=(5, 4)), rng.normal(size=(6, 4))
    up, down = mace.solve(torch.tensor(wanted), torch.tensor(e), torch.tensor(p), 0.3, 0.7)
    rows = np.concatenate([e, np.sqrt(0.7) * p, np.sqrt(0.3) * np.eye(4)])
    aims = np.concatenate([wanted, np.zeros((6, 3)), np.zeros((4, 3))])
    np.testing.assert_allclose((up @ down).numpy(), np.linalg.lstsq(rows, aims, rcond=None)[0].T, atol=1e-9)


def test_timesteps_are_weighed_as_the_authors_do():
    found = mace.importance(torch.tensor([0.0, 200.0, 300.0, 400.0, 900.0])).tolist()
    assert found[2] == pytest.approx(1 / (1 + np.exp(-5)) - 1 / (1 + np.exp(5)), rel=1e-4)
    assert found[1] == pytest.approx(found[3], abs=1e-3) == pytest.approx(0.5, abs=1e-3)
    assert max(found[0], found[4]) < 1e-3


def test_maces_loss_is_the_norm_of_the_attention_inside_the_mask(model):
    x, context = latents(model), model.encode(PROMPTS)
    tokens = torch.stack([positions(model, p, p.index("church"), len(p)) for p in PROMPTS])
    mask = torch.zeros(2, *model.latent_shape[1:])
    mask[:, : mask.shape[1] // 2] = 1
    got, expected = mace.attention_loss(model, x, context, tokens, mask).item(), 0.0
    for probability in by_numpy(model, x, context):
        side = int(np.sqrt(probability.shape[1]))
        inside = np.zeros((side, side))
        inside[: side // 2] = 1
        attended = np.einsum("bpl,bl->bp", probability, tokens.numpy()) * inside.reshape(-1)
        expected += np.sqrt((attended**2).sum(1)).mean()
    assert got == pytest.approx(expected, rel=1e-4)
    assert mace.attention_loss(model, x, context, tokens, torch.zeros_like(mask)).item() < 1e-4


def second_stage(model, concepts):
    """MACE's second stage on a model that was not refined, with an adapter of one rank a concept."""
    request = EraseSpec(concepts=concepts, method=MaceSpec(**SMALL))
    model.add_lora(LoraSpec(rank=len(concepts), target_modules="xattn_strict"))
    spec = request.method.model_copy(update={"lora": LoraSpec(rank=len(concepts))})
    return mace.Mace(Run(model, request, spec, ignore), mace.Mapped(model, request, spec), {})


def test_each_concept_trains_its_own_lora_alone(model):
    method = second_stage(model, ["church", "dog"])
    with torch.no_grad():
        for n, p in model.unet.named_parameters():
            if "lora_B" in n:
                p.normal_(generator=torch.Generator().manual_seed(0))
    method.step(1, 1)[0].backward()
    a, b = (
        [p.grad for n, p in model.unet.named_parameters() if x in n and p.grad is not None]
        for x in ("lora_A", "lora_B")
    )
    assert all(g[0].abs().max() == 0 for g in a)
    assert all(g[:, 0].abs().max() == 0 for g in b)
    assert any(g[1].abs().max() > 0 for g in a)
    assert any(g[:, 1].abs().max() > 0 for g in b)


def test_masks_are_where_the_base_model_looks_for_the_words(model):
    method = second_stage(model, ["church"])
    states, half = method.run.trajectories.kept["erase/0"], slice(2, 4)
    side = model.latent_shape[1]
    maps = np.zeros((2, side, side))
    for k in range(*half.indices(4)):
        x = Latents(states[:, k], method.run.trajectories.timesteps[k].expand(2))
        layers = [torch.tensor(p) for p in by_numpy(model, x, method.concepts[0][:2])]
        maps += at_size(token_maps(layers, method.tokens[0][:2].double()), side).numpy()
    expected = maps > maps.mean((1, 2), keepdims=True)
    assert (method.masks[0].numpy() == expected).mean() > 0.99
    assert 0.05 < expected.mean() < 0.95


@pytest.mark.parametrize(
    "concepts", [["in noto style"], [Concept(name="church", synonyms=["mosque"], target="castle"), "dog"]]
)
def test_styles_and_several_concepts_are_fused_into_one_lora(concepts, model):
    delta = erase(model, EraseSpec(concepts=concepts, method=MaceSpec(**SMALL)))
    assert len(delta.info["history"]) == 2 * len(concepts)
    assert all(v.isfinite().all() for v in delta.tensors.values())
    assert all(v.abs().max() > 0 for v in delta.tensors.values())


@pytest.mark.parametrize(
    "concepts", [["in noto style"], [Concept(name="church", synonyms=["mosque"]), "dog"]]
)
def test_erase_anything_takes_styles_and_several_concepts_in_turn(concepts, model):
    delta = erase(model, EraseSpec(concepts=concepts, method=EraseAnythingSpec(**SMALL)))
    told = [h["target"] for h in delta.info["history"]]
    # A style's is the nearest other style
    goals = ["twemoji"] if concepts == ["in noto style"] else [None, None]
    assert told[: len(concepts)] == goals
    assert None not in told[len(concepts) :]  # what was held


@pytest.mark.parametrize("method", [MaceSpec(**SMALL), UceSpec(hold_vocabulary=True)])
@pytest.mark.parametrize("name", ["Church", "churches", "CHURCH", "<mine>"])
def test_what_is_held_never_names_what_is_erased(name, method, model):
    if name == "<mine>":
        model.learn(name, torch.zeros(1, 32), shows="church")
    concept, request = Concept(name=name), EraseSpec(concepts=["dog"], method=method)
    request.concepts = [concept]
    asked, encode = list[str](), model.encode
    model.encode = lambda prompts: asked.extend(prompts) or encode(prompts)
    if isinstance(method, MaceSpec):
        mace.Mapped(model, request, method)
        held = asked[-len(model.vocabulary.prompts("dog")) * (len(model.vocabulary.concepts) - 1) :]
    else:
        held = uce.prompts_of(model, request, method)[2]
    assert "a photo of a mosque" in held
    assert not [p for p in held if "church" in p and "style" not in p]


def test_mace_leaves_the_base_model_and_its_digest_as_they_were(model):
    weights, request = (
        {n: w.clone() for n, w in model.unet.state_dict().items()},
        EraseSpec(concepts=["church"], method=MaceSpec(**SMALL)),
    )
    # Without a folder the digest is the tensors'
    bare, fresh = (StableDiffusion(model.pipe), StableDiffusion(model.pipe))
    expected = fresh.digest
    erase(bare, request)
    assert bare.digest == expected
    bare.unload_delta()
    assert all(torch.equal(weights[n], w) for n, w in bare.unet.state_dict().items())


def test_mace_moves_the_concepts_tokens_far_more_than_the_held_ones(model):
    delta = erase(
        model,
        EraseSpec(
            concepts=["church"], method=MaceSpec(**SMALL, fuse_preserve_scale=10, refine_preserve_scale=10)
        ),
    ).tensors
    moved = []
    for word in ("church", "trumpet"):
        states = model.encode(model.vocabulary.prompts(word)).states
        states = torch.stack(
            [s[named > 0].mean(0) for s, named in zip(states, named_tokens(model, word), strict=True)]
        )
        layers = [n.removesuffix(".lora_A.weight") for n in delta if n.endswith("lora_A.weight")]
        moved.append(
            sum(
                float((states @ delta[f"{n}.lora_A.weight"].T @ delta[f"{n}.lora_B.weight"].T).norm())
                for n in layers
            )
        )
    assert moved[0] > 3 * moved[1] > 0
