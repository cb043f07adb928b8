"""Cores and memory, also in containers."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from audio_files import long_silence, write_tone
from config_helpers import config_file
from patching import replace_name
from pools import linux_only, run_with
from stem_dataset.config import Config
from stem_dataset.resources import MIN_WORKER_MEMORY_MB, usable_cores, usable_memory_bytes, worker_memory_bytes
from workplace import REPOSITORY, Workplace


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse names that are not Unicode")
def test_paths_of_bytes_that_are_no_text_work(tmp_path: Path) -> None:
    place = Workplace(tmp_path / os.fsdecode(b"caf\xe9"))  # the input's, and every output's
    write_tone(place.input / "kick.wav")
    first = place.execute()
    assert first.returncode == 0, first.stderr
    assert [row["original_file"] for row in place.rows()] == [os.fspath(place.input / "kick.wav")]
    assert Path(place.rows()[0]["path"]).is_file()
    assert place.execute("--dry-run").stdout == ""


# -- cores ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@dataclasses.dataclass
class FakeLinux:
    """A /proc and a /sys/fs/cgroup of our own."""

    folder: Path

    def write(self, name: str, content: str | bytes) -> None:
        config_file((self.folder / name).parent, content, Path(name).name)

    def write_all(self, membership: str, limits: dict[str, str]) -> None:
        self.write("proc/self/cgroup", membership)
        for name, text in limits.items():
            self.write(f"cgroup/{name}", text)

    def cores(self) -> int:
        return usable_cores(self.folder / "proc", self.folder / "cgroup")


@pytest.fixture
def linux(tmp_path: Path, eight_cores: None) -> FakeLinux:
    return FakeLinux(tmp_path)


V2 = "0::/pod/container\n"


V1 = "12:cpuset:/elsewhere\n4:cpu,cpuacct:/docker/1:2\n1:name=systemd:/x\n0::/\n"


@pytest.mark.parametrize(
    ("membership", "quotas", "cores"),
    [
        (V2, {}, 8),
        (V2, {"pod/container/cpu.max": "max 100000"}, 8),
        (V2, {"pod/container/cpu.max": "300000 100000\n"}, 3),
        (V2, {"pod/container/cpu.max": "max 100000", "pod/cpu.max": "200000 100000"}, 2),
        (V2, {"pod/container/cpu.max": "400000 100000", "pod/cpu.max": "200000 100000", "cpu.max": "max 1"}, 2),
        ("0::/\n", {"cpu.max": "200000 100000"}, 2),  # in a container with a cgroup namespace of its own
        (V2, {"pod/container/cpu.max": "1600000 100000"}, 8),  # more than the affinity
        (V2, {"pod/container/cpu.max": "150000 100000"}, 2),
        (V2, {"pod/container/cpu.max": "10000 100000"}, 1),
        (V1, {}, 8),
        (V1, {"cpu/docker/1:2/cpu.cfs_quota_us": "-1", "cpu/docker/1:2/cpu.cfs_period_us": "100000"}, 8),
        (V1, {"cpu/docker/1:2/cpu.cfs_quota_us": "250000\n", "cpu/docker/1:2/cpu.cfs_period_us": "100000\n"}, 3),
        (V1, {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "50000"}, 1),  # docker's view from inside
        (V1, {"cpu/elsewhere/cpu.cfs_quota_us": "50000", "cpu/elsewhere/cpu.cfs_period_us": "50000"}, 8),
        (V1, {"cpu/cpu.cfs_quota_us": "50000"}, 8),  # half the truth
    ],
)
def test_cores_are_those_of_the_affinity_or_of_the_smallest_quota_rounded_up(
    linux: FakeLinux, membership: str, quotas: dict[str, str], cores: int
) -> None:
    linux.write_all(membership, quotas)
    assert linux.cores() == cores


@pytest.mark.parametrize("text", [b"", b"\n", b"100000", b"a b", b"1 2 3", b"0 0", b"100000 0", b"-5 -5", b"\xff \xff"])
def test_a_quota_that_makes_no_sense_is_none(linux: FakeLinux, text: bytes) -> None:
    linux.write("proc/self/cgroup", V2)
    linux.write("cgroup/pod/container/cpu.max", text)
    assert linux.cores() == 8


@pytest.mark.parametrize("membership", [b"", b"nonsense", b":", b"0::/../../\xff\n", b"\xff\n\n"])
def test_a_membership_that_makes_no_sense_leaves_the_affinity(linux: FakeLinux, membership: bytes) -> None:
    linux.write("proc/self/cgroup", membership)
    assert linux.cores() == 8


def test_a_quota_that_cannot_be_read_is_none(linux: FakeLinux) -> None:
    linux.write("proc/self/cgroup", V2)
    (linux.folder / "cgroup" / "pod" / "container" / "cpu.max").mkdir(parents=True)
    assert linux.cores() == 8


V1_MEMORY = "9:memory:/docker/1:2\n4:cpu:/elsewhere\n0::/\n"


UNLIMITED = "9223372036854771712\n"  # of v1


@pytest.mark.skipif(sys.platform != "linux", reason="asked on Linux alone")
@pytest.mark.parametrize(
    ("membership", "limits", "memory_mb"),
    [
        (V2, {}, 16_000),
        (V2, {"pod/container/memory.max": "max\n"}, 16_000),
        (V2, {"pod/container/memory.max": "4000000000\n"}, 4_000),
        (V2, {"pod/container/memory.max": "4000000000", "pod/memory.max": "3000000000"}, 3_000),
        (V2, {"pod/container/memory.max": "64000000000"}, 16_000),
        (V2, {"pod/container/memory.max": "a lot"}, 16_000),
        (V1_MEMORY, {"memory/docker/1:2/memory.limit_in_bytes": UNLIMITED}, 16_000),
        (V1_MEMORY, {"memory/docker/1:2/memory.limit_in_bytes": "2000000000\n"}, 2_000),
        (V1_MEMORY, {"memory/memory.limit_in_bytes": "1000000000"}, 1_000),  # docker's view from inside
        (V1_MEMORY, {"memory/elsewhere/memory.limit_in_bytes": "5"}, 16_000),
    ],
)
def test_memory_is_the_machines_or_the_smallest_limit(
    linux: FakeLinux, membership: str, limits: dict[str, str], memory_mb: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 4_000_000, "SC_PAGE_SIZE": 4_000}.__getitem__)
    linux.write_all(membership, limits)
    assert usable_memory_bytes(linux.folder / "proc", linux.folder / "cgroup") == memory_mb * 10**6


@pytest.mark.parametrize(("count", "cores"), [(6, 6), (None, 1)])
def test_macos_and_windows_have_neither_affinity_nor_cgroups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int | None, cores: int
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    assert FakeLinux(tmp_path).cores() == cores


@linux_only
def test_a_file_of_64_windows_fits_the_least_limit(workplace: Workplace) -> None:
    long_silence(workplace.input / "eleven_minutes.flac", 11 / 60)
    settings = f"worker_memory_mb: {MIN_WORKER_MEMORY_MB}\nmax_windows: 64\n"
    (workplace.folder / "config.yaml").write_text(settings, encoding="utf-8")
    exit_code, account, stderr = run_with(workplace, {"measure": True})
    assert (exit_code, account["inserted"]) == (0, 1), stderr
    assert "tried again" not in stderr


@pytest.mark.parametrize(
    ("memory_bytes", "workers", "asked_mb", "expected_mb"),
    [
        (8 * 10**9, 8, 0, 500),  # half the memory, shared
        (64 * 10**9, 4, 0, 1_024),
        (2 * 10**9, 16, 0, 384),
        (8 * 10**9, 8, 700, 700),
    ],
)
@linux_only
def test_a_workers_memory_is_its_share_within_bounds_or_what_is_asked(
    monkeypatch: pytest.MonkeyPatch, memory_bytes: int, workers: int, asked_mb: int, expected_mb: int
) -> None:
    replace_name(monkeypatch, "usable_memory_bytes", lambda: memory_bytes)
    config = Config(workers=workers, worker_memory_mb=asked_mb)
    assert worker_memory_bytes(config) == expected_mb * 10**6


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_macos_and_windows_have_no_limit_of_memory(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert worker_memory_bytes(Config()) is None


@linux_only
def test_a_library_is_loaded_beyond_the_limit_and_leaves_as_much_room_as_there_was() -> None:
    code = (
        "import mmap, resource\n"
        "from stem_dataset.resources import beyond_the_memory_limit\n"
        "from stem_dataset.workers.worker import limit_memory\n"
        "limit_memory(50 * 2**20)\n"
        "with beyond_the_memory_limit():\n"
        "    import av\n"
        "mmap.mmap(-1, 40 * 2**20)\n"
        "try:\n"
        "    mmap.mmap(-1, 100 * 2**20)\n"
        "except OSError:\n"
        "    print('limited')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "limited\n"), done.stderr
