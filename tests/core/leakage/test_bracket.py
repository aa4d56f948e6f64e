"""The bracket of I(C; X): its two ends and its test, where the truth is known."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from torch.nn.functional import softplus

from expunge.core import intervals
from expunge.core.leakage import prompts
from expunge.core.leakage.independence import hsic_test
from expunge.core.leakage.lower import fit, kernels, leakage, read_off
from expunge.core.leakage.paths import Paths, walk
from expunge.core.models import Text, load_model
from expunge.core.models.schedule import Sampler, Schedule

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}


class Gaussians:
    """The exact network of pictures of one number: N(m, 1) for a prompt of length m, by any prediction."""

    latent_shape, device = (1, 1, 1), torch.device("cpu")

    def __init__(self, prediction: str = "epsilon") -> None:
        self.scheduler = DDIMScheduler(prediction_type=prediction, set_alpha_to_one=False, **BETAS)
        self.schedule = Schedule(self.scheduler.alphas_cumprod, prediction)

    def sampler(self, steps: int) -> Sampler:
        return Sampler(self.scheduler, steps)

    def encode(self, texts: list[str]) -> Text:
        return Text(torch.tensor([[[float(len(text))]] for text in texts]))

    def unconditional(self) -> Text:
        return self.encode([""])

    def predict_guided(self, z, t, text, empty, guidance):  # noqa: ARG002
        a, m = self.schedule.level(t), text.states.unsqueeze(-1)
        noise = (1 - a).sqrt() * (z - a.sqrt() * m)  # -sqrt(1 - a) times the score of N(sqrt(a) m, 1)
        return self.schedule.target((z - (1 - a).sqrt() * noise) / a.sqrt(), noise, t)


@cache
def walked(prediction: str = "epsilon", distance: int = 2, count: int = 1500, steps: int = 30) -> Paths:
    each = [("." * distance, "")] * count
    return walk(Gaussians(prediction), each, seed=0, steps=steps, guidance=1, batch=2 * count)


def information(distance: float) -> float:
    """I(C; X) of N(distance, 1) and N(0, 1), by integration."""
    x = np.linspace(-12, 12 + distance, 20001)
    p, q = (np.exp(-((x - m) ** 2) / 2) / np.sqrt(2 * np.pi) for m in (distance, 0))
    m = (p + q) / 2
    return float(np.sum(p * np.log(p / m) + q * np.log(q / m)) / 2 * (x[1] - x[0]))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_ancestral_step_is_diffusers_own_with_eta_1(prediction: str):
    scheduler = DDIMScheduler(prediction_type=prediction, set_alpha_to_one=False, **BETAS)
    scheduler.set_timesteps(10)
    z, out, noise = torch.randn(3, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for k in (0, 4, 9):
        t = scheduler.timesteps[k]
        before = int(t) - 100
        wanted = scheduler.step(out, t, z, eta=1.0, variance_noise=noise).prev_sample
        mean, deviation = Schedule(scheduler.alphas_cumprod, prediction).ancestral(
            z, out, t.expand(2), torch.tensor([max(before, 0)] * 2)
        )
        if before >= 0:
            torch.testing.assert_close(mean + deviation * noise, wanted, rtol=1e-4, atol=1e-4)
        assert (deviation > 0).all() == (int(t) > 0)


@pytest.mark.parametrize("distance", [1, 2])
def test_the_upper_end_holds_what_the_pictures_say_and_the_path_kl_holds_the_upper_end(distance: int):
    paths = walked(distance=distance, count=800)
    truth, upper, path_kl = information(distance), float(paths.upper.mean()), float(paths.path_kl.mean())
    assert truth < upper
    assert upper < min(path_kl, math.log(2) - 0.05)  # a bound that is always log 2 would be one as well


def test_with_many_steps_of_an_exact_network_the_path_says_no_more_than_the_picture():
    """KL(N(1, 1) | N(0, 1)) = 1 / 2."""
    coarse, fine = (float(walked(distance=1, count=1, steps=n).divergence[0, 0]) for n in (30, 500))
    assert fine == pytest.approx(0.5, abs=0.01)
    assert coarse > 2 * fine


def test_the_ratio_along_a_path_is_that_of_two_densities():
    """The mean of P_{1-c} / P_c over the paths of c is 1, and that of its log minus their KL."""
    paths = walked(distance=1, count=400, steps=100)
    assert paths.log_ratio.neg().exp().mean(1).tolist() == pytest.approx([1, 1], abs=0.15)
    assert paths.log_ratio.mean(1).tolist() == pytest.approx(paths.divergence.mean(1).tolist(), abs=0.15)


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_the_bound_is_the_same_whatever_the_network_predicts(prediction: str):
    one, two = walked(count=20), walked(prediction, count=20)
    torch.testing.assert_close(one.log_ratio, two.log_ratio, rtol=1e-3, atol=1e-3)


def test_two_equal_prompts_leak_nothing_and_different_ones_do(tiny_sd):
    model = load_model(tiny_sd)
    same = walk(model, [("church", "church")] * 2, seed=0, steps=3, guidance=3)
    other = walk(model, [("church", "mosque")] * 2, seed=0, steps=3, guidance=3)
    assert same.path_kl.tolist() == same.upper.tolist() == [0, 0]
    assert other.path_kl.min() > 0
    assert not torch.equal(other.ends[0], other.ends[1])


def test_a_path_depends_on_its_seed_and_place_alone(tiny_sd):
    model, asked = load_model(tiny_sd), [("church", "mosque"), ("dog", ""), ("cat", "wolf")]
    one, all_at_once = (walk(model, asked, seed=3, steps=3, guidance=3, batch=b) for b in (1, 16))
    torch.testing.assert_close(one.ends, all_at_once.ends, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(one.log_ratio, all_at_once.log_ratio, rtol=1e-2, atol=1e-2)


def test_hsic_finds_what_differs_and_calls_few_of_the_same_different():
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(24, 4, 4, 4, generator=g) for _ in range(2))
    value, p = hsic_test(a + 0.5, b, seed=0)
    assert p == 0.001
    assert value > hsic_test(a, b, seed=0)[0]
    found = [hsic_test(*torch.randn(2, 12, 4, generator=g), seed=k)[1] for k in range(200)]
    assert 2 <= sum(p <= 0.05 for p in found) <= 20  # 10 are expected
    assert np.mean(found) == pytest.approx(0.5, abs=0.07)


def test_hsic_is_the_formula():
    a, b = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1)).double()
    x = torch.cat([a, b]).numpy()
    squared = np.square(x[:, None] - x[None]).sum(-1)
    width = np.sort(squared[~np.eye(10, dtype=bool)])[(90 - 1) // 2]
    k, c = np.exp(-squared / (2 * width)), np.repeat([1.0, 0.0], 5)
    h = np.eye(10) - 0.1
    assert hsic_test(a, b, seed=0)[0] == pytest.approx(
        np.trace(k @ h @ (c[:, None] == c[None]) @ h) / 10**2, rel=1e-6
    )


def test_fresh_critics_find_what_differs_and_nothing_where_nothing_does():
    g = torch.Generator().manual_seed(0)
    same, other = (torch.randn(24, 4, 8, 8, generator=g) for _ in range(2))
    assert 0.6 < leakage(same + 1.0, other, seed=0) <= math.log(2)
    assert leakage(same, other, seed=0) < 0.05
    assert leakage(same + 1.0, other, seed=0) == leakage(same + 1.0, other, seed=0)


def test_the_lower_end_is_below_what_the_best_critic_reads_and_not_far_below():
    """Of two normal distributions the best critic is known: its logit is 2 x - 2."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 60, 1, generator=g)
    best = (2 * math.log(2) - softplus(2 - 2 * (x + 2)) - softplus(2 * y - 2)) / 2
    found = read_off(x + 2, y, seed=0)
    assert float(best.mean()) - 0.06 < float(found.mean()) < float(best.mean()) + 0.01
    low, high = intervals.of_mean(found.numpy())
    assert low < information(2) < high


