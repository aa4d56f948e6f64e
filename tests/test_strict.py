"""No test is skipped in CI."""

import os
import subprocess
import sys

import pytest

from tests.support.places import PYTHONPATH

SKIPPED = """
import pytest

@pytest.mark.skipif(True, reason="needs a tool")
def test_marked(): ...

def test_called():
    pytest.skip("no right to mount")

def test_passed(): ...
"""


@pytest.mark.parametrize(
    ("ci", "code", "told"), [("true", 1, "1 failed, 1 passed, 1 error"), ("", 0, "1 passed, 2 skipped")]
)
def test_a_skipped_test_fails_in_ci_and_only_there(tmp_path, ci, code, told):
    (tmp_path / "test_it.py").write_text(SKIPPED)
    environment = {**os.environ, "CI": ci, "PYTHONPATH": PYTHONPATH}
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.support.strict",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == code, done.stdout
    assert ("was skipped in CI" in done.stdout) == bool(ci)
    if ci:
        assert "needs a tool" in done.stdout
        assert "no right to mount" in done.stdout
    assert told in done.stdout
