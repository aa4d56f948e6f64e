"""docs/faults.md names tests that exist, and every test of a fault."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_table_names_every_test_of_a_fault_and_none_that_is_not_there():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "faults.md").read_text()))
    there = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    assert named - there == set()
    assert {name for name in there if re.match(r"test_f\d+_", name)} - named == set()
