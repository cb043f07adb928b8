"""Cores and memory that this process and its workers may use."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from stem_dataset.config import Config

# Windows cannot wait for more processes at once.
MAX_WORKERS = 61 if sys.platform == "win32" else 256
# 100 MB are enough for a stem, 288 for one of 64 windows. No healthy file needs the maximum.
MIN_WORKER_MEMORY_MB = 384
MAX_WORKER_MEMORY_MB = 1_024


def usable_cores(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the number of cores this process may use.

    Its affinity and its container's CPU quota may allow fewer than the machine has. A quota of 1.5 cores counts as 2.
    One process too many is slowed down to the quota; one too few would leave part of the quota unused.
    """
    # Only Linux has sched_getaffinity.
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([affinity, *map(math.ceil, _cpu_quotas(proc, cgroups))])


def _cpu_quotas(proc: Path, cgroups: Path) -> Iterator[float]:
    """Yield the CPU quotas, in cores, that apply to this process.

    They are those of its cgroup and of all cgroups above it (Linux only). cgroup v2 has `cpu.max`: "150000 100000" or
    "max 100000". The `cpu` controller of v1 has two files with the same numbers; -1 means no quota.
    https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files
    """
    for folder in _cgroup_folders("cpu", proc, cgroups):
        for names in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
            # Fails for the other version, for "max", and for a format that we do not know.
            with contextlib.suppress(OSError, ValueError):
                quota_us, period_us = map(int, " ".join((folder / name).read_text() for name in names).split())
                if min(quota_us, period_us) > 0:
                    yield quota_us / period_us


def usable_memory_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how much memory this process may use (Linux only).

    It is the machine's memory, or the limit of a container. cgroup v2 has `memory.max`: "4294967296" or "max"; v1 has
    `memory.limit_in_bytes`.
    """
    bounds = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for folder in _cgroup_folders("memory", proc, cgroups):
        for name in ("memory.max", "memory.limit_in_bytes"):
            # Fails for the other version, for "max", and for a format that we do not know.
            with contextlib.suppress(OSError, ValueError):
                bounds.append(int((folder / name).read_text()))
    return min(bounds)


def inference_threads() -> int:
    """Return how many threads CLAP may use.

    It is OMP_NUM_THREADS if that is set, as it is in Dask's workers, else all cores.
    """
    text = os.environ.get("OMP_NUM_THREADS", "")
    return int(text) if text.isdecimal() and int(text) else usable_cores()


def worker_memory_bytes(config: Config) -> int | None:
    """Return how much memory a worker may use for its file.

    It is None if the system cannot limit it. macOS has RLIMIT_AS but ignores it; Windows has no such limit.
    """
    if sys.platform != "linux":
        return None
    share_mb = usable_memory_bytes() // 2 // usable_workers(config) // 10**6
    return 10**6 * (config.worker_memory_mb or min(max(share_mb, MIN_WORKER_MEMORY_MB), MAX_WORKER_MEMORY_MB))


@contextlib.contextmanager
def beyond_the_memory_limit() -> Iterator[None]:
    """Raise this process's memory limit, if any, by what the `with` block loads.

    Otherwise a library would count as memory of the first file that needs it, and could fail to load.
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
    """Return how many worker processes `config` asks for, within what the system allows."""
    return min(config.workers or usable_cores(), MAX_WORKERS)


def _cgroup_folders(controller: str, proc: Path, cgroups: Path) -> Iterator[Path]:
    """Yield the folders of this process's cgroup and those above it.

    The lines have the form "0::/path" or "4:cpu,…:/path".
    """
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
