"""The tables of figures in README and docs are what the committed results give: no figure is typed by hand."""

import json
from pathlib import Path

import pytest

from benchmarks import methods
from core.models.folders import BUNDLED
from core.models.vocabulary import load_vocabulary
from core.specs import METHODS

ROOT = Path(__file__).parents[2]
README, STYLES = (ROOT / "README.md").read_text(), (ROOT / "docs" / "styles-and-many-concepts.md").read_text()
RUNS = json.loads(methods.RESULTS.read_text())
NAMES = [*METHODS, *methods.VARIANTS]
FIVE = " + ".join(methods.CONCEPTS[:5])


def cells(line):
    return [c.strip() for c in line.strip("|").split("|")]


def rows(table):
    """The table's lines below its head."""
    return table.splitlines()[2:]


def without(columns, table):
    """A table's rows as lines of Markdown, without some of their columns."""
    return [f"| {' | '.join(c for k, c in enumerate(cells(line)) if k not in columns)} |" for line in rows(table)]


@pytest.mark.parametrize("name", NAMES)
def test_every_method_has_its_row_of_single_concepts(name):
    (line, _) = rows(methods.table(RUNS, [name], list(methods.CONCEPTS)))
    assert line in README
    assert all(f"{name}/{c}" in RUNS for c in methods.CONCEPTS)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_its_row_of_what_its_defaults_were_chosen_on(name):
    (line,) = rows(methods.chosen_table(RUNS, [name], list(methods.CONCEPTS)))
    assert line in (ROOT / "docs" / "defaults.md").read_text()


def test_the_rows_of_five_at_once():
    measured = [n for n in NAMES if f"{n}/{FIVE}" in RUNS]
    assert measured
    for name in measured:
        (line,) = without({1, 4, 6, 8, 9}, methods.table({f"{name}/{FIVE}": RUNS[f"{name}/{FIVE}"]}, [name], [FIVE]))[:1]
        assert line in README


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_its_row_of_styles(name):
    styles = [f"in {s} style" for s in load_vocabulary(BUNDLED / "emoji").styles]
    (line, _) = without({5, 6}, methods.style_table(RUNS, [name], styles))
    assert line in STYLES
