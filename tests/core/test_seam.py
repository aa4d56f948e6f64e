"""Nothing but core/models knows how a model is built: all else asks `Denoiser`."""

import ast
from pathlib import Path

import pytest

from tests.support.places import ROOT

PARTS = {"unet", "transformer", "tokenizer", "pipe", "text_encoder", "scheduler", "vae"}
OUTSIDE = sorted(
    file.relative_to(ROOT).as_posix()
    for room in ("api", "core", "worker")
    for file in (ROOT / room).rglob("*.py")
    if (ROOT / "core" / "models") not in file.parents
)


def parts_of_models(source: str) -> list[str]:
    """Every attribute of a model's insides that the code reads, with its line."""
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and node.attr in PARTS
    ]


def libraries(source: str) -> set[str]:
    """The libraries of architectures that the code imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found |= {name.partition(".")[0] for name in names}
    return found & {"diffusers", "transformers"}


@pytest.mark.parametrize("file", OUTSIDE)
def test_nothing_outside_core_models_reaches_into_a_model(file: str):
    source = Path(ROOT, file).read_text()
    assert parts_of_models(source) == []
    assert libraries(source) == set()


def test_the_check_sees_a_reach_into_a_model():
    assert parts_of_models("weights = model.unet.state_dict()") == ["line 1: model.unet"]
    assert parts_of_models("ids = self.run.model.pipe.tokenizer(text)") == [
        "line 1: self.run.model.pipe.tokenizer",
        "line 1: self.run.model.pipe",
    ]
    assert libraries("from diffusers import DDIMScheduler\nimport transformers.models") == {
        "diffusers",
        "transformers",
    }
