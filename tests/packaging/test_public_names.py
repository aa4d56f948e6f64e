"""What `import expunge` offers, and how little it loads."""

import ast
import inspect
from importlib import import_module
from pathlib import Path

import pytest

import expunge
from tests.support.imports import loaded_after


def names_for_type_checkers() -> dict[str, str]:
    """Each name that the TYPE_CHECKING block imports, and its module."""
    tree = ast.parse(inspect.getsource(expunge))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert all(alias.asname == alias.name for node in imports for alias in node.names), (
        "re-exported as itself"
    )
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def test_type_checkers_see_the_names_that_run():
    assert names_for_type_checkers() == expunge.MODULES


@pytest.mark.parametrize(("name", "module"), expunge.MODULES.items())
def test_a_public_name_is_its_module_s(name: str, module: str):
    assert getattr(expunge, name) is getattr(import_module(module), name)
    assert name in dir(expunge)


def test_everything_the_client_exports_is_public():
    client = import_module("expunge.client")
    assert {name for name, module in expunge.MODULES.items() if module == client.__name__} == set(
        client.__all__
    )


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'expunge' has no attribute 'eraze'"):
        _ = expunge.eraze


def test_the_version_is_the_installed_one():
    assert expunge.__version__ == import_module("importlib.metadata").version("expunge")


def test_importing_the_package_loads_nothing_else():
    heavy = {"torch", "pydantic", "httpx", "numpy", "psycopg", "sqlalchemy", "celery", "fastapi", "typer"}
    assert not loaded_after("import expunge; dir(expunge)") & heavy
    assert loaded_after("import expunge; expunge.Expunge") & heavy == {"httpx", "pydantic"}
    assert not loaded_after("import expunge; expunge.EraseSpec") & {"torch", "numpy", "psycopg", "sqlalchemy"}


def test_the_package_says_that_it_is_typed():
    assert (Path(expunge.__file__).parent / "py.typed").is_file()
