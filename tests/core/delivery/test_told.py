"""What people hold in their hands says what it is: a delta saved by hand, a report's words, names in a
picture.
"""

import json
from pathlib import Path

import pytest
from PIL import ImageFont
from safetensors import safe_open

from expunge.core import phrasing
from expunge.core.delivery import card, lora_file
from expunge.core.delivery.grid import make_printable
from expunge.core.delivery.verify import verify
from expunge.core.erasure import erase
from expunge.core.models import load_model
from expunge.core.progress import show
from expunge.core.specs import Concept, EraseSpec


@pytest.mark.parametrize("kind", [str, Path])
def test_a_delta_is_saved_by_hand_with_all_that_a_bundle_says_of_it(
    tiny_sd: Path, tmp_path: Path, kind: type
):
    model, spec = load_model(kind(tiny_sd)), EraseSpec(concepts=["church"], method="uce")
    delta = erase(model, spec)
    file = delta.save(kind(tmp_path / "not" / "there"))
    assert file.read_bytes() == lora_file.to_bytes(delta, model, spec)
    with safe_open(file, "pt") as f:
        said = f.metadata()
    assert json.loads(said["concept_erasure.concepts"])[0]["name"] == "church"
    assert said["concept_erasure.base_sha256"] == model.digest
    assert len(repr(delta)) < 200
    assert "Without church" in repr(delta)
    model.load_delta(kind(tmp_path / "not" / "there"))
    assert not verify(kind(tmp_path)).ok  # which is no bundle


def test_progress_is_shown_to_a_person_and_to_nobody_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    show({"phase": "erase", "step": 3, "total": 10, "loss": 0.5, "eta_s": 7.0})
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    show({"phase": "erase", "step": 10, "total": 10, "loss": 0.5, "eta_s": 7.0})
    assert capsys.readouterr().err.strip() == "erase 10/10  loss 0.5000  7 s left"


CHURCH, CAT = Concept(name="church"), Concept(name="cat", target="castle")


def test_a_headline_claims_a_success_only_where_it_was_judged_one():
    assert phrasing.headline([CHURCH, CAT], True) == "Without church; cat → castle"
    assert (
        phrasing.headline([CHURCH, CAT], None)
        == phrasing.headline([CHURCH, CAT], False)
        == "Report on erasing church; cat → castle"
    )
    assert phrasing.headline([CHURCH], None, hidden=True) == "Report on hiding church"
    assert (
        phrasing.infinitive(phrasing.deed([CHURCH, CAT], "X"))
        == "take church out of X and turn cat into castle in X"
    )


def test_a_learned_word_goes_by_the_name_that_was_given():
    word = Concept(name="<my-face>", images=[f"00000000-0000-4000-8000-00000000000{i}" for i in range(3)])
    asked = Concept(name="my face", images=word.images)
    assert [c.name for c in phrasing.as_asked([CHURCH, word], [word], [asked])] == ["church", "my face"]


def test_a_picture_names_what_its_font_cannot_draw_by_code_points():
    font = ImageFont.load_default(size=16)
    assert make_printable("café du church", font) == "cafe du church"
    assert make_printable("教堂", font) == "[U+6559][U+5802]"


def test_the_limits_say_that_a_fused_checkpoint_is_not_filtered_and_nothing_of_pictures_that_were_not_drawn():
    assert card.UNFILTERED in card.list_limits(["unet"], fused=True)
    assert not set(card.JUDGED) & set(card.list_limits(["unet"], fused=True, judged=False))
    assert set(card.JUDGED) < set(card.list_limits(["unet"], fused=False))
