"""Cores and memory that this process and its workers may use."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from stem_dataset.config import Config

MAX_WORKERS = 61 if sys.platform == "win32" else 256  # Windows cannot wait for more processes at once
MIN_WORKER_MEMORY_MB = 384  # 100 are enough for a stem, 288 for one of 64 windows ...
MAX_WORKER_MEMORY_MB = 1_024  # ... and nothing that is healthy needs as much


def usable_cores(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the number of cores this process may use: fewer than the machine has, where its affinity or a container's
    quota of CPU time says so.

    A quota of 1.5 cores counts as 2: one process too many is slowed down to the quota, one too few would leave a part
    of it unused.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # Linux only
    return min([affinity, *map(math.ceil, _cpu_quotas(proc, cgroups))])


def _cpu_quotas(proc: Path, cgroups: Path) -> Iterator[float]:
    """Yield each quota, in cores, that holds for this process: its own cgroup's and those of all above (Linux only).

    Read are `cpu.max` of cgroup v2, "150000 100000" or "max 100000", and the two files of v1's `cpu` controller that
    say the same, with -1 for no quota. https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files
    """
    for folder in _cgroup_folders("cpu", proc, cgroups):
        for names in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
            with contextlib.suppress(OSError, ValueError):  # the other version, no quota, or nothing we understand
                quota_us, period_us = map(int, " ".join((folder / name).read_text() for name in names).split())
                if min(quota_us, period_us) > 0:
                    yield quota_us / period_us


def usable_memory_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the memory that this process may use (Linux only): the machine's, or less in a container that says so, by
    `memory.max` of cgroup v2, "4294967296" or "max", or `memory.limit_in_bytes` of v1."""
    bounds = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for folder in _cgroup_folders("memory", proc, cgroups):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):  # the other version, no limit, or nothing we understand
                bounds.append(int((folder / name).read_text()))
    return min(bounds)


def inference_threads() -> int:
    """Return how many threads CLAP may take: OMP_NUM_THREADS, where it is set (Dask sets 1 for each of its workers)."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    return int(text) if text.isdecimal() and int(text) else usable_cores()


def worker_memory_bytes(config: Config) -> int | None:
    """Return how much memory a worker may take for its file, or None where there is no way to limit it.

    macOS has RLIMIT_AS and does not heed it; Windows has none.
    """
    if sys.platform != "linux":
        return None
    share_mb = usable_memory_bytes() // 2 // usable_workers(config) // 10**6
    return 10**6 * (config.worker_memory_mb or min(max(share_mb, MIN_WORKER_MEMORY_MB), MAX_WORKER_MEMORY_MB))


@contextlib.contextmanager
def beyond_the_memory_limit() -> Iterator[None]:
    """Load libraries: the addresses that they take are added to this process's limit, if it has one.

    They are no memory of the file that needs them first, and what lacks room would fail as a broken installation.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        yield
        return
    before = _address_bytes()
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    try:
        yield
    finally:
        limit = soft + _address_bytes() - before
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _address_bytes() -> int:
    import resource

    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()


def usable_workers(config: Config) -> int:
    """Return how many worker processes `config` asks for."""
    return min(config.workers or usable_cores(), MAX_WORKERS)


def _cgroup_folders(controller: str, proc: Path, cgroups: Path) -> Iterator[Path]:
    """Yield the folders of this process's cgroups and of all above them, from lines "0::/path" or "4:cpu,…:/path"."""
    try:
        lines = (proc / "self" / "cgroup").read_text(errors="surrogateescape").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        controllers, _, path = line.partition(":")[2].partition(":")
        if not controllers or controller in controllers.split(","):
            parts = path.strip("/").split("/")
            root = cgroups / controller if controllers else cgroups
            yield from (root.joinpath(*parts[:depth]) for depth in range(len(parts) + 1))
