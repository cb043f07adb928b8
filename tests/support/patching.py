"""Replace a name of the program in each of its modules that use it.

A module that says `from stem_dataset.drives import answers` has a name of its own, which a patch of `drives.answers`
does not reach: such a test would pass without testing anything.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import pkgutil
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import prepare_dataset_sql
import search_dataset_sql
import stem_dataset

if TYPE_CHECKING:  # the programs that tests start by the hundred do without it: it takes a third of a second
    import pytest

OURS = ("prepare_dataset_sql", "search_dataset_sql", "stem_dataset")


def modules() -> list[ModuleType]:
    """Return the scripts and every module of the package."""
    package = pkgutil.walk_packages(stem_dataset.__path__, "stem_dataset.")
    imported = (importlib.import_module(module.name) for module in package)
    return [prepare_dataset_sql, search_dataset_sql, stem_dataset, *imported]


@functools.cache
def names_used_in(module: ModuleType) -> frozenset[str]:
    """Return the names that a module's code reads."""
    tree = ast.parse(inspect.getsource(module))
    return frozenset(n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load))


def holders_of(name: str) -> list[ModuleType]:
    """Return the modules that have `name`, all for the same thing; an error where none has it."""
    holders = [module for module in modules() if not isinstance(vars(module).get(name, module), ModuleType)]
    meanings = {id(vars(module)[name]) for module in holders}
    assert len(meanings) == 1, f"{name}: {len(meanings)} things in the program have this name, and one is needed"
    return holders


def value_of(dotted: str) -> Any:
    """Return what the program has under a name, or under an attribute of it, as 'Database.insert'."""
    name, *attributes = dotted.split(".")
    value = vars(holders_of(name)[0])[name]
    for attribute in attributes:
        value = getattr(value, attribute)
    return value


def replace_name(monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> None:
    """Replace `name` wherever the program uses it, until the test ends."""
    users = [module for module in holders_of(name) if name in names_used_in(module)]
    assert users, f"no module of the program uses {name}"
    for module in users:
        monkeypatch.setattr(module, name, value)


def refuse_patches_that_reach_nothing() -> None:
    """Let each `setattr` of a `MonkeyPatch` fail where it replaces a name that the program's module never uses."""
    import pytest

    real = pytest.MonkeyPatch.setattr

    @functools.wraps(real)
    def checked(self: pytest.MonkeyPatch, target: Any, name: Any, *rest: Any, **options: Any) -> None:
        module, attribute = target, name
        if isinstance(target, str) and target.startswith("stem_dataset."):
            dotted, _, attribute = target.rpartition(".")
            module = sys.modules.get(dotted)
        if isinstance(module, ModuleType) and module.__name__.partition(".")[0] in OURS:
            assert attribute in names_used_in(module), f"{module.__name__} never uses {attribute}: patch its users"
        real(self, target, name, *rest, **options)

    pytest.MonkeyPatch.setattr = checked  # type: ignore[method-assign]


def replace_for_good(dotted: str, value: object) -> None:
    """Replace a name wherever this process uses it, or an attribute, as 'Database.insert'."""
    owner, _, name = dotted.rpartition(".")
    for holder in [value_of(owner)] if owner else holders_of(name):
        setattr(holder, name, value)
