"""--verify-vectors: stored vectors are computed again; those that differ are named, and replaced with --re-embed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import audio_files
import prepare_dataset_sql as product
from audio_files import write_tone
from fake_clap import BrokenClap, FakeClap, OtherClap
from patching import replace_name
from prepare_dataset_sql import main
from stem_dataset.clap.vectors import blob_of
from stem_dataset.commands.verify import VerifyVectors, sample_of
from stem_dataset.errors import Interrupted, RunStopped, UsageError
from stem_dataset.output_folders import hold_outputs
from stem_dataset.summary import Verification
from workplace import Workplace, run_program, use_quick_analysis

STEMS = 7
posix_only = pytest.mark.skipif(os.name != "posix", reason="SIGINT")


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    audio_files.use_inline_workers(monkeypatch)
    use_quick_analysis(monkeypatch)


@pytest.fixture
def filled(workplace: Workplace) -> Workplace:
    """A database of seven stems, one of them of three windows (0.wav), with a rating."""
    for number in range(STEMS):
        seconds = 25 if number == 0 else 0.05 + 0.01 * number
        write_tone(workplace.input / f"{number}.wav", hz=200 + 150 * number, seconds=seconds)
    workplace.run()
    workplace.change("UPDATE stems SET user_rating = 3, key = 'C#m' WHERE original_file LIKE '%3.wav'")
    return workplace


def store(place: Workplace, number: int, vector: bytes) -> None:
    place.change(f"UPDATE stems SET clap_embedding = ? WHERE original_file LIKE '%{number}.wav'", vector)


def turned(vector: bytes, cosine: float) -> bytes:
    """Return a vector of unit length that has this cosine with `vector`."""
    old = np.frombuffer(vector, "<f4").astype(np.float64)
    across = np.random.default_rng(1).standard_normal(old.size)
    across -= (across @ old) * old
    new = cosine * old + np.sqrt(1 - cosine**2) * across / np.linalg.norm(across)
    return blob_of(new)


def cosine_of(a: bytes, b: bytes) -> float:
    x, y = (np.frombuffer(blob, "<f4").astype(np.float64) for blob in (a, b))
    return float(x @ y)


def spoil_three(place: Workplace) -> dict[int, float]:
    """Swap the vectors of two rows and turn that of a third; return each one's cosine with the right vector."""
    right = [row["clap_embedding"] for row in place.rows()]
    store(place, 1, right[2])
    store(place, 2, right[1])
    store(place, 3, turned(right[3], 0.99))
    swapped = cosine_of(right[1], right[2])
    return {1: swapped, 2: swapped, 3: 0.99}


def spoil_all(place: Workplace) -> None:
    for number, row in enumerate(place.rows()):
        store(place, number, turned(row["clap_embedding"], 0.9))


def counts(account: Verification) -> dict[str, int]:
    """Return the counts that are not 0."""
    names = "rows checked differ replaced unreadable other_models left".split()
    return {name: getattr(account, name) for name in names if getattr(account, name)}


def named(text: str) -> dict[tuple[str, str], float]:
    """Return the cosines of the rows that a run's output says to differ, by file and id."""
    lines = re.findall(r"^(?:warning: )?(/.*) \(id (\w+)\): its stored vector is wrong: cosine (\S+) with", text, re.M)
    return {(file, stem_id): float(cosine) for file, stem_id, cosine in lines}


def no_model(*_: Any) -> Any:
    raise AssertionError("no model is to be loaded")


# -- what differs is named, and nothing is changed --------------------------------------------------------------------


