"""--re-embed: the vectors of another model, or of an engine that computes otherwise, are replaced, and nothing else."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import audio_files
import prepare_dataset_sql as product
from audio_files import write_tone
from fake_clap import REFERENCE, BrokenClap, FakeClap, OtherClap
from patching import replace_name, value_of
from prepare_dataset_sql import main
from stem_dataset.commands.stored_stems import read_windows
from stem_dataset.config import Config
from stem_dataset.database.stems import Database
from stem_dataset.datatypes import NewVector, Provenance, StoredStem
from stem_dataset.errors import Interrupted, RunStopped, UsageError
from stem_dataset.output_folders import SCRATCH, hold_outputs
from stem_dataset.progress import Progress
from workplace import Workplace, use_quick_analysis

STEMS = 7
TOLD = {"category", "tags", "features"}  # by CLAP; see test_tags.py
WRITTEN = {"imported_at", "clap_embedding", "embedding_model"}
posix_only = pytest.mark.skipif(os.name != "posix", reason="SIGKILL and SIGINT")


class SecondModel(OtherClap):
    """A model with quite other vectors."""

    def __init__(self) -> None:
        super().__init__(noise=0.5, engine="second/cpu")


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    audio_files.use_inline_workers(monkeypatch)
    use_quick_analysis(monkeypatch)


def write_stems(place: Workplace) -> None:
    """Write seven stems, one of them of three windows (0.wav)."""
    for number in range(STEMS):
        write_tone(
            place.input / f"{number}.wav", hz=200 + 150 * number, seconds=25 if number == 0 else 0.05 + 0.01 * number
        )


@pytest.fixture
def filled(workplace: Workplace) -> Workplace:
    """A database of seven stems with vectors of the first model, and a rating."""
    write_stems(workplace)
    workplace.run()
    workplace.change("UPDATE stems SET user_rating = 3, key = 'C#m' WHERE original_file LIKE '%3.wav'")
    return workplace


@pytest.fixture
def filled_without_wavs(workplace: Workplace) -> Workplace:
    write_stems(workplace)
    workplace.run(stems=None)
    return workplace


def timeless(place: Workplace) -> list[dict[str, Any]]:
    """Return the rows without times, and without the stems folder, which a copy of a workplace has elsewhere."""
    return [{**row, "imported_at": "", "path": row["path"] and Path(row["path"]).name} for row in place.rows()]


def unbroken(place: Workplace, model: Any = None, **settings: Any) -> list[dict[str, Any]]:
    """Return the rows that one re-embedding leaves which nothing disturbs, made on a copy of the database."""
    copy = place.folder / "unbroken"
    shutil.copytree(place.database.parent, copy / "out")
    other = Workplace(copy)
    other.re_embed(model or SecondModel(), **settings)
    return timeless(other)


def imported_by(place: Workplace, model: Any, folder: Path, **settings: Any) -> dict[str, bytes]:
    """Return the vectors that an import of the same files by `model` gives, by name."""
    fresh = Workplace(folder)
    shutil.copytree(place.input, fresh.input)
    fresh.run(model, **settings)
    return {Path(row["original_file"]).name: row["clap_embedding"] for row in fresh.rows()}


# -- what it replaces, and what it leaves ----------------------------------------------------------------------------


def test_every_vector_becomes_that_of_an_import_by_the_new_model(filled: Workplace, tmp_path: Path) -> None:
    account = filled.re_embed(SecondModel(), precision="bf16", max_windows=2)
    assert (account.rows, account.re_embedded, account.already_done, account.failed, account.left) == (
        STEMS,
        STEMS,
        0,
        0,
        0,
    )
    expected = imported_by(filled, SecondModel(), tmp_path / "fresh", precision="bf16", max_windows=2)
    assert {Path(row["original_file"]).name: row["clap_embedding"] for row in filled.rows()} == expected
    assert {row["embedding_model"].partition("/")[2] for row in filled.rows()} == {"bf16/10s-max2"}


def test_nothing_but_vector_model_time_and_what_clap_tells_changes(filled: Workplace) -> None:
    before, originals = filled.rows(), audio_files.tree(filled.input)
    wavs = {name: found for name, found in audio_files.tree(filled.wavs).items() if name.endswith(".wav")}
    assert len(wavs) == STEMS
    filled.re_embed(SecondModel(), precision="bf16")
    after = filled.rows()
    for old, new in zip(before, after, strict=True):
        assert WRITTEN <= {name for name in old if old[name] != new[name]} <= WRITTEN | TOLD
        assert new["imported_at"] > old["imported_at"]
    assert after[3]["user_rating"] == 3
    assert after[3]["key"] == "C#m"
    assert audio_files.tree(filled.input) == originals
    assert {name: found for name, found in audio_files.tree(filled.wavs).items() if name in wavs} == wavs


def test_the_order_of_the_rows_does_not_matter(filled: Workplace) -> None:
    expected = unbroken(filled, precision="bf16")
    connection = sqlite3.connect(filled.database)
    ids = [row[0] for row in connection.execute("SELECT id FROM stems")]
    random.Random(1).shuffle(ids)
    with connection:
        for number, one in enumerate(ids):
            connection.execute("UPDATE stems SET rowid = ? WHERE id = ?", (1000 + 7 * number, one))
    connection.close()
    filled.re_embed(SecondModel(), precision="bf16", batch_windows=2)
    assert timeless(filled) == expected


def test_windows_go_to_the_model_in_batches_of_whole_files(filled: Workplace) -> None:
    model = SecondModel()
    filled.re_embed(model, precision="bf16", batch_windows=2)
    assert sum(model.call_sizes) == STEMS + 2  # 25 s are three windows, and a batch of their own
    assert sorted(model.call_sizes)[-2:] == [2, 3]
    assert len(model.call_sizes) <= 5


def test_files_are_read_while_the_model_works_and_not_more_than_the_next_batch(
    filled_without_wavs: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = filled_without_wavs
    (place.input / "0.wav").unlink()  # six files of a window are left
    place.change("DELETE FROM stems WHERE original_file LIKE '%0.wav'")
    opened = Opened(monkeypatch)
    read_at_the_calls: list[int] = []

    class Waits(SecondModel):
        def get_audio_embedding_from_data(self, x: Any) -> Any:
            vectors = super().get_audio_embedding_from_data(x)
            if len(self.call_sizes) == 1:
                deadline = time.monotonic() + 10
                while len(opened.paths) < 5 and time.monotonic() < deadline:
                    time.sleep(0.01)
                time.sleep(0.3)  # more would be read in this time
                read_at_the_calls.append(len(opened.paths))
            return vectors

    assert place.re_embed(Waits(), stems=None, precision="bf16", batch_windows=2).re_embedded == STEMS - 1
    assert read_at_the_calls == [5]  # the two of the call, the next two, and the one that shows that those are full


def test_more_rows_than_a_page_are_all_replaced(filled: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_name(monkeypatch, "ROWS_PER_PAGE", 2)
    assert filled.re_embed(SecondModel(), precision="bf16", batch_windows=3).re_embedded == STEMS


def test_afterwards_provenance_lists_the_new_model_alone_and_runs_go_on(filled: Workplace) -> None:
    filled.re_embed(SecondModel(), precision="bf16")
    entries = filled.rows("SELECT engine, precision FROM provenance")
    assert entries == [{"engine": "second/cpu", "precision": "bf16"}]
    write_tone(filled.input / "new.wav", hz=3000)
    assert filled.run(SecondModel(), precision="bf16").inserted == 1


def test_limit_is_respected_and_what_is_left_is_told(filled: Workplace) -> None:
    account = filled.re_embed(SecondModel(), precision="bf16", limit=3)
    assert (account.re_embedded, account.left) == (3, 4)
    assert "re-embedded 3, already of this model 0, failed 0, 4 left for the next --re-embed" in str(account)
    account = filled.re_embed(SecondModel(), precision="bf16")
    assert (account.re_embedded, account.already_done, account.left) == (4, 3, 0)


# -- an engine that computes otherwise ---------------------------------------------------------------------------------


def test_vectors_of_the_same_model_by_another_engine_are_replaced(filled: Workplace, tmp_path: Path) -> None:
    write_tone(filled.input / "new.wav", hz=3000)
    with pytest.raises(RunStopped, match="--re-embed"):
        filled.run(SecondModel())
    (filled.input / "new.wav").unlink()
    models = {row["embedding_model"] for row in filled.rows()}
    assert filled.re_embed(SecondModel()).re_embedded == STEMS
    assert {row["embedding_model"] for row in filled.rows()} == models
    expected = imported_by(filled, SecondModel(), tmp_path / "fresh")
    assert {Path(row["original_file"]).name: row["clap_embedding"] for row in filled.rows()} == expected
    assert filled.rows("SELECT engine FROM provenance") == [{"engine": "second/cpu"}]
    assert filled.re_embed(SecondModel()).already_done == STEMS


def test_an_engine_that_agrees_has_nothing_to_do(filled: Workplace, caplog: pytest.LogCaptureFixture) -> None:
    before = filled.rows()
    model = OtherClap(noise=1e-4)
    with caplog.at_level("INFO"):
        assert filled.re_embed(model).already_done == STEMS
    assert "nothing to re-embed: all 7 rows have vectors of 630k-audioset-best@" in caplog.text
    assert model.call_sizes == []
    assert filled.rows() == before


def test_between_two_engines_it_is_told_that_vectors_are_outdated_and_both_can_finish(filled: Workplace) -> None:
    first = timeless(filled)
    assert filled.re_embed(SecondModel(), limit=3).left == 4
    models = {row["embedding_model"] for row in filled.rows()}
    assert {model.endswith("/10s-max8/outdated") for model in models} == {True, False}
    write_tone(filled.input / "new.wav", hz=3000)
    for model in (FakeClap(), SecondModel()):
        with pytest.raises(UsageError, match="--re-embed"):
            filled.run(model)
    assert filled.re_embed(OtherClap(noise=2.0), limit=2).left == 5  # a third engine comes in between
    assert filled.re_embed(FakeClap()).left == 0
    assert timeless(filled) == first
    assert filled.rows("SELECT engine FROM provenance") == [{"engine": "fake/cpu"}]


def test_the_same_versions_on_another_machine_are_told_apart(filled: Workplace) -> None:
    class OtherMachine(SecondModel):
        def __init__(self) -> None:
            super().__init__()
            self.engine = FakeClap.engine

    assert filled.re_embed(OtherMachine(), limit=3).re_embedded == 3
    assert filled.re_embed(FakeClap(), limit=1).re_embedded == 1
    assert filled.re_embed(OtherMachine()).re_embedded == STEMS
    assert len(filled.rows("SELECT * FROM provenance")) == 1
    assert filled.re_embed(OtherMachine()).already_done == STEMS


def test_the_mark_that_vectors_are_outdated_may_be_interrupted(
    filled: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, expected = timeless(filled), unbroken(filled)
    replace_name(monkeypatch, "ROWS_PER_PAGE", 2)
    marked: list[str] = []

    def interrupt(self: Any) -> None:
        marked[:] = [row["id"] for row in filled.rows() if row["embedding_model"].endswith("/outdated")]
        if len(marked) >= 4:
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "tick", interrupt)
        with pytest.raises(Interrupted):
            filled.re_embed(SecondModel())
    assert len(marked) == 4
    write_tone(filled.input / "new.wav", hz=3000)
    for model in (FakeClap(), SecondModel()):
        with pytest.raises(UsageError, match="--re-embed"):
            filled.run(model)
    copy = shutil.copytree(filled.database.parent, filled.folder / "back" / "out")
    back = Workplace(copy.parent)
    assert (back.re_embed(FakeClap()).re_embedded, timeless(back)) == (4, first)
    assert (filled.re_embed(SecondModel()).re_embedded, timeless(filled)) == (STEMS, expected)


# -- nothing to do -----------------------------------------------------------------------------------------------------


def no_model(*_: Any) -> Any:
    raise AssertionError("no model is to be loaded")


@pytest.mark.parametrize("content", ["no rows", "rows of a database whose engine is not known"])
def test_where_nothing_can_be_outdated_no_model_is_loaded(
    content: str, filled: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    filled.change("DELETE FROM stems" if content == "no rows" else "UPDATE provenance SET reference_vector = NULL")
    monkeypatch.setattr(product.DatasetPreparer.__init__, "__defaults__", (no_model, False))
    assert main([*filled.flags(), "--re-embed"]) == 0
    message = capsys.readouterr().err
    assert "nothing to re-embed" in message
    assert "re-embedded 0" in message


def test_provenance_that_a_killed_re_embedding_left_is_removed(filled: Workplace) -> None:
    filled.change(
        "INSERT INTO provenance SELECT 'gone', engine, versions, '', '', '', '', '', NULL, '' FROM provenance"
    )
    filled.re_embed()
    assert len(filled.rows("SELECT * FROM provenance")) == 1


# -- where the samples come from ---------------------------------------------------------------------------------------


class Opened:
    """Remembers which files are opened by `read_windows`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: list[str] = []
        for name in ("windows_of_wav", "_windows_of_original"):
            replace_name(monkeypatch, name, self.watched(value_of(name)))

    def watched(self, read: Any) -> Any:
        def watch(stem: StoredStem, config: Config) -> Any:
            windows = read(stem, config)
            self.paths.append(f"{Path(stem.original_file).name} {read.__name__.rpartition('_')[2]}")
            return windows

        return watch


