"""Eq. 2 and AdvUnlearn: golden values, who may receive gradient, and that the stock text encoder brings the
concept back.
"""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from expunge.core.erasure import erase
from expunge.core.erasure.layers import add_trained
from expunge.core.erasure.method import Purpose, Run
from expunge.core.erasure.methods import adv_unlearn, text_encoder
from expunge.core.erasure.retained_concepts import retained
from expunge.core.models import Denoiser, Text, load_model
from expunge.core.models.folders import BUNDLED
from expunge.core.models.schedule import Schedule
from expunge.core.progress import ignore
from expunge.core.sampling import Latents
from expunge.core.specs import AdvUnlearnSpec, EraseSpec, TextEncoderSpec, TextLoraSpec

SMALL = AdvUnlearnSpec(
    steps=2,
    batch_size=2,
    retain_batch=3,
    retain_concepts=2,
    trajectories=4,
    sampling_steps=4,
    attack_steps=2,
    warm_up=0,
    lora=TextLoraSpec(rank=2),
)


class Linear:
    """eps(z, t, c) = 2 mean(c) + z / 10 + t / 100."""

    schedule = Schedule(torch.linspace(0.95, 0.05, 10))

    def predict(self, z, t, text):
        return 2 * text.states.mean((1, 2)).view(-1, 1, 1, 1) + z / 10 + t.view(-1, 1, 1, 1) / 100


def by_hand(z, t, c):
    return 2 * c.mean(axis=(1, 2))[:, None, None, None] + z / 10 + t[:, None, None, None] / 100


def inputs(seed: int, rows: int = 3):
    g = torch.Generator().manual_seed(seed)
    return Latents(torch.randn(rows, 4, 2, 2, generator=g), torch.tensor([1, 4, 8])[:rows]), torch.randn(
        rows, 5, 6, generator=g
    )


def test_the_text_loss_is_equation_2():
    (_, new), (_, aim), (_, kept), (_, was) = inputs(0), inputs(1), inputs(2), inputs(3)
    updates = [torch.full((3, 2), 0.5), torch.full((2, 2), -2.0)]
    got = text_encoder.loss(
        new, aim, updates, TextEncoderSpec(ridge=0.1, preserve_weight=0.4), (kept, was)
    ).item()
    n, a, k, w = (x.numpy() for x in (new, aim, kept, was))
    ridge = 0.1 * 4096 / (5 * 6)  # as on the bundled model, whose states are 32 x 128
    assert got == pytest.approx(
        np.mean((n - a) ** 2) + ridge * (6 * 0.25 + 4 * 4.0) + 0.4 * np.mean((k - w) ** 2), rel=1e-5
    )


def test_the_ridge_weighs_the_same_against_the_text_term_whatever_the_size_of_the_states():
    def share(length: int, width: int) -> float:
        new, spec = torch.zeros(2, length, width), TextEncoderSpec(ridge=0.1)
        aim = new + (4096 / (length * width)) ** 0.5  # the same distance |tau' - tau|^2 of the whole states
        text = text_encoder.loss(new, aim, [torch.zeros(1)], spec).item()
        return text_encoder.loss(new, aim, [torch.full((1,), 3.0)], spec).item() / text

    assert share(32, 128) == pytest.approx(1 + 0.1 * 9)  # the bundled model's, as ever
    assert share(77, 768) == pytest.approx(share(32, 128))


def test_a_style_keeps_its_objects_in_the_text_encoder(tiny_sd):
    """Its prompts become those of the nearest other style around the same objects, and objects without a
    style are among what is retained.
    """
    model = load_model(tiny_sd)
    spec = TextEncoderSpec(steps=1, lora=TextLoraSpec(rank=2))
    method = text_encoder.TextEncoder(
        Run(model, EraseSpec(concepts=["in noto style"], method=spec), spec, ignore)
    )
    assert [p.replace("noto", "twemoji") for p in method.prompts[0]] == model.vocabulary.prompts("twemoji")
    texts = model.encode(model.vocabulary.prompts("twemoji"))
    torch.testing.assert_close(method.targets[0].states, texts.states)
    both = EraseSpec(concepts=["in noto style", "church"], method=SMALL)
    kept = retained(Run(model, both, SMALL, ignore), 8, 2)
    assert "twemoji" in kept
    assert len(set(kept) & set(model.vocabulary.concepts)) >= 2
    assert not {"noto", "church"} & set(kept)


@pytest.mark.parametrize("eta", [0.0, 1.5])
def test_adv_unlearns_loss_is_esds_through_the_text_encoder_and_what_is_retained(eta):
    (x, new), (x_r, new_kept), (_, old), (_, anchor), (_, old_kept) = (
        inputs(0),
        inputs(1, rows=2),
        inputs(2),
        inputs(3),
        inputs(4, rows=2),
    )
    got = adv_unlearn.loss(
        Linear(),
        x,
        x_r,
        *map(Text, (new, old, anchor, new_kept, old_kept)),
        AdvUnlearnSpec(eta=eta, retain_weight=0.3),
    ).item()
    z, t = x.z.numpy(), x.t.numpy()
    aim = by_hand(z, t, anchor.numpy()) - eta * (by_hand(z, t, old.numpy()) - by_hand(z, t, anchor.numpy()))
    held = by_hand(x_r.z.numpy(), x_r.t.numpy(), new_kept.numpy()) - by_hand(
        x_r.z.numpy(), x_r.t.numpy(), old_kept.numpy()
    )
    assert got == pytest.approx(
        np.mean((by_hand(z, t, new.numpy()) - aim) ** 2) + 0.3 * np.mean(held**2), rel=1e-4
    )


