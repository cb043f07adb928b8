"""Replace a name of the program in each of its modules that use it.

A module that says `from stem_dataset.drives import answers` has a name of its own, which a patch of `drives.answers`
does not reach: such a test would pass without testing anything.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import Any

import pytest

import prepare_dataset_sql
import stem_dataset


def modules() -> list[ModuleType]:
    """Return the script and every module of the package."""
    package = pkgutil.walk_packages(stem_dataset.__path__, "stem_dataset.")
    return [prepare_dataset_sql, stem_dataset, *(importlib.import_module(module.name) for module in package)]


def users_of(name: str) -> list[ModuleType]:
    """Return the modules that have `name`, all for the same thing; an error where none has it."""
    users = [module for module in modules() if not isinstance(vars(module).get(name, module), ModuleType)]
    meanings = {id(vars(module)[name]) for module in users}
    assert len(meanings) == 1, f"{name}: {len(meanings)} things in the program have this name, and one is needed"
    return users


def value_of(dotted: str) -> Any:
    """Return what the program has under a name, or under an attribute of it, as 'Database.insert'."""
    name, *attributes = dotted.split(".")
    value = vars(users_of(name)[0])[name]
    for attribute in attributes:
        value = getattr(value, attribute)
    return value


def replace_name(monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> None:
    """Replace `name` wherever the program uses it, until the test ends."""
    for module in users_of(name):
        monkeypatch.setattr(module, name, value)


def replace_for_good(dotted: str, value: object) -> None:
    """Replace a name wherever this process uses it, or an attribute, as 'Database.insert'."""
    owner, _, name = dotted.rpartition(".")
    for holder in [value_of(owner)] if owner else users_of(name):
        setattr(holder, name, value)
