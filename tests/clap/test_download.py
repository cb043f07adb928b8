"""The weights, fetched from a hub."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import huggingface_hub.constants
import pytest

from hub_server import COMMIT, HubServer, Request
from stem_dataset.clap.checkpoints import CHECKPOINTS, identify_weights
from stem_dataset.clap.download import (
    HUB_PROBE_S,
    HUB_REPOSITORY,
    HUB_REVISION,
    TEXT_MODEL_FILES,
    HubFile,
    _remove_unfinished_downloads,
    _wanted_files,
    cached_path,
)
from stem_dataset.config import Config
from stem_dataset.output_folders import SCRATCH
from weights import CACHE, CHECKPOINT, CHECKPOINT_SHA256, MIB, NAME
from workplace import REPOSITORY, Workplace


@pytest.fixture(autouse=True)
def empty_model_cache(tmp_path: Path) -> None:
    CACHE.folder = tmp_path / "model_cache"


CHECKPOINT_FILE = (HUB_REPOSITORY, f"{NAME}.pt")


ROBERTA_FILE = ("roberta-base", "model.safetensors")


TEXT_MODEL = {
    (repository, name): f"{repository} {name}".encode() * 99
    for repository, names in TEXT_MODEL_FILES.items()
    for name in names
}


FILES = {**TEXT_MODEL, CHECKPOINT_FILE: CHECKPOINT}


PROBE = Request("HEAD", "/", None)


WAYS_OUT = ("--checkpoint FILE", "HF_HUB_CACHE", "another machine", "python fixtures/make_clap.py DIR")


def test_the_published_checkpoints_have_the_hashes_and_architectures_of_the_hub() -> None:
    tiny, base = "HTSAT-tiny", "HTSAT-base"
    assert {name: (known.name, known.architecture, known.sha256) for name, known in CHECKPOINTS.items()} == {
        name: (name, architecture, sha256)
        for name, architecture, sha256 in (
            ("630k-audioset-best", tiny, "8053c9775516af2f4902e1e8281e356cc1bf7a85e8b761908170767b77c3f037"),
            ("630k-best", tiny, "e02951eae3c9955db546c50086059e6457188ec39446858f2bddbcb4b56b1cb3"),
            (
                "music_audioset_epoch_15_esc_90.14",
                base,
                "fae3e9c087f2909c28a09dc31c8dfcdacbc42ba44c70e972b58c1bd1caf6dedd",
            ),
            (
                "music_speech_audioset_epoch_15_esc_89.98",
                base,
                "51c68f12f9d7ea25fdaaccf741ec7f81e93ee594455410f3bca4f47f88d8e006",
            ),
        )
    }
    assert HUB_REVISION == "b3708341862f581175dba5c356a4ebf74a9b6651"
    assert Config().checkpoint == NAME


def test_the_hub_is_asked_for_the_checkpoint_at_its_pinned_revision_and_for_the_text_model_by_branch() -> None:
    *text_model, checkpoint = _wanted_files(identify_weights("630k-best", CACHE))
    assert {file.revision for file in text_model} == {"main"}  # by commit alone, the offline look-up would fail
    assert (checkpoint.name, checkpoint.revision) == ("630k-best.pt", HUB_REVISION)
    assert checkpoint.sha256 == CHECKPOINTS["630k-best"].sha256


# -- the hub's cache -------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache that this process's client uses."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def storage_of(cache: Path, repository: str) -> Path:
    return cache / ("models--" + repository.replace("/", "--"))


def put_in_cache(cache: Path, content: bytes, blob_name: str) -> Path:
    """Put a file of roberta-base at its branch `main` into the cache, as the client does; return the link."""
    storage = storage_of(cache, "roberta-base")
    for folder in ("refs", "blobs", f"snapshots/{COMMIT}"):
        (storage / folder).mkdir(parents=True)
    (storage / "refs" / "main").write_text(COMMIT)
    (storage / "blobs" / blob_name).write_bytes(content)
    link = storage / "snapshots" / COMMIT / "vocab.json"
    link.symlink_to(f"../../blobs/{blob_name}")
    return link


VOCAB = HubFile("roberta-base", "vocab.json", "main")


GIT_SHA1_OF_HELLO = "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"  # printf hello | git hash-object --stdin


SHA256_OF_HELLO = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"


@pytest.mark.parametrize("blob_name", [GIT_SHA1_OF_HELLO, SHA256_OF_HELLO], ids=["git's sha1", "sha256"])
def test_a_cached_file_is_compared_with_the_hash_that_its_blob_is_named_by(cache: Path, blob_name: str) -> None:
    link = put_in_cache(cache, b"hello", blob_name)
    assert cached_path(VOCAB, CACHE) == link
    link.resolve().write_bytes(b"hellO")
    assert cached_path(VOCAB, CACHE) is None
    assert not os.path.lexists(link)
    assert list((storage_of(cache, "roberta-base") / "blobs").iterdir()) == []


def test_a_copied_cache_without_links_is_taken_as_it_is(cache: Path) -> None:
    link = put_in_cache(cache, b"hello", SHA256_OF_HELLO)
    content = link.read_bytes()
    link.unlink()
    link.write_bytes(content)
    assert cached_path(VOCAB, CACHE) == link


def test_a_link_without_its_blob_is_no_file(cache: Path) -> None:
    link = put_in_cache(cache, b"hello", SHA256_OF_HELLO)
    link.resolve().unlink()
    assert cached_path(VOCAB, CACHE) is None


def test_a_partial_file_stays_while_another_process_is_writing_it(cache: Path) -> None:
    put_in_cache(cache, b"hello", SHA256_OF_HELLO)
    partial = storage_of(cache, "roberta-base") / "blobs" / f"{'0' * 64}.01234567.incomplete"
    partial.touch()
    lock_file = cache / ".locks" / "models--roberta-base" / f"{'0' * 64}.lock"
    lock_file.parent.mkdir(parents=True)
    with filelock.FileLock(lock_file):
        _remove_unfinished_downloads("roberta-base")
        assert partial.exists()
    _remove_unfinished_downloads("roberta-base")
    assert not partial.exists()


# -- the download, for real ------------------------------------------------------------------------------------------


@dataclass
class Client:
    """Where fetch_weights runs as a process of its own, with a cache of its own."""

    home: Path

    @property
    def cache(self) -> Path:
        return self.home / "hub"

    def environment(self, endpoint: str) -> dict[str, str]:
        """HubServer.environment for any endpoint, without its word on hf-xet: fetch_weights has to turn it off."""
        ours = {"HF_ENDPOINT": endpoint, "HF_HOME": str(self.home), "HF_HUB_CACHE": str(self.cache)}
        plain = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        ours["TEST_MODEL_CACHE"] = str(self.home / "model_cache")
        return {**plain, **ours, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}

    def start(self, endpoint: str, checkpoint: str = NAME, **variables: str) -> subprocess.Popen[str]:
        """Start fetching; a published checkpoint is expected to be `CHECKPOINT`."""
        sha256 = [CHECKPOINT_SHA256] if checkpoint in CHECKPOINTS else []
        command = [
            sys.executable,
            str(REPOSITORY / "tests" / "support" / "fetch_weights_driver.py"),
            checkpoint,
            *sha256,
        ]
        environment = {**self.environment(endpoint), **variables}
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)

    def fetch(self, endpoint: str, checkpoint: str = NAME, **variables: str) -> dict[str, Any]:
        """Fetch; return what the driver prints."""
        with self.start(endpoint, checkpoint, **variables) as process:
            stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
        answer: dict[str, Any] = json.loads(stdout)
        return answer

    def fetch_missing(self, endpoint: str, checkpoint: str = NAME, **variables: str) -> str:
        """Fetch, expecting `WeightsMissing` before the client's own retries (23 s) could begin; return its text."""
        answer = self.fetch(endpoint, checkpoint, **variables)
        assert answer["seconds"] < HUB_PROBE_S + 5
        return str(answer["missing"])

    def link(self, file: tuple[str, str]) -> Path:
        """Where a file of `FILES` is in the cache."""
        commit = HUB_REVISION if file == CHECKPOINT_FILE else COMMIT
        return storage_of(self.cache, file[0]) / "snapshots" / commit / file[1]

    def partial_files(self) -> list[Path]:
        return [path for path in self.cache.rglob("*.incomplete") if path.exists()]

    def assert_complete(self) -> None:
        """All files are there as the hub has them, and nothing else."""
        for file, content in FILES.items():
            assert self.link(file).read_bytes() == content, file
        blobs = [path for path in self.cache.glob("models--*/blobs/*") if path.is_file()]
        assert sorted(path.read_bytes() for path in blobs) == sorted(FILES.values())


