"""The server-rendered pages: self-contained, without scripts or external resources."""

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Undefined
from markupsafe import Markup, escape

from expunge.api.problems import KINDS
from expunge.api.schemas.compare import Comparison
from expunge.core.specs import METHODS
from expunge.core.specs.metrics import format_metric

BACKTICKS = re.compile(r"`([^`]+)`")
VERBS = ("get", "post", "put", "patch", "delete")


def mark_code(text: str) -> Markup:
    """Text with its `backticked` words set as code, and everything else escaped."""
    return Markup(BACKTICKS.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704


environment = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=Undefined,
    trim_blocks=True,
)
environment.filters["code"] = mark_code
environment.filters["metric"] = format_metric
strict = environment.overlay(undefined=StrictUndefined)


def render_home(url: str, version: str, root: str) -> str:
    """The front page; it is public, so it holds nothing that only the operator should see.

    `root` is the prefix that the API is served under.
    """
    methods = [{"name": name, "text": (spec.__doc__ or "").strip()} for name, spec in METHODS.items()]
    return strict.get_template("home.html.j2").render(url=url, version=version, root=root, methods=methods)


def render_comparison(comparison: Comparison) -> str:
    """A comparison of jobs as a page: what is of all concepts or of erased ones first, the rest folded."""
    rows = comparison.metrics
    folded = [row for row in rows if row.role == "preserved"]
    return strict.get_template("compare.html.j2").render(
        comparison=comparison,
        groups=[("", [row for row in rows if row.role != "preserved"]), ("Each preserved concept", folded)],
    )


def render_docs(document: dict[str, Any], root: str) -> str:
    """The OpenAPI document as a page."""
    operations = []
    for path, item in document["paths"].items():
        for verb, operation in item.items():
            if verb in VERBS:
                operations.append({"path": path, "verb": verb.upper(), **operation})
    groups = [
        {
            "name": tag["name"],
            "text": tag["description"],
            "operations": [each for each in operations if tag["name"] in each["tags"]],
        }
        for tag in document["tags"]
    ]
    schemas = document["components"]["schemas"]
    return environment.get_template("docs.html.j2").render(
        groups=groups, problems=KINDS.values(), schemas=schemas, root=root
    )
