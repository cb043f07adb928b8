"""What made the vectors: the table `provenance`, the check of the engine, and models that are not mixed."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from typing import Any

import numpy as np
import pytest

import audio_files
import prepare_dataset_sql as product
from audio_files import write_tone
from fake_clap import REFERENCE, FakeClap, OtherClap, fake_vector
from patching import replace_name
from stem_dataset.clap.checkpoints import CHECKPOINTS
from stem_dataset.clap.engine import ClapModel
from stem_dataset.database.schema import MODELS_AT_A_GLANCE
from stem_dataset.database.stems import Database
from stem_dataset.datatypes import utc_now
from stem_dataset.errors import RunStopped, UsageError
from workplace import Workplace, use_quick_analysis

SHA256 = CHECKPOINTS["630k-audioset-best"].sha256
MODEL = f"630k-audioset-best@{SHA256[:12]}/f32/10s-max8"


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    audio_files.use_inline_workers(monkeypatch)
    use_quick_analysis(monkeypatch)


def provenance(place: Workplace) -> list[dict[str, Any]]:
    return place.rows("SELECT * FROM provenance ORDER BY rowid")


# -- the table --------------------------------------------------------------------------------------------------------


def test_the_first_rows_bring_what_made_their_vectors(workplace: Workplace) -> None:
    write_tone(workplace.input / "kick.wav")
    before = utc_now()
    workplace.run()
    (entry,) = provenance(workplace)
    assert before <= entry.pop("first_used_at") <= workplace.rows()[0]["imported_at"]
    assert entry.pop("reference_vector") == fake_vector(REFERENCE).astype("<f4").tobytes()
    assert json.loads(entry.pop("versions")) == {"fake": "1.0"}
    assert entry == {
        "embedding_model": MODEL,
        "engine": "fake/cpu",
        "checkpoint": "630k-audioset-best",
        "checkpoint_sha256": SHA256,
        "architecture": "HTSAT-tiny",
        "precision": "f32",
        "window_rule": "10s-max8",
    }
    assert workplace.rows()[0]["embedding_model"] == MODEL


def test_each_engine_and_set_of_versions_is_entered_once(workplace: Workplace) -> None:
    models = [FakeClap(), FakeClap(), OtherClap(), OtherClap(versions={"b": "2", "a": "1"})]
    models.append(OtherClap(versions={"a": "1", "b": "2"}))
    for number, model in enumerate(models):
        write_tone(workplace.input / f"{number}.wav", hz=300 + 50 * number)
        workplace.run(model)
    entries = [(row["engine"], row["versions"]) for row in provenance(workplace)]
    assert entries == [
        ("fake/cpu", '{"fake": "1.0"}'),
        ("other/gpu", '{"fake": "1.0"}'),
        ("other/gpu", '{"a": "1", "b": "2"}'),
    ]


def test_the_precision_is_part_of_the_model(workplace: Workplace) -> None:
    write_tone(workplace.input / "kick.wav")
    workplace.run(precision="bf16")
    (entry,) = provenance(workplace)
    assert entry["precision"] == "bf16"
    assert entry["embedding_model"] == workplace.rows()[0]["embedding_model"] == MODEL.replace("f32", "bf16")


def test_a_batch_that_fails_enters_no_provenance(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tone(workplace.input / "kick.wav")
    replace_name(monkeypatch, "INSERT_STEM", "INSERT INTO nowhere VALUES (1)")
    with pytest.raises(RunStopped, match="nowhere"):
        workplace.run()
    assert provenance(workplace) == []


def test_a_run_that_writes_no_row_enters_no_provenance(workplace: Workplace) -> None:
    write_tone(workplace.input / "kick.wav")

    class BadForFiles(FakeClap):
        def vector(self, window: Any) -> Any:
            return super().vector(window) * (1 if np.array_equal(window, REFERENCE) else 2)

    assert workplace.run(BadForFiles()).quarantined == 1
    assert provenance(workplace) == []


# -- the engine is checked --------------------------------------------------------------------------------------------


def refused(place: Workplace, model: FakeClap, **settings: Any) -> str:
    """Run with a model that must be refused before any file is touched; return the message."""
    write_tone(place.input / "new.wav", hz=900)
    audio_files.write_text(place.input / "broken.wav")
    before = audio_files.tree(place.input), place.rows(), provenance(place)
    with pytest.raises(RunStopped) as caught:
        place.run(model, **settings)
    assert caught.value.exit_code == 4
    assert (audio_files.tree(place.input), place.rows(), provenance(place)) == before
    assert model.call_sizes == []
    assert not place.quarantined()
    return str(caught.value)


def test_an_engine_whose_reference_vector_differs_is_refused(workplace: Workplace) -> None:
    write_tone(workplace.input / "kick.wav")
    workplace.run()
    message = refused(workplace, OtherClap(noise=0.01, versions={"other": "7.1"}))
    for part in (MODEL, "fake/cpu", '{"fake": "1.0"}', "other/gpu", '{"other": "7.1"}', "1e-05", "--re-embed"):
        assert part in message, part
    assert workplace.run(FakeClap()).inserted == 1  # the way out: the former engine


@pytest.mark.parametrize(
    ("precision", "cosine_distance", "verdict"),
    [("f32", 0.9e-5, "taken"), ("f32", 1.1e-5, "refused"), ("bf16", 3.9e-4, "taken"), ("bf16", 4.1e-4, "refused")],
)
def test_the_limit_is_1e_5_in_cosine_and_4e_4_in_bf16(
    precision: str, cosine_distance: float, verdict: str, workplace: Workplace
) -> None:
    write_tone(workplace.input / "kick.wav")
    workplace.run(precision=precision)
    reference = fake_vector(REFERENCE).astype(np.float64)
    across = np.zeros(512)
    across[0] = 1
    across -= reference * reference[0] / (reference @ reference)
    angle = np.arccos(1 - cosine_distance)

    class Turned(FakeClap):
        def vector(self, window: Any) -> Any:
            turned = np.cos(angle) * reference / np.linalg.norm(reference) + np.sin(angle) * across / np.linalg.norm(
                across
            )
            return turned.astype(np.float32) if np.array_equal(window, REFERENCE) else super().vector(window)

    if verdict == "refused":
        refused(workplace, Turned(), precision=precision)
    else:
        write_tone(workplace.input / "new.wav", hz=900)
        assert workplace.run(Turned(), precision=precision).inserted == 1


def test_engines_are_compared_with_the_first_and_do_not_drift(workplace: Workplace) -> None:
    for number, noise in enumerate((0.0, 0.003)):
        write_tone(workplace.input / f"{number}.wav", hz=300 + 50 * number)
        workplace.run(OtherClap(noise, versions={"release": str(number)}))
    first, second = (np.frombuffer(row["reference_vector"], "<f4").astype(float) for row in provenance(workplace))
    assert 1e-7 < 1 - first @ second < 1e-5
    message = refused(workplace, OtherClap(0.006, versions={"release": "2"}))
    assert '{"release": "0"}' in message


def test_a_broken_engine_is_told_before_any_file_is_touched(workplace: Workplace) -> None:
    class Broken(FakeClap):
        def vector(self, window: Any) -> Any:
            return np.full(512, np.nan, np.float32)

    write_tone(workplace.input / "kick.wav")
    workplace.run()
    assert "CLAP is broken" in refused(workplace, Broken())


def test_an_engine_that_breaks_in_mid_run_stops_it(workplace: Workplace) -> None:
    class BreaksLater(FakeClap):
        def vector(self, window: Any) -> Any:
            return super().vector(window) * (np.nan if self.call_sizes else 1)

    write_tone(workplace.input / "kick.wav")
    with pytest.raises(RunStopped, match="CLAP is broken"):
        workplace.run(BreaksLater())
    assert workplace.rows() == []
    assert not workplace.quarantined()


def test_a_model_that_no_row_uses_any_more_is_no_measure(workplace: Workplace) -> None:
    write_tone(workplace.input / "kick.wav")
    workplace.run()
    workplace.change("DELETE FROM stems")
    workplace.run(OtherClap(noise=0.5))
    assert [row["engine"] for row in provenance(workplace)] == ["other/gpu"]


# -- models are not mixed ---------------------------------------------------------------------------------------------


def test_a_run_that_would_mix_models_is_refused_and_names_the_way_out(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tone(workplace.input / "kick.wav")
    workplace.run()
    write_tone(workplace.input / "new.wav", hz=900)
    before = audio_files.tree(workplace.input), workplace.rows(), provenance(workplace)
    clap = FakeClap()
    audio_files.use_fake_clap(monkeypatch, clap)
    assert product.main([*workplace.flags(), "--checkpoint", "630k-best"]) == 2
    message = capsys.readouterr().err
    for part in (MODEL, "630k-best@", "--re-embed", "another --database"):
        assert part in message, part
    assert (audio_files.tree(workplace.input), workplace.rows(), provenance(workplace)) == before
    with pytest.raises(UsageError, match=r"/f32/.*/bf16/.*--re-embed"):
        workplace.run(clap, precision="bf16")
    assert clap.call_sizes == []


def test_models_that_no_row_uses_any_more_are_forgotten_and_no_obstacle(workplace: Workplace) -> None:
    write_tone(workplace.input / "kick.wav")
    workplace.run(max_windows=3)
    workplace.change("DELETE FROM stems")
    assert workplace.run().inserted == 1
    assert [row["window_rule"] for row in provenance(workplace)] == ["10s-max8"]


def test_in_the_good_case_the_stems_are_not_read_for_their_model(workplace: Workplace) -> None:
    write_tone(workplace.input / "kick.wav")
    workplace.run()
    database = Database(workplace.database)
    statements: list[str] = []
    database.connection.set_trace_callback(statements.append)
    assert database.other_models(MODEL) == []
    assert [text for text in statements if "stems" in text] == [MODELS_AT_A_GLANCE]  # the first and the last
    assert database.other_models("another") == [MODEL]
    database.close()


@pytest.mark.parametrize("error", [RuntimeError("no kernel image"), ImportError("libtbb.so"), MemoryError()])
def test_an_engine_that_cannot_be_loaded_stops_the_run_and_touches_no_file(
    workplace: Workplace, error: Exception
) -> None:
    def fail(*_: object) -> ClapModel:
        raise error

    write_tone(workplace.input / "kick.wav")
    preparer = product.DatasetPreparer(workplace.config(), load_model=fail, show_progress=False)
    with pytest.raises(RunStopped, match=f"CLAP cannot be loaded: {type(error).__name__}.*No file was touched"):
        preparer.run()
    assert workplace.rows() == []


def test_a_reference_vector_of_nan_is_no_agreement(workplace: Workplace) -> None:
    write_tone(workplace.input / "kick.wav")
    workplace.run()
    with contextlib.closing(sqlite3.connect(workplace.database)) as connection, connection:
        connection.execute("UPDATE provenance SET reference_vector = ?", (np.full(512, np.nan, "<f4").tobytes(),))
    assert "--re-embed" in refused(workplace, FakeClap())


def test_a_database_put_together_by_hand_is_seen_as_a_mix(workplace: Workplace) -> None:
    for name in ("a.wav", "b.wav"):
        write_tone(workplace.input / name)
    workplace.run()
    with contextlib.closing(sqlite3.connect(workplace.database)) as connection, connection:
        connection.execute(
            "UPDATE stems SET embedding_model = 'another@0/f32/10s-max8' WHERE original_file LIKE '%a.wav'"
        )
    write_tone(workplace.input / "c.wav")
    with pytest.raises(UsageError, match=r"holds vectors of another@0/f32/10s-max8.*--re-embed"):
        workplace.run()
