"""The whole run on the 74 fixtures, with real workers, real files, real SQLite and a fake model."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import json
import pickle
import shutil
import signal
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import prepare_dataset_sql as product
from audio_files import write_tone
from fake_clap import BrokenClap, FakeClap, fake_vector, is_reference
from patching import replace_name
from stem_dataset.audio.standardise import SourceLevels
from stem_dataset.audio.wav import StandardisedAudio
from stem_dataset.clap.embed import INTERRUPT_GRACE_S
from stem_dataset.config import TAGS
from stem_dataset.datatypes import FoundFile, ProcessedFile
from stem_dataset.discover import WalkRules, discover
from stem_dataset.errors import Interrupted, MachineFault, NotFinite, ProgramFault, RunStopped
from stem_dataset.summary import Summary
from stem_dataset.workers.dask_worker import PROGRAM
from stem_dataset.workers.local_pool import LocalBackend
from stem_dataset.workers.pool import Pool
from stem_dataset.workers.tasks import as_fault
from stem_dataset.workers.worker import hash_file, run_tasks, self_test
from vectors import ROUNDING, assert_equal_to_the_last_bit
from workplace import Workplace, needs_proc, wait_for_log, wait_for_no_process_of

VALID, BROKEN = 71, 3


def vector(row: dict[str, Any]) -> Any:
    return np.frombuffer(row["clap_embedding"], "<f4")


def comparable(place: Workplace) -> list[dict[str, Any]]:
    """Return all rows without what may differ between two runs on copies: time, inode, folder of the WAVs."""
    rows = place.rows()
    for row in rows:
        assert Path(row["path"]).is_file()
        row["imported_at"] = row["inode"] = ""
    return rows


# -- 71 valid and 3 broken files -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(library: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workplace, FakeClap, Summary]:
    """One unbroken run on the 74 fixtures, for the tests that only look."""
    place = Workplace(tmp_path_factory.mktemp("finished"))
    shutil.copytree(library / "stems", place.input)
    clap = FakeClap()
    return place, clap, place.run(clap)


Finished = tuple[Workplace, FakeClap, Summary]


def test_71_valid_files_get_rows_and_3_broken_ones_go_to_quarantine(finished: Finished) -> None:
    place, _, summary = finished
    assert (summary.found, summary.inserted, summary.quarantined, summary.failed) == (74, VALID, BROKEN, 0)
    assert len(place.originals()) == VALID
    assert place.quarantined() == [
        "ERROR_LibsndfileError_kick_empty.wav",
        "ERROR_LibsndfileError_pad_cut_short.flac",
        "ERROR_LibsndfileError_snare_notes.wav",
    ]


def test_all_valid_files_are_embedded_in_one_call(finished: Finished) -> None:
    _, clap, _ = finished
    assert clap.call_sizes == [73]  # 70 files of one window and the 25 s piece of three


def test_each_broken_file_has_its_json_and_its_error_in_the_log(finished: Finished) -> None:
    place, _, _ = finished
    log_lines = place.log_file.read_text(encoding="utf-8").splitlines()
    for name in place.quarantined():
        entry = json.loads((place.quarantine / f"{name}.json").read_text(encoding="utf-8"))
        assert not Path(entry["original_file"]).exists()
        errors = [line for line in log_lines if " ERROR " in line and entry["original_file"] in line]
        assert len(errors) == 1
        assert f"LibsndfileError: {entry['error']['message']}" in errors[0]
    assert sum("Traceback (most recent call last)" in line for line in log_lines) == BROKEN


def test_every_vector_is_that_of_its_own_row(finished: Finished) -> None:
    place, _, _ = finished
    for row in place.rows():
        samples = soundfile.read(row["path"], dtype="float32")[0]
        length = np.linalg.norm(vector(row).astype(np.float64))
        assert length == pytest.approx(1, abs=2 * ROUNDING)  # normalised in float64, each number rounded once
        if len(samples) <= 480_000:
            quantised = (samples * np.float32(32767)).astype(np.int16) / np.float32(32767)
            assert_equal_to_the_last_bit(vector(row), fake_vector(quantised))


def test_a_long_file_has_the_normalised_mean_of_its_windows(finished: Finished) -> None:
    place, _, _ = finished
    row = max(place.rows(), key=lambda row: float(row["duration_s"]))
    samples = soundfile.read(row["path"], dtype="float32")[0]
    assert len(samples) == 1_200_000
    starts = (0, 360_000, 720_000)  # i * (1,200,000 - 480,000) // 2
    windows = [(samples[i : i + 480_000] * np.float32(32767)).astype(np.int16) / np.float32(32767) for i in starts]
    mean = np.mean([fake_vector(window) for window in windows], axis=0, dtype=np.float64)
    assert_equal_to_the_last_bit(vector(row), mean / np.linalg.norm(mean))


def test_the_metadata_says_what_the_makers_truth_says(finished: Finished, library: Path) -> None:
    place, _, _ = finished
    truth = json.loads((library / "truth.json").read_text(encoding="utf-8"))["stems"]
    expected = {stem["file"]: stem for stem in truth if stem["valid"]}
    for row, name in zip(place.rows(), place.originals(), strict=True):
        stem = expected.pop(name.replace("\\", "/"))
        assert (row["sample_rate_hz"], row["channels"]) == (stem["sample_rate_hz"], stem["channels"])
        assert row["duration_s"] == pytest.approx(stem["duration_s"], abs=0.001)
        assert row["quality_ok"] == (stem["category"] != "silence")
        assert stem["bpm"] in (None, row["bpm"])  # stated by the folders of all that have one
        assert row["key"] in (None, stem["key"])
        assert len(json.loads(row["tags"])) == (TAGS if row["quality_ok"] else 0)
        assert row["user_rating"] is None
    assert not expected


# -- nothing but the samples counts ----------------------------------------------------------------------------------


def test_batch_size_and_workers_change_nothing(finished: Finished, full_workplace: Workplace) -> None:
    reference, _, _ = finished
    clap = FakeClap()
    full_workplace.run(clap, batch_windows=5, workers=3)
    assert len(clap.call_sizes) > 10
    assert max(clap.call_sizes) <= 5
    prefix = len(str(full_workplace.folder)), len(str(reference.folder))
    for ours, theirs in zip(comparable(full_workplace), comparable(reference), strict=True):
        assert_equal_to_the_last_bit(vector(ours), vector(theirs))
        assert ours["original_file"][prefix[0] :] == theirs["original_file"][prefix[1] :]
        for column in ours.keys() - {"id", "original_file", "path", "mtime_ns", "clap_embedding"}:
            # Some formats carry the time of their making, so the library's copies are compared, not remade ones.
            assert ours[column] == theirs[column], column


def test_a_file_with_more_windows_than_a_batch_is_a_batch_of_its_own(workplace: Workplace, library: Path) -> None:
    shutil.copytree(library / "stems" / "Full Pieces", workplace.input, dirs_exist_ok=True)
    clap = FakeClap()
    workplace.run(clap, batch_windows=1)
    assert clap.call_sizes == [3]


def test_no_more_than_two_files_a_worker_are_in_flight(workplace: Workplace, library: Path) -> None:
    shutil.copytree(library / "stems" / "Drums", workplace.input, dirs_exist_ok=True)
    preparer = product.DatasetPreparer(workplace.config(), show_progress=False)
    workplace.quarantine.mkdir(parents=True)
    files = list(discover(WalkRules(preparer.root), Summary("x")))
    taken = iter(files)
    pool = Pool(LocalBackend(2, preparer._run_context, workplace.log_file), preparer._run_context)
    most = 0
    try:
        for done, report in enumerate(filter(None, pool.reports(product._process_file, taken))):
            assert report.processed is not None
            most = max(most, len(files) - len(list_left(taken, files)) - done)
            time.sleep(0.02)  # a slow consumer: the pool must wait for it
    finally:
        pool.close()
    assert most <= 4


def test_a_worker_imports_no_model_and_nothing_that_it_could_share(workplace: Workplace, library: Path) -> None:
    """torch alone would cost each worker seconds and 300 MB; what is imported before the fork costs once."""
    shutil.copytree(library / "stems" / "Loops", workplace.input, dirs_exist_ok=True)
    preparer = product.DatasetPreparer(workplace.config(), show_progress=False)
    workplace.quarantine.mkdir(parents=True)
    backend = LocalBackend(1, preparer._run_context, workplace.log_file)
    pool = Pool(backend, preparer._run_context)
    # For `eval`: a worker cannot import this file. The program itself is imported by the first task that names it.
    loaded_modules = "__import__('prepare_dataset_sql') and set(__import__('sys').modules)"
    try:
        # A worker of a run has imported the script before its first file, as its main module.
        before = backend.workers[0].executor.submit(eval, f"__import__('{PROGRAM}') and {loaded_modules}").result()
        files = discover(WalkRules(preparer.root), Summary("x"))
        reports = list(filter(None, pool.reports(product._process_file, files)))
        after = backend.workers[0].executor.submit(eval, loaded_modules).result()
    finally:
        pool.close()
    assert any(report.processed and report.processed.metadata.bpm for report in reports)
    assert not after & {"torch", "openvino", "laion_clap", "transformers", "sklearn"}
    assert "librosa.filters" in after
    if sys.platform == "linux":
        assert after - before == set()


@pytest.mark.parametrize(
    "step", ["_packed", "_features", "_rolloff_hz", "_mel_filters", "onset_strengths", "_pitches", "_pitch_classes"]
)
def test_self_test_tells_what_is_broken_in_the_analysis(
    workplace: Workplace, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a numba that finds no place for its cache, say, would quarantine a library."""

    def fail(*_: object) -> None:
        raise RuntimeError("cannot cache")

    run_context = product.DatasetPreparer(workplace.config(), show_progress=False)._run_context
    assert self_test(run_context) is None
    replace_name(monkeypatch, step, fail)
    assert self_test(run_context) == "WAV: RuntimeError: cannot cache"


