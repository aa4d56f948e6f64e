"""Every method, every kind of edit, hiding, resuming and inspection on a GPU that is none: nothing of theirs
was left on the CPU.
"""

import numpy as np
import pytest
import torch
from peft import LoraConfig

from expunge.core.concepts.textual_inversion import invert
from expunge.core.erasure import erase
from expunge.core.erasure.methods import esd
from expunge.core.erasure.search import Search
from expunge.core.erasure.single_loss import Texts
from expunge.core.hiding import hide
from expunge.core.inspection import Side, inspect
from expunge.core.models import Text
from expunge.core.sampling import Latents
from expunge.core.specs import (
    METHODS,
    SPECS,
    AdversarySpec,
    AgeSpec,
    ApSpec,
    EraseSpec,
    EsdSpec,
    InspectSpec,
    InversionSpec,
    PruneSpec,
)
from tests.support.device_audit import DEVICE, Shelf, accelerator
from tests.support.killed_runs import Killed, killed_at
from tests.support.small_jobs import RUNS

SMALL = {"steps": 2, "checkpoint_every": 1, "trajectories": 2, "sampling_steps": 3, "batch_size": 2}
WORDS = {"rounds": 1, "steps": 2, "search_steps": 2, "search_batch": 1, "retain_concepts": 2}
MORE = {
    "esd against embeddings": EsdSpec(adversary=AdversarySpec(**WORDS), **SMALL),
    "esd against tokens": EsdSpec(adversary=AdversarySpec(kind="tokens", **WORDS), **SMALL),
    "esd against noise": EsdSpec(
        adversary=AdversarySpec(kind="noise", rounds=1, steps=2, retain_concepts=2), **SMALL
    ),
    "age authors_code": AgeSpec(variant="authors_code", candidates=3, **SMALL),
    "ap pgd": ApSpec(search="pgd", candidates=3, **SMALL),
    "ap fresh": ApSpec(latents="fresh", candidates=3, **SMALL),
    "prune hard_concrete": PruneSpec(
        method=EsdSpec(trajectories=2, sampling_steps=3, batch_size=2),
        relaxation="hard_concrete",
        steps=2,
        checkpoint_every=1,
        retain_concepts=2,
    ),
}
JOBS = (
    {name: asked for name, (_, asked) in RUNS.items() if name in METHODS or name in ("hide", "edit")}
    | {name: {"concepts": ["church"], "method": method.model_dump()} for name, method in MORE.items()}
    | {
        "age debias": {
            "concepts": [{"name": "dog", "attributes": ["wolf", "cat"]}],
            "method": {"name": "age", "debias": {"rounds": 0}, **SMALL},
        }
    }
)


@pytest.mark.parametrize("name", JOBS)
def test_a_job_and_its_second_attempt_leave_nothing_on_the_cpu(name, tiny_judged):
    """Loss, search, optimiser, checkpoint; then what was read off the disk meets what is on the device."""
    kind = "hide" if name == "hide" else "erase"
    spec, run = (
        SPECS[kind].model_validate({"preserve": ["teapot"], **JOBS[name]}),
        hide if name == "hide" else erase,
    )
    shelf = Shelf()
    with accelerator(tiny_judged) as model:
        run(model, spec, checkpoints=shelf)
    if shelf.kept is None:  # a closed form has no steps to resume at
        assert not hasattr(spec.method, "checkpoint_every")
        return
    with accelerator(tiny_judged) as model:
        delta = run(model, spec, checkpoints=shelf)
        delta = delta[0] if kind == "hide" else delta
        assert delta.info["resumed_at"] > 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_word_is_learned_and_learned_on_after_a_kill(dtype, tiny_sd):
    images, spec, shelf = (
        [np.zeros((64, 64, 3), np.uint8)] * 3,
        InversionSpec(steps=4, batch_size=2, checkpoint_every=2),
        Shelf(),
    )
    with accelerator(tiny_sd, dtype) as model, pytest.raises(Killed):
        invert(model, "<dog>", "dog", images, spec, 0, killed_at("learn", 3), shelf)
    with accelerator(tiny_sd, dtype) as model:
        assert invert(model, "<dog>", "dog", images, spec, 0, lambda _: None, shelf).device == DEVICE
        erase(model, EraseSpec(concepts=["<dog>"], method=EsdSpec(**SMALL)))


def test_an_inspection_reads_all_words_on_the_device(tiny_sd):
    with accelerator(tiny_sd) as model:
        erase(model, EraseSpec(concepts=["church"], method=EsdSpec(**SMALL)))
        spec = InspectSpec(
            artifact_id="00000000-0000-0000-0000-000000000000",
            sampling_steps=4,
            timesteps=2,
            trajectories=1,
            concept="church",
        )
        report = inspect(Side(model, base=True), Side(model), spec)
    assert report.words > 0


def test_the_audit_refuses_what_a_gpu_refuses(tiny_sd):
    """Latents, a text, a search's candidates or an optimiser's memory left on the CPU."""
    with accelerator(tiny_sd) as model:
        z, t = torch.randn(2, *model.latent_shape).to(model.device), torch.tensor([1, 2]).to(model.device)
        states = model.encode(["church", "a church"])
        texts = Texts(states, states, None, model.encode(["", ""]), model.encode(["", ""]))
        model.add_adapter(LoraConfig(r=2, target_modules=["to_k"]))
        assert esd.loss(model, Latents(z, t), texts, EsdSpec()).device == DEVICE
        with pytest.raises(RuntimeError, match="device"):
            esd.loss(model, Latents(torch.zeros(2, *model.latent_shape), t), texts, EsdSpec())
        with pytest.raises(RuntimeError, match="device"):
            esd.loss(
                model,
                Latents(z, t),
                Texts(*[Text(torch.zeros(states.states.shape))] * 2, None, texts.empty, texts.kept),
                EsdSpec(),
            )
        search = Search(["a", "b"], Text.stack([states, states]), 0.1, 1.0, True)
        search.texts = search.texts.each(lambda part: part.to(model.dtype))
        with pytest.raises(RuntimeError, match="scalar type"):
            search.text(search.sample(torch.Generator()), torch.tensor([0, 1]))
        moments = {"step": torch.tensor(1.0), "exp_avg": torch.zeros(2), "exp_avg_sq": torch.zeros(2)}
        search.optimiser.state[search.logits] = moments
        with pytest.raises(RuntimeError, match="device"):
            search.ascend(search.logits.sum())