def gets(requests: list[Request]) -> list[Request]:
    """The requests for the content of a file."""
    return [request for request in requests if request.method == "GET" and "/resolve/" in request.path]


def requested(hub: HubServer) -> list[str]:
    """The names of the files whose content was asked for, in order."""
    return [request.path.rpartition("/")[2] for request in gets(hub.requests)]


@pytest.fixture(scope="module")
def first_download(tmp_path_factory: pytest.TempPathFactory) -> tuple[Client, dict[str, Any], list[Request]]:
    """One undisturbed download into an empty cache: the client, its answer, and the requests that it made."""
    client = Client(tmp_path_factory.mktemp("first_download"))
    with HubServer(FILES) as hub:
        answer = client.fetch(hub.endpoint)
    return client, answer, hub.requests


FirstDownload = tuple[Client, dict[str, Any], list[Request]]


@pytest.fixture
def full(first_download: FirstDownload, tmp_path: Path) -> Client:
    """A client whose cache holds everything."""
    return Client(Path(shutil.copytree(first_download[0].home, tmp_path / "home", symlinks=True)))


@pytest.fixture
def without_checkpoint(full: Client) -> Client:
    """A client whose cache lacks the checkpoint alone."""
    shutil.rmtree(storage_of(full.cache, HUB_REPOSITORY))
    return full


