"""CA and ANT: golden values by an independent computation, and who may receive gradient."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from expunge.core.erasure.method import Run
from expunge.core.erasure.methods import ant, ca
from expunge.core.erasure.trajectory_buffer import Trajectories
from expunge.core.models import load_model
from expunge.core.progress import ignore
from expunge.core.sampling import Latents, denoise, draw_noise, seeded
from expunge.core.specs import AntSpec, CaSpec, Concept, EraseSpec, LoraSpec
from tests.support.numpy_losses import Linear, by_hand, inputs, texts, weighted

SMALL = {"steps": 2, "trajectories": 2, "sampling_steps": 4, "batch_size": 3, "lora": LoraSpec(rank=2)}


@pytest.mark.parametrize("space", ["eps", "x0"])
@pytest.mark.parametrize(("network", "scale"), [("current", 2.5), ("frozen", 2.0)])
@pytest.mark.parametrize("prior", [0.0, 0.8])
def test_ca_matches_the_anchor_of_its_network_and_the_noise(space, network, scale, prior):
    (x, concept), (_, anchor), noise = inputs(0), inputs(1), torch.full((3, 4, 2, 2), 0.3)
    spec = CaSpec(anchor_network=network, space=space, prior_weight=prior)
    got = ca.loss(Linear(), replace(x, target=noise), texts(concept, target=anchor), spec).item()
    z, t, c, a = x.z.numpy(), x.t.numpy(), concept.numpy(), anchor.numpy()
    expected = weighted(by_hand(z, t, c, 2.5), by_hand(z, t, a, scale), t, space)
    assert got == pytest.approx(
        expected + prior * weighted(by_hand(z, t, a, 2.5), noise.numpy(), t, space), rel=1e-5
    )


def test_cas_anchor_moves_with_the_network_but_gets_no_gradient():
    model, (x, concept), (_, anchor) = Linear(), inputs(0), inputs(1)
    anchor.requires_grad_(True)
    ca.loss(model, x, texts(concept, target=anchor), CaSpec()).backward()
    assert anchor.grad is None
    c, a = concept.mean((1, 2)), anchor.detach().mean((1, 2))
    through_the_concept_alone = (2 * 2.5 * (c - a) * c).mean()  # d/ds of (s c - sg[s a])^2 at s = 2.5
    through_both_sides = (2 * 2.5 * (c - a) ** 2).mean()
    torch.testing.assert_close(model.delta.grad, through_the_concept_alone)
    assert abs(through_both_sides - through_the_concept_alone) > 0.1 * abs(through_the_concept_alone)


def test_cas_latents_are_noised_pictures_of_the_anchor(tiny_sd):
    model = load_model(tiny_sd)
    trajectories, context = Trajectories(model, CaSpec(**SMALL), seed=3), model.encode(["mosque"])
    clean = trajectories.fill("anchor/mosque", context, 2, clean=True)[:, 0]
    x = trajectories.noised("anchor/mosque", context, seeded(1), 8, 2)
    a = model.schedule.alphas[x.t].view(-1, 1, 1, 1)
    found = (x.z - (1 - a).sqrt() * x.target) / a.sqrt()
    nearest = (found[:, None] - clean[None]).square().flatten(2).mean(2).min(1).values
    assert nearest.max() < 1e-6
    assert x.target.std() == pytest.approx(1, abs=0.1)
    assert len(set(x.t.tolist())) > 4


def test_cas_pictures_are_asked_for_by_the_prompts_they_were_drawn_with(tiny_sd):
    """The concept's prompt is the picture's own with the anchor taken out: 'a dog in noto style' over a
    dog in twemoji style, never over a church.
    """
    model = load_model(tiny_sd)
    spec = CaSpec(**{**SMALL, "batch_size": 6, "prior_weight": 0}, pictures=4)
    run = Run(model, EraseSpec(concepts=["in noto style"], method=spec), spec, ignore)
    method = ca.Ca(run)
    (key,), kept = method.keys, run.trajectories.kept
    rows, g = run.trajectories.rows(key, len(method.targets[0]), 4)
    noise = draw_noise(model, g, 4)
    for k in range(4):
        text, steps = method.targets[0][rows[k : k + 1]], spec.sampling_steps
        alone = denoise(model, noise[k : k + 1], text, steps, spec.guidance_scale, steps)[-1][0]
        torch.testing.assert_close(kept[key][k, 0], alone, atol=1e-4, rtol=1e-4)
    asked = []
    method.loss = lambda _, x, texts, __: asked.append((x, texts)) or torch.zeros(())
    method.step(0, 0)
    ((x, texts),) = asked
    a = model.schedule.alphas[x.t].view(-1, 1, 1, 1)
    picture = (
        (((x.z - (1 - a).sqrt() * x.target) / a.sqrt())[:, None] - kept[key][None, :, 0])
        .square()
        .flatten(2)
        .mean(2)
        .argmin(1)
    )
    assert len(set(rows.tolist())) > 1
    assert torch.equal(texts.target.states, method.targets[0][rows[picture]].states)
    assert torch.equal(texts.concept.states, method.concepts[0][rows[picture]].states)


def test_clean_latents_are_where_the_pipelines_own_sampler_ends(tiny_sd):
    model, spec = load_model(tiny_sd), CaSpec(**SMALL)
    trajectories, context = Trajectories(model, spec, seed=3), model.encode(["mosque"])
    clean = trajectories.fill("x", context, 1, clean=True)[0]
    start = trajectories.fill("y", context, 1)
    g = seeded(3, 0, *b"x")
    torch.randint(1, (1,), generator=g)
    model.pipe.scheduler = model.scheduler
    drawn = model.pipe(
        prompt_embeds=context.states,
        negative_prompt_embeds=model.encode([""]).states,
        latents=draw_noise(model, g, 1),
        num_inference_steps=4,
        guidance_scale=spec.guidance_scale,
        output_type="latent",
    ).images
    torch.testing.assert_close(clean, drawn, atol=1e-4, rtol=1e-3)
    assert clean.shape[1:] == start.shape[2:]


@pytest.mark.parametrize(
    ("concept", "anchor"),
    [
        (Concept(name="church", target="teapot"), "teapot"),
        (Concept(name="church", synonyms=["mosque", "synagogue"]), None),
    ],
)
def test_cas_anchor_is_the_users_or_the_nearest_that_is_not_erased(concept, anchor, tiny_sd):
    request = EraseSpec(concepts=[concept, Concept(name="castle")], method=CaSpec(pictures=1, **SMALL))
    found = ca.Ca(Run(load_model(tiny_sd), request, request.method, ignore)).target_names[0]
    assert found == anchor if anchor else found not in ("church", "mosque", "synagogue", "castle")


@pytest.mark.parametrize("variant", ["paper", "authors_code"])
@pytest.mark.parametrize("targeted", [True, False])
def test_ant_is_steered_by_timestep(variant, targeted):
    (x, concept), (_, target) = inputs(0), inputs(1)  # t = 1, 4, 8 of ten: 8 is the noisiest
    spec = AntSpec(variant=variant, keep=0.3, eta=1.5, eta_keep=2.0, keep_weight=0.6, drift_weight=0.7)
    given = texts(concept, target if targeted else None)
    got = ant.loss(Linear(), x, given, spec, 0.25).item()
    z, t, c, a, e = (
        x.z.numpy(),
        x.t.numpy(),
        concept.numpy(),
        given.target_or_empty.states.numpy(),
        given.empty.states.numpy(),
    )
    expected, drifts = 0.0, variant == "paper"
    for i in range(3):
        row = (z[i : i + 1], t[i : i + 1])
        old_c, old_a, old_0 = (by_hand(*row, text[i : i + 1], 2.0) for text in (c, a, e))
        stays = t[i] == 8 if variant == "paper" else t[i] == 1
        aim = old_0 + 2.0 * (old_c - old_0) if stays else old_a - 1.5 * (old_c - old_a)
        steer = float(np.mean((by_hand(*row, c[i : i + 1], 2.5) - aim) ** 2))
        drift = float(np.mean((by_hand(*row, e[i : i + 1], 2.5) - old_0) ** 2))
        expected += (0.6 / 0.25 if stays else 1.0 / 0.75) * (steer + 0.7 * drifts * drift) / 3
    assert got == pytest.approx(expected, rel=1e-5)


def test_ant_keeps_the_noisy_end_and_the_authors_index_keeps_the_clean_end():
    t = torch.tensor([0, 500, 950])
    assert ant.keeps_direction(t, 1000, AntSpec()).tolist() == [False, False, True]
    assert ant.keeps_direction(t, 1000, AntSpec(variant="authors_code")).tolist() == [True, False, False]


@pytest.mark.parametrize("variant", ["paper", "authors_code"])
@pytest.mark.parametrize(("steps", "keep"), [(20, 0.14), (50, 0.14), (10, 0.35), (20, 0.0)])
def test_ants_two_halves_weigh_what_their_weights_say_however_often_each_is_drawn(
    variant, steps, keep, tiny_sd
):
    """With an error of one everywhere the loss of all timesteps together is 1 + a1, as of one timestep of
    each half.
    """
    spec = AntSpec(
        variant=variant, keep=keep, keep_weight=0.6, drift_weight=0, **SMALL | {"sampling_steps": steps}
    )
    run = Run(load_model(tiny_sd), EraseSpec(concepts=["church"], method=spec), spec, ignore)
    method, t = ant.Ant(run), run.trajectories.timesteps

    class One(Linear):
        """Predictions of 1 with the adapter and 0 without."""

        def predict(self, z, *_):
            return torch.full_like(z, float(self.on))

    model = One()
    model.schedule = run.model.schedule
    text = torch.zeros(len(t), 2, 2)
    found = method.loss(model, Latents(torch.zeros(len(t), 4, 2, 2), t), texts(text, text), spec).item()
    assert found == pytest.approx(1.0 + (0.6 if ant.keeps_direction(t, 1000, spec).any() else 0.0), rel=1e-5)


def drift_gradient(variant: str) -> float:
    """What the drift weight adds to the adapter's gradient."""
    found = []
    for weight in (0.0, 1.0):
        model, (x, concept) = Linear(), inputs(0)
        ant.loss(model, x, texts(concept), AntSpec(variant=variant, drift_weight=weight), 0.3).backward()
        found.append(float(model.delta.grad))
    return found[1] - found[0]


def test_ants_drift_term_has_a_gradient_in_the_paper_and_none_in_the_authors_code():
    assert drift_gradient("authors_code") == 0
    assert drift_gradient("paper") > 1e-4


@pytest.mark.parametrize("variant", ["paper", "authors_code"])
def test_ant_gives_gradient_to_the_adapter_and_none_to_what_it_steers_to(variant):
    model, (x, concept), (_, target) = Linear(), inputs(0), inputs(1)
    target.requires_grad_(True)
    ant.loss(model, x, texts(concept, target), AntSpec(variant=variant), 0.3).backward()
    assert model.delta.grad.abs() > 0
    assert target.grad is None
