"""A database that was not closed is checked, and a damaged one is refused with the right advice."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import audio_files
from audio_files import write_tone
from patching import replace_name
from prepare_dataset_sql import main
from stem_dataset.database.damage import damage_of
from stem_dataset.errors import Interrupted, RunStopped
from workplace import REPOSITORY, Workplace

STEMS = 40
# Commits a hundred rows to the main file and ten to the WAL, and ends as a killed process does.
KILLED = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode = WAL")
connection.execute("PRAGMA wal_autocheckpoint = 0")
columns = [row[1] for row in connection.execute("PRAGMA table_info(stems)")]
def add(first, last):
    for number in range(first, last):
        values = ["id || ?1" if name == "id" else "original_file || ?1" if name == "original_file" else name for name in columns]
        connection.execute(f"INSERT INTO stems SELECT {', '.join(values)} FROM stems WHERE rowid = 1", (f"-{number}",))
add(0, 100)
connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
add(100, 110)
os._exit(0)
"""  # noqa: E501


@pytest.fixture
def filled(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    audio_files.use_inline_workers(monkeypatch)
    audio_files.use_fake_clap(monkeypatch)
    for number in range(STEMS):
        write_tone(workplace.input / f"{number:02}.wav", hz=200 + 50 * number)
    workplace.run()
    return workplace


def kill_a_writer(place: Workplace) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(place.database)], check=True)
    assert place.database.with_name("stems.db-wal").stat().st_size > 0


def restore_beside_the_wal(place: Workplace) -> bytes:
    """Kill a writer, then put a backup in the place of the database and forget the rest; return the backup."""
    backup = shutil.copy(place.database, place.folder / "backup.db")
    kill_a_writer(place)
    place.database.with_name("stems.db-shm").unlink()
    shutil.copy(backup, place.database)
    return Path(backup).read_bytes()


def test_a_backup_beside_the_wal_of_another_database_is_refused_and_stays_as_it_is(
    filled: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    backup = restore_beside_the_wal(filled)
    assert main(filled.flags()) == 4
    message = capsys.readouterr().err
    for part in (str(filled.database), "is damaged", "-wal", "-shm", "backup", "run again"):
        assert part in message, part
    assert filled.database.read_bytes() == backup
    # What the message says to do:
    for suffix in ("-wal", "-shm"):
        filled.database.with_name(f"stems.db{suffix}").unlink()
    shutil.copy(filled.folder / "backup.db", filled.database)
    assert main(filled.flags()) == 0
    assert len(filled.rows()) == STEMS


def test_a_database_that_was_not_closed_but_is_whole_is_checked_and_goes_on(
    filled: Workplace, caplog: pytest.LogCaptureFixture
) -> None:
    kill_a_writer(filled)
    with caplog.at_level("INFO"):
        assert filled.run().already_done == STEMS
    assert f"{filled.database} was not closed, as when a run is killed: checking it" in caplog.text
    assert len(filled.rows()) == STEMS + 110
    caplog.clear()
    with caplog.at_level("INFO"):
        filled.run()
    assert "was not closed" not in caplog.text


@pytest.mark.parametrize("page", [1, 2], ids=["the tables' definitions", "a table"])
def test_a_damaged_page_gives_the_same_advice(page: int, filled: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    with open(filled.database, "rb+") as file:
        file.seek(100 if page == 1 else (page - 1) * 4_096)
        file.write(b"\xff" * 1_000)
    write_tone(filled.input / "new.wav")
    assert main(filled.flags()) == 4
    message = capsys.readouterr().err
    for part in (str(filled.database), "damaged", "-wal", "-shm", "backup"):
        assert part in message, part


def test_the_findings_are_lines_and_none_for_a_whole_file(filled: Workplace) -> None:
    assert damage_of(filled.database, "integrity_check", lambda: None) == []
    with open(filled.database, "rb+") as file:
        file.seek(filled.database.stat().st_size // 2 // 4_096 * 4_096)
        file.write(os.urandom(4_096))
    findings = damage_of(filled.database, "integrity_check", lambda: None)
    assert findings
    assert not [line for line in findings if "\n" in line or line.startswith("*")]


def test_ctrl_c_ends_the_check(filled: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stem_dataset.database.damage._lines_of", lambda *_: time.sleep(0.3))
    replace_name(monkeypatch, "TICK_S", 0.01)

    def interrupted() -> None:
        raise Interrupted("Ctrl-C")

    with pytest.raises(Interrupted):
        damage_of(filled.database, "quick_check", interrupted)


def test_what_a_wait_raises_comes_through_the_start_of_a_run(
    filled: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore_beside_the_wal(filled)
    replace_name(monkeypatch, "damage_of", lambda *_: ["Page 7 is never used"])
    with pytest.raises(RunStopped, match=r"Page 7 is never used\. It was"):
        filled.run()


def texts_of(path: Path) -> list[str]:
    """Return the source of each expression in a file that is a text, but for docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    left_out = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    # The parts of an f-string.
    left_out |= {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    texts = [n for n in ast.walk(tree) if isinstance(n, ast.JoinedStr | ast.Constant) and id(n) not in left_out]
    return [ast.unparse(text) for text in texts]


def test_each_message_that_recommends_a_backup_says_that_wal_and_shm_must_go() -> None:
    texts = [
        text
        for path in [REPOSITORY / "prepare_dataset_sql.py", *(REPOSITORY / "stem_dataset").rglob("*.py")]
        for text in texts_of(path)
        if "backup" in text
    ]
    assert texts
    for text in texts:
        assert ("-wal" in text and "-shm" in text) or "RESTORE_TEXT" in text, text
