"""Started without standard streams, or in a locale that is not UTF-8, a run is the same as from a shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from workplace import REPOSITORY, Workplace

pytestmark = pytest.mark.skipif(os.name != "posix", reason="closes descriptors, and sets POSIX locales")


@pytest.fixture
def few(workplace: Workplace, library: Path) -> Workplace:
    """Three valid files and an empty one; the names of two have letters outside ASCII."""
    files = sorted((library / "stems" / "Drums").rglob("*.wav"))
    folder = workplace.input / "Bässe"
    folder.mkdir()
    shutil.copy(files[0], folder / "Tiefer Bass Größe 1.wav")
    shutil.copy(files[1], workplace.input / "kick.wav")
    shutil.copy(files[2], workplace.input / "Querflöte.wav")
    (workplace.input / "empty.wav").touch()
    return workplace


def run_without(place: Workplace, *descriptors: int, flags: tuple[str, ...] = (), **options: Any) -> int:
    """Run the program with standard streams closed, as `2>&-` does; return its exit code."""

    def close() -> None:
        for descriptor in descriptors:
            os.close(descriptor)

    inherited: dict[str, Any] = {"stdin": None, "stdout": None, "stderr": None}
    with place.start(*flags, preexec_fn=close, **{**inherited, **options}) as process:
        return process.wait(60)


@pytest.mark.parametrize("descriptors", [(2,), (1,), (0, 1, 2), (0, 2)], ids=str)
def test_a_run_without_standard_streams_imports_and_logs(descriptors: tuple[int, ...], few: Workplace) -> None:
    assert run_without(few, *descriptors) == 0
    assert len(few.rows()) == 3
    log = few.log_file.read_text(encoding="utf-8")
    assert "found 4: 0 already done, 3 inserted, 1 quarantined" in log
    assert "a fault of this program" not in log


@pytest.mark.parametrize("style", ["bar", "lines", "json"])
def test_progress_that_is_asked_for_does_not_need_its_stream(style: str, few: Workplace) -> None:
    assert run_without(few, 0, 1, 2, flags=("--progress", style)) == 0
    assert len(few.rows()) == 3


def test_nothing_that_is_opened_later_becomes_a_standard_stream() -> None:
    """What C libraries print to stderr would otherwise go into the database."""
    code = f"""
import os, sys
sys.path.insert(0, {str(REPOSITORY)!r})
from stem_dataset.startup import open_standard_streams
assert sys.stderr is None
open_standard_streams()
os.write(2, b"from a library")
print("to nobody", file=sys.stderr)
print(os.open(__import__("os").devnull, os.O_RDONLY), [os.get_inheritable(number) for number in range(3)])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], preexec_fn=lambda: os.close(2), stdout=subprocess.PIPE, text=True, check=True
    )
    number, _, inheritable = done.stdout.partition(" ")
    assert int(number) > 2
    assert inheritable.strip() == "[True, True, True]"


def test_python_without_stderr_as_under_pythonw_can_run_main(few: Workplace) -> None:
    code = f"""
import sys
sys.path[:0] = [{str(REPOSITORY)!r}, {str(REPOSITORY / "tests" / "support")!r}]
sys.stdin = sys.stdout = sys.stderr = None
import prepare_dataset_sql
code = prepare_dataset_sql.main([*sys.argv[1:], "--dry-run"])
assert sys.stderr is not None
prepare_dataset_sql.leave(code)
"""
    done = subprocess.run([sys.executable, "-c", code, *few.flags()], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


LOCALES: dict[str, dict[str, str]] = {
    "UTF-8": {"LC_ALL": "C.UTF-8"},
    "none at all": {},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "ISO-8859-1": {"LC_ALL": "de_DE.ISO-8859-1", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


def run_in(place: Workplace, locale: str, *flags: str) -> subprocess.CompletedProcess[bytes]:
    """Run the program in a locale, with nothing else in its environment but what it cannot do without."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "NUMBA_CACHE_DIR", "TMPDIR") if name in os.environ}
    env = {**kept, **LOCALES[locale], "TEST_FAULTS": "{}", "TEST_WORKPLACE": str(place.folder)}
    with place.start(*flags, env=env, text=False) as process:
        stdout, stderr = (
            output.encode() if isinstance(output, str) else output for output in process.communicate(timeout=120)
        )
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def facts(place: Workplace) -> list[tuple[Any, ...]]:
    """Return what names decide in the rows, and what identifies them."""
    names = ("id", "original_file", "path", "category", "bpm", "key", "sha256", "clap_embedding")
    return [tuple(row[name] for name in names) for row in place.rows()]


@pytest.mark.parametrize("locale", [name for name in LOCALES if name != "UTF-8"])
def test_in_any_locale_the_rows_are_those_of_utf_8(locale: str, few: Workplace) -> None:
    assert run_in(few, locale).returncode == 0
    found = facts(few)
    assert [os.path.basename(row[1]) for row in found] == ["Tiefer Bass Größe 1.wav", "Querflöte.wav", "kick.wav"]
    assert [row[3] for row in found] == ["bass", "woodwind", "kick"]
    shutil.rmtree(few.folder / "out")
    (few.input / "empty.wav").touch()
    assert run_in(few, "UTF-8").returncode == 0
    assert facts(few) == found


@pytest.mark.parametrize("locale", [name for name in LOCALES if name != "UTF-8"])
def test_a_second_run_in_another_locale_has_nothing_to_do(locale: str, few: Workplace) -> None:
    assert run_in(few, "UTF-8").returncode == 0
    second = run_in(few, locale)
    assert second.returncode == 0
    assert b"nothing new: 3 files already processed" in second.stderr
    assert b"are gone" not in second.stderr


def test_a_dry_run_prints_the_names_whatever_stdout_can_encode(few: Workplace) -> None:
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "TEST_FAULTS": "{}", "TEST_WORKPLACE": str(few.folder)}
    with few.start("--dry-run", env=env) as process:
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert "Querfl\\xf6te.wav" in stdout
