"""What a large library costs beside decoding and the model: python benchmarks/bench_scale.py WHAT, of which there are

    insert  --rows rows through `DatasetPreparer._insert_meta` alone: rows a second of each part, the file's size, and
            then how long it takes to ask for them (5 GB of disk a million)
    rerun   the second run over --files known files each, by the command line: seconds and peak memory
    intake  results a second that a driver takes in from 1 to 8 Dask workers
    memory  the first run over --files tiny files each, with a fake model: peak memory of all its processes together

All that is written is written to a folder of its own, which is removed (--folder chooses where it lies).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import random
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench_intake import bench_intake
from bench_run import REPOSITORY, measure

sys.path.insert(0, str(REPOSITORY))

import prepare_dataset_sql as product
from stem_dataset.config import Config, load_config
from stem_dataset.database.stems import Database
from stem_dataset.datatypes import EMBEDDING_SIZE, Provenance, StemMetadata, StemRecord
from stem_dataset.files import size_and_mtime_ns
from stem_dataset.music.key import KEY_NAMES
from stem_dataset.output_folders import stem_id_of

PACKS = ("Cymatics - Titan", "Lo-Fi Techno 2", "Songwriter Vol 1", "Daybreak", "Footwork", "Modular Techno 2")
FILES_A_FOLDER = 200  # as sample packs have them
SEED = 2026
IMPORTED_AT = "2026-01-01T00:00:00.000000+00:00"
MODEL = "630k-audioset-best@b98aae5cf2fa/f32/10s-max8"
PROVENANCE = Provenance(
    embedding_model=MODEL,
    engine="none/benchmark",
    versions="{}",
    checkpoint="630k-audioset-best",
    checkpoint_sha256="0" * 64,
    architecture="HTSAT-tiny",
    precision="f32",
    window_rule="10s-max8",
    reference_vector=np.full(EMBEDDING_SIZE, EMBEDDING_SIZE**-0.5, "<f4").tobytes(),
    first_used_at=IMPORTED_AT,
)


# -- rows as the program writes them ----------------------------------------------------------------------------------


def paths(root: Path) -> Iterator[tuple[str, str]]:
    """Yield, without end, paths of 80 to 120 bytes in the order of the walk, with the category that each names."""
    categories = sorted(load_config(REPOSITORY / "config.yaml", {}).categories)
    for folder in range(10**9):
        pack, category = PACKS[folder % len(PACKS)], categories[folder % len(categories)]
        name = f"{root}/{folder // 1_000:04} Collection/{folder:07} {pack}/{category}"
        for number in range(FILES_A_FOLDER):
            yield f"{name}/{pack.replace(' ', '')}_{category}_{number:03}_dry.wav".ljust(80, "x"), category


def rows(root: Path, count: int, batch: int) -> Iterator[list[StemRecord]]:
    """Yield batches of invented rows that are as large as real ones; two rows may have the same features."""
    dice, vector_dice = random.Random(SEED), np.random.default_rng(SEED)
    kinds = [Kind(dice) for _ in range(2_000)]
    names = paths(root)
    for start in range(0, count, batch):
        size = min(batch, count - start)
        vectors = vector_dice.standard_normal((size, EMBEDDING_SIZE), np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        yield [
            StemRecord(metadata(*next(names), dice.choice(kinds), dice), IMPORTED_AT, vector.tobytes(), MODEL)
            for vector in vectors.astype("<f4")
        ]


def metadata(path: str, category: str, kind: Kind, dice: random.Random) -> StemMetadata:
    digest = dice.randbytes(32).hex()
    stem_id = stem_id_of(path, digest)
    return StemMetadata(
        id=stem_id,
        original_file=path,
        path=f"/home/me/processed_database/stems/{stem_id[:2]}/{stem_id}.wav",
        sha256=digest,
        samples_sha256=dice.randbytes(32).hex(),
        size_bytes=dice.randrange(10_000, 2_000_000),
        mtime_ns=1_700_000_000_000_000_000 + dice.randrange(10**17),
        duration_s=dice.random() * 8,
        sample_rate_hz=44_100,
        channels=2,
        bpm=kind.bpm,
        key=kind.key,
        category=category,
        tags='["a dark sound", "punchy", "distorted"]',
        features=kind.features,
        quality_ok=int(dice.random() < 0.97),
    )


class Kind:
    """A tempo and a key, which half of the stems have, and features of the length that they have with eight tempi and
    24 keys."""

    def __init__(self, dice: random.Random) -> None:
        is_loop, has_key = dice.random() < 0.5, dice.random() < 0.5
        self.bpm = round(dice.gauss(125, 20), dice.randrange(2)) if is_loop else None  # whole ones: from names
        self.key = dice.choice(KEY_NAMES) if has_key else None
        features: dict[str, Any] = {
            **{"spectral_centroid": dice.random() * 4e3, "zero_crossing_rate": dice.random(), "rms": dice.random()},
            **{"spectral_rolloff": dice.random() * 1e4, "spectral_bandwidth": dice.random() * 1e3},
            **{"peak_dbfs": -9 * dice.random(), "loudness_lufs": -30 * dice.random()},
            "tempo_candidates": [[round(60 + 120 * dice.random(), 4), *rounded(dice, 2)] for _ in range(8)],
            "key_confidences": rounded(dice, 24),
            **{"pitch_hz": None, "quality_issues": []},
            **{"is_loop": is_loop, "bpm_source": "audio" if is_loop else None, "bpm_confidence": dice.random()},
            **{"key_source": "audio" if has_key else None, "key_confidence": dice.random() if has_key else None},
            **{"category_source": "name", "category_cosine": None},
        }
        self.features = json.dumps(features)


def rounded(dice: random.Random, count: int) -> list[float]:
    return [round(dice.random(), 4) for _ in range(count)]


# -- insert -----------------------------------------------------------------------------------------------------------


def preparer_in(folder: Path) -> product.DatasetPreparer:
    """Return a preparer with an open database, as it is when the first batch has been embedded."""
    config = Config(
        input=folder,
        database=folder / "stems.db",
        stems=folder / "stems",
        quarantine=folder / "quarantine",
        log_file=folder / "log",
    )
    preparer = product.DatasetPreparer(config, show_progress=False)
    preparer.database = Database(config.database)
    preparer.session.provenance, preparer.session.embedding_model = PROVENANCE, MODEL
    return preparer


def bench_insert(folder: Path, options: argparse.Namespace) -> None:
    """Insert, and print a line a part; then ask."""
    preparer = preparer_in(folder)
    database = preparer.config.database
    print(f"{'rows':>10} {'rows/s':>9} {'CPU, µs a row':>14} {'file, MB':>9} {'slowest batch, ms':>18}")
    part_s, cpu_s, part_rows, slowest_s = 0.0, 0.0, 0, 0.0
    for batch in rows(folder, options.rows, options.batch):
        preparer.unsettled = {record.metadata.original_file for record in batch}
        started, cpu_started = time.perf_counter(), time.thread_time()
        preparer._insert_meta(batch)
        batch_s, batch_cpu_s = time.perf_counter() - started, time.thread_time() - cpu_started
        part_s, cpu_s, slowest_s = part_s + batch_s, cpu_s + batch_cpu_s, max(slowest_s, batch_s)
        part_rows, total = part_rows + len(batch), preparer.summary.inserted
        if part_rows >= options.part or total == options.rows:
            line = f"{total:10,} {part_rows / part_s:9,.0f} {cpu_s * 1e6 / part_rows:14,.0f}"
            print(f"{line} {database.stat().st_size / 1e6:9,.0f} {slowest_s * 1e3:18,.0f}", flush=True)
            part_s, cpu_s, part_rows, slowest_s = 0.0, 0.0, 0, 0.0
    print(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")
    started = time.perf_counter()
    preparer.database.close()
    print(f"close (the last checkpoint): {time.perf_counter() - started:.2f} s")
    ask(database)


def ask(path: Path) -> None:
    """Print how long each question takes, and what it finds: the median of as many as fit into a second."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        names = [name for (name,) in database.execute("SELECT original_file FROM stems WHERE rowid % 9973 = 1")]
        digests = [digest for (digest,) in database.execute("SELECT sha256 FROM stems WHERE rowid % 9973 = 2")]
        (category,) = database.execute("SELECT category FROM stems LIMIT 1").fetchone()
        for what, query, values in (
            ("by path", "SELECT * FROM stems WHERE original_file = ?", names),
            ("by sha256 (a copy's)", "SELECT id, original_file FROM stems WHERE sha256 = ?", digests),
            ("by category and tempo", BY_CATEGORY_AND_TEMPO, [category]),
            ("loops by keys and tempo (docs)", docs_query("key IN"), [None]),
            ("dark kicks (docs)", docs_query("'kick' AND json_extract"), [None]),
            ("all that needs a listen (docs)", docs_query("quality_ok = 0"), [None]),
            ("what a run asks: path, size, mtime of all", RESUME, [None]),
        ):
            print_times(what, lambda value, query=query: count_rows(database, query, value), values)  # type: ignore[misc]
    script = [sys.executable, "-c", NEIGHBOURS, str(path)]
    for line in subprocess.run(script, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines():
        print(line)


RESUME = "SELECT original_file, size_bytes, mtime_ns FROM stems"
BY_CATEGORY_AND_TEMPO = "SELECT * FROM stems WHERE category = ? AND bpm BETWEEN 124 AND 128"
# That of docs/database.md, in a process of its own, for its memory.
NEIGHBOURS = """
import resource, sqlite3, sys, time
import numpy as np
started = time.perf_counter()
db = sqlite3.connect(sys.argv[1]); db.text_factory = lambda b: b.decode("utf-8", "surrogateescape")
names, blobs = zip(*db.execute("SELECT original_file, clap_embedding FROM stems ORDER BY original_file"))
vectors = np.frombuffer(b"".join(blobs), "<f4").reshape(-1, 512)
read_s = time.perf_counter() - started
started = time.perf_counter()
nearest = np.argsort(-(vectors @ vectors[0]))[:4]
asked_s = time.perf_counter() - started
peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(f"nearest neighbours (docs): {read_s:.1f} s to read {len(names):,} vectors, {asked_s * 1e3:,.0f} ms a question")
print(f"nearest neighbours (docs): peak memory {peak_bytes / 1e9:.2f} GB")
"""


def docs_query(part: str) -> str:
    """Return the query of docs/database.md that contains `part`."""
    blocks = (REPOSITORY / "docs" / "database.md").read_text(encoding="utf-8").split("```sql\n")[1:]
    return next(block.partition("```")[0] for block in blocks if part in block.partition("```")[0])


def count_rows(database: sqlite3.Connection, query: str, value: object) -> int:
    return sum(1 for _ in database.execute(query, () if value is None else (value,)))


def print_times(what: str, question: Callable[[Any], int], values: Sequence[Any]) -> None:
    times, found = [], 0
    for value in list(values) * (3 if len(values) == 1 else 1):
        started = time.perf_counter()
        found = question(value)
        times.append(time.perf_counter() - started)
        if sum(times) > 60:
            break
    median_ms, first_ms = statistics.median(times) * 1e3, times[0] * 1e3
    print(f"{what}: {median_ms:,.2f} ms (the first {first_ms:,.2f} ms), {found:,} rows, asked {len(times)} times")


# -- rerun ------------------------------------------------------------------------------------------------------------


# Between this process and the program: the kernel counts to a child's peak what its parent had when it started it.
LAUNCHER = """
import json, os, resource, subprocess, sys, time
started = time.perf_counter()
exit_code = subprocess.run(sys.argv[1:]).returncode
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
cpu_s, peak_bytes = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
print(json.dumps([exit_code, time.perf_counter() - started, cpu_s, peak_bytes]))
"""


class Child:
    """What a child process took to its end; raises if it fails."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        launcher = [sys.executable, "-SIc", LAUNCHER, *command]
        output = subprocess.run(launcher, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout
        exit_code, self.wall_s, self.cpu_s, self.peak_bytes = json.loads(output)
        if exit_code:
            raise SystemExit(f"{' '.join(command)}: ended with {exit_code}")


def make_known_files(folder: Path, count: int) -> None:
    """Make `count` files without any data but of many sizes, and a database that knows them as they are: a second run
    opens none of them."""
    preparer = preparer_in(folder)
    for batch in rows(folder / "stems in", count, 960):
        known = []
        for record in batch:
            path = Path(record.metadata.original_file)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.truncate(record.metadata.size_bytes)
            size_bytes, mtime_ns = size_and_mtime_ns(path.stat())
            stem = dataclasses.replace(record.metadata, size_bytes=size_bytes, mtime_ns=mtime_ns)
            known.append(dataclasses.replace(record, metadata=stem))
        preparer.unsettled = {record.metadata.original_file for record in known}
        preparer._insert_meta(known)
    preparer.database.close()


def bench_rerun(folder: Path, options: argparse.Namespace) -> None:
    """Print the median time and the largest peak of --rounds second runs over each number of files."""
    print(f"{'known files':>12} {'s':>7} {'least':>7} {'most':>7} {'CPU, s':>7} {'peak, MB':>9}")
    for count in (0, *options.files):
        place = folder / str(count)
        (place / "stems in").mkdir(parents=True)
        make_known_files(place, count)
        (place / "config.yaml").touch()
        flags = ["--input", "stems in", "--database", "stems.db", "--stems", "stems", "--quarantine", "quarantine"]
        flags += ["--log-file", "log", "-q", "--report", "report.json"]
        command = [sys.executable, str(REPOSITORY / "prepare_dataset_sql.py"), *flags]
        children = [Child(command, place) for _ in range(options.rounds)]
        report = json.loads((place / "report.json").read_text(encoding="utf-8"))
        if not report["already_done"] == report["found"] == count:
            raise SystemExit(f"not all {count} files were known: {report}")
        times = [child.wall_s for child in children]
        line = f"{count:12,} {statistics.median(times):7.2f} {min(times):7.2f} {max(times):7.2f}"
        cpu_s = statistics.median(child.cpu_s for child in children)
        print(f"{line} {cpu_s:7.2f} {max(child.peak_bytes for child in children) / 1e6:9,.0f}", flush=True)


# -- memory -----------------------------------------------------------------------------------------------------------


def make_tones(folder: Path, count: int) -> None:
    """Write `count` tones of 0.1 s, none like another, into folders of a pack's size."""
    import soundfile

    seconds = np.arange(4_410) / 44_100
    for number in range(count):
        path = folder / str(number // FILES_A_FOLDER) / f"tone_{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.5 * np.sin(2 * np.pi * (100 + number / 10) * seconds), 44_100)


def bench_memory(folder: Path, options: argparse.Namespace) -> None:
    """Print the peak memory of a first run over each number of files; the model is the tests' fake one."""
    peaks = []
    for count in options.files:
        place = folder / str(count)
        make_tones(place / "stems in", count)
        (place / "config.yaml").touch()
        command = [
            sys.executable,
            str(REPOSITORY / "tests" / "support" / "driver.py"),
            "--input",
            "stems in",
            "--workers",
            "2",
            "-q",
        ]
        measured = measure(command, place)
        peaks.append(measured.peak_bytes)
        print(
            f"{count:7,} files: {measured.wall_s:.0f} s, peak of the process tree {peaks[-1] / 1e6:,.0f} MB", flush=True
        )
    print(f"ratio {peaks[-1] / peaks[0]:.3f}")


# -- command line -----------------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None, help="where the files are written (default: the system's)")
    whats = parser.add_subparsers(required=True, metavar="WHAT")
    insert = whats.add_parser("insert", help="rows a second")
    insert.add_argument("--rows", type=int, default=1_000_000)
    insert.add_argument("--batch", type=int, default=96)
    insert.add_argument("--part", type=int, default=100_000, help="rows in a line of the table")
    insert.set_defaults(bench=bench_insert)
    rerun = whats.add_parser("rerun", help="the second run")
    rerun.add_argument("--files", type=int, nargs="+", default=[50_000, 100_000, 200_000])
    rerun.add_argument("--rounds", type=int, default=3)
    rerun.set_defaults(bench=bench_rerun)
    memory = whats.add_parser("memory", help="the first run")
    memory.add_argument("--files", type=int, nargs="+", default=[1_500, 15_000])
    memory.set_defaults(bench=bench_memory)
    intake = whats.add_parser("intake", help="from a Dask cluster")
    intake.add_argument("--results", type=int, default=2_000)
    intake.set_defaults(bench=bench_intake)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        options.bench(Path(scratch), options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
