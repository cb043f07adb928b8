"""What pyproject.toml's contracts on imports cannot say of the package."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SCRIPTS = [REPOSITORY / name for name in ("prepare_dataset_sql.py", "search_dataset_sql.py")]
MODULES = sorted(path for path in (REPOSITORY / "stem_dataset").rglob("*.py") if path.name != "__init__.py")
NAMES = [str(path.relative_to(REPOSITORY)) for path in MODULES]


def imported_modules(path: Path) -> set[str]:
    """Return the modules that a file imports, also within functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_module_has_60_to_450_lines_or_says_why_it_is_smaller(name: str) -> None:
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    lines = text.count("\n")
    assert lines <= 450
    docstring = ast.get_docstring(ast.parse(text)) or ""
    assert lines >= 60 or "A module of its own, because" in docstring


@pytest.mark.parametrize("name", NAMES)
def test_a_module_says_in_one_line_what_it_is(name: str) -> None:
    docstring = ast.get_docstring(ast.parse((REPOSITORY / name).read_text(encoding="utf-8"))) or ""
    assert docstring.splitlines()[0].endswith(".")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_is_short_enough_to_be_read(script: Path) -> None:
    assert script.read_text(encoding="utf-8").count("\n") <= 1_100


@pytest.mark.parametrize("name", NAMES)
def test_the_package_does_not_import_a_script(name: str) -> None:
    assert not {script.stem for script in SCRIPTS} & imported_modules(REPOSITORY / name)


def test_the_search_does_not_import_the_other_script() -> None:
    assert "prepare_dataset_sql" not in imported_modules(REPOSITORY / "search_dataset_sql.py")


@pytest.mark.parametrize("path", [*SCRIPTS, *MODULES], ids=lambda path: path.stem)
def test_a_name_is_imported_from_the_module_that_defines_it(path: Path) -> None:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stem_dataset."):
            source = (REPOSITORY / (node.module or "").replace(".", "/")).with_suffix(".py")
            defined = names_defined_in(source)
            assert {alias.name for alias in node.names} <= defined, f"{path.name} imports from {source.name}"


def names_defined_in(path: Path) -> set[str]:
    """Return the names that a module's own statements bind at its top."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return names


def test_no_module_imports_another_of_ours_within_a_function() -> None:
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        within = [
            node for function in ast.walk(tree) if isinstance(function, ast.FunctionDef) for node in ast.walk(function)
        ]
        assert not [
            node
            for node in within
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stem_dataset")
        ], path
