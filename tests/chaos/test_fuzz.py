"""Whatever bytes are in a file: the run ends, each file has one outcome, and no byte is lost."""

from __future__ import annotations

import fuzz
from extent import FUZZED_FILES, SEED, say
from workplace import Workplace, needs_proc, wait_for_no_process_of


@needs_proc
def test_every_spoilt_file_is_ingested_quarantined_or_in_place(workplace: Workplace) -> None:
    files = fuzz.write_fuzzed(workplace.input, FUZZED_FILES, SEED)
    report = fuzz.run(workplace)
    outcomes = fuzz.outcomes_in(workplace)
    counted = [outcomes.of(file) for file in files]
    assert report["found"] == len(files)
    assert report["inserted"] == counted.count("ingested") == len(outcomes.rows)
    assert report["failed"] + sum(report["ignored"].values()) == counted.count("in place")
    assert report["quarantined"] == len(files) - counted.count("ingested") - counted.count("in place")
    assert report["quarantined"] == len(outcomes.jsons)
    assert (report["already_done"], report["left"]) == (0, 0)
    assert report["exit_code"] == (1 if report["failed"] else 0)
    assert wait_for_no_process_of(workplace, 10) == []
    again = fuzz.run(workplace)
    assert (again["inserted"], again["quarantined"], again["already_done"]) == (0, 0, report["inserted"])
    say(f"Spoilt files, seed {SEED}, {report['seconds']:.0f} s:", *fuzz.table(files, outcomes))