def test_vectors_that_an_import_wrote_do_not_differ(
    filled: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    audio_files.use_fake_clap(monkeypatch)
    before = filled.database.read_bytes()
    assert main([*filled.flags(), "--verify-vectors"]) == 0
    message = capsys.readouterr().err
    assert "7 rows: 7 checked, 0 differ, 0 replaced, 0 unreadable, 0 of other models, 0 not checked; " in message
    assert "--re-embed" not in message
    assert filled.database.read_bytes() == before


def test_rows_whose_vectors_differ_are_named_with_their_cosines_and_stay(
    filled: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cosines = spoil_three(filled)
    rows, before = filled.rows(), filled.database.read_bytes()
    audio_files.use_fake_clap(monkeypatch)
    report = filled.folder / "report.json"
    assert main([*filled.flags(), "--verify-vectors", "--report", str(report)]) == 1
    message = capsys.readouterr().err
    expected = {(rows[n]["original_file"], rows[n]["id"]): cosine for n, cosine in cosines.items()}
    assert named(message) == pytest.approx(expected, abs=2e-6)
    assert "replaced\n" not in message
    assert "run --verify-vectors all --re-embed" in message
    account = json.loads(report.read_text(encoding="utf-8"))
    assert {name: account[name] for name in ("rows", "checked", "differ", "replaced", "left", "exit_code")} == {
        "rows": STEMS,
        "checked": STEMS,
        "differ": 3,
        "replaced": 0,
        "left": 0,
        "exit_code": 1,
    }
    assert filled.database.read_bytes() == before


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_a_row_differs_below_a_cosine_of_0_9999_in_bf16_as_well(filled: Workplace, precision: str) -> None:
    if precision == "bf16":
        filled.re_embed(precision="bf16")
    right = [row["clap_embedding"] for row in filled.rows()]
    for number, cosine in enumerate([0.99995, 0.999901, 0.999899, 0.99985]):
        store(filled, number, turned(right[number], cosine))
    assert counts(filled.verify(precision=precision)) == {"rows": STEMS, "checked": STEMS, "differ": 2}


@pytest.mark.parametrize("value", [0, np.nan, np.inf])
def test_a_stored_vector_without_a_direction_differs(
    value: float, filled: Workplace, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    store(filled, 4, blob_of(np.full(512, value, np.float32)))
    assert filled.verify().differ == 1
    assert "4.wav (id " in caplog.text
    assert "cosine nan with" in caplog.text
    assert [str(warning.message) for warning in recwarn if warning.category is RuntimeWarning] == []


def test_sqlite_itself_refuses_writes_while_vectors_are_verified(
    filled: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace_anyway(self: VerifyVectors, embedded: Any) -> None:
        self.write_vectors([(read.stem, vector) for read, vector in embedded])

    before = filled.rows()
    monkeypatch.setattr(VerifyVectors, "_check_vectors", replace_anyway)
    with pytest.raises(RunStopped, match="readonly"):
        filled.verify()
    assert filled.rows() == before


# -- with --re-embed --------------------------------------------------------------------------------------------------


def test_with_re_embed_what_differs_is_replaced_and_nothing_else(
    filled: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = filled.rows()
    spoil_three(filled)
    filled.change("UPDATE stems SET tags = '[\"wrong\"]' WHERE original_file LIKE '%1.wav'")
    audio_files.use_fake_clap(monkeypatch)
    assert main([*filled.flags(), "--verify-vectors", "--re-embed"]) == 0
    message = capsys.readouterr().err
    assert len(named(message)) == message.count("; replaced\n") == 3
    assert "7 checked, 3 differ, 3 replaced, 0 unreadable" in message
    assert "run --verify-vectors" not in message
    after = filled.rows()
    changed = [number for number in range(STEMS) if after[number]["imported_at"] != before[number]["imported_at"]]
    assert changed == [1, 2, 3]
    assert [{**row, "imported_at": ""} for row in after] == [{**row, "imported_at": ""} for row in before]
    assert after[3]["user_rating"] == 3
    assert len(filled.rows("SELECT * FROM provenance")) == 1
    assert counts(filled.verify()) == {"rows": STEMS, "checked": STEMS}


def test_windows_go_to_the_model_in_batches_of_whole_files(filled: Workplace) -> None:
    spoil_all(filled)
    model = FakeClap()
    assert filled.verify(model, replaces=True, batch_windows=2).replaced == STEMS
    assert sum(model.call_sizes) == STEMS + 2  # 25 s are three windows, and a batch of their own
    assert sorted(model.call_sizes)[-2:] == [2, 3]
    assert len(model.call_sizes) <= 5


def test_more_rows_than_a_page_are_all_checked(filled: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_three(filled)
    replace_name(monkeypatch, "ROWS_PER_PAGE", 2)
    assert counts(filled.verify()) == {"rows": STEMS, "checked": STEMS, "differ": 3}


# -- the sample -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "percent", "limit", "size"),
    [
        (4_000, 5, None, 200),
        (4_001, 5, None, 201),
        (100_000, 5, None, 5_000),
        (3_000, 5, None, 200),
        (201, 5, None, 200),
        (200, 5, None, 200),
        (7, 5, None, 7),
        (1_000, 50, None, 500),
        (1_000, 100, None, 1_000),
        (1_000, 100, 30, 30),
        (7, 5, 30, 7),
    ],
)
def test_a_sample_is_a_share_of_the_rows_and_at_least_200(
    rows: int, percent: float, limit: int | None, size: int
) -> None:
    rowids = range(10, 10 + 3 * rows, 3)
    sample = sample_of(rowids, percent, limit, "seed")
    assert len(sample) == size
    assert len(set(sample) & set(rowids)) == size
    assert list(sample) == sorted(sample)


def test_the_run_id_alone_decides_what_is_drawn_and_every_row_may_be() -> None:
    rowids = range(1_000)
    first, again, other = (sample_of(rowids, 5, None, seed) for seed in ("a", "a", "b"))
    assert first == again != other
    drawn = Counter(row for seed in range(50) for row in sample_of(rowids, 5, None, str(seed)))
    assert set(drawn) == set(rowids)  # that a row is not drawn 50 times has a probability of 1.4e-5 a row
    assert max(drawn.values()) < 30


def test_a_sample_that_finds_nothing_leaves_the_rest(
    filled: Workplace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    replace_name(monkeypatch, "LEAST_SAMPLE", 3)
    with caplog.at_level("INFO"):
        account = filled.verify(replaces=True)
    assert counts(account) == {"rows": STEMS, "checked": 3, "left": 4}
    assert (
        f"checking the vectors of 3 of 7 rows, a random sample with the run's id, {account.run_id}, as its seed"
        in caplog.text
    )
    assert counts(filled.verify(percent=60)) == {"rows": STEMS, "checked": 5, "left": 2}
    assert counts(filled.verify(percent=100)) == {"rows": STEMS, "checked": STEMS}


def test_a_sample_that_differs_asks_for_all_rows(
    filled: Workplace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spoil_all(filled)
    replace_name(monkeypatch, "LEAST_SAMPLE", 3)
    assert counts(filled.verify()) == {"rows": STEMS, "checked": 3, "differ": 3, "left": 4}
    assert "the database holds wrong vectors: run --verify-vectors all --re-embed" in caplog.text
    assert "(4 rows are not checked yet)" in caplog.text


def test_with_re_embed_a_sample_that_differs_leads_to_all_rows(
    filled: Workplace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = [row["clap_embedding"] for row in filled.rows()]
    spoil_all(filled)
    replace_name(monkeypatch, "LEAST_SAMPLE", 3)
    model = FakeClap()
    account = filled.verify(model, replaces=True)
    assert counts(account) == {"rows": STEMS, "checked": STEMS, "differ": STEMS, "replaced": STEMS}
    assert sum(model.call_sizes) == STEMS + 2  # none twice
    assert "3 of 3 rows differ: the other 4 are checked as well" in caplog.text
    assert [row["clap_embedding"] for row in filled.rows()] == before


def test_limit_is_respected_with_re_embed_too(filled: Workplace, caplog: pytest.LogCaptureFixture) -> None:
    spoil_all(filled)
    account = filled.verify(replaces=True, limit=2)
    assert counts(account) == {"rows": STEMS, "checked": 2, "differ": 2, "replaced": 2, "left": 5}
    assert "the database may hold more wrong vectors: run --verify-vectors all --re-embed" in caplog.text


@pytest.mark.parametrize(
    ("value", "percent"), [([], 5.0), (["all"], 100.0), (["10"], 10.0), (["10%"], 10.0), (["0.5"], 0.5), (["100"], 100)]
)
def test_the_flag_takes_a_share_of_the_rows(value: list[str], percent: float) -> None:
    options = product.build_parser().parse_args(["--verify-vectors", *value, "--re-embed"])
    assert (options.verify_vectors, options.re_embed) == (percent, True)


@pytest.mark.parametrize("value", ["0", "101", "-1", "nan", "some", ""])
def test_another_share_is_a_usage_error(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--verify-vectors", value]) == 2
    assert f"{value!r}: give a number over 0 and up to 100 (per cent of the rows), or all" in capsys.readouterr().err


# -- what cannot be checked -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [[], ["--re-embed"]], ids=["verify", "re-embed"])
def test_a_row_with_neither_wav_nor_original_is_unreadable_and_ends_with_1(
    more: list[str], filled: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = filled.rows()
    for number in (4, 5):
        os.remove(before[number]["original_file"])  # of 5.wav there is the WAV
    os.remove(before[4]["path"])
    audio_files.use_fake_clap(monkeypatch)
    assert main([*filled.flags(), "--verify-vectors", *more]) == 1
    message = capsys.readouterr().err
    for part in (f"{before[4]['original_file']} (id {before[4]['id']}): not checked: unreadable: ", before[4]["path"]):
        assert part in message, part
    assert "7 rows: 6 checked, 0 differ, 0 replaced, 1 unreadable, 0 of other models, 0 not checked" in message
    assert filled.rows() == before


def test_a_row_for_which_clap_gives_no_vector_is_not_checked_and_stays(
    filled: Workplace, caplog: pytest.LogCaptureFixture
) -> None:
    spoil_three(filled)
    before = filled.rows()[2]
    model = BrokenClap(lambda call, row, window: len(window) == round(0.07 * 48_000))  # 2.wav
    account = filled.verify(model, replaces=True)
    assert counts(account) == {"rows": STEMS, "checked": STEMS - 1, "differ": 2, "replaced": 2, "unreadable": 1}
    assert "2.wav (id " in caplog.text
    assert "not checked: CLAP's vector is not 512 finite numbers" in caplog.text
    assert filled.rows()[2] == before


def test_rows_of_other_models_are_counted_and_named(filled: Workplace, caplog: pytest.LogCaptureFixture) -> None:
    spoil_three(filled)
    filled.change("UPDATE stems SET embedding_model = 'other@0/f32/10s-max8' WHERE original_file GLOB '*[12].wav'")
    before = filled.rows()
    expected = {"rows": STEMS, "checked": STEMS - 2, "differ": 1, "other_models": 2}
    assert counts(filled.verify()) == expected
    assert filled.rows() == before
    for part in ("2 of 7 rows", "other@0/f32/10s-max8", "--re-embed without --verify-vectors"):
        assert part in caplog.text, part
    assert counts(filled.verify(replaces=True)) == {**expected, "replaced": 1}
    assert [filled.rows()[n] for n in (1, 2)] == [before[n] for n in (1, 2)]


def test_where_no_row_is_of_this_model_it_is_a_usage_error_and_no_all_clear(
    filled: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(product.DatasetPreparer.__init__, "__defaults__", (no_model, False))
    assert main([*filled.flags(), "--verify-vectors", "--precision", "bf16"]) == 2
    message = capsys.readouterr().err
    assert re.search(r"7 of 7 rows in .* hold vectors of 630k-audioset-best@\w+/f32/10s-max8, which", message)
    assert "0 checked" in message


@pytest.mark.parametrize("replaces", [False, True])
def test_another_engine_is_refused_and_its_rows_are_not_called_wrong(
    replaces: bool, filled: Workplace, caplog: pytest.LogCaptureFixture
) -> None:
    before = filled.rows()
    model = OtherClap(noise=0.5)
    with pytest.raises(RunStopped, match=r"were made by fake/cpu .*other/gpu.*run --re-embed without --verify-vectors"):
        filled.verify(model, replaces=replaces)
    assert model.call_sizes == []
    assert named(caplog.text) == {}
    assert filled.rows() == before


def test_another_engine_that_agrees_finds_no_difference(filled: Workplace) -> None:
    assert counts(filled.verify(OtherClap(noise=1e-4))) == {"rows": STEMS, "checked": STEMS}


def test_rows_whose_engine_is_not_known_are_checked(filled: Workplace) -> None:
    filled.change("UPDATE provenance SET reference_vector = NULL")  # as a migration from schema 1 leaves it
    spoil_three(filled)
    assert filled.verify().differ == 3


def test_a_database_without_rows_needs_no_model(
    filled: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    filled.change("DELETE FROM stems")
    monkeypatch.setattr(product.DatasetPreparer.__init__, "__defaults__", (no_model, False))
    assert main([*filled.flags(), "--verify-vectors"]) == 0
    assert "nothing to verify" in capsys.readouterr().err


# -- interrupted ------------------------------------------------------------------------------------------------------


class Raises(FakeClap):
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
def test_stopped_in_any_batch_every_row_is_as_it_was(filled: Workplace, error: BaseException) -> None:
    spoil_three(filled)
    before = filled.rows()
    for call in (1, 2, 3):
        with pytest.raises((RunStopped, Interrupted)):
            filled.verify(Raises(call, error), batch_windows=2)
        assert filled.rows() == before
    assert filled.verify().differ == 3


def test_stopped_with_re_embed_each_row_is_as_it_was_or_right_and_all_finishes_it(filled: Workplace) -> None:
    right = [row["clap_embedding"] for row in filled.rows()]
    spoil_all(filled)
    wrong = [row["clap_embedding"] for row in filled.rows()]
    with contextlib.suppress(RunStopped):
        filled.verify(Raises(3, RuntimeError("boom")), replaces=True, batch_windows=2)
    stored = [row["clap_embedding"] for row in filled.rows()]
    assert all(vector in pair for vector, *pair in zip(stored, right, wrong, strict=True))
    replaced = sum(vector == good for vector, good in zip(stored, right, strict=True))
    assert 0 < replaced < STEMS
    assert filled.verify(percent=100, replaces=True).replaced == STEMS - replaced
    assert [row["clap_embedding"] for row in filled.rows()] == right


@posix_only
def test_ctrl_c_ends_it_with_130_and_an_account(filled: Workplace) -> None:
    spoil_three(filled)
    before = filled.rows()
    process = filled.start("--verify-vectors", "--batch-windows", "1", "-v", faults={"slow_s": 1.5})
    assert process.stderr is not None
    assert any("embedding 1 windows" in line for line in process.stderr)  # 0.wav, with three, was in the batch before
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=30)
    assert process.returncode == 130
    account = re.search(r"7 rows: (\d) checked, \d differ, 0 replaced, 0 unreadable, .* (\d) not checked;", message)
    assert account is not None, message
    assert 0 < int(account[1]) < STEMS
    assert int(account[1]) + int(account[2]) == STEMS
    assert filled.rows() == before


# -- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["--dry-run", "--restore-quarantine"])
@pytest.mark.parametrize("more", [[], ["all"]], ids=["sample", "all"])
def test_with_another_mode_it_is_a_usage_error(
    other: str, more: list[str], filled: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    before = audio_files.everything(filled.folder)
    assert main([*filled.flags(), other, "--verify-vectors", *more]) == 2
    assert f"--verify-vectors: not allowed with {other}" in capsys.readouterr().err
    assert audio_files.everything(filled.folder) == before


def test_it_needs_no_input_and_the_wavs_are_enough(filled: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_three(filled)
    shutil.rmtree(filled.input)
    audio_files.use_fake_clap(monkeypatch)
    flags = filled.flags()
    del flags[flags.index("--input") : flags.index("--input") + 2]
    assert main([*flags, "--verify-vectors", "--re-embed"]) == 0


def test_without_a_database_it_is_a_usage_error_that_makes_nothing(
    workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError):
        workplace.verify()
    assert main([*workplace.flags(), "--verify-vectors"]) == 2
    assert f"--verify-vectors: there is no database at {workplace.database}" in capsys.readouterr().err
    assert not workplace.database.parent.exists()


def test_another_run_at_work_is_told(filled: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    audio_files.use_fake_clap(monkeypatch)
    with hold_outputs(filled.config()):
        assert main([*filled.flags(), "--verify-vectors"]) == 5


def test_the_real_clap_finds_and_replaces_wrong_vectors(
    workplace: Workplace, stand_in: Path, model_cache: Path
) -> None:
    place = workplace
    for number in range(4):
        seconds = 25 if number == 0 else 0.2
        write_tone(place.input / f"{number}.wav", hz=200 * 2**number, seconds=seconds)
    flags = [*place.flags(), "--checkpoint", str(stand_in / "stand-in.pt"), "--device", "cpu"]
    flags += ["--model-cache", str(model_cache)]
    assert run_program(*flags, stand_in=stand_in).returncode == 0
    before = place.rows()
    cosines = spoil_three(place)
    result = run_program(*flags, "--verify-vectors", stand_in=stand_in)
    assert result.returncode == 1, result.stderr
    assert named(result.stderr) == pytest.approx(
        {(before[n]["original_file"], before[n]["id"]): cosine for n, cosine in cosines.items()}, abs=1e-5
    )
    result = run_program(*flags, "--verify-vectors", "--re-embed", stand_in=stand_in)
    assert result.returncode == 0, result.stderr
    assert "4 checked, 3 differ, 3 replaced" in result.stderr
    result = run_program(*flags, "--verify-vectors", "all", stand_in=stand_in)
    assert (result.returncode, named(result.stderr)) == (0, {}), result.stderr
    for old, new in zip(before, place.rows(), strict=True):
        assert cosine_of(old["clap_embedding"], new["clap_embedding"]) > 0.999_999
        assert {**old, "clap_embedding": 0, "imported_at": 0} == {**new, "clap_embedding": 0, "imported_at": 0}
