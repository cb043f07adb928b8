"""A run on a folder with everything that can be wrong with one (hostile.py), the runs after it, and its undoing."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import audio_files
import hostile
from hostile import HOSTILE, INNOCENT, Hostile, snapshot
from stem_dataset.logs import printable
from stem_dataset.output_folders import LOCK_NAME, README_NAME
from vectors import assert_equal_to_the_last_bit
from workplace import Workplace, obey_modes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse or change some of these names")


@dataclass
class Run:
    """What one call of the program left."""

    exit_code: int
    stderr: str
    log: str  # its own lines
    rows: dict[str, dict[str, Any]]  # by original
    verdicts: dict[str, dict[str, Any]]  # the table `quarantined`, by original
    account: dict[str, Any]
    tree: dict[str, tuple[Any, ...]]  # the input afterwards
    quarantine: dict[str, tuple[Any, ...]]  # the folder, without its lock file, which stays


@dataclass
class Story:
    """The folder, and what each call of the program made of it."""

    place: Workplace
    refused: dict[Hostile, str] = field(default_factory=dict)
    former: dict[str, dict[str, Any]] = field(default_factory=dict)  # rows from before the first run
    before: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    outside_before: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return the rows by original."""
        return {row["original_file"]: row for row in self.place.rows()}

    @property
    def root(self) -> Path:
        return Path(os.path.realpath(self.place.input))

    @property
    def entries(self) -> list[Hostile]:
        return [entry for entry in HOSTILE if entry not in self.refused]

    def call(self, name: str, *flags: str, faults: dict[str, Any] | None = None) -> None:
        """Run the program to its end, and keep what it left."""
        log_file, report = self.place.log_file, self.place.folder / "report.json"
        logged = log_file.stat().st_size if log_file.exists() else 0
        report.unlink(missing_ok=True)
        faults = {"measure": True, **(faults or {})}
        with self.place.start("--report", str(report), *flags, faults=faults, preexec_fn=obey_modes) as process:
            _, stderr = process.communicate(timeout=200)
        self.runs[name] = Run(
            exit_code=process.returncode,
            stderr=stderr,
            log=log_file.read_bytes()[logged:].decode("utf-8"),  # raises where it is not
            rows=self.rows(),
            verdicts={row["original_file"]: row for row in self.place.rows("SELECT * FROM quarantined")},
            account=json.loads(report.read_text()) if report.exists() else {},
            tree=snapshot(self.place.input),
            quarantine={
                name: was
                for name, was in snapshot(self.place.quarantine).items()
                if name not in (LOCK_NAME, README_NAME)
            },
        )


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """The program on the hostile folder: a run with all faults, two without, the undoing, killed twice, and a run."""
    place = Workplace(tmp_path_factory.mktemp("hostile") / "ab\nove\x1b[31m ';%s?#\udcff {x} --")
    place.input.mkdir(parents=True)
    (place.folder / "config.yaml").write_text("file_timeout_s: 4\n")
    story = Story(place)
    hostile.make_hostile(place.input, INNOCENT)
    with pytest.MonkeyPatch.context() as monkeypatch:
        audio_files.use_inline_workers(monkeypatch)
        place.run()  # so that some of the files have a row
    place.change("UPDATE stems SET user_rating = 4")
    story.former = story.rows()
    for path in place.input.rglob("*.wav"):
        os.utime(path, ns=(1, 1_600_000_000_123_456_789))
    place.change("UPDATE stems SET sha256 = 'of', samples_sha256 = 'other audio'")  # else they were only touched
    story.refused = hostile.make_hostile(place.input, [entry for entry in HOSTILE if entry not in INNOCENT])
    story.before, story.outside_before = snapshot(place.input), snapshot(place.folder / "outside")
    story.call("first", "-v", faults=hostile.faults(HOSTILE))
    (place.input / hostile.CLOSED).chmod(0o644)  # its owner opens it
    story.call("second")
    story.call("third")
    story.call("killed", "--restore-quarantine", faults={"kill_after": {"put_back": 5}})
    story.call("killed again", "--restore-quarantine", faults={"kill_after": {"Database.forget_quarantined": 5}})
    story.call("restored", "--restore-quarantine")
    story.call("last")
    yield story
    for path in (place.input / "folders").glob("[!.]*"):
        path.chmod(0o755)  # for those who are not root, and remove this folder later
    (place.input / "read only").chmod(0o755)


