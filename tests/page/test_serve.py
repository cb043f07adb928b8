"""The page as a program: its address, its flags and its end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from libraries import SearchedLibrary, add_all
from page_client import fill
from page_server import running_server
from patching import replace_name
from stem_dataset.page.serve import open_browser
from workplace import REPOSITORY

COMMAND = [sys.executable, str(REPOSITORY / "search_dataset_sql.py")]


@contextlib.contextmanager
def program(library: SearchedLibrary, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the command with --serve until the `with` block ends; yield it and the page's address."""
    own = ["--serve", "--no-open", "--database", str(library.database), *flags]
    process = subprocess.Popen([*COMMAND, *own], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        match = re.fullmatch(r"listening on (http://127\.0\.0\.1:\d+/) \(Ctrl-C stops\)\n", line)
        assert match, line + process.stderr.read()
        yield process, match[1]
    finally:
        process.kill()
        process.communicate(timeout=60)


def library_at(address: str) -> dict[str, object]:
    """Return what the page says of its library."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{address}api/library", timeout=60) as answer:
        told: dict[str, object] = json.load(answer)
    return told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_port_is_chosen_and_printed_and_ctrl_c_is_the_usual_end(searched: SearchedLibrary, number: int) -> None:
    add_all(searched, ["kick.wav"])
    with program(searched) as (process, address):
        assert library_at(address)["rows"] == 1
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (0, "", "")


def test_ctrl_c_does_not_wait_for_a_song_that_is_being_sent(searched: SearchedLibrary) -> None:
    song = searched.folder / "song.wav"
    with open(song, "wb") as file:
        file.truncate(2**30)
    searched.add(str(song))
    with program(searched) as (process, address):
        stem_id = searched.json("--top", "1")[0]["id"]
        port = int(address.rpartition(":")[2].strip("/"))
        with socket.create_connection(("127.0.0.1", port), timeout=60) as player:
            player.sendall(f"GET /audio/{stem_id} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            assert player.recv(15) == b"HTTP/1.1 200 OK"
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (0, "")


def test_a_port_that_is_taken_is_a_usage_error(searched: SearchedLibrary) -> None:
    add_all(searched, ["kick.wav"])
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        searched.run("--serve", "--no-open", "--port", str(port), exit_code=2)
    assert f"--port {port}: is taken" in searched.messages
    assert not searched.sidecar.exists()


def test_the_port_that_was_given_is_the_pages(searched: SearchedLibrary) -> None:
    add_all(searched, ["kick.wav"])
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    with program(searched, "--port", str(port)) as (_, address):
        assert address == f"http://127.0.0.1:{port}/"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--serve", "kick"], "--serve: leave the search out (text): the page asks for it"),
        (["--serve", "--json", "--loops"], "--serve: leave the search out (is_loop, json): the page asks for it"),
        (["--port", "8000"], "--port and --no-open: need --serve"),
        (["--no-open"], "--port and --no-open: need --serve"),
        (["--serve", "--port", "70000"], "'70000': give a port from 1 to 65535, or 0 for a free one"),
        (["--serve", "--port", "http"], "'http': give a port"),
    ],
)
def test_flags_that_say_nothing_are_refused(searched: SearchedLibrary, flags: list[str], said: str) -> None:
    add_all(searched, ["kick.wav"])
    searched.run(*flags, exit_code=2)
    assert said in searched.messages


def test_without_a_database_the_page_does_not_open(searched: SearchedLibrary) -> None:
    searched.run("--serve", "--no-open", exit_code=2)
    assert "there is no database" in searched.messages


def test_a_search_without_the_page_imports_nothing_of_it(searched: SearchedLibrary) -> None:
    add_all(searched, ["kick.wav"])
    flags = ["kick", "--database", str(searched.database)]
    code = (
        "import sys, search_dataset_sql; search_dataset_sql.main(sys.argv[1:]);"
        "print([name for name in ('starlette', 'uvicorn', 'plotly', 'umap') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *flags], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_an_error_of_the_program_is_a_sentence_and_in_the_log(
    searched: SearchedLibrary, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fill(searched)

    def fail(*_: object) -> None:
        raise AttributeError("a fault")

    with running_server(searched) as server:
        replace_name(monkeypatch, "categories_of", fail)
        with pytest.raises(urllib.error.HTTPError) as caught:
            library_at(f"{server.address}/")
        answer = json.loads(caught.value.read())
        caught.value.close()
    assert caught.value.code == 500
    assert answer == {"error": "a fault of this program, not of your files; the console has more"}
    assert "AttributeError: a fault" in caplog.text


def test_a_text_that_takes_long_holds_up_neither_the_page_nor_its_end(
    searched: SearchedLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(searched)
    is_embedding, may_end = threading.Event(), threading.Event()

    def slow(*_: object) -> None:
        is_embedding.set()
        may_end.wait(60)

    replace_name(monkeypatch, "query_vector", slow)
    try:
        with running_server(searched) as server:
            headers = {"Origin": server.address, "Content-Type": "application/json"}
            asked = urllib.request.Request(f"{server.address}/api/search", b'{"text": "kick"}', headers, method="POST")
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

            def search() -> None:
                with contextlib.suppress(OSError):
                    opener.open(asked, timeout=60).close()

            searching = threading.Thread(target=search)
            searching.start()
            assert is_embedding.wait(60)
            assert library_at(f"{server.address}/")["rows"] == 4
        # The server has ended, and the text is still being embedded.
        searching.join(60)
        assert not may_end.is_set()
    finally:
        may_end.set()


def test_the_browser_opens_where_there_is_a_screen(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened: list[str] = []

    def note(address: str) -> bool:
        opened.append(address)
        return len(opened) == 1

    monkeypatch.setattr("webbrowser.open", note)
    monkeypatch.setenv("DISPLAY", ":0")
    open_browser("http://127.0.0.1:1/")
    assert (opened, caplog.text) == (["http://127.0.0.1:1/"], "")
    open_browser("http://127.0.0.1:1/")
    assert "no browser could be opened: open the address yourself" in caplog.text


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="these have a screen")
def test_without_a_screen_no_browser_of_the_terminal_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(address: str) -> bool:
        raise AssertionError(address)

    monkeypatch.setattr("webbrowser.open", fail)
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    open_browser("http://127.0.0.1:1/")


def test_ctrl_c_before_the_page_listens_is_an_interruption(
    searched: SearchedLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_all(searched, ["kick.wav"])

    def press_ctrl_c(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    replace_name(monkeypatch, "names_row", press_ctrl_c)
    searched.run("--serve", "--no-open", exit_code=130)
    assert "listening" not in searched.messages