@pytest.fixture
def empty(tmp_path: Path) -> Client:
    """A client with an empty cache."""
    return Client(tmp_path / "home")


@pytest.fixture
def closed_port() -> Iterator[str]:
    """The address of a server that is not there: the port is taken, and nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_all_that_is_missing_is_downloaded_after_one_probe(first_download: FirstDownload) -> None:
    client, answer, requests = first_download
    client.assert_complete()
    assert Path(answer["path"]) == client.link(CHECKPOINT_FILE)
    assert requests[0] == PROBE
    assert requests.count(PROBE) == 1
    assert len(gets(requests)) == len(FILES)


def test_after_a_download_the_client_is_offline_and_has_not_used_another_protocol(
    first_download: FirstDownload,
) -> None:
    _, answer, _ = first_download
    assert (answer["is_offline"], answer["uses_xet"]) == (True, False)


def test_with_all_in_the_cache_nothing_is_requested_and_the_client_is_offline(full: Client) -> None:
    with HubServer(FILES) as hub:
        answer = full.fetch(hub.endpoint)
    assert hub.requests == []
    assert Path(answer["path"]) == full.link(CHECKPOINT_FILE)
    assert answer["is_offline"]


def test_a_cached_checkpoint_of_gigabytes_is_hashed_once(full: Client) -> None:
    with HubServer({}) as hub:
        answer = full.fetch(hub.endpoint)
    assert answer["hashed"].count(f"{NAME}.pt") == 1


def test_a_checkpoint_of_ones_own_needs_the_text_model_alone(without_checkpoint: Client, tmp_path: Path) -> None:
    (tmp_path / "mine.pt").write_bytes(b"\x80weights")
    with HubServer({}) as hub:
        answer = without_checkpoint.fetch(hub.endpoint, str(tmp_path / "mine.pt"))
    assert answer["path"] == str(tmp_path / "mine.pt")
    assert hub.requests == []


def test_a_download_that_is_cut_off_is_resumed(without_checkpoint: Client) -> None:
    with HubServer(FILES) as hub:
        hub.cut(*CHECKPOINT_FILE)
        without_checkpoint.fetch(hub.endpoint)
    assert [request.range for request in gets(hub.requests)] == [None, f"bytes={10 * MIB}-"]
    without_checkpoint.assert_complete()


def test_a_download_that_is_cut_off_every_time_leaves_no_partial_file(without_checkpoint: Client) -> None:
    with HubServer(FILES) as hub:
        hub.cut(*CHECKPOINT_FILE, times=1000)
        answer = without_checkpoint.fetch(hub.endpoint)
    assert f"{NAME}.pt (1.9 GB) cannot be downloaded" in answer["missing"]
    assert without_checkpoint.partial_files() == []
    assert not os.path.lexists(without_checkpoint.link(CHECKPOINT_FILE))


def test_a_killed_download_is_started_again_and_leaves_no_partial_file(without_checkpoint: Client) -> None:
    with HubServer(FILES) as hub:
        hub.slow_down(bytes_per_s=24 * MIB)
        process = without_checkpoint.start(hub.endpoint)
        deadline_s = time.monotonic() + 30
        while not any(path.stat().st_size for path in without_checkpoint.partial_files()):
            assert time.monotonic() < deadline_s, "nothing was written in 30 s"
            time.sleep(0.02)
        process.kill()
        process.communicate()
        assert without_checkpoint.partial_files()  # else this test shows nothing
        assert not os.path.lexists(without_checkpoint.link(CHECKPOINT_FILE))
        hub.bytes_per_s = None
        without_checkpoint.fetch(hub.endpoint)
    assert without_checkpoint.partial_files() == []
    without_checkpoint.assert_complete()


def assert_gone(client: Client, file: tuple[str, str]) -> None:
    """Neither a link nor a blob nor a part of `file` is in the cache."""
    assert not os.path.lexists(client.link(file))
    blobs = list((storage_of(client.cache, file[0]) / "blobs").iterdir())
    assert hashlib.sha256(FILES[file]).hexdigest() not in [path.name for path in blobs]
    assert len(FILES[file]) not in [path.stat().st_size for path in blobs]


@pytest.mark.parametrize("file", [CHECKPOINT_FILE, ROBERTA_FILE], ids=["checkpoint", "roberta-base"])
def test_a_file_that_comes_with_a_wrong_hash_is_removed_and_the_next_try_has_a_good_one(
    full: Client, file: tuple[str, str]
) -> None:
    full.link(file).resolve().unlink()
    full.link(file).unlink()
    with HubServer(FILES) as hub:
        hub.flip_a_byte(*file)
        text = full.fetch_missing(hub.endpoint)
        assert file[1] in text
        assert "came with a wrong hash and was removed; run again" in text
        assert_gone(full, file)
        hub.flipped.clear()
        full.fetch(hub.endpoint)
        assert requested(hub) == [file[1]] * 2
    full.assert_complete()


def test_a_checkpoint_that_was_replaced_on_the_hub_is_not_taken(without_checkpoint: Client) -> None:
    others = {**FILES, CHECKPOINT_FILE: CHECKPOINT[::-1]}
    with HubServer(others) as hub:  # its ETag fits its content
        text = without_checkpoint.fetch_missing(hub.endpoint)
    assert "came with a wrong hash" in text
    assert_gone(without_checkpoint, CHECKPOINT_FILE)


def test_what_was_good_is_kept_when_a_later_file_fails(empty: Client) -> None:
    with HubServer(FILES) as hub:
        hub.flip_a_byte(*CHECKPOINT_FILE)
        empty.fetch_missing(hub.endpoint)
        hub.flipped.clear()
        hub.requests.clear()
        empty.fetch(hub.endpoint)
        assert requested(hub) == [CHECKPOINT_FILE[1]]
    empty.assert_complete()


def test_bad_files_in_the_cache_are_removed_and_downloaded_again(full: Client) -> None:
    bad = [("facebook/bart-base", "vocab.json"), ROBERTA_FILE, CHECKPOINT_FILE]
    for file in bad:
        blob = full.link(file).resolve()
        blob.write_bytes(FILES[file][:-1] + b"!")
    with HubServer(FILES) as hub:
        full.fetch(hub.endpoint)
    assert sorted(requested(hub)) == sorted(name for _, name in bad)
    full.assert_complete()


# -- where no hub can be reached -------------------------------------------------------------------------------------


def assert_tells_all(text: str, client: Client, files: Collection[tuple[str, str]] = tuple(FILES)) -> None:
    """The message names each missing file, where it would go, and the ways out."""
    lines = text.splitlines()
    for repository, name in files:
        assert any(line.startswith(f"  {repository}/{name}") for line in lines), name
    assert sum(line.startswith("  ") and ", revision " in line for line in lines) == len(files)
    assert f"They belong in {client.cache} " in text
    assert "No file was touched" in text
    for way_out in WAYS_OUT:
        assert way_out in text


def test_a_hub_that_refuses_is_asked_once(empty: Client) -> None:
    with HubServer(FILES) as hub:
        hub.refuse()
        text = empty.fetch_missing(hub.endpoint)
    assert hub.requests == [PROBE]
    assert f"{hub.endpoint} answers 503" in text
    assert_tells_all(text, empty)


def test_a_hub_that_is_not_there_is_told_at_once(empty: Client, closed_port: str) -> None:
    answer = empty.fetch(closed_port)
    assert answer["seconds"] < 5
    assert f"{closed_port} does not answer" in answer["missing"]
    assert_tells_all(answer["missing"], empty)


def test_a_hub_that_never_answers_is_given_five_seconds(empty: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        text = empty.fetch_missing(endpoint)
        silent.settimeout(0)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):  # one connection only
            silent.accept()
    assert f"{endpoint} does not answer" in text
    assert_tells_all(text, empty)


def test_a_file_that_the_hub_does_not_have_is_told_without_retries(without_checkpoint: Client) -> None:
    with HubServer(TEXT_MODEL) as hub:
        text = without_checkpoint.fetch_missing(hub.endpoint)
    assert len(hub.requests) <= 3
    assert f"{NAME}.pt (1.9 GB) cannot be downloaded" in text
    assert_tells_all(text, without_checkpoint, [CHECKPOINT_FILE])


def test_only_what_is_missing_is_named(without_checkpoint: Client, closed_port: str) -> None:
    text = without_checkpoint.fetch_missing(closed_port)
    assert_tells_all(text, without_checkpoint, [CHECKPOINT_FILE])
    assert f"{NAME}.pt (1.9 GB), revision {HUB_REVISION}" in text


def test_with_a_checkpoint_of_ones_own_the_text_model_is_named(empty: Client, closed_port: str, tmp_path: Path) -> None:
    (tmp_path / "mine.pt").write_bytes(b"\x80weights")
    text = empty.fetch_missing(closed_port, str(tmp_path / "mine.pt"))
    assert_tells_all(text, empty, tuple(TEXT_MODEL))


def test_a_client_that_is_told_to_be_offline_asks_nobody(empty: Client) -> None:
    with HubServer(FILES) as hub:
        answer = empty.fetch(hub.endpoint, HF_HUB_OFFLINE="1")
    assert hub.requests == []
    assert answer["seconds"] < 5
    assert "HF_HUB_OFFLINE is set" in answer["missing"]
    assert_tells_all(answer["missing"], empty)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_run_without_weights_ends_with_3_and_touches_no_file(full_workplace: Workplace, closed_port: str) -> None:
    client = Client(full_workplace.folder / "home")
    before = contents(full_workplace.input)
    result = subprocess.run(
        [sys.executable, str(REPOSITORY / "prepare_dataset_sql.py"), *full_workplace.flags()],
        cwd=full_workplace.folder,
        env=client.environment(closed_port),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 3, result.stderr
    # The client would retry for 23 s per file, and says so.
    assert "Retrying in" not in result.stderr + full_workplace.log_file.read_text(encoding="utf-8")
    assert result.stdout == ""
    error = result.stderr[result.stderr.index("error: ") :]
    assert_tells_all(error, client)
    assert "Traceback" not in error
    assert contents(full_workplace.input) == before
    assert full_workplace.rows() == full_workplace.rows("SELECT * FROM quarantined") == []
    assert full_workplace.quarantined() == []
    wavs = full_workplace.wavs.rglob("*.wav")
    assert [wav for wav in wavs if SCRATCH not in wav.parts] == []  # the self-test may have left half a one
