"""The tables of figures in docs are what the committed results give: no figure is typed by
hand.
"""

import json
from pathlib import Path

import pytest

from benchmarks import attacks, claims, editing, leakage, many, method_tables, methods
from expunge.core.models.folders import BUNDLED
from expunge.core.models.vocabulary import load_vocabulary
from expunge.core.specs import METHODS
from expunge.core.specs.attacks import attacks_of

ROOT = Path(__file__).parents[2]
MEASURED, STYLES, IMPACT, EDITING = (
    (ROOT / name).read_text()
    for name in ("docs/measured.md", "docs/styles-and-many-concepts.md", "docs/impact.md", "docs/editing.md")
)
RUNS = json.loads(methods.RESULTS.read_text())
LATER = {
    "speed",
    *methods.AWAITED,
}  # methods that came after the tables of ten objects and of styles were measured
MEASURED_THEN = [name for name in METHODS if name not in LATER]
NAMES = [*MEASURED_THEN, *methods.VARIANTS]
UNHELD = {key.replace(methods.UNHELD, ""): row for key, row in RUNS.items() if methods.UNHELD in key}
ATTACKED = json.loads(attacks.RESULTS.read_text())
FIVE = " + ".join(methods.FIVE)


def cells(line):
    return [c.strip() for c in line.strip("|").split("|")]


def rows(table):
    """The table's lines below its head."""
    return table.splitlines()[2:]


def without(columns, table):
    """A table's rows as lines of Markdown, without some of their columns."""
    return [
        f"| {' | '.join(c for k, c in enumerate(cells(line)) if k not in columns)} |" for line in rows(table)
    ]


def test_every_method_has_its_row_of_the_objects_that_all_were_measured_on():
    every = [*methods.MEASURED, *methods.VARIANTS]
    assert not any(all(f"{name}/{c}" in UNHELD for c in methods.CONCEPTS) for name in methods.AWAITED)
    done = [c for c in methods.CONCEPTS if all(f"{name}/{c}" in UNHELD for name in every)]
    assert done
    assert f"**Measured so far: {', '.join(done)}**" in MEASURED
    for line in rows(method_tables.table(UNHELD, every, done)):
        assert line in MEASURED


def test_no_default_was_tuned_on_an_object_of_the_tables():
    assert not {*methods.CONCEPTS} & {*methods.TUNED_ON}


