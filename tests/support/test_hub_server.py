"""What the real huggingface_hub does with the stand-in for its hub: what downloads of ours rest on.

Each test runs the client in a process of its own, as it reads its settings once, at import.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from hub_server import COMMIT, HubServer, Request

REPOSITORY, FILENAME = "lukewys/laion_clap", "model.pt"
MIB = 1 << 20
BIG = hashlib.shake_256(b"a checkpoint").digest(24 * MIB)  # a cut at 12 MiB leaves one whole piece of 10 MiB
SMALL = b'{"a": 0}'

DOWNLOAD = """
import sys
from huggingface_hub import hf_hub_download
try:
    print(hf_hub_download(sys.argv[1], sys.argv[2], revision=sys.argv[3]))
except Exception as error:
    sys.exit(f"raised {type(error).__name__}")
"""


def client(hub: HubServer, home: Path, *asked: str) -> subprocess.Popen[str]:
    """Start a download of (repository, filename, revision) in a fresh process."""
    command = [sys.executable, "-c", DOWNLOAD, *asked]
    environment = os.environ | hub.environment(home)
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def download(hub: HubServer, home: Path, repository: str, filename: str, revision: str = "main") -> Path:
    """Download a file; returns its path, or raises RuntimeError with what the client wrote to stderr."""
    process = client(hub, home, repository, filename, revision)
    path, errors = process.communicate(timeout=60)
    if process.returncode:
        raise RuntimeError(errors)
    return Path(path.strip())


def file_requests(hub: HubServer) -> list[tuple[str, str | None]]:
    """Method and range of the requests for files."""
    return [(request.method, request.range) for request in hub.requests if "/resolve/" in request.path]


def partial_files(home: Path) -> list[Path]:
    return list(home.glob("hub/models--*/blobs/*.incomplete"))


def wait_for_bytes(home: Path) -> None:
    """Wait until a partial file has something in it."""
    deadline_s = time.monotonic() + 30
    while not any(path.stat().st_size for path in partial_files(home)):
        assert time.monotonic() < deadline_s, "the client wrote nothing in 30 s"
        time.sleep(0.05)


@pytest.mark.parametrize("repository", ["roberta-base", "facebook/bart-base"])
def test_file_of_a_branch_is_downloaded_whole_and_the_branch_is_remembered(tmp_path: Path, repository: str) -> None:
    with HubServer({(repository, "vocab.json"): SMALL}) as hub:
        path = download(hub, tmp_path, repository, "vocab.json")
    storage = tmp_path / "hub" / ("models--" + repository.replace("/", "--"))
    assert path == storage / "snapshots" / COMMIT / "vocab.json"
    assert path.read_bytes() == SMALL
    assert path.resolve() == storage / "blobs" / hashlib.sha256(SMALL).hexdigest()
    assert (storage / "refs" / "main").read_text() == COMMIT
    assert file_requests(hub) == [("HEAD", None), ("GET", None)]


def test_file_of_a_commit_leaves_no_branch_behind(tmp_path: Path) -> None:
    commit = "b3708341862f581175dba5c356a4ebf74a9b6651"
    with HubServer({(REPOSITORY, FILENAME): SMALL}) as hub:
        path = download(hub, tmp_path, REPOSITORY, FILENAME, commit)
    assert path.parent.name == commit
    assert not (tmp_path / "hub/models--lukewys--laion_clap/refs").exists()


def test_cut_download_resumes_at_the_last_whole_10_mib(tmp_path: Path) -> None:
    with HubServer({(REPOSITORY, FILENAME): BIG}) as hub:
        hub.cut(REPOSITORY, FILENAME)
        path = download(hub, tmp_path, REPOSITORY, FILENAME)
    assert file_requests(hub) == [("HEAD", None), ("GET", None), ("GET", f"bytes={10 * MIB}-")]
    assert path.read_bytes() == BIG


def test_content_with_a_wrong_hash_is_returned_as_good(tmp_path: Path) -> None:
    with HubServer({(REPOSITORY, FILENAME): SMALL}) as hub:
        hub.flip_a_byte(REPOSITORY, FILENAME)
        path = download(hub, tmp_path, REPOSITORY, FILENAME)
    content = path.read_bytes()
    assert len(content) == len(SMALL)
    assert content != SMALL
    assert path.resolve().name == hashlib.sha256(SMALL).hexdigest()  # of what should have come


def test_missing_file_is_an_error_of_its_own(tmp_path: Path) -> None:
    with HubServer({(REPOSITORY, FILENAME): SMALL}) as hub, pytest.raises(RuntimeError) as caught:
        download(hub, tmp_path, REPOSITORY, "another.pt")
    assert "raised RemoteEntryNotFoundError" in str(caught.value)


def test_killed_client_leaves_a_partial_file_and_the_next_one_starts_from_0(tmp_path: Path) -> None:
    with HubServer({(REPOSITORY, FILENAME): BIG}) as hub:
        hub.slow_down(bytes_per_s=16 * MIB)
        process = client(hub, tmp_path, REPOSITORY, FILENAME, "main")
        wait_for_bytes(tmp_path)
        process.kill()
        process.communicate()
        hub.bytes_per_s = None
        path = download(hub, tmp_path, REPOSITORY, FILENAME)
    assert path.read_bytes() == BIG
    assert file_requests(hub) == [("HEAD", None), ("GET", None)] * 2
    (left,) = partial_files(tmp_path)
    assert re.fullmatch(hashlib.sha256(BIG).hexdigest() + r"\.[0-9a-f]{8}\.incomplete", left.name)


def test_refusing_server_answers_503_until_it_stops_refusing() -> None:
    # Without huggingface_hub, which would try for 23 s.
    with HubServer({(REPOSITORY, FILENAME): SMALL}) as hub:
        url = f"{hub.endpoint}/{REPOSITORY}/resolve/main/{FILENAME}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        hub.refuse()
        with pytest.raises(urllib.error.HTTPError, match="503"):
            opener.open(url)
        hub.refuse(False)
        with opener.open(url) as response:
            assert response.read() == SMALL
    assert hub.requests == [Request("GET", f"/{REPOSITORY}/resolve/main/{FILENAME}", None)] * 2