def each(*outcomes: str) -> pytest.MarkDecorator:
    """Parametrise a test by the table's entries."""
    chosen = [entry for entry in HOSTILE if entry.outcome in outcomes]
    return pytest.mark.parametrize("entry", chosen, ids=[ascii(entry.name)[1:60] for entry in chosen])


@pytest.fixture
def path(story: Story, entry: Hostile) -> str:
    """Where an entry is; skips what cannot be made here."""
    if entry in story.refused:
        pytest.skip(story.refused[entry])
    return str(entry.path(story.root))


def lines_about(path: str, run: Run) -> list[str]:
    """Return the log's lines on a file, what is in it if it is a folder, and the folders above it."""
    above = [f": {printable(folder)}: " for folder in Path(path).parents]
    starts = (f": {printable(path)}: ", f": {printable(path)}/", *above)
    return [line for line in run.log.splitlines() if any(start in line for start in starts)]


# -- the first run ----------------------------------------------------------------------------------------------------


@each("inserted")
def test_what_is_audio_is_ingested(story: Story, entry: Hostile, path: str) -> None:
    row = story.runs["first"].rows[path]
    assert json.loads(row["features"])["quality_issues"] == list(entry.issues)
    assert row["quality_ok"] == int(not entry.issues)
    was = story.before[os.path.relpath(path, story.root)]
    assert was[0] in (row["sha256"], "link")
    assert path not in story.runs["first"].verdicts


@each("quarantined")
def test_what_is_broken_is_quarantined_for_its_reason(story: Story, entry: Hostile, path: str) -> None:
    run = story.runs["first"]
    assert path not in run.rows
    assert run.verdicts[path]["error"].startswith(f"{entry.detail}: ")
    was = story.before[os.path.relpath(path, story.root)]
    is_now = run.quarantine[os.path.basename(run.verdicts[path]["quarantine_path"])]
    assert is_now == was or is_now[0] == was[0] == "link"
    assert (os.path.relpath(path, story.root) in run.tree) == entry.kept


@each("ignored")
def test_what_is_no_stem_is_left_alone(story: Story, entry: Hostile, path: str) -> None:
    run = story.runs["first"]
    assert path not in run.rows
    assert path not in run.verdicts
    name = os.path.relpath(path, story.root)
    assert run.tree[name] == story.before[name]


@each("failed")
def test_what_the_machine_refuses_or_somebody_changes_is_left_and_told(story: Story, entry: Hostile, path: str) -> None:
    run = story.runs["first"]
    assert path not in run.rows
    assert path not in run.verdicts
    assert any(entry.detail in line for line in lines_about(path, run)), lines_about(path, run)


def outcomes(entries: list[Hostile], later: bool = False) -> Counter[str]:
    return Counter((entry.later or entry.outcome) if later else entry.outcome for entry in entries)


def ignored(entries: list[Hostile], later: bool = False) -> Counter[str]:
    """Return the reasons to ignore, counted."""
    first = Counter(entry.detail for entry in entries if entry.outcome == "ignored")
    return first + Counter(entry.later_detail for entry in entries if later and entry.later == "ignored")


def test_the_account_is_that_of_the_table(story: Story) -> None:
    run, expected = story.runs["first"], outcomes(story.entries)
    assert run.exit_code == 1, run.stderr  # some failed
    account = {outcome: run.account[outcome] for outcome in ("inserted", "quarantined", "failed")}
    assert account == {outcome: expected[outcome] for outcome in account}
    assert run.account["ignored"] == ignored(story.entries)
    assert run.account["found"] == len(story.entries)
    assert (run.account["already_done"], run.account["left"]) == (0, 0)


@pytest.mark.parametrize("name", ["first", "second", "third", "restored", "last"])
def test_no_name_breaks_a_line_or_steers_the_terminal(story: Story, name: str) -> None:
    run = story.runs[name]
    for text in (run.stderr, run.log):
        assert {character for character in text if not character.isprintable()} <= {"\n"}
    pieces = tuple(piece for entry in HOSTILE for piece in entry.name.split("\n")[1:])
    assert [line for line in (run.log + run.stderr).split("\n") if line.startswith(pieces)] == []