def test_every_attack_has_its_cell_and_inversion_succeeds_where_it_must():
    asked = attacks.specs_of()
    tables = [attacks.by_method(ATTACKED, each, attacks.ROWS, attacks.CONCEPTS) for each in asked]
    standard = [each for each in attacks_of("standard") if each not in asked]
    tables.append(attacks.by_attack(ATTACKED, attacks.CONCEPTS[0], attacks.UNDER_ALL, attacks_of("standard")))
    lines = [line for table in tables for line in rows(table)]
    assert [line for line in lines if line not in MEASURED] == []
    beside = attacks.by_attack(ATTACKED, attacks.CONCEPTS[0], attacks.UNDER_ALL, standard)
    shown = [*(line for table in tables[:-1] for line in rows(table)), *rows(beside)]
    assert sum(line.count("/") // 2 for line in shown) == len(ATTACKED)  # a cell for every row
    inversion, readme = asked[0], (ROOT / "README.md").read_text()
    for method in ("age", "esd", "uce"):
        found = ATTACKED[attacks.row_key(method, "church", inversion)]["sanitized"]
        assert found["asr"] >= 0.5
        assert f"{100 * found['asr']:.0f} % after `{method}`" in readme


def test_what_papers_claim_stands_beside_what_the_rows_say():
    lines = rows(claims.table(RUNS, ATTACKED))
    assert len(lines) == 3
    assert [line for line in lines if line not in MEASURED] == []


def test_a_paired_difference_is_of_objects_that_both_met():
    def attack(asr):
        return {"attack": "inversion", "sanitized": {"asr": asr}}

    attacked = {"prune/a/x": attack(0.25), "esd/a/x": attack(0.75), "prune/b/x": attack(0.0)}
    attacked |= {"esd/c/x": attack(1.0), "prune/a/y": {**attack(1.0), "attack": "bypass"}}
    assert claims.pruned_under_attack(attacked) == [0.5]
    assert claims.points([0.5]) == "+50.0 points (one object)"
    assert claims.points([0.1, 0.1, 0.1]) == "+10.0 points (+10.0 to +10.0; 3 objects)"


def test_the_rows_of_five_at_once():
    every = [*methods.MEASURED, *methods.VARIANTS]
    assert [name for name in every if f"{name}/{FIVE}" not in UNHELD] == []
    for line in rows(method_tables.together_table(UNHELD, every, FIVE)):
        assert line in MEASURED


@pytest.mark.parametrize("name", MEASURED_THEN)
def test_every_method_has_its_row_of_styles(name):
    styles = [f"in {s} style" for s in load_vocabulary(BUNDLED / "emoji").styles]
    line, _ = without({5, 6}, method_tables.style_table(RUNS, [name], styles))
    assert line in STYLES


def test_the_rows_of_many_concepts_at_once():
    measured = json.loads(many.RESULTS.read_text())
    assert set(measured) == set(many.rows())
    for name, row in measured.items():
        assert many.table_row(name, row) in STYLES


def test_the_figures_of_the_concept_graph():
    found = json.loads((BUNDLED / "emoji" / "concept_graph.json").read_text())
    locality, asymmetry, abnormal = (found["statistics"][k] for k in ("locality", "asymmetry", "abnormal"))
    expected = [
        f"{b['mean_drop']:.1f} points ({b['ci'][0]:.1f}–{b['ci'][1]:.1f}), {b['edges']} arrows"
        for b in locality["bands"]
    ]
    expected += [
        f"{asymmetry['strong_pairs']} pairs with a strong arrow | {asymmetry['strong_one_way']} have it in"
        " one direction only"
    ]
    expected += [f"own CLIP score of it | {abnormal['rank_correlation_with_g0']:.2f} |".replace("-", "−")]
    expected += [f"over all arrows {locality['rank_correlation']:.2f}".replace("-", "−")]
    held = found["fit"]["clip"]["held_out"]
    expected += [f"R² {held['r2']:.2f} over all arrows, rank correlation {held['rank_correlation']:.2f}"]
    expected += [f"hurt most, {held['worst_three_among_first_five']:.0%} stand".replace("%", " %")]
    assert [text for text in expected if text not in IMPACT] == []


def test_the_rows_of_leakage_and_what_is_said_of_them():
    measured = json.loads(leakage.RESULTS.read_text())
    for name, row in measured.items():
        assert leakage.table_row(name, row) in MEASURED

    # At log 2 where nothing is erased, at 0 where nothing can be told, and falling along the run
    first, same, *_ = measured.values()
    assert first["lower"]["value"] > 0.5
    assert same["upper"]["value"] == same["path_kl"]["value"] == 0
    assert same["lower"]["ci_low"] < 0 < same["lower"]["ci_high"]
    run = [row["path_kl"]["value"] for name, row in measured.items() if name.startswith(leakage.RUN)]
    assert len(run) == len(leakage.AFTER)
    start = measured[leakage.START]["path_kl"]["value"]
    assert sorted([start, *run], reverse=True) == [start, *run]


def test_the_rows_of_edits():
    measured = json.loads(editing.RESULTS.read_text())
    assert set(measured) == set(editing.ROWS)
    for name, row in measured.items():
        assert editing.table_row(name, row) in EDITING


def test_readmes_few_lines_are_those_of_the_whole_table():
    readme = (ROOT / "README.md").read_text()
    shown = [cells(line) for line in readme.splitlines() if line.startswith("| `") and "(" in line]
    assert len(shown) == 5
    for name, esr1, psr1, seconds in shown:
        line, _ = rows(method_tables.table(UNHELD, [name.split("`")[1]], methods.CONCEPTS))
        found = cells(line)
        assert (esr1, psr1, seconds) == (found[2], found[9], found[11])
