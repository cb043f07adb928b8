"""The pool's loop, over a backend in memory that follows a script."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest

import prepare_dataset_sql as product
from patching import replace_name
from stem_dataset.datatypes import FoundFile
from stem_dataset.errors import BrokenFile, MachineFault, RunStopped, Timeout, TooMuchMemory, WorkerDied
from stem_dataset.quarantine import quarantine_file
from stem_dataset.workers.pool import Pool
from stem_dataset.workers.tasks import Death, RunContext, TaskReport, Work
from stem_dataset.workers.worker import hash_file
from workplace import Workplace

ROOM = 3
Script = dict[str, list[BrokenFile | MachineFault | None]]


class ScriptedBackend:
    """A backend with room for three files, which finishes one per `wait`, in their order.

    `script` has a list per file name: what happens at its first time, its second time and so on. None: it is done.
    """

    def __init__(self, script: Script, waits_before_each: int = 0) -> None:
        self.script = {name: list(happenings) for name, happenings in script.items()}
        self.waits_before_each = waits_before_each
        self.in_flight: deque[FoundFile] = deque()
        self.idle_waits = 0
        self.log: list[str] = []

    def self_test(self) -> Future[str | None]:
        tested: Future[str | None] = Future()
        tested.set_result(None)
        return tested

    def start(self, work: Work, files: Iterator[FoundFile]) -> int:
        taken = 0
        while len(self.in_flight) < ROOM and (found := next(files, None)) is not None:
            self._begin("start", found)
            taken += 1
        return taken

    def retry_alone(self, work: Work, found: FoundFile) -> None:
        assert not self.in_flight
        self._begin("alone", found)

    def _begin(self, how: str, found: FoundFile) -> None:
        self.log.append(f"{how} {Path(found.path).name}")
        self.in_flight.append(found)

    def wait(self) -> Sequence[TaskReport | Death]:
        assert self.in_flight
        self.idle_waits += 1
        if self.idle_waits <= self.waits_before_each:
            return []
        self.idle_waits = 0
        found = self.in_flight.popleft()
        happenings = self.script.get(Path(found.path).name)
        error = happenings.pop(0) if happenings else None
        return [TaskReport(found, sha256="00") if error is None else Death(found, error)]

    def close(self) -> None:
        self.log.append("close")


@pytest.fixture
def run_context(workplace: Workplace) -> RunContext:
    workplace.quarantine.mkdir(parents=True)
    return product.DatasetPreparer(workplace.config(), show_progress=False)._run_context


def found_files(place: Workplace, names: str) -> list[FoundFile]:
    """Make files in the input, one per word of `names`, and return them."""
    files = []
    for name in names.split():
        path = place.input / name
        path.write_text("not audio")
        files.append(FoundFile(str(path), path.stat().st_size, path.stat().st_mtime_ns))
    return files


def outcome(report: TaskReport) -> str:
    """Return what became of a file, as 'a: done'."""
    name = Path(report.found.path).name
    if report.fault is not None:
        return f"{name}: failed, {report.fault}"
    return f"{name}: {Path(report.quarantined.path).name.split('_')[1] if report.quarantined else 'done'}"


DIED, HUNG, HUNGRY = WorkerDied("it died"), Timeout("it hung"), TooMuchMemory("it was hungry")
OUTSIDE = MachineFault("killed from outside")

TABLE: dict[str, tuple[Script, list[str]]] = {
    "nothing happens": ({}, ["a: done", "b: done", "c: done", "d: done"]),
    "one dies once": ({"b": [DIED]}, ["a: done", "c: done", "d: done", "b: done"]),
    "one dies twice": ({"b": [DIED, DIED]}, ["a: done", "c: done", "d: done", "b: WorkerDied"]),
    "one hangs twice": ({"a": [HUNG, HUNG]}, ["b: done", "c: done", "a: Timeout", "d: done"]),
    "the second death is judged, not the first": (
        {"a": [HUNG, HUNGRY]},
        ["b: done", "c: done", "a: TooMuchMemory", "d: done"],
    ),
    "the machine is to blame": (
        {"a": [OUTSIDE, OUTSIDE]},
        ["b: done", "c: done", "a: failed, MachineFault: killed from outside", "d: done"],
    ),
    "the last one dies": ({"d": [DIED, DIED]}, ["a: done", "b: done", "c: done", "d: WorkerDied"]),
    "all die, one for good": (
        {"a": [DIED], "b": [DIED, DIED], "c": [DIED], "d": [DIED, None]},
        ["a: done", "b: WorkerDied", "c: done", "d: done"],
    ),
}


@pytest.mark.parametrize(("script", "expected"), TABLE.values(), ids=TABLE)
def test_each_file_has_one_report(
    workplace: Workplace, run_context: RunContext, script: Script, expected: list[str]
) -> None:
    files = found_files(workplace, "a b c d")
    pool = Pool(ScriptedBackend(script), run_context)
    assert [outcome(report) for report in pool.reports(hash_file, iter(files)) if report] == expected
    left = [path.name for path in workplace.input.iterdir()]
    assert sorted(left) == [name[0] for name in sorted(expected) if "done" in name or "failed" in name]


def test_no_file_is_started_between_a_death_and_the_retry(workplace: Workplace, run_context: RunContext) -> None:
    backend = ScriptedBackend({"a": [DIED], "c": [DIED]})
    list(Pool(backend, run_context).reports(hash_file, iter(found_files(workplace, "a b c d e"))))
    assert backend.log == ["start a", "start b", "start c", "alone a", "alone c", "start d", "start e"]


def test_a_moment_without_a_report_is_none(workplace: Workplace, run_context: RunContext) -> None:
    """The conductor looks for Ctrl-C then."""
    pool = Pool(ScriptedBackend({}, waits_before_each=2), run_context)
    reports = list(pool.reports(hash_file, iter(found_files(workplace, "a b"))))
    assert [report and outcome(report) for report in reports] == [None, None, "a: done", None, None, "b: done"]


def test_before_and_while_a_file_is_alone_the_pool_says_so(workplace: Workplace, run_context: RunContext) -> None:
    backend = ScriptedBackend({"b": [DIED]}, waits_before_each=1)
    pool = Pool(backend, run_context)
    seen = []
    for report in pool.reports(hash_file, iter(found_files(workplace, "a b"))):
        seen.append((pool.is_retrying, backend.log[-1], report and outcome(report)))
    assert seen[-3:] == [(True, "start b", None), (True, "alone b", None), (False, "alone b", "b: done")]
    assert not any(is_retrying for is_retrying, *_ in seen[:-3])


def test_a_file_whose_drive_is_dead_is_not_tried_again(
    workplace: Workplace, run_context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_name(monkeypatch, "answers", lambda path: False)
    backend = ScriptedBackend({"a": [HUNG]})
    (report,) = filter(None, Pool(backend, run_context).reports(hash_file, iter(found_files(workplace, "a"))))
    assert outcome(report).startswith("a: failed, MachineFault: its drive hangs")
    assert backend.log == ["start a"]


def test_a_drive_that_dies_during_the_retry_is_to_blame(
    workplace: Workplace, run_context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([True, False])
    replace_name(monkeypatch, "answers", lambda path: next(answers))
    pool = Pool(ScriptedBackend({"a": [HUNG, HUNG]}), run_context)
    (report,) = filter(None, pool.reports(hash_file, iter(found_files(workplace, "a"))))
    assert outcome(report).startswith("a: failed, MachineFault: its drive hangs")
    assert (workplace.input / "a").exists()


def test_what_the_worker_quarantined_before_it_died_is_reported_and_not_tried_again(
    workplace: Workplace, run_context: RunContext
) -> None:
    (found,) = found_files(workplace, "a")
    backend = ScriptedBackend({"a": [DIED]})
    start = backend.start

    def quarantine_and_start(work: Work, files: Iterator[FoundFile]) -> int:
        taken = start(work, files)
        if taken:
            quarantine_file(found, ValueError("broken"), run_context.quarantine, run_context.run_id)
        return taken

    backend.start = quarantine_and_start  # type: ignore[method-assign]
    reports = [outcome(report) for report in Pool(backend, run_context).reports(hash_file, iter([found])) if report]
    assert reports == ["a: ValueError"]
    assert backend.log == ["start a"]


def test_a_backend_that_can_go_on_no_longer_stops_the_run(workplace: Workplace, run_context: RunContext) -> None:
    backend = ScriptedBackend({"a": [DIED]})

    def refuse(work: Work, found: FoundFile) -> None:
        raise RunStopped("no new worker")

    backend.retry_alone = refuse  # type: ignore[method-assign]
    pool = Pool(backend, run_context)
    with pytest.raises(RunStopped, match="no new worker"):
        list(pool.reports(hash_file, iter(found_files(workplace, "a"))))
    assert not pool.is_retrying
    assert (workplace.input / "a").exists()
