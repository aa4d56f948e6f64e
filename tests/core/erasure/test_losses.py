"""Golden values by an independent computation (numpy, one number at a time), and who may receive gradient."""

import numpy as np
import pytest
import torch

from expunge.core.erasure.losses import error, guided_away
from expunge.core.erasure.method import Run
from expunge.core.erasure.methods import age, all_but_one, ap, esd, naive
from expunge.core.erasure.search import Ascent, Search, gumbel_softmax
from expunge.core.models import Text, load_model
from expunge.core.models.schedule import Schedule
from expunge.core.progress import ignore
from expunge.core.specs import AgeSpec, AllButOneSpec, ApSpec, EraseSpec, EsdSpec, NaiveSpec
from tests.support.numpy_losses import ALPHAS, Linear, by_hand, inputs, texts, weighted


@pytest.mark.parametrize("space", ["eps", "x0"])
@pytest.mark.parametrize("eta", [0.0, 1.0, 2.5])
def test_esd_loss_is_the_papers(space, eta):
    (x, concept), (_, anchor) = inputs(0), inputs(1)
    got = esd.loss(Linear(), x, texts(concept, target=anchor), EsdSpec(eta=eta, space=space)).item()
    z, t, c, a = x.z.numpy(), x.t.numpy(), concept.numpy(), anchor.numpy()
    target = by_hand(z, t, a, 2.0) - eta * (by_hand(z, t, c, 2.0) - by_hand(z, t, a, 2.0))
    assert got == pytest.approx(weighted(by_hand(z, t, c, 2.5), target, t, space), rel=1e-5)


@pytest.mark.parametrize("space", ["eps", "x0"])
@pytest.mark.parametrize("eta", [0.0, 1.5])
@pytest.mark.parametrize("targeted", [True, False])
def test_naive_loss_is_equation_7(space, eta, targeted):
    (x, concept), (_, target), (_, kept) = inputs(0), inputs(1), inputs(2)
    given = texts(concept, target if targeted else None, kept)
    got = naive.loss(Linear(), x, given, NaiveSpec(eta=eta, space=space, preserve_weight=0.4)).item()
    z, t, c, k, a = (
        x.z.numpy(),
        x.t.numpy(),
        concept.numpy(),
        kept.numpy(),
        given.target_or_empty.states.numpy(),
    )
    aim = by_hand(z, t, a, 2.0) - eta * (by_hand(z, t, c, 2.0) - by_hand(z, t, a, 2.0))
    hold = weighted(by_hand(z, t, k, 2.5), by_hand(z, t, k, 2.0), t, space)
    assert got == pytest.approx(weighted(by_hand(z, t, c, 2.5), aim, t, space) + 0.4 * hold, rel=1e-5)


@pytest.mark.parametrize("eta", [0.0, 1.5])
@pytest.mark.parametrize("targeted", [True, False])
def test_all_but_one_edits_the_guidance_term_and_holds_the_unconditional_score(eta, targeted):
    (x, concept), (_, target) = inputs(0), inputs(1)
    given = texts(concept, target if targeted else None)
    got = all_but_one.loss(Linear(), x, given, AllButOneSpec(eta=eta, drift_weight=0.7)).item()
    z, t, c, e = x.z.numpy(), x.t.numpy(), concept.numpy(), given.empty.states.numpy()
    source = target.numpy() if targeted else c
    aim = (1.0 if targeted else -eta) * (by_hand(z, t, source, 2.0) - by_hand(z, t, e, 2.0))
    guidance = weighted(by_hand(z, t, c, 2.5) - by_hand(z, t, e, 2.5), aim, t, "eps")
    drift = weighted(by_hand(z, t, e, 2.5), by_hand(z, t, e, 2.0), t, "eps")
    assert got == pytest.approx(guidance + 0.7 * drift, rel=1e-4)


