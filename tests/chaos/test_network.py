"""Four hosts of a cluster with addresses of their own, one of which is cut off in mid-run: `make chaos`, as root."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from audio_files import write_tone
from dask_cluster import Cluster, cluster, wait_for
from extent import LONG
from workplace import REPOSITORY, Workplace

FILES = 60
HOSTS = 4


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Network:
    """Hosts that are network namespaces, each with a cable to a switch, which is one too; nothing else is reached."""

    def __init__(self, name: str) -> None:
        self.switch = f"{name}switch"
        self.hosts = [f"{name}host{number}" for number in range(HOSTS)]

    def make(self) -> None:
        ip("netns", "add", self.switch)
        ip("-n", self.switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", self.switch, "link", "set", "bridge", "up")
        for number, host in enumerate(self.hosts):
            ip("netns", "add", host)
            ip(
                "-n",
                host,
                "link",
                "add",
                "cable",
                "type",
                "veth",
                "peer",
                "name",
                f"port{number}",
                "netns",
                self.switch,
            )
            ip("-n", self.switch, "link", "set", f"port{number}", "master", "bridge", "up")
            ip("-n", host, "address", "add", f"{self.address(number)}/24", "dev", "cable")
            for device in ("lo", "cable"):
                ip("-n", host, "link", "set", device, "up")

    def remove(self) -> None:
        for namespace in (*self.hosts, self.switch):
            subprocess.run(["ip", "netns", "delete", namespace], check=False, capture_output=True)

    def address(self, number: int) -> str:
        return f"10.77.0.{number + 1}"

    def on(self, number: int) -> list[str]:
        """Return the start of a command that is run on a host."""
        return ["ip", "netns", "exec", self.hosts[number]]

    def plug(self, number: int, state: str) -> None:
        """Plug a host's cable in ("up") or out ("down"), at the switch."""
        ip("-n", self.switch, "link", "set", f"port{number}", state)


@pytest.fixture
def network() -> Iterator[Network]:
    if shutil.which("ip") is None:
        pytest.skip("makes network namespaces by `ip`, of iproute2")
    made = Network(f"stems{os.getpid()}")
    try:
        made.make()
    except subprocess.CalledProcessError as error:
        made.remove()
        pytest.skip(f"no network namespaces can be made here: {error.stderr.decode().strip()}")
    try:
        yield made
    finally:
        made.remove()


@contextlib.contextmanager
def cluster_on(network: Network, folder: Path) -> Iterator[Cluster]:
    """A scheduler on the first host, and a worker on each of the others."""
    with cluster(folder, host=network.address(0), through=network.on(0)) as made:
        for number in range(1, HOSTS):
            made.start(through=network.on(number), faults={"slow_file_s": 0.3})
        for worker in made.workers:
            wait_for(worker.log_file, "Registered to:")
        yield made


@pytest.mark.skipif(not LONG, reason="half a minute, as root: `make chaos`")
@pytest.mark.parametrize("embed_on", ["driver", "workers"])
def test_a_host_that_is_cut_off_costs_no_file(
    network: Network, workplace: Workplace, tmp_path: Path, embed_on: str
) -> None:
    for number in range(FILES):
        write_tone(workplace.input / f"{number:02d}.wav", 200 + 10 * number, 0.1 + number / 200)
    with cluster_on(network, tmp_path / "dask") as made:
        command = [
            *network.on(0),
            sys.executable,
            str(REPOSITORY / "tests" / "support" / "driver.py"),
            *workplace.flags(),
        ]
        flags = ["--scheduler", made.address, "--embed-on", embed_on, "--batch-windows", "4", "--report", "report.json"]
        with subprocess.Popen([*command, *flags], cwd=workplace.folder, stderr=subprocess.PIPE, text=True) as process:
            while process.poll() is None and (not workplace.database.exists() or len(rows_of(workplace)) < 4):
                time.sleep(0.1)
            network.plug(3, "down")
            before = len(rows_of(workplace))
            stderr = process.communicate(timeout=120)[1]
        account = json.loads((workplace.folder / "report.json").read_text(encoding="utf-8"))
        assert process.returncode == 0, stderr
        assert before < FILES
        assert (account["inserted"], account["quarantined"], account["failed"]) == (FILES, 0, 0)
        rows = rows_of(workplace)
        assert sorted(rows) == sorted(f"{number:02d}.wav" for number in range(FILES))
        network.plug(3, "up")
        time.sleep(5)  # it goes on with what it had
        assert rows_of(workplace) == rows
        assert workplace.quarantined() == []


def rows_of(workplace: Workplace) -> list[str]:
    try:
        return workplace.originals()
    except Exception:  # no table yet
        return []