def test_self_test_tells_that_ffmpeg_decodes_nothing(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a library of .m4a would go to quarantine."""
    run_context = product.DatasetPreparer(workplace.config(), show_progress=False)._run_context
    replace_name(monkeypatch, "DECODERS", frozenset({"flac"}))
    assert str(self_test(run_context)).startswith("AAC: ")


def list_left(iterator: Any, files: list[FoundFile]) -> list[FoundFile]:
    """Return what a list iterator has not given out yet, without taking it."""
    return files[len(files) - iterator.__length_hint__() :]


def test_a_task_is_small_and_holds_neither_model_nor_connection(workplace: Workplace) -> None:
    preparer = product.DatasetPreparer(workplace.config(), show_progress=False)
    task = (run_tasks, product._process_file, [FoundFile("/a/kick.wav", 1, 1)], preparer._run_context)
    assert len(pickle.dumps(task)) < 12_000  # most of it words of the config


# -- what the model may do -------------------------------------------------------------------------------------------


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_vector_that_is_bad_once_is_embedded_again_alone(drums: Workplace) -> None:
    clap = BrokenClap(lambda call, row, window: call == 1 and row == 3)
    summary = drums.run(clap)
    assert summary.inserted == summary.found
    assert clap.call_sizes[1:] == [1]


def test_a_file_whose_vector_stays_bad_is_quarantined_without_row_or_wav(drums: Workplace) -> None:
    calls: list[Any] = []

    def bad(call: int, row: int, window: Any) -> bool:
        if call == 1 and row == 3:
            calls.append(window)
        return any(len(window) == len(bad) and (window == bad).all() for bad in calls)

    summary = drums.run(BrokenClap(bad))
    assert (summary.inserted, summary.quarantined) == (summary.found - 1, 1)
    assert drums.quarantined()[0].startswith("ERROR_BadVector_")
    assert len(list(drums.wavs.rglob("*.wav"))) == summary.inserted == len(drums.rows())


def test_a_bad_vector_that_cannot_be_quarantined_leaves_the_row_and_its_wav(
    workplace: Workplace, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(shutil.copy(next((library / "stems" / "Drums").rglob("*.wav")), workplace.input / "a.wav"))
    workplace.run()
    (row,) = workplace.rows()
    write_tone(file, 700)

    def full_disk(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    replace_name(monkeypatch, "quarantine_file", full_disk)
    seen: list[Any] = []

    def bad_unless_reference(call: int, position: int, window: Any) -> bool:
        seen.append(window)
        return len(window) == len(seen[0])

    assert workplace.run(BrokenClap(bad_unless_reference)).failed == 1
    assert workplace.rows() == [row]
    assert Path(row["path"]).is_file()


@pytest.mark.parametrize("answer", [np.nan, 0.0, 2.0], ids=["nan", "zeros", "not of unit length"])
def test_a_broken_engine_stops_the_run_and_moves_nothing(drums: Workplace, answer: float) -> None:
    class BrokenEngine(FakeClap):
        def get_audio_embedding_from_data(self, x: Any) -> Any:
            return np.full((len(x), 512), answer, np.float32)

    before = snapshot(drums.input)
    with pytest.raises(RunStopped, match="CLAP is broken"):
        drums.run(BrokenEngine())
    assert snapshot(drums.input) == before
    assert drums.rows() == []


def test_an_answer_of_another_shape_stops_the_run(drums: Workplace) -> None:
    class OneTooFew(FakeClap):
        def get_audio_embedding_from_data(self, x: Any) -> Any:
            vectors = super().get_audio_embedding_from_data(x)
            return vectors if is_reference(x) else vectors[1:]

    with pytest.raises(RunStopped, match="array of shape"):
        drums.run(OneTooFew())
    assert drums.rows() == []


def test_out_of_memory_in_the_model_names_the_remedy(drums: Workplace) -> None:
    class TooLarge(FakeClap):
        def get_audio_embedding_from_data(self, x: Any) -> Any:
            if is_reference(x):
                return super().get_audio_embedding_from_data(x)
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(RunStopped, match="No file is to blame; if memory ran out, free some"):
        drums.run(TooLarge())


# -- whose fault it is (design.md, table of faults) --------------------------------------------------------------------


def as_faults(*errors: Exception) -> list[MachineFault]:
    """Return the errors as they come from a worker."""
    found = FoundFile("/a/kick.wav", 1, 1)
    return [pickle.loads(pickle.dumps(as_fault(error, found))) for error in errors]


ODD_NAMES = ["/a/Don't 1", "/a/\"loud\": 'kick'", "/a/: 'b': 3.wav", "/a/[Errno 5] I/O: 'c'"]
THE_SAME_FAULTS = {
    "odd names": [PermissionError(13, "No", name) for name in ODD_NAMES],
    "no name, two, and other texts": [
        OSError(errno.ENOSPC, "full"),
        OSError(errno.ENOSPC, "No: 'space'", "/a"),
        OSError(errno.ENOSPC, "", "/a", None, "/b"),
    ],
    "texts": [ValueError(text) for text in ("bad: 'a'", "worse", "")],
    "faults of the program": [ProgramFault(f"IndexError: {i}", ("IndexError", None)) for i in "123"],
    "our own": [MachineFault(text) for text in ("its drive hangs", "it: 'changed'", "no file")],
}


@pytest.mark.parametrize("errors", THE_SAME_FAULTS.values(), ids=THE_SAME_FAULTS)
def test_faults_count_as_the_same_whatever_their_paths_and_texts(workplace: Workplace, errors: list[Exception]) -> None:
    preparer = product.DatasetPreparer(workplace.config(max_faults_in_a_row=len(errors)), show_progress=False)
    *first, last = as_faults(*errors)
    for fault in first:
        preparer._count_fault(fault)
    with pytest.raises(RunStopped) as stopped:
        preparer._count_fault(last)
    said = f"the same fault on {len(errors)} files in a row (max_faults_in_a_row): {last}. Nothing was moved for it"
    assert said in str(stopped.value)
    assert last.kind[0] in said


def test_faults_of_other_kinds_do_not_count_together(workplace: Workplace) -> None:
    preparer = product.DatasetPreparer(workplace.config(max_faults_in_a_row=2), show_progress=False)
    errors = [
        OSError(errno.ENOSPC, "the same text", "/a"),
        OSError(errno.EACCES, "the same text", "/a"),
        OSError(errno.EDQUOT, "the same text", "/a"),
        ValueError("the same text"),
        MachineFault("the same text"),
        ProgramFault("KeyError: the same text", ("KeyError", None)),
        ProgramFault("IndexError: the same text", ("IndexError", None)),
        MemoryError("the same text"),
    ]
    for fault in as_faults(*errors, *errors):
        preparer._count_fault(fault)


def test_a_fault_of_the_program_counts_by_the_error_behind_it(
    workplace: Workplace, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MachineFault) as caught:
        process_with_an_error(workplace, library, monkeypatch, KeyError)
    assert caught.value.kind == ("KeyError", None)


@needs_proc  # a name with such letters
def test_the_same_fault_on_files_with_odd_names_stops_the_run(workplace: Workplace) -> None:
    for number in range(6):
        write_tone(workplace.input / f"""it's: 'kick' "{number}": '.wav""", hz=300 + 50 * number)
    names = sorted(path.name for path in workplace.input.iterdir())
    (workplace.folder / "config.yaml").write_text("max_faults_in_a_row: 4\n")
    result = workplace.execute(faults={"errno": dict.fromkeys(names, int(errno.EACCES))})
    assert result.returncode == 4, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if "the same fault on 4 files in a row" in line]
    assert "PermissionError: [Errno 13] Permission denied" in line
    assert "give yourself permission" in line
    assert workplace.quarantined() == []


def test_a_run_that_loses_a_file_does_not_end_well(drums: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    class LosesTheFirst(Pool):
        def reports(self, *arguments: Any) -> Any:
            return itertools.islice(filter(None, super().reports(*arguments)), 1, None)

    replace_name(monkeypatch, "Pool", LosesTheFirst)
    with pytest.raises(RunStopped, match=r"1 files have no outcome, the first of them .*\.wav; what was"):
        drums.run()


@pytest.mark.parametrize("number", ["ENOSPC", "EMFILE", "EACCES", "EIO", "ENOENT"])
def test_an_oserror_fails_a_file_and_leaves_it_where_it_is(workplace: Workplace, number: str, library: Path) -> None:
    for name in ("a.wav", "b.wav"):
        shutil.copy(next((library / "stems" / "Drums").rglob("*.wav")), workplace.input / name)
    before = snapshot(workplace.input)
    code = getattr(errno, number)
    result = workplace.execute(faults={"errno": {"a.wav": code}})
    assert result.returncode == 1
    assert workplace.originals() == ["b.wav"]
    assert snapshot(workplace.input) == before
    assert workplace.quarantined() == []
    assert "a.wav: failed, left where it is" in result.stderr


def test_the_same_fault_on_many_files_in_a_row_stops_the_run(drums: Workplace) -> None:
    (drums.folder / "config.yaml").write_text("max_faults_in_a_row: 5\n")
    result = drums.execute("--report", "report.json", faults={"write_errno": int(errno.ENOSPC)})
    assert result.returncode == 4
    assert "the same fault on 5 files in a row" in result.stderr
    report = json.loads((drums.folder / "report.json").read_text())
    assert report["failed"] == 5
    assert report["left"] == report["found"] - 5


def process_with_an_error(
    place: Workplace, library: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception], step: str = "analyse"
) -> ProcessedFile | None:
    """Let `_process_file` work on a.wav in this process, and its analysis, or another step, raise `error`."""
    file = Path(shutil.copy(next((library / "stems" / "Drums").rglob("*.wav")), place.input / "a.wav"))
    status = file.stat()

    def fail(*_: Any) -> None:
        raise error("boom")

    replace_name(monkeypatch, step, fail)
    run_context = dataclasses.replace(
        product.DatasetPreparer(place.config(), show_progress=False)._run_context, worker_memory_bytes=None
    )
    return product._process_file(FoundFile(str(file), status.st_size, status.st_mtime_ns), run_context)


@pytest.mark.parametrize("step", ["standardise", "analyse"])
@pytest.mark.parametrize("error", [ImportError, NameError, AttributeError, TypeError, AssertionError, MemoryError])
def test_a_fault_of_the_program_moves_nothing(
    workplace: Workplace, library: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception], step: str
) -> None:
    with pytest.raises(MachineFault, match=f"{error.__name__}: boom") as caught:
        process_with_an_error(workplace, library, monkeypatch, error, step)
    assert ("please report it" in str(caught.value)) == (error is not MemoryError)
    assert (workplace.input / "a.wav").exists()
    assert not workplace.quarantine.exists() or workplace.quarantined() == []


@pytest.mark.parametrize(
    ("step", "error"),
    [("standardise", ZeroDivisionError), ("standardise", ValueError), ("_mono", IndexError), ("analyse", NotFinite)],
)
def test_any_other_exception_of_decoding_is_the_files_and_a_broken_file_is_so_at_any_step(
    workplace: Workplace, library: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: type[Exception]
) -> None:
    assert process_with_an_error(workplace, library, monkeypatch, error, step) is None
    assert workplace.quarantined() == [f"ERROR_{error.__name__}_a.wav"]
    assert not (workplace.input / "a.wav").exists()


AFTER_DECODING = {
    "_packed": "IndexError",
    "read_name": "KeyError",
    "analyse": "LinAlgError",
    "features_of_audio": "ZeroDivisionError",
    "cut_windows": "IndexError",
    "describe": "KeyError",
    "_metadata": "RuntimeError",
    "StandardisedAudio.publish": "ValueError",
}


def test_an_error_in_our_own_code_moves_no_file_and_asks_to_be_reported(drums: Workplace) -> None:
    names = sorted(path.name for path in drums.input.rglob("*.wav"))[: len(AFTER_DECODING)]
    before = snapshot(drums.input)
    errors = dict(zip(names, AFTER_DECODING.items(), strict=True))
    result = drums.execute("--report", "report.json", faults={"errors": errors})
    assert result.returncode == 1, result.stderr
    report = json.loads((drums.folder / "report.json").read_text())
    assert (report["failed"], report["quarantined"]) == (len(names), 0)
    assert report["inserted"] == report["found"] - len(names)
    assert snapshot(drums.input) == before
    logged = drums.log_file.read_text(encoding="utf-8")
    for name, (step, error) in errors.items():
        (line,) = [
            line for line in result.stderr.splitlines() if f"{name}: failed, left where it is: {error}: " in line
        ]
        assert f"{step} is wrong" in line
        assert line.endswith("an error in the program, not in the file: please report it, with the log")
    assert logged.count("Traceback (most recent call last)") >= len(names)
    assert logged.count('driver.py", line') >= len(names)  # where it happened, and not only that it did
    again = drums.execute()
    assert again.returncode == 0, again.stderr
    assert len(drums.rows()) == report["found"]


def test_what_is_done_to_decoded_samples_is_our_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProgramFault, match="IndexError"):
        SourceLevels(channels=1).add(np.zeros((10, 2), np.float32))
    with StandardisedAudio(tmp_path) as audio:
        close = audio.wave.close
        monkeypatch.setattr(audio.wave, "close", lambda: int("x"))
        with pytest.raises(ProgramFault, match="ValueError: invalid literal"):
            audio.finish()
        monkeypatch.setattr(audio.wave, "close", close)


def test_an_error_in_our_own_code_while_hashing_asks_to_be_reported(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Any) -> None:
        raise ValueError("boom")

    status = write_tone(workplace.input / "a.wav").stat()
    found = FoundFile(str(workplace.input / "a.wav"), status.st_size, status.st_mtime_ns)
    run_context = product.DatasetPreparer(workplace.config(), show_progress=False)._run_context
    replace_name(monkeypatch, "sha256_of", fail)
    with pytest.raises(MachineFault, match="ValueError: boom; this is an error in the program"):
        hash_file(found, run_context)


def test_a_file_that_changes_while_it_is_read_fails_and_is_done_by_the_next_run(
    workplace: Workplace, library: Path
) -> None:
    file = Path(shutil.copy(next((library / "stems" / "Drums").rglob("*.wav")), workplace.input / "a.wav"))
    run_context = product.DatasetPreparer(workplace.config(), show_progress=False)._run_context
    with pytest.raises(MachineFault, match="changed after it was found"):
        product._process_file(FoundFile(str(file), file.stat().st_size, 1), run_context)
    assert list(workplace.wavs.rglob("*.wav")) == []
    assert workplace.run().inserted == 1


def test_a_broken_installation_stops_before_the_first_file(drums: Workplace) -> None:
    before = snapshot(drums.input)
    result = drums.execute(faults={"bad_decoder": True})
    assert result.returncode == 4
    assert "the self-test failed, so no file was touched: WAV: LibsndfileError" in result.stderr
    assert snapshot(drums.input) == before
    assert drums.quarantined() == []


# -- stopped at any moment ---------------------------------------------------------------------------------------------


def wait_for_rows(place: Workplace, rows: int) -> None:
    """Wait until a running program has committed so many rows."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if place.database.exists() and len(place.rows("SELECT id FROM stems")) >= rows:
                return
        except sqlite3.OperationalError:  # the schema is not there yet
            pass
        time.sleep(0.05)
    raise AssertionError(f"not {rows} rows within a minute")


@needs_proc
def test_ctrl_c_in_a_long_call_drops_the_batch_and_ends_with_130(full_workplace: Workplace) -> None:
    with full_workplace.start("--batch-windows", "20", faults={"slow_s": 1}) as process:
        wait_for_rows(full_workplace, 1)
        committed = len(full_workplace.rows())
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - started < 8
    assert "interrupted" in stderr
    assert committed <= len(full_workplace.rows()) < VALID
    assert wait_for_no_process_of(full_workplace, 5) == []
    assert full_workplace.execute().returncode == 0
    assert len(full_workplace.rows()) == VALID


def test_ctrl_c_in_discovery_closes_the_sum(drums: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    preparer = product.DatasetPreparer(drums.config(), show_progress=False)
    preparer.signals.requested = True
    with pytest.raises(Interrupted):
        preparer.run()
    assert preparer.summary.sum_closes, preparer.summary
    assert preparer.summary.left == 1


def test_ctrl_c_leaves_nothing_on_stderr_but_our_lines(drums: Workplace) -> None:
    with drums.start(faults={"slow_file_s": 0.5}) as process:
        wait_for_log(drums, "the decoders work")
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "leaked" not in stderr
    assert "Traceback" not in stderr
    first_words = {line.split(":")[0].split()[0] for line in stderr.splitlines()}
    assert first_words <= {"0", "warning", "found", "database", "stems", "quarantine", "log_file", "error"}


def test_ctrl_c_drops_a_batch_that_takes_longer_than_the_grace(drums: Workplace) -> None:
    with drums.start(faults={"slow_s": 60}) as process:
        wait_for_log(drums, "in one call")
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - started < INTERRUPT_GRACE_S + 3
    assert drums.rows() == []


def test_a_batch_that_is_done_within_the_grace_is_kept(drums: Workplace) -> None:
    with drums.start(faults={"slow_s": 3}) as process:
        wait_for_log(drums, "in one call")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert len(drums.rows()) == len(list(drums.input.rglob("*.*")))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_sigterm_and_a_closed_terminal_are_as_ctrl_c(drums: Workplace, name: str) -> None:
    with drums.start(faults={"slow_file_s": 1}) as process:
        wait_for_log(drums, "the decoders work")
        process.send_signal(getattr(signal, name))
        process.communicate(timeout=60)
    assert process.returncode == 130


def test_nohup_lets_a_run_outlive_its_terminal(drums: Workplace) -> None:
    with drums.start(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN), faults={"slow_s": 2}) as process:
        wait_for_log(drums, "in one call")
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_ctrl_c_twice_ends_at_once(drums: Workplace) -> None:
    with drums.start(faults={"slow_s": 60}) as process:
        wait_for_log(drums, "in one call")
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - started < 2


# -- a library that is all broken --------------------------------------------------------------------------------------


def fill(place: Workplace, broken: int, valid: int) -> None:
    for number in range(broken):
        (place.input / f"{number:04}.wav").write_text("no audio")
    for number in range(valid):
        soundfile.write(place.input / f"valid_{number:04}.wav", np.full(480, 0.5), 48_000)


def test_a_library_that_is_nearly_all_broken_stops_and_can_be_undone_or_gone_on_with(workplace: Workplace) -> None:
    fill(workplace, broken=110, valid=10)
    before = snapshot(workplace.input)
    result = workplace.execute(faults={"constants": {"TRIAL_FILES": 90}})
    assert result.returncode == 4
    assert "90 of the first 90 files were quarantined, over max_broken_share = 0.9" in result.stderr
    assert len(workplace.quarantined()) == 90  # nothing beyond those that were judged
    assert len(list(workplace.input.iterdir())) == 30
    again = workplace.execute("--restore-quarantine")  # as the message says
    assert again.returncode == 0, again.stderr
    assert snapshot(workplace.input) == before
    result = workplace.execute("--max-broken-share", "1", faults={"constants": {"TRIAL_FILES": 90}})
    assert result.returncode == 0, result.stderr
    assert len(workplace.quarantined()) == 110
    assert len(workplace.rows()) == 10


@pytest.mark.parametrize(("broken", "valid", "stops"), [(5, 4, False), (5, 5, False), (6, 4, True), (6, 9, True)])
def test_the_first_files_are_judged_and_fewer_are_not(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, broken: int, valid: int, stops: bool
) -> None:
    replace_name(monkeypatch, "TRIAL_FILES", 10)
    fill(workplace, broken, valid)
    expectation = pytest.raises(RunStopped, match="6 of the first 10") if stops else contextlib.nullcontext()
    with expectation:
        workplace.run(max_broken_share=0.5)
    assert len(workplace.rows()) == min(valid, 4 if stops else valid)  # what was decoded is not thrown away
    assert len(workplace.quarantined()) == broken