@pytest.mark.parametrize("space", ["eps", "x0"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ap_loss_is_equation_9(space, eta):
    (x_e, concept), (x_a, adversary), (_, anchor) = inputs(2), inputs(3), inputs(4)
    got = ap.loss(
        Linear(),
        x_e,
        x_a,
        Text(concept),
        Text(anchor),
        Text(adversary),
        ApSpec(eta=eta, space=space, preserve_weight=0.6),
    ).item()
    z_e, z_a, t, c, a, k = (
        x_e.z.numpy(),
        x_a.z.numpy(),
        x_e.t.numpy(),
        concept.numpy(),
        adversary.numpy(),
        anchor.numpy(),
    )
    aim = (1 + eta) * by_hand(z_e, t, k, 2.0) - eta * by_hand(z_e, t, c, 2.0)
    hold = weighted(by_hand(z_a, t, a, 2.5), by_hand(z_a, t, a, 2.0), t, space)
    assert got == pytest.approx(weighted(by_hand(z_e, t, c, 2.5), aim, t, space) + 0.6 * hold, rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "spec"), [(esd.loss, EsdSpec()), (naive.loss, NaiveSpec()), (all_but_one.loss, AllButOneSpec())]
)
def test_a_single_loss_gives_gradient_to_the_adapter_alone(loss, spec):
    model, (x, concept), (_, target), (_, kept) = Linear(), inputs(0), inputs(1), inputs(2)
    target.requires_grad_(True)
    loss(model, x, texts(concept, target, kept), spec).backward()
    assert model.delta.grad.abs() > 0
    assert target.grad is None


def test_aps_search_climbs_the_difference_in_the_paper_and_one_side_of_it_in_the_authors_code():
    gradients = []
    for variant in ("paper", "authors_code"):
        (x, adversary) = inputs(3)
        adversary.requires_grad_(True)
        gradients.append(
            torch.autograd.grad(
                ap.search_objective(Linear(), x, Text(adversary), ApSpec(variant=variant)), [adversary]
            )[0]
        )
    # d/dc |(2.5 - 2) m(c)|^2 has the factor 0.5, with the old prediction detached it has 2.5
    torch.testing.assert_close(gradients[1], 5 * gradients[0])


def test_continuous_ascent_climbs_and_tries_the_nearest_candidates_latents():
    states = torch.stack([torch.full((2, 3, 4), v) for v in (0.5, 1.0, 3.0)])
    start = torch.full((2, 3, 4), 1.2)
    texts_, g = Text(states), torch.Generator().manual_seed(0)
    search = Ascent(["a", "b", "c"], texts_, Text(start), learning_rate=0.1)
    assert torch.equal(search.states, start)
    assert search.names[int(search.sample(g).argmax())] == "b"
    for _ in range(10):
        search.ascend(search.text(search.sample(g), torch.tensor([0, 1])).states.sum())
    assert search.names[int(search.sample(g).argmax())] == "c"
    assert torch.equal(start, torch.full((2, 3, 4), 1.2))
    again = Ascent(["a", "b", "c"], texts_, Text(start), learning_rate=0.1)
    again.load_state(search.state())
    assert torch.equal(again.states, search.states)


def test_continuous_ascent_starts_at_the_concept(tiny_sd):
    model = load_model(tiny_sd)
    spec = EraseSpec(
        concepts=["church", "in noto style"],
        method=ApSpec(search="pgd", candidates=3, trajectories=1, sampling_steps=2),
    )
    method = ap.Ap(Run(model, spec, spec.method, ignore))
    for search, name in zip(method.searches.values(), ("church", "in noto style"), strict=True):
        assert torch.equal(search.states, model.encode(model.vocabulary.prompts(name)).states)


@pytest.mark.parametrize(("variant", "eta"), [("paper", 0.0), ("paper", 0.7), ("authors_code", 1.0)])
@pytest.mark.parametrize("weight", [0.3, 2.0])
def test_age_loss_is_equation_14_or_the_authors_code(variant, eta, weight):
    (x_e, concept), (x_t, target) = inputs(2), inputs(3)
    spec = age.resolved(AgeSpec(variant=variant, eta=eta, preserve_weight=weight))
    got = age.loss(Linear(), x_e, x_t, Text(concept), Text(target), spec).item()
    space = "eps" if variant == "paper" else "x0"
    z_e, z_t, t, c, g = x_e.z.numpy(), x_t.z.numpy(), x_e.t.numpy(), concept.numpy(), target.numpy()
    aim = (1 + eta) * by_hand(z_e, t, g, 2.0) - eta * by_hand(z_e, t, c, 2.0)
    expected = weighted(by_hand(z_e, t, c, 2.5), aim, t, space) + weight * weighted(
        by_hand(z_t, t, g, 2.5), by_hand(z_t, t, g, 2.0), t, space
    )
    assert got == pytest.approx(expected, rel=1e-5)


def test_error_in_x0_space_is_the_distance_of_the_predicted_pictures():
    (x, _), t = inputs(4), torch.tensor([1, 4, 8])
    a, b, alpha = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2), ALPHAS[t].view(-1, 1, 1, 1)

    def x0(eps):
        return (x.z - (1 - alpha).sqrt() * eps) / alpha.sqrt()

    weights = Schedule(ALPHAS).weights(t, "x0")
    torch.testing.assert_close(error(a, b, weights), (x0(a) - x0(b)).square().mean())