def damage(wav: str) -> None:
    with open(wav, "rb+") as file:
        file.seek(100)
        file.write(b"\x55\xaa\x55")


def test_the_wavs_alone_are_enough(filled: Workplace) -> None:
    expected = unbroken(filled, precision="bf16")
    shutil.rmtree(filled.input)
    assert filled.re_embed(SecondModel(), precision="bf16").failed == 0
    assert timeless(filled) == expected


@pytest.mark.parametrize("harm", [damage, os.remove, lambda wav: os.truncate(wav, 60), lambda wav: os.truncate(wav, 0)])
def test_a_wav_that_is_not_whole_is_replaced_by_the_original(
    harm: Any, filled: Workplace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = unbroken(filled, precision="bf16")
    wav = filled.rows()[2]["path"]
    harm(wav)
    opened = Opened(monkeypatch)
    assert filled.re_embed(SecondModel(), precision="bf16").re_embedded == STEMS
    assert timeless(filled) == expected
    assert sorted(opened.paths) == [f"{n}.wav {'original' if n == 2 else 'wav'}" for n in range(STEMS)]
    assert "2.wav: read from the original, since" in caplog.text
    assert wav in caplog.text


def test_without_wavs_the_originals_are_read(
    filled_without_wavs: Workplace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened = Opened(monkeypatch)
    assert filled_without_wavs.re_embed(SecondModel(), stems=None, precision="bf16").re_embedded == STEMS
    assert [name for name in opened.paths if not name.endswith("original")] == []
    assert "read from the original" not in caplog.text
    assert not filled_without_wavs.wavs.exists()
    assert list((filled_without_wavs.quarantine / SCRATCH).iterdir()) == []


def test_wav_and_original_give_the_same_vectors(filled: Workplace) -> None:
    expected = unbroken(filled, precision="bf16")
    shutil.rmtree(filled.wavs)
    filled.re_embed(SecondModel(), precision="bf16")
    assert timeless(filled) == expected


@posix_only
def test_what_has_become_a_fifo_is_not_waited_for(filled: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    expected = unbroken(filled, precision="bf16")
    rows = filled.rows()
    for path in (rows[2]["path"], rows[4]["path"], rows[4]["original_file"]):
        os.remove(path)
        os.mkfifo(path)
    signal.alarm(60)  # ends the tests, which would hang
    try:
        account = filled.re_embed(SecondModel(), precision="bf16")
    finally:
        signal.alarm(0)
    assert (account.re_embedded, account.failed) == (STEMS - 1, 1)
    assert timeless(filled)[2] == expected[2]
    assert filled.rows()[4] == rows[4]


def test_want_of_memory_is_told_with_what_to_do(
    filled: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise soundfile.LibsndfileError(17)

    audio_files.use_fake_clap(monkeypatch, SecondModel())
    replace_name(monkeypatch, "windows_of_wav", fail)
    assert main([*filled.flags(), "--re-embed"]) == 4
    message = capsys.readouterr().err
    assert "stopped: not enough memory to read" in message
    assert "free some memory" in message
    assert "a fault of this program" not in message


def test_an_error_in_our_own_code_fails_a_row_and_asks_to_be_reported(
    filled: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cut_windows, calls = value_of("cut_windows"), itertools.count(1)

    def fail_at_third(*arguments: Any) -> Any:
        if next(calls) == 3:
            raise ValueError("boom")
        return cut_windows(*arguments)

    before = filled.rows()
    audio_files.use_fake_clap(monkeypatch, SecondModel())
    replace_name(monkeypatch, "cut_windows", fail_at_third)
    assert main([*filled.flags(), "--re-embed"]) == 1
    message = capsys.readouterr().err
    assert "failed, its row keeps its former vector: ValueError: boom; this is an error in the program" in message
    assert "please report it" in message
    assert "restore the missing file" not in message
    assert "boom" in filled.log_file.read_text(encoding="utf-8").split("Traceback (most recent call last)")[-1]
    after = filled.rows()
    kept = [i for i in range(STEMS) if after[i]["clap_embedding"] == before[i]["clap_embedding"]]
    assert len(kept) == 1


def change_bytes(path: Path) -> None:
    write_tone(path, hz=5000)


@pytest.mark.parametrize("harm", [os.remove, change_bytes], ids=["gone", "changed"])
def test_a_row_with_neither_wav_nor_original_fails_and_is_named(
    harm: Any, filled: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = filled.rows()[4]
    os.remove(before["path"])
    harm(Path(before["original_file"]))
    audio_files.use_fake_clap(monkeypatch, SecondModel())
    assert main([*filled.flags(), "--re-embed", "--report", str(filled.folder / "report.json")]) == 1
    message = capsys.readouterr().err
    reason = "No such file" if harm is os.remove else "the original has changed since its import"
    for part in (before["original_file"], reason, before["path"], "run --re-embed again", "keeps its former vector"):
        assert part in message, part
    assert f"7 rows: re-embedded {STEMS - 1}, already of this model 0, failed 1; " in message
    report = json.loads((filled.folder / "report.json").read_text())
    assert (report["re_embedded"], report["failed"], report["left"], report["exit_code"]) == (STEMS - 1, 1, 0, 1)
    assert filled.rows()[4]["clap_embedding"] == before["clap_embedding"]
    write_tone(filled.input / "new.wav", hz=3000)
    with pytest.raises(UsageError, match="--re-embed"):  # its vector does not compare with the others'
        filled.run(SecondModel())

    (command,) = re.findall(r"remove its row: (sqlite3 .*)", message)
    subprocess.run(command, shell=True, check=True)
    assert len(filled.rows()) == STEMS - 1
    assert filled.re_embed(SecondModel()).already_done == STEMS - 1
    assert len(filled.rows("SELECT * FROM provenance")) == 1


def test_a_file_that_comes_back_is_re_embedded_next_time(filled_without_wavs: Workplace) -> None:
    place = filled_without_wavs
    expected = unbroken(place, stems=None, precision="bf16")
    away = place.input.rename(place.folder / "unplugged")
    assert place.re_embed(SecondModel(), stems=None, precision="bf16").failed == STEMS
    away.rename(place.input)
    assert place.re_embed(SecondModel(), stems=None, precision="bf16").re_embedded == STEMS
    assert timeless(place) == expected


def test_many_rows_whose_files_are_gone_do_not_hide_the_others(filled_without_wavs: Workplace) -> None:
    place = filled_without_wavs
    for number in range(5):
        (place.input / f"{number}.wav").unlink()
    account = place.re_embed(SecondModel(), stems=None, precision="bf16", max_faults_in_a_row=2)
    assert (account.failed, account.re_embedded) == (5, 2)


def test_a_file_longer_than_a_limit_that_was_lowered_since_is_re_embedded(filled_without_wavs: Workplace) -> None:
    assert filled_without_wavs.re_embed(SecondModel(), stems=None, precision="bf16", max_duration_s=1.0).failed == 0


# -- bad vectors -----------------------------------------------------------------------------------------------------


def test_a_row_whose_new_vector_stays_bad_fails_and_keeps_the_old(
    filled: Workplace, caplog: pytest.LogCaptureFixture
) -> None:
    before = filled.rows()

    def bad(call: int, row: int, window: Any) -> bool:
        return len(window) == round(0.07 * 48_000)  # 2.wav

    account = filled.re_embed(BrokenClap(bad), precision="bf16")
    assert (account.re_embedded, account.failed) == (STEMS - 1, 1)
    assert filled.rows()[2] == before[2]
    assert "2.wav: failed, its row keeps its former vector: CLAP's vector is not 512 finite numbers" in caplog.text
    assert filled.quarantined() == []
    assert Path(before[2]["original_file"]).exists()
    assert filled.re_embed(precision="bf16").re_embedded == 1


def test_a_broken_engine_stops_and_changes_nothing(filled: Workplace) -> None:
    class Broken(FakeClap):
        def vector(self, window: Any) -> Any:
            return super().vector(window) * 2

    before = filled.rows()
    with pytest.raises(RunStopped, match="CLAP is broken"):
        filled.re_embed(Broken(), precision="bf16")
    assert filled.rows() == before


# -- interrupted and resumed -----------------------------------------------------------------------------------------


class Raises(SecondModel):
    """A model that raises in its n-th call."""

    def __init__(self, call: int, error: BaseException) -> None:
        super().__init__()
        self.call, self.error = call, error

    def get_audio_embedding_from_data(self, x: Any) -> Any:
        vectors = super().get_audio_embedding_from_data(x)
        if len(self.call_sizes) == self.call:
            raise self.error
        return vectors


@pytest.mark.parametrize("error", [RuntimeError("boom"), Interrupted("")], ids=["fault", "Ctrl-C"])
def test_stopped_in_any_batch_and_resumed_it_ends_with_the_same_rows(filled: Workplace, error: BaseException) -> None:
    expected = unbroken(filled, precision="bf16", batch_windows=2)
    done = 0
    for call in (1, 2, 1, 2, 1):  # each try gets on by a batch, or by none
        with contextlib.suppress(RunStopped, Interrupted):
            account = filled.re_embed(Raises(call, error), precision="bf16", batch_windows=2)
            assert account.left == 0
        rows = filled.rows()
        new = sum("/bf16/" in row["embedding_model"] for row in rows)
        assert new >= done
        done = new
        for row, final in zip(timeless(filled), expected, strict=True):
            assert row["clap_embedding"] == final["clap_embedding"] or "/f32/" in row["embedding_model"]
    assert 0 < done < STEMS
    write_tone(filled.input / "new.wav", hz=3000)
    for precision in ("f32", "bf16"):  # a mix: no run adds to it
        with pytest.raises(UsageError, match="--re-embed"):
            filled.run(precision=precision)
    assert filled.re_embed(SecondModel(), precision="bf16", batch_windows=2).re_embedded == STEMS - done
    assert timeless(filled) == expected


def re_embed_killed(place: Workplace, faults: dict[str, Any]) -> int:
    result = place.execute("--re-embed", "--batch-windows", "3", faults={"engine": ["second/cpu", 0.5], **faults})
    return result.returncode


@posix_only
@pytest.mark.parametrize("fault", ["kill_in_call", "kill_after_commit"])
def test_killed_at_every_batch_and_resumed_it_ends_with_the_same_rows(filled: Workplace, fault: str) -> None:
    """The same model on another engine: also the mark that the former rows are outdated has to outlive a kill."""
    expected = unbroken(filled, batch_windows=3)
    kills = 0
    number = 1 if fault == "kill_after_commit" else 2
    while re_embed_killed(filled, {fault: number}) == -signal.SIGKILL:
        kills += 1
        outdated = [row for row in filled.rows() if row["embedding_model"].endswith("/outdated")]
        assert len(outdated) < STEMS
    assert kills >= 2
    assert timeless(filled) == expected
    assert filled.rows("SELECT engine FROM provenance") == [{"engine": "second/cpu"}]


@posix_only
def test_ctrl_c_ends_within_seconds_and_keeps_what_is_committed(filled: Workplace) -> None:
    expected = unbroken(filled, batch_windows=2)
    process = filled.start("--re-embed", "--batch-windows", "2", faults={"engine": ["second/cpu", 0.5], "slow_s": 1.5})
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(0.1)
        if 0 < sum(row["embedding_model"].endswith("/outdated") for row in filled.rows()) < STEMS:
            break  # all were marked, and the first batch is written
    process.send_signal(signal.SIGINT)
    sent = time.monotonic()
    _, message = process.communicate(timeout=30)
    assert time.monotonic() - sent < 8
    assert process.returncode == 130
    account = re.search(r"7 rows: re-embedded (\d), already of this model 0, failed 0, (\d) left for", message)
    assert account is not None, message
    assert int(account[1]) + int(account[2]) == STEMS
    assert re_embed_killed(filled, {}) == 0
    assert timeless(filled) == expected


def test_a_batch_is_written_whole_or_not_at_all(filled: Workplace) -> None:
    before = filled.rows()
    (entry,) = filled.rows("SELECT * FROM provenance")
    database = Database(filled.database)
    vectors = [
        NewVector(row["id"], "now", "kick", "[]", "{}", before[0]["clap_embedding"] if number < 2 else b"short", "new")
        for number, row in enumerate(before[:3])
    ]
    with pytest.raises(RunStopped, match="CHECK"):
        database.replace_vectors(vectors, Provenance(**{**entry, "embedding_model": "new"}))
    database.close()
    assert filled.rows() == before
    assert len(filled.rows("SELECT * FROM provenance")) == 1


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["--dry-run", "--restore-quarantine"])
def test_with_another_mode_it_is_a_usage_error(
    other: str, filled: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    before = filled.rows()
    assert main([*filled.flags(), "--re-embed", other]) == 2
    assert "not allowed with" in capsys.readouterr().err
    assert filled.rows() == before


def test_it_needs_no_input(filled: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    audio_files.use_fake_clap(monkeypatch, SecondModel())
    flags = filled.flags()
    del flags[flags.index("--input") : flags.index("--input") + 2]
    assert main([*flags, "--re-embed"]) == 0
    assert filled.rows("SELECT engine FROM provenance") == [{"engine": "second/cpu"}]


def test_without_a_database_it_is_a_usage_error_that_makes_nothing(
    workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*workplace.flags(), "--re-embed"]) == 2
    assert f"there is no database at {workplace.database}" in capsys.readouterr().err
    assert not workplace.database.parent.exists()


def test_another_run_at_work_is_told(filled: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    audio_files.use_fake_clap(monkeypatch, SecondModel())
    with hold_outputs(filled.config()):
        assert main([*filled.flags(), "--re-embed"]) == 5


def test_a_vector_belongs_to_its_row_and_is_of_unit_length(filled: Workplace) -> None:
    filled.re_embed(SecondModel(), precision="bf16", batch_windows=4)
    vectors = [np.frombuffer(row["clap_embedding"], "<f4") for row in filled.rows()]
    assert all(abs(np.linalg.norm(vector.astype(float)) - 1) < 1e-6 for vector in vectors)
    assert len({vector.tobytes() for vector in vectors}) == STEMS
    assert not any(np.allclose(vector, SecondModel().vector(REFERENCE)) for vector in vectors)


STEM = StoredStem("0", "/kick.wav", "/0.wav", "", "", "kick", "[]", "{}", 1, b"")


FAULTS = [
    (OSError(errno.ENOSPC, "No space left on device"), OSError),
    (MemoryError(), MemoryError),
    (soundfile.LibsndfileError(17), MemoryError),  # its malloc failed
]


@pytest.mark.parametrize(("fault", "raised"), FAULTS)
def test_a_fault_that_says_nothing_about_a_stem_ends_re_embed(
    monkeypatch: pytest.MonkeyPatch, fault: Exception, raised: type[Exception]
) -> None:
    def fail(*_: object) -> None:
        raise fault

    replace_name(monkeypatch, "windows_of_wav", fail)
    with pytest.raises(raised):
        read_windows(STEM, Config())
