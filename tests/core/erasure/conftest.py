"""The tiny model at a quarter of its pictures' size: what is trained here is trained many times."""

from pathlib import Path

import pytest

from tests.core.conftest import build_tiny_sd


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with 8x8x4 latents, pictures of 32 px."""
    return build_tiny_sd(tmp_path_factory.mktemp("small_sd"), side=8)
