"""docs/adding-a-method.md, followed: its example becomes a method of a copied tree, and one of a notebook."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import expunge
from expunge.core.erasure import registry
from expunge.core.specs import METHODS, EraseSpec, HideSpec, PruneSpec, UceSpec
from tests.support import documents
from tests.support.places import ROOT

PAGE = "docs/adding-a-method.md"
SPEC, IMPLEMENTATION, NOTEBOOK = (b.text for b in documents.blocks(PAGE) if b.language == "python")
SMALL = {"steps": 2, "trajectories": 1, "sampling_steps": 3, "batch_size": 2}
PROGRAM = f"""
import json, sys
from pydantic import SecretStr
from expunge.api.app import create_app
from expunge.api.openapi_document import build_document
from expunge.core.specs import METHODS, EraseSpec, HideSpec
from expunge.core.specs.methods.__main__ import page
from expunge.store.settings import Settings

app = create_app(Settings(secret=SecretStr("0" * 64)))
schemas = build_document(app)["components"]["schemas"]
assert "torch" not in sys.modules

from expunge import erase, load_model
from expunge.core.delivery.card import cite_methods

method = {{"name": "fade", **{SMALL}}}
delta = erase(load_model(sys.argv[1]), EraseSpec(concepts=["church"], method=method))
pruned = EraseSpec(concepts=["church"], method={{"name": "prune", "method": method["name"]}})
print(json.dumps({{
    "schema": list(schemas["FadeSpec"]["properties"])[-2:],
    "steps": len(delta.info["history"]),
    "label": json.loads(delta.labels["concept_erasure.method"])["name"],
    "cited": cite_methods([("fade", [])]),
    "hides": HideSpec(concepts=["church"], method="fade").method.name,
    "prunes": pruned.method.method.name,
    "row": [line for line in page().splitlines() if line.startswith("| `fade`")],
}}))
"""


def copied_tree(folder: Path) -> Path:
    """The package with a core of its own; the other rooms, and the weights, are the repository's."""
    shutil.copytree(ROOT / "src", folder / "src", symlinks=True)
    shutil.copytree(ROOT / "core", folder / "core", ignore=shutil.ignore_patterns("bundled", "__pycache__"))
    (folder / "core/bundled").symlink_to(ROOT / "core/bundled")
    for link in (folder / "src/expunge").iterdir():
        room = folder / link.name
        if link.is_symlink() and not room.exists():
            room.symlink_to(ROOT / link.name)
    return folder


def test_two_files_and_a_line_make_a_method(tiny_sd: Path, tmp_path: Path):
    tree = copied_tree(tmp_path / "tree")
    (tree / "core/specs/methods/fade.py").write_text(SPEC)
    (tree / "core/erasure/methods/fade.py").write_text(IMPLEMENTATION)
    names = tree / "core/specs/methods/__init__.py"
    names.write_text(names.read_text().replace('    "prune",\n', '    "prune",\n    "fade",\n', 1))

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tiny_sd)],
        env=os.environ | {"PYTHONPATH": str(tree / "src")},
        cwd=tree,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("row")
    assert found == {
        "schema": ["name", "strength"],
        "steps": 2,
        "label": "fade",
        "cited": "FADE, Fade, the example of docs/adding-a-method.md",
        "hides": "fade",
        "prunes": "fade",
    }


@pytest.fixture
def cell() -> Iterator[dict[str, Any]]:
    """What a notebook knows once both blocks were run in it."""
    names: dict[str, Any] = {"__name__": "notebook"}
    exec(SPEC, names)
    exec(IMPLEMENTATION.replace("from expunge.core.specs.methods.fade import FadeSpec\n", ""), names)
    yield names
    METHODS.pop("fade", None)
    registry.ADDED.pop("fade", None)


def test_a_method_of_a_notebook_erases(cell: dict[str, Any], tiny_sd: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = NOTEBOOK.replace("bundled:emoji", str(tiny_sd)).replace(
        "strength=1.5", f"strength=1.5, **{SMALL}"
    )
    digests = []
    for _ in range(2):  # registered again, as a cell that is run again
        exec(small, cell)
        assert cell["delta"].labels["modelspec.title"]
        digests.append((tmp_path / "church-faded/pytorch_lora_weights.safetensors").read_bytes())
    assert digests[0] == digests[1]

    spec = cell["spec"]
    assert json.loads(spec.model_dump_json())["method"]["strength"] == 1.5
    assert EraseSpec.model_validate(spec.model_dump()) == spec


def test_specs_take_a_registered_method_where_it_fits(cell: dict[str, Any]):
    fade = cell["FadeSpec"]
    with pytest.raises(ValidationError, match="fade"):
        EraseSpec(concepts=["church"], method="fade")
    expunge.register(fade, method=cell["METHOD"])
    assert EraseSpec(concepts=["church"], method="fade").method == fade()
    assert HideSpec(concepts=["church"], method={"name": "fade", "strength": 2}).method.strength == 2
    assert PruneSpec(method="fade").method == fade()
    with pytest.raises(ValidationError, match="less than or equal to 2"):
        EraseSpec(concepts=["church"], method={"name": "fade", "strength": 3})

    class Lasting(fade):
        hides = False

    expunge.register(Lasting, method=cell["METHOD"])
    with pytest.raises(ValidationError, match="fade"):
        HideSpec(concepts=["church"], method="fade")


def test_what_cannot_be_registered_is_refused(cell: dict[str, Any]):
    with pytest.raises(ValueError, match="there is a method 'uce' already"):
        expunge.register(UceSpec, method=cell["METHOD"])
    for both in ({}, {"method": cell["METHOD"], "edit": print}):
        with pytest.raises(ValueError, match="exactly one of method"):
            expunge.register(cell["FadeSpec"], **both)
    assert "fade" not in METHODS


def test_a_method_that_trains_nothing_has_no_loss_to_prune_or_hide_by():
    with pytest.raises(TypeError, match="'uce' trains nothing"):
        registry.method_of(UceSpec())
