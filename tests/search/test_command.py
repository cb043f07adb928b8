"""The search as a program: what it imports, how it ends, and what it survives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libraries import STAND_IN_MODEL, SearchedLibrary, add_all, direction
from patching import replace_name
from search_dataset_sql import main
from stem_dataset.search import sidecar
from workplace import REPOSITORY, Watch

COMMAND = [sys.executable, str(REPOSITORY / "search_dataset_sql.py")]


def test_a_warm_text_query_needs_neither_torch_nor_the_network(searched: SearchedLibrary, tmp_path: Path) -> None:
    searched.add("/music/kick.wav", direction(x=1))
    searched.understand({"thump": direction(x=1)})
    watch = Watch(tmp_path / "watch")
    flags = ["--database", str(searched.database), "--model-cache", str(tmp_path / "cache")]
    environment = {**os.environ, **watch.environment}
    done = subprocess.run(
        [*COMMAND, "thump", *flags], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert "kick.wav" in done.stdout
    assert watch.noted("import") == []
    assert watch.noted("network") == []


# The package of each is a tenth of a second or more, and a search whose vectors are kept needs none of them.
HEAVY = {"openvino", "tokenizers", "torch", "transformers", "laion_clap", "librosa", "scipy", "av", "soxr", "numba"}


def test_a_warm_text_query_imports_nothing_that_only_new_texts_and_sounds_need(searched: SearchedLibrary) -> None:
    searched.add("/music/kick.wav", direction(x=1))
    searched.understand({"thump": direction(x=1)})
    flags = ["--database", str(searched.database), "--model-cache", str(searched.folder / "cache")]
    timed = [sys.executable, "-X", "importtime", *COMMAND[1:], "thump", *flags]
    done = subprocess.run(timed, capture_output=True, text=True, timeout=120, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "kick.wav" in done.stdout
    assert "numpy" in imported
    assert imported & HEAVY == set()


def test_a_closed_pipe_is_no_error(searched: SearchedLibrary) -> None:
    add_all(searched, [f"{number}.wav" for number in range(100)])
    command = f"{' '.join(COMMAND)} --database {searched.database} --top 0 --paths | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "/music/0.wav\n", "")


@pytest.mark.skipif(os.name != "posix", reason="closes descriptors")
def test_a_search_without_standard_streams_writes_its_files(searched: SearchedLibrary, tmp_path: Path) -> None:
    searched.model = STAND_IN_MODEL
    searched.add("/music/Größe.wav", direction(x=1))
    table = tmp_path / "found.csv"
    command = [*COMMAND, "Größe", "--database", str(searched.database), "--csv", str(table), "--category", "kick"]

    def close() -> None:
        for descriptor in range(3):
            os.close(descriptor)

    assert subprocess.run(command, preexec_fn=close, timeout=120).returncode == 0
    assert "Größe.wav" in table.read_text(encoding="utf-8")


@pytest.mark.skipif(os.name != "posix", reason="sets a POSIX locale")
def test_in_a_locale_that_is_not_utf_8_the_same_words_find_the_same_names(searched: SearchedLibrary) -> None:
    searched.model = STAND_IN_MODEL
    searched.add("/music/Größe.wav", direction(x=1))
    searched.add("/music/Gre.wav", direction(x=1))
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [*COMMAND, "größe", "--database", str(searched.database), "--paths"]
    done = subprocess.run(command, env={**os.environ, **locale}, stdout=subprocess.PIPE, timeout=120, check=True)
    assert done.stdout == "/music/Größe.wav\n".encode()


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_while_it_still_imports_is_no_traceback(searched: SearchedLibrary, tmp_path: Path) -> None:
    # numpy is one of the first imports that take long.
    (tmp_path / "numpy.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([*COMMAND, "kick"], env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_end_with_0(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([flag]) == 0
    assert capsys.readouterr().out


def test_words_without_quotes_are_a_usage_error_that_shows_the_quotes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dark", "kick", "--ok", "deep"]) == 2
    assert 'put words in quotes, as "dark kick deep"' in capsys.readouterr().err
    assert main(["dark", "--nope"]) == 2
    said = capsys.readouterr().err
    assert "unrecognized arguments: --nope" in said
    assert "quotes" not in said


def test_an_empty_text_is_a_usage_error(searched: SearchedLibrary) -> None:
    add_all(searched, ["kick.wav"])
    searched.run(" ", exit_code=2)
    assert "the text is empty" in searched.messages


@pytest.mark.parametrize("flag", ["--like", "--unlike", "--category", "--folder"])
def test_an_empty_value_is_a_usage_error(searched: SearchedLibrary, flag: str) -> None:
    add_all(searched, ["kick.wav"])
    searched.run(flag, "", exit_code=2)
    assert f"{flag}: is empty, like an unset shell variable" in searched.messages


def test_a_damaged_sidecar_stops_the_search_and_says_what_to_do(searched: SearchedLibrary) -> None:
    searched.model = STAND_IN_MODEL
    add_all(searched, ["kick.wav"])
    searched.run()
    for path in searched.sidecar.glob("stems-*.db"):
        path.write_bytes(b"no database")
    searched.run("kick", exit_code=4)
    assert f"{searched.sidecar}: file is not a database; remove this folder" in searched.messages


def test_a_search_whose_files_another_one_has_just_replaced_opens_the_new_ones(
    searched: SearchedLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_all(searched, ["kick.wav"])
    searched.run()
    real = sidecar.card_if_current
    calls: list[Any] = []

    def replaced_after_the_first_look(*arguments: Any) -> Any:
        card = real(*arguments)
        if not calls:
            for path in searched.sidecar.glob("*-*.*"):
                path.unlink()
        calls.append(card)
        return card

    replace_name(monkeypatch, "card_if_current", replaced_after_the_first_look)
    assert searched.names() == ["kick.wav"]
    assert len(calls) > 1


def test_an_interrupted_copy_leaves_nothing_and_ends_with_130(
    searched: SearchedLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_all(searched, ["kick.wav"])

    def press_ctrl_c(*_: object) -> None:
        os.kill(os.getpid(), 2)
        raise OSError("the copy fails, since the signal ended something that it needed")

    replace_name(monkeypatch, "names_row", press_ctrl_c)
    searched.run(exit_code=130)
    assert {path.name for path in searched.sidecar.iterdir()} - {".prepare_dataset.lock"} == {"README.txt"}


def test_a_link_to_a_database_is_the_database(searched: SearchedLibrary, tmp_path: Path) -> None:
    add_all(searched, ["kick.wav"])
    link = tmp_path / "linked" / "library.db"
    link.parent.mkdir()
    link.symlink_to(searched.database)
    assert main(["--database", str(link)]) == 0
    assert searched.sidecar.is_dir()
    assert list(link.parent.iterdir()) == [link]


def test_hostile_columns_can_neither_break_the_table_nor_stop_it(searched: SearchedLibrary) -> None:
    searched.model = STAND_IN_MODEL
    searched.add("/music/kick.wav", category="a\x1b[2J\nb", key="A\nm", tags="no JSON")
    (head, line) = searched.run("kick").splitlines()
    assert "\x1b" not in head + line
    assert searched.json()[0]["tags"] == []


def test_vectors_are_memory_mapped(searched: SearchedLibrary) -> None:
    add_all(searched, ["kick.wav"])
    with sidecar.open_sidecar(searched.database, lambda *_: None) as opened:
        assert isinstance(opened.vectors.base, np.memmap)
        assert opened.vectors.shape == (1, 512)