def test_guided_away_with_eta_one_is_twice_the_target_less_the_concept():
    a, b = torch.randn(2, 4), torch.randn(2, 4)
    torch.testing.assert_close(guided_away(a, b, 1.0), 2 * a - b)


def gradients_of_search(variant: str, weight: float):
    """(d/d target of the objective, with the first term's share alone when weight is 0)."""
    model, (x_e, concept), (x_t, target) = Linear(), inputs(2), inputs(3)
    target.requires_grad_(True)
    objective = age.search_objective(
        model,
        x_e,
        x_t,
        Text(concept),
        Text(target),
        age.resolved(AgeSpec(variant=variant, preserve_weight=weight)),
    )
    (gradient,) = torch.autograd.grad(objective, [target], allow_unused=True)
    return gradient


def test_in_the_paper_both_terms_drive_the_search():
    assert gradients_of_search("paper", 0.0).abs().max() > 1e-6
    assert not torch.allclose(gradients_of_search("paper", 1.0), gradients_of_search("paper", 0.0))


def test_in_the_authors_code_only_the_preservation_term_drives_the_search():
    assert gradients_of_search("authors_code", 0.0).abs().max() == 0
    assert gradients_of_search("authors_code", 1.0).abs().max() > 1e-6


def test_gumbel_softmax_is_equation_11():
    logits, noise = torch.tensor([0.2, -0.1, 0.4]), torch.tensor([0.5, 1.0, -0.3])
    scores = [np.exp((l + n) / 0.7) for l, n in zip(logits.tolist(), noise.tolist(), strict=True)]
    np.testing.assert_allclose(
        gumbel_softmax(logits, noise, 0.7, hard=False).numpy(), np.array(scores) / sum(scores), rtol=1e-5
    )


def test_hard_gumbel_softmax_is_one_hot_forward_and_soft_backward():
    logits, noise = torch.tensor([0.2, -0.1, 0.4], requires_grad=True), torch.tensor([0.5, 1.0, -0.3])
    value = gumbel_softmax(logits, noise, 0.7, hard=True)
    np.testing.assert_allclose(value.detach().numpy(), [0, 1, 0], atol=1e-6)
    direction = torch.tensor([1.0, 2.0, 3.0])
    (hard,) = torch.autograd.grad((value * direction).sum(), [logits])
    (soft,) = torch.autograd.grad(
        (gumbel_softmax(logits, noise, 0.7, hard=False) * direction).sum(), [logits]
    )
    torch.testing.assert_close(hard, soft)
    assert hard.abs().max() > 0


def test_search_climbs_to_the_candidate_that_the_objective_prefers():
    states = Text(torch.eye(4).view(4, 1, 1, 4))
    search = Search(["a", "b", "c", "d"], states, learning_rate=0.1, temperature=1.0, hard=True)
    g, wish = torch.Generator().manual_seed(0), torch.tensor([0.0, 0.0, 1.0, 0.0])
    for _ in range(200):
        weights = search.sample(g)
        search.ascend((search.text(weights, torch.tensor([0])).states[0, 0] * wish).sum())
    assert search.names[int(search.logits.argmax())] == "c"
