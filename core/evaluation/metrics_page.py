"""docs/metrics.md, written from the metrics: `python -m expunge.core.evaluation.metrics_page FILE`.

The table is what core/specs/metrics.py says, the rest what each metric's file says of itself.
"""

import inspect
import sys
from pathlib import Path
from types import ModuleType

from expunge.core.evaluation import red_team
from expunge.core.evaluation.evaluate import metrics_of
from expunge.core.evaluation.metrics import leakage, papers
from expunge.core.evaluation.report import CONVENTIONS
from expunge.core.specs import EvaluationSpec
from expunge.core.specs.metrics import TITLES, better, format_metric

INTRO = """\
# Metrics

<!-- Written by `python -m expunge.core.evaluation.metrics_page docs/metrics.md`; change the metrics. -->

Every figure that a report may hold: its name in `report.json`, its title on the page, which value is better,
and its unit. With `_base` at its end it is the same figure of the base model. Which of them decide is said in
[reading a report](reading-a-report.md); what each is, and what it could be confused with, stands below the
table, and in every report under `conventions`.
"""


def row(name: str) -> str:
    """A metric's line of the table."""
    gone, kept = (better(name, erased=erased) or "neither" for erased in (True, False))
    which: str = gone if gone == kept else f"{gone} of an erased concept, {kept} of a preserved one"
    unit = format_metric(1.0, name).partition(" ")[2]
    return f"| `{name}` | {TITLES[name]} | {which} | {unit or 'number'} |"


def section(metric: ModuleType) -> str:
    """What a metric's file says: its docstring, and its conventions."""
    title = metric.__name__.rpartition(".")[2].replace("_", " ")
    said = [f"- {each}" for each in metric.CONVENTIONS]
    return "\n".join([f"## {title.capitalize()}", "", inspect.getdoc(metric) or "", "", *said, ""])


def page() -> str:
    """The whole file."""
    everything = EvaluationSpec(nudity=True)
    table = ["| name | title | better | unit |", "|---|---|---|---|", *map(row, TITLES)]
    sections = [
        section(metric) for metric in (*metrics_of(everything, hidden=True), leakage, red_team, papers)
    ]
    joined = ["## Intervals and verdict", "", *(f"- {each}" for each in CONVENTIONS), ""]
    return "\n".join([INTRO, *table, "", *sections, *joined])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page())