def test_where_nothing_differs_the_leakage_is_not_cut_off_at_nought_for_that_would_lift_its_mean():
    g = torch.Generator().manual_seed(0)
    found = [leakage(*torch.randn(2, 12, 4, 4, 4, generator=g), seed) for seed in range(8)]
    assert min(found) < 0
    assert -0.1 < np.mean(found) < 0.03


def test_a_critic_is_fitted_to_the_optimum_of_its_penalised_cross_entropy():
    x, c = torch.randn(10, 3, generator=torch.Generator().manual_seed(0)).double(), torch.ones(10).double()
    c[::2] = -1
    kernel, _ = kernels(x, x)
    weights = fit(kernel, c, torch.tensor([3.0, 0.3]))[1].requires_grad_(True)
    logits = kernel @ weights
    (softplus(-c * logits).sum() + 0.15 * weights @ logits).backward()
    assert weights.grad.abs().max() < 1e-6


def test_one_pair_or_two_tell_next_to_nothing():
    x = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0))
    assert read_off(x[0, :1], x[1, :1], seed=0).tolist() == [0]
    assert read_off(x[0], x[1], seed=0).isfinite().all()


def test_held_out_prompts_are_none_that_training_reads(tiny_sd):
    vocabulary = load_model(tiny_sd).vocabulary
    for word, other in (("church", "mosque"), ("in noto style", "in twemoji style")):
        found = prompts.held_out_pairs(vocabulary, word, other)
        assert not {p for p, _ in found} & set(vocabulary.prompts(word))
        for own, instead in found:
            assert own.replace(word, other) == instead
        assert [p for p, _ in found] == prompts.held_out(vocabulary, word)


def test_pairs_take_turns_in_words_others_and_prompts(tiny_sd):
    vocabulary = load_model(tiny_sd).vocabulary
    found = prompts.pairs(vocabulary, ["church", "chapel"], ["dog", "", "cat"], 12)
    assert found[:4] == [
        ("the church", "the dog"),
        ("the chapel", "the dog"),
        ("one church", ""),
        ("one chapel", ""),
    ]
    assert len({own for own, _ in found}) == 6
    assert len(set(prompts.pairs(vocabulary, ["church"], ["dog", "cat", "wolf"], 9))) == 9
