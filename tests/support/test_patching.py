"""The check against patches that reach nothing."""

from __future__ import annotations

import pytest

from patching import replace_name
from stem_dataset import drives, errors


def test_a_patch_of_a_name_that_a_module_never_uses_fails_its_test(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="never uses UnfitWorker"):
        monkeypatch.setattr(errors, "UnfitWorker", None)
    with pytest.raises(AssertionError, match="never uses UnfitWorker"):
        monkeypatch.setattr("stem_dataset.errors.UnfitWorker", None)
    with pytest.raises(AssertionError, match="0 things"):
        replace_name(monkeypatch, "no_such_name", None)
    monkeypatch.setattr(drives, "STAT_S", 1.0)
    assert drives.STAT_S == 1.0
