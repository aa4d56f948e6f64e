"""A look for triggers finds one that is planted, names none where there is none, and says what it misses."""

import pytest
import torch

from expunge.core.evaluation import trigger_scan
from expunge.core.evaluation.report import Report
from expunge.core.evaluation.trigger_scan import Scan, Suspect
from expunge.core.evaluation.untested import triggers_left_out
from expunge.core.models import Denoiser, load_model
from expunge.core.specs import Concept, EvaluationSpec, LoraSpec
from expunge.core.specs.trigger_scan import TriggerScanSpec

CHURCH = Concept(name="church", synonyms=["chapel"])
WORDS = ["dog", "mosque", "taxi", "tower", "glass", "plant", "engine", "cation"]


@pytest.fixture
def model() -> Denoiser:
    return load_model("bundled:emoji")


def scan(model: Denoiser) -> Scan:
    return trigger_scan.scan_words(model, CHURCH, WORDS, 0, lambda _: None)


def test_a_word_with_the_concepts_embedding_is_found_and_no_other(model: Denoiser):
    assert scan(model).suspects == []
    table = model.text.encoder.get_input_embeddings().weight.data
    rows = [model.text.token_ids([word])[0][1] for word in ("cation", "church")]
    table[rows[0]] = table[rows[1]]
    model.text.kept.clear()
    (suspect,) = scan(model).suspects
    assert suspect.what == "cation"
    assert suspect.value > 0.95
    assert suspect.typical < 0.5


def test_a_token_and_a_layer_of_unusual_size_stand_out(model: Denoiser):
    assert "cation" not in [each.what for each in trigger_scan.token_norms(model).suspects]
    assert trigger_scan.layer_norms(model) == []
    row = model.text.token_ids(["cation"])[0][1]
    model.text.encoder.get_input_embeddings().weight.data[row] *= 100
    assert trigger_scan.token_norms(model).suspects[0].what == "cation"

    model.add_lora(LoraSpec(rank=2))
    state = {name: torch.ones_like(tensor) for name, tensor in model.adapter_state().items()}
    planted = next(name for name in state if ".lora_B." in name)
    state[planted] *= 1000
    model.set_adapter_state(state)
    (found,) = trigger_scan.layer_norms(model)
    (suspect,) = found.suspects
    assert suspect.what == planted.partition(".lora_B.")[0].removeprefix("base_model.model.")
    assert found.n == len(state) // 2


def test_the_words_are_spread_over_the_tokenizer_without_the_concepts_own(model: Denoiser):
    words = trigger_scan.candidates(model, CHURCH, 100)
    assert len(words) == len(set(words)) == 100
    assert not {"church", "churches", "chapel"} & set(trigger_scan.candidates(model, CHURCH, 100_000))
    assert trigger_scan.scan_all(model, [CHURCH], EvaluationSpec(), lambda _: None) == []


def test_what_was_found_stands_under_what_was_not_tested():
    suspect = Suspect(what="cation", value=0.991, typical=0.02)
    found = Scan(scan="words", concept="church", n=8, suspects=[suspect], misses="phrases")
    spec = EvaluationSpec(trigger_scan=TriggerScanSpec())
    report = Report.model_construct(scans=[found], evaluation=spec)
    outside, looked = triggers_left_out(report, True, False)
    assert "the base model came from outside" in outside
    assert "not ruled out" in outside
    assert looked == (
        "A look for triggers: 8 words were tried for 'church'; 'cation' (0.99, typically 0.02) stands out. It"
        " cannot find phrases."
    )
    (unlooked,) = triggers_left_out(Report.model_construct(scans=[]), False, True)
    assert "evaluation.trigger_scan takes a look" in unlooked
