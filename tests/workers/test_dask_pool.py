"""Many machines: the program with a real Dask scheduler and workers, some of which die, are stopped or do not fit."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import dask_cluster
from audio_files import write_tone
from dask_cluster import Cluster, cluster
from stem_dataset import __version__
from stem_dataset.audio.standardise import standardise
from stem_dataset.audio.wav import StandardisedAudio
from stem_dataset.audio.windowing import cut_windows
from stem_dataset.datatypes import FoundFile
from stem_dataset.workers.dask_pool import DaskBackend
from stem_dataset.workers.worker import hash_file
from vectors import assert_a_swap_would_show, assert_equal_to_the_last_bit, assert_same_vectors
from workplace import REPOSITORY, Workplace, run_program, wait_for_log

pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGSTOP and SIGKILL")


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers that nothing happens to; a test may add one of its own, and stops it."""
    with cluster(tmp_path_factory.mktemp("healthy"), workers=2, faults={"measure": True}) as made:
        yield made


@pytest.fixture
def place(workplace: Workplace) -> Workplace:
    """Twelve tones, two copies of one, two broken files, and a timeout of three seconds."""
    for number in range(12):
        write_tone(workplace.input / f"{number:02d}.wav", 200 + 10 * number, 0.1 + number / 100)
    for name in ("copy kick.wav", "copy snare.wav"):
        shutil.copy2(workplace.input / "03.wav", workplace.input / name)
    (workplace.input / "broken.wav").write_text("no audio at all")
    (workplace.input / "broken.flac").write_text("no audio either")
    (workplace.folder / "config.yaml").write_text("file_timeout_s: 3\n", encoding="utf-8")
    return workplace


