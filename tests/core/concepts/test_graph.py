"""The concept graph: its statistics and fit on made-up graphs, what it predicts, and the bundled model's
own.
"""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from expunge.core.concepts.graph import fit, spearman, statistics
from expunge.core.impact import FILE, Graph, band, features, graph_of
from expunge.core.models.folders import BUNDLED, digest_of
from expunge.core.specs import AgeSpec, Concept, UceSpec

RNG = np.random.default_rng(0)


def made_up(
    erased: int = 8, nodes: int = 14, noise: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A graph whose drops follow the fit's own features exactly, but for the noise."""
    distance = RNG.uniform(8, 20, (erased, nodes))
    np.fill_diagonal(distance, 0)
    g0 = RNG.uniform(50, 90, nodes)
    weights = np.array([1.0, 5.0, -2.0, 40.0])
    drop = np.array(
        [[weights @ features(distance[i, j], g0[j]) for j in range(nodes)] for i in range(erased)]
    )
    return drop + noise * RNG.normal(size=drop.shape), distance, g0


def test_rank_correlation_is_spearmans_ties_included():
    a, b = RNG.integers(0, 5, 40).astype(float), RNG.normal(size=40)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert spearman(np.ones(5), np.arange(5.0)) == 0


def test_the_features_are_nearness_capability_and_both():
    assert features(10.0, 80.0) == pytest.approx((1, math.exp(-1), 0.8, 0.8 * math.exp(-1)))
    assert [band(d) for d in (9, 11, 12.9, 13, 40)] == [0, 1, 1, 2, 2]


def test_a_graph_that_follows_the_features_is_fitted_exactly():
    found = fit(*made_up())
    assert found["weights"] == pytest.approx([1, 5, -2, 40], abs=1e-3)
    assert found["held_out"]["r2"] == pytest.approx(1)
    assert found["held_out"]["mean_absolute_error"] == pytest.approx(0, abs=1e-9)
    assert found["held_out"]["worst_three_among_first_five"] == 1


def test_held_out_errors_are_worse_than_fitted_ones_and_their_quantiles_are_the_intervals():
    drop, distance, g0 = made_up(noise=5)
    found = fit(drop, distance, g0)
    cells = [(i, j) for i in range(8) for j in range(14) if i != j]
    x = np.array([features(distance[c], g0[c[1]]) for c in cells])
    y = np.array([drop[c] for c in cells])
    held = np.zeros(len(y))
    for i in range(8):
        out = np.array([c[0] == i for c in cells])
        held[out] = x[out] @ np.linalg.pinv(x[~out]) @ y[~out]
    assert found["held_out"]["mean_absolute_error"] == pytest.approx(np.abs(y - held).mean())
    fitted = x @ np.linalg.pinv(x) @ y
    assert np.abs(y - held).mean() > np.abs(y - fitted).mean()
    far = np.array([distance[c] >= 13 for c in cells])
    assert found["errors"][2] == pytest.approx(np.quantile((y - held)[far], [0.1, 0.9]), abs=1e-3)


def test_the_statistics_tell_locality_asymmetry_and_abnormality():
    drop, distance, g0 = made_up()
    found = statistics(drop, distance, g0)
    assert found["locality"]["rank_correlation"] > 0.9
    assert [b["mean_drop"] for b in found["locality"]["bands"]] == sorted(
        (b["mean_drop"] for b in found["locality"]["bands"]), reverse=True
    )
    assert sum(b["edges"] for b in found["locality"]["bands"]) == 8 * 14 - 8
    one_way = np.zeros((3, 5))
    one_way[0, 1] = 40
    found = statistics(one_way, np.full((3, 5), 12.0) + np.arange(5), np.array([80.0, 50, 81, 82, 83]))
    assert found["asymmetry"]["strong_pairs"] == found["asymmetry"]["strong_one_way"] == 1
    assert found["asymmetry"]["strong_mean_difference"] == 40
    # The one with the lowest G0 is the one that suffers
    assert found["abnormal"]["rank_correlation_with_g0"] > 0


@pytest.fixture(scope="module")
def graph() -> Graph:
    found = graph_of(BUNDLED / "emoji")
    assert found is not None
    return found


def test_the_bundled_graph_is_of_the_bundled_model_and_complete(graph: Graph):
    content, words = (
        graph.content,
        json.loads((BUNDLED / "emoji" / "vocabulary.json").read_text())["concepts"],
    )
    assert content["model"] == digest_of(BUNDLED / "emoji")
    assert graph.names == words
    assert len(content["erased"]) >= 24
    assert content["nodes"][: len(content["erased"])] == content["erased"]
    shape = (len(content["erased"]), len(content["nodes"]))
    assert all(np.array(content[key]).shape == shape for key in ("drop", "hits_drop", "distance"))
    measured = (
        np.array(content["drop"]),
        np.array(content["distance"]),
        np.array([graph.concepts[n]["g0"] for n in content["nodes"]]),
    )
    assert statistics(*measured)["asymmetry"]["mean_difference"] == pytest.approx(
        content["statistics"]["asymmetry"]["mean_difference"], abs=0.01
    )
    assert (BUNDLED / "emoji" / FILE).stat().st_size < 100_000


def test_near_concepts_are_hurt_far_ones_hardly(graph: Graph):
    near, middle, far = (b["mean_drop"] for b in graph.content["statistics"]["locality"]["bands"])
    assert near > 20 > middle > 5 > far


def test_a_model_without_a_graph_has_none(tmp_path: Path):
    assert graph_of(tmp_path) is None
    assert graph_of(None) is None


def test_the_neighbours_are_hurt_most_and_the_erased_never(graph: Graph):
    found = graph.hurt([Concept(name="Church", synonyms=["mosque"]), Concept(name="dog")], 1.0, 6)
    names = [h.concept for h in found]
    assert not {"church", "mosque", "dog"} & set(names)
    assert {"synagogue", "wolf"} <= set(names)
    assert [h.clip.value for h in found] == sorted((h.clip.value for h in found), reverse=True)
    assert all(
        h.clip.low <= h.clip.value <= h.clip.high and h.psr.low <= h.psr.value <= h.psr.high for h in found
    )
    row = next(h for h in found if h.concept == "synagogue")
    assert row.erased in ("church", "mosque")
    weights = graph.content["fit"]["clip"]["weights"]
    assert row.clip.value == pytest.approx(
        np.dot(weights, features(row.distance, graph.concepts["synagogue"]["g0"]))
    )
    half = next(
        h
        for h in graph.hurt([Concept(name="church", synonyms=["mosque"])], 0.5, 20)
        if h.concept == "synagogue"
    )
    assert half.clip.value == pytest.approx(row.clip.value / 2)


def test_targets_are_in_class_close_and_no_synonyms(graph: Graph):
    car = Concept(name="car", synonyms=["taxi"])
    found = [t.target for t in graph.targets(car, [car, Concept(name="bus")], 4)]
    assert len(found) == 4
    assert not {"car", "taxi", "bus", "police car", "racing car"} & set(found)
    assert all(graph.concepts[t]["class"] == graph.concepts["car"]["class"] for t in found)


def test_the_cost_grows_with_concepts_steps_and_batch(graph: Graph):
    usual, methods = graph.cost(AgeSpec(), 1), graph.content["methods"]
    assert (usual.seconds, usual.unet_evaluations) == (
        round(methods["age"]["seconds"], 1),
        methods["age"]["unet_evaluations"],
    )
    twice = graph.cost(AgeSpec(steps=2 * AgeSpec().steps, batch_size=2), 3)
    assert twice.unet_evaluations == pytest.approx(3 * usual.unet_evaluations, rel=1e-3)
    assert graph.cost(UceSpec(), 1).unet_evaluations == 0


def test_what_was_measured_of_a_model_is_no_part_of_its_digest(tiny_sd: Path, tmp_path: Path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_sd, folder)
    before = digest_of(folder)
    (folder / FILE).write_text("{}")
    assert digest_of(folder) == before
