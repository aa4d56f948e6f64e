"""Write the measured tables of docs/measured.md anew: `python -m benchmarks.write_tables [--from TREE …]`.

--from: other working trees in which benchmarks have run; the rows that they added are taken over first.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks import attacks, claims, method_tables, methods
from benchmarks.results_file import add
from expunge.core.specs.attacks import attacks_of

PAGE = methods.HERE.parent / "docs" / "measured.md"
SO_FAR = "**Measured so far: "


def take_over(tree: Path) -> None:
    """Add the rows of another tree's results that are not here, or are others there."""
    for file in (methods.RESULTS, attacks.RESULTS):
        theirs = tree / file.relative_to(methods.HERE.parent)
        found = json.loads(theirs.read_text()) if theirs.exists() else {}
        mine = json.loads(file.read_text()) if file.exists() else {}
        for key, row in found.items():
            if mine.get(key) != row:
                add(file, key, row)


def refreshed(page: str, table: str) -> str:
    """The page with this table in the place of the one that has its first line."""
    lines, wanted = page.splitlines(), table.splitlines()
    begin = lines.index(wanted[0])
    end = next((i for i in range(begin, len(lines)) if not lines[i].startswith("|")), len(lines))
    return "\n".join([*lines[:begin], *wanted, *lines[end:]]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--from", dest="trees", nargs="*", default=[], metavar="TREE")
    for tree in parser.parse_args().trees:
        take_over(Path(tree))
    runs: dict[str, Any] = json.loads(methods.RESULTS.read_text())
    attacked: dict[str, Any] = json.loads(attacks.RESULTS.read_text())

    # One object at a time, the best last
    unheld = {key.replace(methods.UNHELD, ""): row for key, row in runs.items() if methods.UNHELD in key}
    every = [*methods.MEASURED, *methods.VARIANTS]
    done = claims.measured_on(runs, every)

    def quality(name: str) -> float:
        return float(method_tables.joined(method_tables.rows_of(unheld, name, done))[-1])

    page = PAGE.read_text()
    page = refreshed(page, method_tables.table(unheld, sorted(every, key=quality), done))
    before, _, behind = page.partition(SO_FAR)
    page = f"{before}{SO_FAR}{', '.join(done)}**{behind.partition('**')[2]}"

    # Five at once, the best last
    five = " + ".join(methods.FIVE)

    def together(name: str) -> float:
        return float(method_tables.joined([unheld[f"{name}/{five}"]])[-1])

    page = refreshed(page, method_tables.together_table(unheld, sorted(every, key=together), five))

    # Under attack, and what the papers claim
    for attack in attacks.specs_of():
        page = refreshed(page, attacks.by_method(attacked, attack, attacks.ROWS, attacks.CONCEPTS))
    standard = attacks_of("standard")
    page = refreshed(page, attacks.by_attack(attacked, attacks.CONCEPTS[0], attacks.UNDER_ALL, standard))
    page = refreshed(page, claims.table(runs, attacked))
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