# -- the runs after it ------------------------------------------------------------------------------------------------


def settled(entry: Hostile) -> bool:
    """Whether nothing changed the entry while the first run was at it."""
    return entry.kind != "moving file"


def test_the_second_run_brings_home_what_moved_in_the_first(story: Story) -> None:
    run = story.runs["second"]
    moving = [entry for entry in story.entries if not settled(entry)]
    expected = outcomes(moving, later=True)
    still_failing = outcomes([entry for entry in story.entries if settled(entry)])["failed"]
    assert run.exit_code == 1, run.stderr
    assert (run.account["inserted"], run.account["quarantined"]) == (expected["inserted"], expected["quarantined"])
    assert run.account["failed"] == still_failing + expected["failed"]
    assert run.account["ignored"] == ignored(story.entries, later=True)
    for entry in moving:
        path = str(entry.path(story.root))
        assert (path in run.verdicts) == (entry.later == "quarantined"), entry
        assert (path in run.rows) == ("inserted" in (entry.later, entry.outcome)), entry


def test_the_third_run_has_nothing_new(story: Story) -> None:
    second, third = story.runs["second"], story.runs["third"]
    assert (third.account["inserted"], third.account["quarantined"], third.account["left"]) == (0, 0, 0)
    assert third.account["failed"] == second.account["failed"]
    assert third.account["already_done"] == second.account["already_done"] + second.account["inserted"]
    assert (third.rows, third.verdicts, third.tree) == (second.rows, second.verdicts, second.tree)
    assert third.quarantine == second.quarantine
    assert f"nothing new: {third.account['already_done']} files already processed" in third.stderr


def test_what_links_lead_to_is_never_touched(story: Story) -> None:
    assert snapshot(story.place.folder / "outside") == story.outside_before


# -- undoing it -------------------------------------------------------------------------------------------------------


def test_undone_the_input_is_what_it_was_before(story: Story) -> None:
    """Bytes, modes, times and links' texts; but not the times of folders, from which files were moved."""
    moving = {entry.name for entry in HOSTILE if not settled(entry)}

    def still(tree: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        return {name: was for name, was in tree.items() if name not in moving}

    assert still(story.runs["first"].tree) != still(story.before)
    assert still(story.runs["restored"].tree) == still(story.before)


def test_undone_the_quarantine_is_empty_but_for_its_lock(story: Story) -> None:
    assert story.runs["restored"].exit_code == 0, story.runs["restored"].stderr
    assert story.runs["restored"].verdicts == {}
    assert story.runs["restored"].quarantine == {}


def test_the_undoing_was_killed_twice_half_way(story: Story) -> None:
    first, second, third = (story.runs[name] for name in ("killed", "killed again", "restored"))
    assert first.exit_code == second.exit_code == -signal.SIGKILL
    assert len(story.runs["third"].verdicts) > len(first.verdicts) > len(second.verdicts) > len(third.verdicts) == 0


def test_undone_the_next_run_ends_as_the_first_but_for_what_was_innocent(story: Story) -> None:
    last, first = story.runs["last"], story.runs["first"]
    guilty = [entry for entry in story.entries if (entry.later or entry.outcome) == "quarantined"]
    assert last.verdicts.keys() == {str(entry.path(story.root)) for entry in guilty}
    for path in last.verdicts.keys() & first.verdicts.keys():
        assert last.verdicts[path]["error"] == first.verdicts[path]["error"]


@pytest.mark.parametrize("entry", INNOCENT, ids=[entry.detail for entry in INNOCENT])
def test_an_innocent_file_has_its_former_row_again(story: Story, entry: Hostile, path: str) -> None:
    former, row = story.former[path], story.runs["last"].rows[path]
    assert path in story.runs["third"].verdicts
    assert (row["id"], row["user_rating"]) == (former["id"], 4)
    assert row["samples_sha256"] == former["samples_sha256"]
    assert_equal_to_the_last_bit(*(np.frombuffer(r["clap_embedding"], "<f4") for r in (row, former)))
