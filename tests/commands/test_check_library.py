"""--verify finds every kind of damage, names it in one line, and changes nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import audio_files
from audio_files import write_text, write_tone
from fake_clap import FakeClap
from patching import replace_name
from prepare_dataset_sql import main
from stem_dataset.audio.wav import StandardisedAudio, wav_header
from stem_dataset.clap.vectors import blob_of
from stem_dataset.output_folders import LOCK_NAME, SCRATCH
from workplace import Workplace

STEMS = 12
PAGE_BYTES = 4_096


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    audio_files.use_inline_workers(monkeypatch)
    audio_files.use_fake_clap(monkeypatch)


@pytest.fixture
def filled(workplace: Workplace) -> Workplace:
    """Twelve stems and two quarantined files."""
    for number in range(STEMS):
        write_tone(workplace.input / f"{number:02}.wav", hz=200 + 150 * number)
    for name in ("broken.wav", "noise.wav"):
        write_text(workplace.input / name, f"no audio in {name}")
    workplace.run()
    assert len(workplace.quarantined()) == 2
    return workplace


def verify(place: Workplace, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, list[str], str]:
    """Return the exit code of --verify, its findings, and all that it says."""
    capsys.readouterr()
    report = place.folder / "report.json"
    exit_code = main([*place.flags(), "--verify", "--report", str(report), *flags])
    findings: list[str] = json.loads(report.read_text(encoding="utf-8"))["findings"]
    message = capsys.readouterr().err
    for finding in findings:
        assert len([line for line in message.splitlines() if line.endswith(finding)]) == 1, finding
    return exit_code, findings, message


def state_of(place: Workplace) -> dict[str, tuple[object, ...]]:
    """Return all files but those that any command writes or cleans up."""
    written = ("report.json", "prepare_dataset.log", "stems.db.lock", LOCK_NAME, SCRATCH)
    return {name: what for name, what in audio_files.tree(place.folder).items() if not name.endswith(written)}


def test_a_whole_library_has_no_findings_and_is_not_touched(
    filled: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    before = state_of(filled)
    exit_code, findings, message = verify(filled, capsys)
    assert (exit_code, findings) == (0, [])
    counts = "12 rows, 12 WAVs and 2 quarantined files checked, 12 vectors computed again: no findings; "
    assert counts in message
    assert state_of(filled) == before


# -- damage of every kind ---------------------------------------------------------------------------------------------


def wav_of(place: Workplace, number: int) -> Path:
    return Path(place.rows()[number]["path"])


def cut_the_wav(place: Workplace) -> None:
    os.truncate(wav_of(place, 3), 2_000)


def cut_the_wav_by_a_byte(place: Workplace) -> None:
    os.truncate(wav_of(place, 3), wav_of(place, 3).stat().st_size - 1)


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x40
    path.write_bytes(content)


def flip_a_bit_of_the_wav(place: Workplace) -> None:
    flip(wav_of(place, 3), 1_000)


def flip_a_bit_of_the_wav_s_header(place: Workplace) -> None:
    flip(wav_of(place, 3), 25)  # of the sample rate


def append_to_the_wav(place: Workplace) -> None:
    with open(wav_of(place, 3), "ab") as file:
        file.write(b"abc")


def remove_the_wav(place: Workplace) -> None:
    wav_of(place, 3).unlink()


def put_a_wav_that_no_row_names(place: Workplace) -> None:
    shutil.copy(wav_of(place, 3), wav_of(place, 3).with_name("0123456789abcdef.wav"))


def flip_a_byte_of_the_vector(place: Workplace) -> None:
    """Flip a bit of the exponent of its largest number."""
    row = place.rows()[3]
    blob = bytearray(row["clap_embedding"])
    blob[4 * int(np.argmax(np.abs(np.frombuffer(blob, "<f4")))) + 3] ^= 0x40
    place.change("UPDATE stems SET clap_embedding = ? WHERE id = ?", bytes(blob), row["id"])


def flip_the_sign_of_a_number_of_the_vector(place: Workplace) -> None:
    """The length stays 1: only the vector computed again shows it."""
    row = place.rows()[3]
    blob = bytearray(row["clap_embedding"])
    blob[4 * int(np.argmax(np.abs(np.frombuffer(blob, "<f4")))) + 3] ^= 0x80
    place.change("UPDATE stems SET clap_embedding = ? WHERE id = ?", bytes(blob), row["id"])


def empty_the_vector(place: Workplace) -> None:
    zeros = blob_of(np.zeros(512, np.float32))
    place.change("UPDATE stems SET clap_embedding = ? WHERE original_file LIKE '%03.wav'", zeros)


def spoil_the_features(place: Workplace) -> None:
    place.change("UPDATE stems SET features = '{' WHERE original_file LIKE '%03.wav'")


def remove_the_file(place: Workplace) -> None:
    (place.input / "03.wav").unlink()


def append_to_the_file(place: Workplace) -> None:
    with open(place.input / "03.wav", "ab") as file:
        file.write(b"abc")


def remove_a_quarantined_file(place: Workplace) -> None:
    (place.quarantine / place.quarantined()[0]).unlink()


def remove_its_json(place: Workplace) -> None:
    (place.quarantine / f"{place.quarantined()[0]}.json").unlink()


def spoil_its_json(place: Workplace) -> None:
    os.truncate(place.quarantine / f"{place.quarantined()[0]}.json", 100)


def remove_both(place: Workplace) -> None:
    remove_its_json(place)
    remove_a_quarantined_file(place)


def cut_a_quarantined_file(place: Workplace) -> None:
    os.truncate(place.quarantine / place.quarantined()[0], 5)


def change_a_quarantined_file(place: Workplace) -> None:
    flip(place.quarantine / place.quarantined()[0], 2)


def forget_a_quarantined_file(place: Workplace) -> None:
    place.change("DELETE FROM quarantined WHERE original_file LIKE '%broken.wav'")
    # An older verdict than the row of the same file: what a restore leaves that was killed.
    path = place.quarantine / f"{place.quarantined()[0]}.json"
    entry = json.loads(path.read_text(encoding="ascii"))
    path.write_text(json.dumps({**entry, "quarantined_at": ""}), encoding="ascii")


KINDS: list[tuple[Callable[[Workplace], None], str]] = [
    (cut_the_wav, r"/03\.wav \(id \w+\): its WAV /.*\.wav is damaged: its samples are not those"),
    (cut_the_wav_by_a_byte, r"/03\.wav \(id \w+\): its WAV /.*\.wav is damaged: its samples are not those"),
    (flip_a_bit_of_the_wav, r"/03\.wav \(id \w+\): its WAV /.*\.wav is damaged: its samples are not those"),
    (append_to_the_wav, r"/03\.wav \(id \w+\): its WAV /.*\.wav is damaged: its samples are not those"),
    (flip_a_bit_of_the_wav_s_header, r"/03\.wav \(id \w+\): its WAV /.*\.wav is damaged: its header does not fit"),
    (remove_the_wav, r"/03\.wav \(id \w+\): its WAV is missing: /.*\.wav"),
    (put_a_wav_that_no_row_names, r"/0123456789abcdef\.wav: no row names this WAV"),
    (flip_a_byte_of_the_vector, r"/03\.wav \(id \w+\): its vector is not 512 finite numbers of unit length"),
    (empty_the_vector, r"/03\.wav \(id \w+\): its vector is not 512 finite numbers of unit length"),
    (flip_the_sign_of_a_number_of_the_vector, r"/03\.wav \(id \w+\): its stored vector is wrong: cosine 0\.\d+ with"),
    (spoil_the_features, r"/03\.wav \(id \w+\): its tags or features are not JSON"),
    (remove_the_file, r"/03\.wav \(id \w+\): its file is missing"),
    (append_to_the_file, r"/03\.wav \(id \w+\): its file has \d+ bytes, and had \d+ when it was imported"),
    (remove_a_quarantined_file, r"broken\.wav: this quarantined file, which was /.*/broken\.wav, is missing"),
    (remove_its_json, r"broken\.wav: its JSON is missing or cannot be read"),
    (spoil_its_json, r"broken\.wav: its JSON is missing or cannot be read"),
    (remove_both, r"broken\.wav: this quarantined file, is missing"),
    (cut_a_quarantined_file, r"broken\.wav: has 5 bytes, and had 22 when it was quarantined"),
    (change_a_quarantined_file, r"broken\.wav: its bytes are not those that were quarantined"),
    (forget_a_quarantined_file, r"broken\.wav: the database does not know this quarantined file"),
]


@pytest.mark.parametrize(("damage", "finding"), KINDS, ids=lambda value: getattr(value, "__name__", ""))
def test_damage_of_each_kind_is_one_finding(
    damage: Callable[[Workplace], None], finding: str, filled: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(filled)
    before = state_of(filled)
    exit_code, findings, message = verify(filled, capsys)
    assert exit_code == 1
    assert len(findings) == 1, findings
    assert re.search(finding, findings[0]), findings
    assert ": 1 findings; " in message
    assert state_of(filled) == before


def test_touching_the_file_of_a_wav_that_was_removed_writes_it_anew_and_keeps_the_vector(
    filled: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, vector = wav_of(filled, 3).read_bytes(), filled.rows()[3]["clap_embedding"]
    remove_the_wav(filled)
    (filled.input / "03.wav").touch()
    assert filled.run().vectors_kept == 1
    assert wav_of(filled, 3).read_bytes() == whole
    assert filled.rows()[3]["clap_embedding"] == vector
    assert verify(filled, capsys)[:2] == (0, [])


def test_many_findings_are_all_named(filled: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    for damage in (remove_the_wav, flip_a_byte_of_the_vector, remove_the_file, remove_a_quarantined_file):
        damage(filled)
    exit_code, findings, _ = verify(filled, capsys)
    assert exit_code == 1
    assert len(findings) == 4
    assert len([finding for finding in findings if "/03.wav (id " in finding]) == 3


def pages_of(place: Workplace) -> int:
    return place.database.stat().st_size // PAGE_BYTES


def overwrite_page(place: Workplace, page: int) -> None:
    with open(place.database, "rb+") as file:
        file.seek(page * PAGE_BYTES)
        file.write(np.random.default_rng(page).bytes(PAGE_BYTES))


def test_a_page_that_is_overwritten_is_found_wherever_it_is(
    filled: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = filled.database.read_bytes()
    found = 0
    for page in range(1, len(whole) // PAGE_BYTES):
        filled.database.write_bytes(whole)
        overwrite_page(filled, page)
        damaged = filled.database.read_bytes()
        exit_code, findings, message = verify(filled, capsys)
        assert exit_code in (1, 4), page  # 4 where even the list of quarantined files cannot be read
        assert "-wal and -shm" in message, page
        assert "fault of this program" not in message, page
        assert filled.database.read_bytes() == damaged
        found += exit_code == 1 and any("is damaged" in finding for finding in findings)
    assert found > 0.7 * len(whole) / PAGE_BYTES
    filled.database.write_bytes(whole)
    assert verify(filled, capsys)[:2] == (0, [])


def test_the_first_page_overwritten_is_no_database_any_more(
    filled: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    overwrite_page(filled, 0)
    assert main([*filled.flags(), "--verify"]) == 2
    message = capsys.readouterr().err
    assert "not a SQLite database" in message
    assert "-wal and -shm" in message


def test_the_rows_of_whole_pages_are_checked_beside_a_damaged_one(
    filled: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    remove_the_wav(filled)
    rows = []
    for page in range(pages_of(filled) // 2, pages_of(filled)):
        whole = filled.database.read_bytes()
        overwrite_page(filled, page)
        exit_code, findings, message = verify(filled, capsys)
        if exit_code == 1:
            rows.append(any("its WAV is missing" in finding for finding in findings))
            assert "no vector was computed again, since the database is damaged" in message
        filled.database.write_bytes(whole)
    assert sum(rows) > len(rows) / 2


# -- what it needs ----------------------------------------------------------------------------------------------------


def test_without_wavs_or_quarantine_there_is_less_to_check(
    workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tone(workplace.input / "kick.wav")
    workplace.run(stems=None)
    exit_code, findings, message = verify(workplace, capsys, "--no-stems")
    assert (exit_code, findings) == (0, [])
    assert "1 rows, 0 WAVs and 0 quarantined files checked, 1 vectors computed again" in message


def test_a_database_of_another_model_is_said_to_be_unchecked(
    filled: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    exit_code, findings, _ = verify(filled, capsys, "--max-windows", "3")
    assert exit_code == 1
    (finding,) = findings
    assert finding.startswith("no vector was computed again: ")


def test_a_large_library_gets_a_sample_of_its_vectors(
    filled: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_name(monkeypatch, "LEAST_SAMPLE", 4)
    model = FakeClap()
    audio_files.use_fake_clap(monkeypatch, model)
    assert "12 WAVs and 2 quarantined files checked, 4 vectors computed again" in verify(filled, capsys)[2]
    assert sum(model.call_sizes) == 4


def test_verify_stands_alone(filled: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*filled.flags(), "--verify", "--verify-vectors"]) == 2
    assert "--verify-vectors: not allowed with --verify" in capsys.readouterr().err


def test_the_header_is_that_of_every_wav_that_is_written(tmp_path: Path) -> None:
    for samples in (1, 2, 4_799):
        with StandardisedAudio(tmp_path) as audio:
            audio.append(np.zeros(samples, np.float32))
            audio.finish()
            audio.publish(tmp_path / "out.wav")
        content = (tmp_path / "out.wav").read_bytes()
        assert content == wav_header(samples) + bytes(3 * samples)
