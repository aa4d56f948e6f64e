"""A synonym is erased with its concept: whatever the method, every word is trained in every template."""

import pytest
import torch

from expunge.core.erasure import erase
from expunge.core.models import load_model
from expunge.core.specs import METHODS, Concept, EraseSpec, EsdSpec, PruneSpec

WORDS = ("church", "mosque", "castle")
FEW = {
    "steps": 40,
    "trajectories": 1,
    "sampling_steps": 2,
    "batch_size": 4,
    "pictures": 12,
    "candidates": 3,
    "attack_steps": 1,
    "retain_concepts": 2,
    "leakage_pictures": 0,
    "rounds": 1,
    "round_steps": 2,
    "search_steps": 1,
    "search_batch": 1,
    "learning_rate": 1e-4,
}
OWN_TEMPLATES = {"time": ("a photo of a {}", "an image of a {}", "a picture of a {}")}


def small(name):
    """A method's spec with some steps on little; what it has no field for is left out."""
    kind = METHODS[name]
    more = {"method": EsdSpec(trajectories=1, sampling_steps=2)} if kind is PruneSpec else {}
    return kind(**{k: v for k, v in FEW.items() if k in kind.model_fields}, **more)


@pytest.mark.parametrize("name", METHODS)
def test_every_word_of_a_concept_is_trained_in_every_template(name, tiny_sd):
    model, spec = (
        load_model(tiny_sd),
        EraseSpec(concepts=[Concept(name=WORDS[0], synonyms=list(WORDS[1:]))], method=small(name)),
    )
    prompts = [t.format(word) for word in WORDS for t in OWN_TEMPLATES.get(name, model.vocabulary.templates)]
    wanted, states, told = model.encode(prompts).states, list[torch.Tensor](), list[str]()
    predict, encode, encode_with_graph = model.predict, model.encode, model.encode_with_graph

    def trained_on(z, t, text):
        if torch.is_grad_enabled() and not model._off:
            states.append(text.states.detach())
        return predict(z, t, text)

    def trained_with(texts, *more):
        if torch.is_grad_enabled():
            told.extend(texts)
        return encode_with_graph(texts, *more)

    model.predict, model.encode_with_graph = trained_on, trained_with
    if not hasattr(spec.method, "steps"):  # a closed form trains on what it encodes
        model.encode = lambda texts: told.extend(texts) or encode(texts)
    erase(model, spec)
    seen = torch.cat(states) if states else wanted[:0]
    assert not [
        p
        for p, s in zip(prompts, wanted, strict=True)
        if p not in told and not (seen == s).flatten(1).all(1).any()
    ]
