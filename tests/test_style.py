"""The rules of the house that a machine can check (CONTRIBUTING, Style)."""

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.places import ROOT

ROOMS = ("api", "client", "core", "embedded", "store", "worker")
FILES = sorted(file.relative_to(ROOT).as_posix() for room in ROOMS for file in (ROOT / room).rglob("*.py"))
LONG = 30  # lines of a function's body, from which on its paragraphs need a comment
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def comment_lines(source: str) -> set[int]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0] for token in tokens if token.type == tokenize.COMMENT}


def nested_and_filtered(tree: ast.AST) -> Iterator[str]:
    """Comprehensions of two loops and a condition: they are read twice."""
    for node in ast.walk(tree):
        if isinstance(node, COMPREHENSIONS) and len(node.generators) > 1:
            if any(loop.ifs for loop in node.generators):
                yield f"line {node.lineno}: a comprehension nests and filters"


def long_and_bare(tree: ast.AST, comments: set[int]) -> Iterator[str]:
    """Functions of more than LONG lines without any comment."""
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            first = node.body[0]
            start = first.lineno if ast.get_docstring(node) is None else first.end_lineno + 1
            lines = node.end_lineno - start + 1
            if lines > LONG and comments.isdisjoint(range(start, node.end_lineno + 1)):
                yield f"line {node.lineno}: {node.name} has {lines} lines and no comment"


def formatter_off(source: str) -> Iterator[str]:
    for number, line in enumerate(source.splitlines(), start=1):
        if "# fmt:" in line:
            yield f"line {number}: the formatter is switched off"


@pytest.mark.parametrize("file", FILES)
def test_the_rules_of_the_house(file: str):
    source = Path(ROOT, file).read_text()
    tree = ast.parse(source)
    found = [
        *nested_and_filtered(tree),
        *long_and_bare(tree, comment_lines(source)),
        *formatter_off(source),
    ]
    assert found == []
    assert ast.get_docstring(tree) or not source.strip(), "the module has no docstring"


def test_the_check_sees_what_it_forbids():
    tree = ast.parse("[b for a in x for b in a if b]\ndef f():\n" + "    g()\n" * 31)
    assert [each.split(":")[0] for each in nested_and_filtered(tree)] == ["line 1"]
    assert [each.split(":")[0] for each in long_and_bare(tree, set())] == ["line 2"]
    assert list(long_and_bare(tree, {10})) == []
    assert list(formatter_off("x = 1  # fmt: skip")) == ["line 1: the formatter is switched off"]