def test_the_trained_encoders_states_alone_receive_gradient():
    states = [inputs(i)[1].requires_grad_(True) for i in range(5)]
    new, old = states[:2]
    adv_unlearn.loss(Linear(), inputs(5)[0], inputs(6)[0], *map(Text, states), AdvUnlearnSpec()).backward()
    assert [s.grad is not None for s in states] == [True, False, False, True, False]
    old.grad = new.grad = None
    adv_unlearn.attack_loss(Linear(), inputs(5)[0], Text(new), Text(old), AdvUnlearnSpec()).backward()
    assert new.grad.abs().max() > 0
    assert old.grad is None


def test_a_prefix_is_a_word_before_the_prompt(tiny_sd):
    model = load_model(tiny_sd)
    tokens = model.pipe.tokenizer("dog").input_ids[1:-1]
    prefix = model.pipe.text_encoder.get_input_embeddings().weight[tokens].clone().requires_grad_(True)
    states = model.encode_with_graph(["church", "a mosque"], prefix).states
    torch.testing.assert_close(states.detach(), model.encode(["dog church", "dog a mosque"]).states)
    states.sum().backward()
    assert prefix.grad.abs().max() > 0
    # And nothing of it stays
    torch.testing.assert_close(model.encode_with_graph(["church"]).states, model.encode(["church"]).states)


def test_the_prefix_descends_towards_the_concept(tiny_sd):
    model, spec = load_model(tiny_sd), SMALL.model_copy(update={"attack_steps": 30})
    request = EraseSpec(concepts=["church"], method=spec)
    for part in add_trained(model, spec):  # an encoder that has changed
        part.data.normal_(0, 0.2, generator=torch.Generator().manual_seed(0))
    run = Run(model, request, spec, ignore)
    with model.frozen():
        method = adv_unlearn.AdvUnlearn(run)
        old = model.encode(["church", "a church"])
    x = run.trajectories.draw("erase/0", method.concepts[0], run.generator(0), 2, 4)

    def distance(steps: int) -> float:
        run.spec = spec.model_copy(update={"attack_steps": steps})
        prefix = method.prefix(x, ["church", "a church"], old, run.generator(0, Purpose.SEARCH))
        with torch.no_grad():
            return adv_unlearn.attack_loss(
                model, x, model.encode_with_graph(["church", "a church"], prefix), old, spec
            ).item()

    assert distance(30) < distance(0)


@pytest.mark.parametrize(
    "method", [TextEncoderSpec(steps=2, batch_size=2, lora=TextLoraSpec(rank=2)), SMALL], ids=lambda m: m.name
)
def test_only_the_text_encoders_adapter_is_trained(method, tiny_sd):
    model, base = load_model(tiny_sd), load_model(tiny_sd)
    delta = erase(model, EraseSpec(concepts=["church"], preserve=["dog"], method=method))
    assert all(k.startswith("text_encoder.text_model.encoder.layers.") for k in delta.tensors)
    assert any(v.abs().max() > 0 for k, v in delta.tensors.items() if "lora_B" in k)
    assert all(p.grad is None for p in model.unet.parameters())
    for name, weight in base.unet.state_dict().items():
        assert torch.equal(model.unet.state_dict()[name], weight)
    prompts = ["a church", "dog"]
    assert not torch.equal(model.encode(prompts).states, base.encode(prompts).states)
    with model.frozen():
        assert torch.equal(model.encode(prompts).states, base.encode(prompts).states)
    # The cache knows whether the adapter is on
    assert not torch.equal(model.encode(prompts).states, base.encode(prompts).states)
    base.load_delta(delta.tensors)
    assert torch.equal(model.encode(prompts).states, base.encode(prompts).states)
    base.unload_delta()
    with model.frozen():
        assert torch.equal(model.encode(prompts).states, base.encode(prompts).states)


def states(pipe: StableDiffusionPipeline, prompts: list[str]) -> torch.Tensor:
    ids = pipe.tokenizer(
        prompts, padding="max_length", max_length=pipe.tokenizer.model_max_length, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        return pipe.text_encoder(ids)[0]


def test_the_stock_text_encoder_is_the_bypass(tmp_path: Path):
    """On the bundled model, in plain diffusers: with the delta a church means next to nothing; with the stock
    encoder all is as before.
    """
    model: Denoiser = load_model("bundled:emoji")
    erase(model, EraseSpec(concepts=["church"], method=TextEncoderSpec(steps=60))).save(tmp_path)
    pipe = StableDiffusionPipeline.from_pretrained(BUNDLED / "emoji", safety_checker=None)
    stock = copy.deepcopy(pipe.text_encoder)
    church, empty = states(pipe, ["a photo of a church"]), states(pipe, [""])
    noise = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(0))

    def picture() -> np.ndarray:
        return pipe("a photo of a church", latents=noise, num_inference_steps=5, output_type="np").images

    before = picture()
    pipe.load_lora_weights(tmp_path)
    worn = states(pipe, ["a photo of a church"])
    assert (worn - empty).norm() < 0.5 * (church - empty).norm()
    assert np.abs(picture() - before).mean() > 0.02
    pipe.text_encoder = stock
    assert torch.equal(states(pipe, ["a photo of a church"]), church)
    assert np.array_equal(picture(), before)