def run_on(made: Cluster | str, place: Workplace, *flags: str, faults: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run the program on a cluster to its end; return its account with exit code and stderr."""
    address = made if isinstance(made, str) else made.address
    result = place.execute("--scheduler", address, "--report", "report.json", *flags, faults=faults)
    account: dict[str, Any] = json.loads((place.folder / "report.json").read_text(encoding="utf-8"))
    assert result.returncode == account["exit_code"], result.stderr
    parts = ("already_done", "inserted", "quarantined", "failed", "left")
    assert account["found"] == sum(account[part] for part in parts) + sum(account["ignored"].values())
    return {**account, "stderr": result.stderr}


def outcome(account: dict[str, Any]) -> tuple[int, int, int, int, int]:
    return tuple(account[name] for name in ("exit_code", "inserted", "quarantined", "failed", "left"))


def everything(place: Workplace) -> tuple[list[dict[str, Any]], dict[str, bytes], list[str]]:
    """Return rows, WAVs and quarantine of a workplace, all but when and where."""
    rows = place.rows()
    base = os.path.realpath(place.folder)
    for row in rows:
        del row["imported_at"], row["inode"]
        for column in ("original_file", "path"):
            row[column] = row[column].replace(base, "")
    wavs = {str(wav.relative_to(place.wavs)): wav.read_bytes() for wav in sorted(place.wavs.rglob("*.wav"))}
    return rows, wavs, place.quarantined()


def take_vectors(rows: list[dict[str, Any]]) -> Any:
    """Take the vectors, (N, 512), out of rows, which can then be compared for equality."""
    return np.stack([np.frombuffer(row.pop("clap_embedding"), "<f4") for row in rows])


def make_again(place: Workplace) -> None:
    """Take back what a run did, so that the same paths can be run again."""
    for json_file in place.quarantine.glob("ERROR_*.json"):
        entry = json.loads(json_file.read_text(encoding="ascii"))
        shutil.move(entry["path"], entry["original_file"])
    shutil.rmtree(place.folder / "out")


# -------------------------------------------------------------------------------------------------------- the same rows


def test_rows_wavs_and_quarantine_are_the_same_wherever_they_are_made(healthy: Cluster, place: Workplace) -> None:
    assert place.execute(faults={"measure": True}).returncode == 0
    local = everything(place)
    vectors = take_vectors(local[0])
    assert len(local[0]) == 14
    for flags in ([], ["--embed-on", "workers"]):
        make_again(place)
        account = run_on(healthy, place, *flags)
        assert outcome(account) == (0, 14, 2, 0, 0), account["stderr"]
        assert account["copied"] == 2
        rows, wavs, quarantine = everything(place)
        assert (wavs, quarantine) == local[1:]
        assert_equal_to_the_last_bit(take_vectors(rows), vectors)
        assert rows == local[0]
        assert list(place.folder.rglob("*.token")) == []


def test_the_real_clap_makes_the_same_rows_on_workers(
    tmp_path: Path, stand_in: Path, model_cache: Path, workplace: Workplace
) -> None:
    """The program itself, so that what it sends is not of `__main__`, which Dask would send by value."""
    for number, seconds in enumerate((0.3, 2.0, 12.0)):
        rng = np.random.default_rng(number)
        soundfile.write(workplace.input / f"{number}.wav", rng.normal(0, 0.1, int(48_000 * seconds)), 48_000)
    (workplace.input / "broken.wav").write_text("no audio at all")
    flags = [
        *workplace.flags()[:-1],
        str(model_cache),
        "--checkpoint",
        str(stand_in / "stand-in.pt"),
        "--device",
        "cpu",
    ]
    hub = {"HF_HUB_CACHE": str(stand_in / "hub"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    result = run_program(*flags, stand_in=stand_in)
    assert result.returncode == 0, result.stderr
    local = everything(workplace)
    vectors = take_vectors(local[0])
    assert_a_swap_would_show(vectors)
    with cluster(tmp_path / "dask", workers=1, preload=False, **hub) as made:
        for embed_on in ("driver", "workers"):
            make_again(workplace)
            result = run_program(*flags, "--scheduler", made.address, "--embed-on", embed_on, stand_in=stand_in)
            assert result.returncode == 0, result.stderr
            rows, wavs, quarantine = everything(workplace)
            assert (wavs, quarantine) == local[1:]
            assert_same_vectors(take_vectors(rows), vectors)
            assert rows == local[0]


def test_a_rerun_has_nothing_to_do_and_asks_no_cluster(healthy: Cluster, place: Workplace) -> None:
    run_on(healthy, place)
    account = run_on("tcp://127.0.0.1:9", place)
    assert (account["exit_code"], account["already_done"]) == (0, 14)


def test_what_workers_log_is_in_the_drivers_log(healthy: Cluster, place: Workplace) -> None:
    run_on(healthy, place)
    log = place.log_file.read_text(encoding="utf-8")
    assert "broken.wav: quarantined as ERROR_LibsndfileError_broken.wav" in log
    assert "broken.wav: traceback" in log
    assert "in standardise" in log  # the worker's own stack


def test_batches_of_vectors_made_by_workers_are_written_as_they_come(healthy: Cluster, place: Workplace) -> None:
    account = run_on(healthy, place, "--embed-on", "workers", "--batch-windows", "2")
    assert outcome(account) == (0, 14, 2, 0, 0), account["stderr"]
    assert place.log_file.read_text(encoding="utf-8").count("rows written") >= 6


def test_a_file_with_a_bad_vector_is_quarantined_where_workers_embed(place: Workplace, tmp_path: Path) -> None:
    length = len(window_of(place.input / "05.wav"))
    with cluster(tmp_path / "dask", workers=1, faults={"bad_vector": length}) as made:
        account = run_on(made, place, "--embed-on", "workers")
    assert outcome(account) == (0, 13, 3, 0, 0), account["stderr"]
    assert "ERROR_BadVector_05.wav" in place.quarantined()


def window_of(path: Path) -> Any:
    with open(path, "rb") as file, StandardisedAudio(path.parent.parent / "scratch") as audio:
        standardise(file, audio, 100.0)
        return cut_windows(audio, 8)[0]


# ------------------------------------------------------------------------------------------- before any file is touched


def refused(made: Cluster | str, place: Workplace, *flags: str) -> str:
    """Run; it must end with exit code 4 before any file is touched. Return stderr."""
    before = sorted(path.name for path in place.input.iterdir())
    account = run_on(made, place, *flags)
    assert (account["exit_code"], account["left"]) == (4, 16), account["stderr"]
    assert sorted(path.name for path in place.input.iterdir()) == before
    assert place.rows() == []
    assert place.quarantined() == []
    assert list(place.folder.rglob("*.token")) == []
    return str(account["stderr"])


@pytest.mark.parametrize("flaw", ["blind", "read_only"])
def test_a_worker_without_the_shared_disk_is_named(healthy: Cluster, place: Workplace, flaw: str) -> None:
    folder = os.path.realpath(place.input if flaw == "blind" else place.wavs)
    with healthy.joined_by(faults={flaw: folder}) as worker:
        stderr = refused(healthy, place)
    assert f"Dask worker {worker.address}: it " in stderr
    assert stderr.count("Dask worker tcp:") == 1
    assert folder in stderr
    assert ("it sees another input at" if flaw == "blind" else "Read-only file system") in stderr


def test_a_worker_with_another_version_of_this_program_is_named(
    healthy: Cluster, place: Workplace, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(REPOSITORY / "prepare_dataset_sql.py", other)
    shutil.copytree(REPOSITORY / "stem_dataset", other / "stem_dataset")
    with open(other / "stem_dataset" / "__init__.py", "a", encoding="utf-8") as module:
        module.write("CHANGED = True\n")
    with healthy.joined_by(preload=False, PYTHONPATH=str(other)) as worker:
        stderr = refused(healthy, place)
    assert f"Dask worker {worker.address}: it has prepare_dataset_sql {__version__} (" in stderr
    assert "where the driver has" in stderr


def test_a_worker_with_another_library_is_named(
    healthy: Cluster, place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(place.folder / "site"))
    (place.folder / "site").mkdir()
    (place.folder / "site" / "sitecustomize.py").write_text(
        "import importlib.metadata as m\nv = m.version\nm.version = lambda n: '0.0.1' if n == 'soxr' else v(n)\n"
    )
    stderr = refused(healthy, place)  # it is the driver here that has the other one
    assert stderr.count("it has soxr ") == 2
    assert "where the driver has 0.0.1" in stderr


def test_a_worker_that_cannot_import_this_program_is_named(healthy: Cluster, place: Workplace, tmp_path: Path) -> None:
    with healthy.joined_by(preload=False, PYTHONPATH=str(tmp_path)) as worker:
        stderr = refused(healthy, place)
    assert f"Dask worker {worker.address}: it does not find this program" in stderr
    assert f"PYTHONPATH={REPOSITORY}" in stderr


def test_a_worker_with_two_threads_is_named(healthy: Cluster, place: Workplace) -> None:
    with healthy.joined_by("--nthreads", "2") as worker:
        stderr = refused(healthy, place)
    assert f"Dask worker {worker.address}: it has 2 threads" in stderr


def test_a_worker_whose_clap_differs_is_named_where_it_would_embed(healthy: Cluster, place: Workplace) -> None:
    with healthy.joined_by(faults={"engine": ["other/gpu", 0.5]}) as worker:
        stderr = refused(healthy, place, "--embed-on", "workers")
        assert f"Dask worker {worker.address}: its CLAP makes other vectors" in stderr
        assert outcome(run_on(healthy, place)) == (0, 14, 2, 0, 0)  # to decode it is good enough


def test_without_a_scheduler_nothing_is_touched(place: Workplace) -> None:
    began_s = time.monotonic()
    stderr = refused("tcp://127.0.0.1:9", place)
    assert "the Dask scheduler tcp://127.0.0.1:9 does not answer" in stderr
    assert time.monotonic() - began_s < 40


def test_without_workers_nothing_is_touched(place: Workplace, tmp_path: Path) -> None:
    with cluster(tmp_path / "dask") as made:
        stderr = refused(made, place)
    assert f"has no workers: start some with `dask worker {made.address} --nthreads 1`" in stderr


def test_without_dask_the_message_says_what_to_install(place: Workplace) -> None:
    blocked = (
        "import sys; sys.modules['distributed'] = None; import prepare_dataset_sql as p; sys.exit(p.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", blocked, *place.flags(), "--scheduler", "tcp://127.0.0.1:9"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2, result.stderr
    assert "pip install -r requirements-cluster.txt" in result.stderr


def test_workers_embed_only_with_a_scheduler(place: Workplace) -> None:
    result = place.execute("--embed-on", "workers")
    assert result.returncode == 2
    assert "--embed-on workers: only workers of a Dask cluster embed" in result.stderr


# ----------------------------------------------------------------------------------------------------------- in mid-run


def wait_for_rows(place: Workplace, count: int) -> None:
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        with contextlib.suppress(sqlite3.Error):
            if len(place.rows()) >= count:
                return
        time.sleep(0.05)
    raise AssertionError(f"no {count} rows within a minute")


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    stderr = process.communicate(timeout=120)[1]
    return process.returncode, stderr


def rows_are_complete(place: Workplace) -> None:
    names = place.originals()
    assert len(names) == len(set(names)) == 14
    assert place.quarantined() == ["ERROR_LibsndfileError_broken.flac", "ERROR_LibsndfileError_broken.wav"]


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("embed_on", ["driver", "workers"])
def test_what_a_lost_worker_had_is_done_by_another(
    place: Workplace, tmp_path: Path, blow: signal.Signals, embed_on: str
) -> None:
    with cluster(tmp_path / "dask", workers=2, faults={"slow_file_s": 0.2}) as made:
        with place.start("--scheduler", made.address, "--batch-windows", "2", "--embed-on", embed_on) as process:
            wait_for_log(place, "the decoders work")
            wait_for_rows(place, 0 if embed_on == "workers" else 1)
            made.workers[0].send(blow)
            exit_code, stderr = finish(process)
        made.workers[0].send(signal.SIGCONT)
        assert exit_code == 0, stderr
        rows_are_complete(place)
        time.sleep(1)  # the one that was stopped goes on with what it had
        rows_are_complete(place)
    assert place.execute().returncode == 0
    rows_are_complete(place)


def test_a_file_that_kills_its_workers_is_quarantined_and_the_others_pass(place: Workplace, tmp_path: Path) -> None:
    with cluster(tmp_path / "dask", workers=2, nanny=True, faults={"die": {"07.wav": 11}}) as made:
        account = run_on(made, place)
    assert outcome(account) == (0, 13, 3, 0, 0), account["stderr"]
    assert "ERROR_WorkerDied_07.wav" in place.quarantined()


def test_while_no_worker_is_there_the_scheduler_is_given_files_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose two workers had died, and were not back yet, ended well with five files left."""
    backend = DaskBackend.__new__(DaskBackend)
    backend.scheduler, backend.workers, backend.seen_s = "tcp://a:1", 2, time.monotonic()
    backend.files_per_task, backend.in_flight = 1, {}
    monkeypatch.setattr(backend, "_addresses", list)
    monkeypatch.setattr(backend, "_submit", lambda work, group: None)
    backend._look_at_workers()
    assert backend.start(hash_file, iter([FoundFile("/a.wav", 1, 1)])) == 1


def test_a_file_that_hangs_is_quarantined_and_the_others_pass(place: Workplace, tmp_path: Path) -> None:
    with cluster(tmp_path / "dask", workers=2, nanny=True, faults={"hang": ["07.wav"]}) as made:
        account = run_on(made, place, "--embed-on", "workers")
    assert outcome(account) == (0, 13, 3, 0, 0), account["stderr"]
    assert "ERROR_Timeout_07.wav" in place.quarantined()


def test_an_error_in_our_own_code_moves_no_file(place: Workplace, tmp_path: Path) -> None:
    with cluster(tmp_path / "dask", workers=1, faults={"errors": {"07.wav": ["analyse", "ValueError"]}}) as made:
        account = run_on(made, place, "--embed-on", "workers")
    assert outcome(account) == (1, 13, 2, 1, 0), account["stderr"]
    assert "07.wav: failed, left where it is: ValueError: analyse is wrong; this is an error in" in account["stderr"]
    assert (place.input / "07.wav").exists()


def test_a_file_whose_worker_dies_once_it_has_moved_it_to_quarantine_is_noted(place: Workplace, tmp_path: Path) -> None:
    with cluster(tmp_path / "dask", workers=2, nanny=True, faults={"die_after": ["broken.wav"]}) as made:
        account = run_on(made, place)
    assert outcome(account) == (0, 14, 2, 0, 0), account["stderr"]
    rows_are_complete(place)


def test_a_worker_that_joins_in_mid_run_is_looked_at_too(place: Workplace, tmp_path: Path) -> None:
    """It would fail quickly, and so be given all files that are left."""
    with cluster(tmp_path / "dask", workers=1, faults={"slow_file_s": 0.5}) as made:
        with place.start("--scheduler", made.address, "--batch-windows", "2") as process:
            wait_for_rows(place, 1)
            worker = made.add(faults={"read_only": os.path.realpath(place.wavs)})
            exit_code, stderr = finish(process)
        assert exit_code == 0, stderr
        assert f"Dask worker {worker.address}: it cannot write to" in stderr
    rows_are_complete(place)


def test_a_lost_scheduler_ends_the_run_and_the_next_one_finishes(place: Workplace, tmp_path: Path) -> None:
    with cluster(tmp_path / "dask", workers=2, faults={"slow_file_s": 0.2}) as made:
        with place.start("--scheduler", made.address, "--batch-windows", "2") as process:
            wait_for_rows(place, 1)
            made.scheduler.send_signal(signal.SIGKILL)
            began_s = time.monotonic()
            exit_code, stderr = finish(process)
        assert exit_code == 4, stderr
        assert f"the Dask scheduler {made.address} is lost" in stderr
        assert time.monotonic() - began_s < 30
    assert len(place.rows()) >= 1
    assert place.execute().returncode == 0
    rows_are_complete(place)


def test_ctrl_c_leaves_the_cluster_to_others(place: Workplace, tmp_path: Path) -> None:
    with cluster(tmp_path / "dask", workers=1, faults={"slow_file_s": 0.3}) as made:
        with place.start("--scheduler", made.address, "--batch-windows", "2") as process:
            wait_for_rows(place, 1)
            process.send_signal(signal.SIGINT)
            exit_code, stderr = finish(process)
        assert exit_code == 130, stderr
        done = len(place.rows())
        account = run_on(made, place)
        assert outcome(account)[0] == 0, account["stderr"]
        assert account["already_done"] >= done
    rows_are_complete(place)


def test_a_cluster_that_loses_all_its_workers_ends_the_run(place: Workplace, tmp_path: Path) -> None:
    with cluster(tmp_path / "dask", workers=1, faults={"slow_file_s": 0.3}) as made:
        faults = {"constants": {"WORKERLESS_S": 3, "STAT_S": 1}}
        with place.start("--scheduler", made.address, "--batch-windows", "2", faults=faults) as process:
            wait_for_rows(place, 1)
            made.workers[0].stop()
            exit_code, stderr = finish(process)
    assert exit_code == 4, stderr
    assert "has had no workers for 3 s" in stderr


def test_the_faults_here_are_installed(tmp_path: Path) -> None:
    """Else the tests above would pass without any."""
    with cluster(tmp_path / "dask", workers=1, faults={"constants": {"__version__": "0.0.7"}}) as made:
        import distributed

        with distributed.Client(made.address, timeout=10, set_as_default=False) as client:
            answers = client.run(dask_cluster.version_there)
    assert list(answers.values()) == ["0.0.7"]
