"""A folder of audio stems in, one SQLite database of CLAP vectors and musical metadata out.

    python prepare_dataset_sql.py --input DIR      # rerun to resume

    discover ──► filter_processed ──► worker pool: _process_file ──► batch ──► one CLAP call ──► _insert_meta
     (stat only)  (asks the database)  decode, check, standardise,   (whole      (N windows in,   (one transaction
                                       analyse, write the WAV         files)      N vectors out)   per batch)
                                            │ broken
                                            └──► quarantine/ERROR_… + a .json beside it, returns None

What holds whatever the folder contains and whenever the run is stopped:

- Every file found ends as exactly one of: already done, inserted, quarantined, failed, ignored, or left for the next
  run; the sum closes.
- A broken file goes to the quarantine folder and never into the database; a fault of the machine (disk full, permission
  denied), or of this program after decoding, leaves the file where it is, and the next run tries it again. A worker
  that dies, hangs or takes too much memory costs the one file that makes it do so again, alone.
- Killed at any moment, the next run ends with the same rows as an unbroken one. A run with nothing new opens no audio
  file and loads no model.
- A file's vector depends on its samples alone: not on its path, its batch, or the number of workers, nor on whether
  those are processes here or on the machines of a Dask cluster (--scheduler).
- Files with the same bytes are decoded and embedded once; a file that was moved takes its row with it. Rows whose files
  are gone are counted and stay.
- Vectors that do not compare are never mixed unseen: each row names its model, and a run of another model, or on an
  engine that computes otherwise, is refused until --re-embed has replaced them all. --verify-vectors computes stored
  vectors again and lists those that differ.

Exit codes: 0 done · 1 done, but some files failed through no fault of theirs, or stored vectors are wrong · 2 usage or
configuration · 3 no CLAP weights · 4 stopped (not writable, disk full, broken installation) · 5 another run holds the
outputs · 130 interrupted.
"""

from __future__ import annotations

if __name__ == "__main__":
    # The imports below take a quarter of a second, in which Python would answer Ctrl-C with a traceback. This leaves it
    # no more than its own start.
    import os
    import signal

    def _end_at_once(*_: object) -> None:
        try:
            os.write(2, b"error: interrupted: what was committed stays; run again to go on\n")
        finally:  # also where stderr is closed
            os._exit(130)

    for _name in ("SIGINT", "SIGTERM", "SIGHUP"):
        _number = getattr(signal, _name, None)
        if _number is not None and signal.getsignal(_number) is not signal.SIG_IGN:  # ignored: by nohup
            signal.signal(_number, _end_at_once)

import argparse
import contextlib
import dataclasses
import functools
import importlib
import itertools
import json
import logging
import math
import os
import shlex
import shutil
import signal
import sqlite3
import sys
import time
import uuid
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
from tqdm import tqdm

from stem_dataset import __version__
from stem_dataset.audio.standardise import standardise
from stem_dataset.audio.wav import StandardisedAudio
from stem_dataset.audio.windowing import cut_windows, window_rule
from stem_dataset.clap.checkpoints import ModelCache, Weights, identify_weights
from stem_dataset.clap.embed import batches, embed_windows, file_vectors
from stem_dataset.clap.engine import ClapModel, ModelLoader
from stem_dataset.clap.labels import NO_PALETTE, Described, Palette, described_by_clap, embed_palette
from stem_dataset.clap.session import REFERENCE_TOLERANCE, load_clap
from stem_dataset.clap.vectors import BAD_VECTOR_TEXT, blob_of, cosine_distance, cosine_of, refuse_broken
from stem_dataset.commands.stored_stems import advice_for, read_windows
from stem_dataset.commands.verify import LEAST_SAMPLE, SAMPLE_PERCENT, VERIFIED_COSINE, sample_of
from stem_dataset.config import (
    CONFIG_FIELDS,
    JUDGED_FILES,
    OUTPUTS,
    Config,
    default_text,
    is_given,
    load_config,
    refuse_nothing,
)
from stem_dataset.database.connection import KnownFiles, check_database, known_files, open_read_only
from stem_dataset.database.stems import MOVED_MTIME_NS, Database
from stem_dataset.datatypes import (
    UNKNOWN_CATEGORY,
    Description,
    Float32,
    FoundFile,
    NewVector,
    ProcessedFile,
    Provenance,
    ReadStem,
    SourceFormat,
    StemMetadata,
    StemRecord,
    StoredStem,
    T,
    Windowed,
    utc_now,
)
from stem_dataset.discover import discover
from stem_dataset.drives import STAT_S, answers, is_gone, refuse_network_drive
from stem_dataset.duplicates import SameBytes, link_wav, renamed
from stem_dataset.errors import (
    BadVector,
    FaultKind,
    Interrupted,
    MachineFault,
    PrepareError,
    RunStopped,
    UsageError,
    blaming_the_program,
    is_machine_fault,
    is_memory_error,
    with_remedy,
)
from stem_dataset.files import check_unchanged, is_inside, open_regular, sha256_of
from stem_dataset.logs import log, log_to_console, log_to_file, printable
from stem_dataset.music.describe import describe, listen
from stem_dataset.music.features import analyse
from stem_dataset.music.filenames import read_name
from stem_dataset.output_folders import (
    SCRATCH,
    hold_outputs,
    make_folders,
    scratch_folder,
    stem_id_of,
    token_of,
    wav_path,
)
from stem_dataset.quarantine import (
    finish_move,
    half_copy_of,
    is_same_file,
    log_quarantined,
    put_back,
    quarantine_file,
    read_entry,
)
from stem_dataset.resources import usable_workers, worker_memory_bytes
from stem_dataset.signals import TICK_S, StopSignals
from stem_dataset.summary import Account, ReEmbedding, Summary, Verification
from stem_dataset.workers.dask_pool import ClusterPool
from stem_dataset.workers.dask_worker import PROGRAM
from stem_dataset.workers.pool import WorkerPool
from stem_dataset.workers.tasks import Job, TaskReport, as_fault, quarantine_report
from stem_dataset.workers.worker import hash_file

# ---------------------------------------------------------------------------------------------------------------------
# Facts: what is given by CLAP, by the formats and by the libraries. What a user may choose is in `Config`.
# ---------------------------------------------------------------------------------------------------------------------


FILES_A_PART = 5_000  # are hashed, then decoded: a disk reads them twice, the second time from memory
INTERRUPT_GRACE_S = 5.0  # the batch in hand may still be finished after Ctrl-C


# ---------------------------------------------------------------------------------------------------------------------
# One file, in a worker process
# ---------------------------------------------------------------------------------------------------------------------


def _process_file(found: FoundFile, job: Job) -> ProcessedFile | None:
    """Decode, check, standardise and analyse one file, and write its WAV; None if it is broken and now in quarantine.

    The file is to blame for what its decoding raises, the program for what comes after. Where that or the machine is to
    blame, this raises `MachineFault` and moves nothing; MemoryError where the worker's limit is hit.
    """
    try:
        with open_regular(found.path) as file, StandardisedAudio(scratch_folder(job.stems, job.quarantine)) as audio:
            digest = sha256_of(file)
            source = standardise(file, audio, job.config.max_duration_s)
            with blaming_the_program():
                names = read_name(found.path, job.root, job.config.categories)
                features = listen(analyse(audio), source, job.config)
                windows = cut_windows(audio, job.config.max_windows)
                check_unchanged(file, found)
                description = describe(names, features, source.duration_s)
                metadata = _metadata(found, job, source, audio, digest, description)
                if metadata.path is not None:
                    audio.publish(Path(metadata.path))
                return ProcessedFile(found, metadata, windows)
    except Exception as error:
        if is_memory_error(error) and job.worker_memory_bytes is not None:
            raise MemoryError(str(error)) from None  # the worker's limit, not the machine's: to be tried again alone
        if is_machine_fault(error):
            raise as_fault(error, found) from None
        log.debug("%s: traceback", printable(found.path), exc_info=True)
        try:
            entry = quarantine_file(found, error, job.quarantine, job.run_id)
        except (OSError, MachineFault) as why:
            raise as_fault(why, found) from None
        log_quarantined(entry)
        return None


def _metadata(
    found: FoundFile,
    job: Job,
    source: SourceFormat,
    audio: StandardisedAudio,
    digest: str,
    description: Description,
) -> StemMetadata:
    """Return the row of a file, all but what the parent adds."""
    stem_id = stem_id_of(found.path, digest)
    return StemMetadata(
        id=stem_id,
        original_file=found.path,
        path=wav_path(job.stems, stem_id) if job.stems else None,
        sha256=digest,
        samples_sha256=audio.hash.hexdigest(),
        size_bytes=found.size_bytes,
        mtime_ns=found.mtime_ns,
        duration_s=source.duration_s,
        sample_rate_hz=source.sample_rate_hz,
        channels=source.channels,
        bpm=description.bpm,
        key=description.key,
        category=description.category,
        tags="[]",
        features=json.dumps(description.features),
        quality_ok=int(description.quality_ok),
    )


# ---------------------------------------------------------------------------------------------------------------------
# The conductor
# ---------------------------------------------------------------------------------------------------------------------


class DatasetPreparer:
    """Brings every stem under `config.input` into the database; `run` is the whole story."""

    def __init__(
        self,
        config: Config,
        load_model: ModelLoader = load_clap,
        show_progress: bool = True,
        *,
        outer_signals: StopSignals | None = None,
    ) -> None:
        self.config = config
        self.load_model = load_model
        self.show_progress = show_progress
        self.summary = Summary(run_id=uuid.uuid4().hex)
        self.re_embedding = ReEmbedding(self.summary.run_id)
        self.verification = Verification(self.summary.run_id)
        self.unsettled: set[str] = set()  # new files without an outcome
        self.signals = StopSignals(outer_signals)
        self.database: Database
        self.weights: Weights
        self.clap_model: ClapModel | None = None  # until something is to be embedded
        self.provenance: Provenance | None = None  # of its vectors
        self.embedding_model = ""
        self.shared_sizes: Set[int] = frozenset()  # of new files: those that another file has too, or a row
        self.rows_by_digest: dict[str, SameBytes] = {}  # of copies
        self.waiting: dict[str, list[FoundFile]] = {}  # by sha256: a file that is being decoded, and its copies
        self.silent_folders: set[str] = set()  # on drives that hang
        self.left_over: list[FoundFile] = []  # copies of one that came to nothing
        self.broken_digests: set[str] = set()
        self.embedded: list[tuple[ProcessedFile, bytes | None]] = []  # by the workers
        self.ready: list[StemRecord] = []  # rows that need no embedding
        self.moves: list[tuple[str, str]] = []  # id and new path of rows among them
        self.tags = self.categories = NO_PALETTE  # by CLAP
        self.model_thread = ThreadPoolExecutor(1)  # one for all calls: OpenMP starts a team of threads for each caller
        self.batch: list[Any] = []  # in the model's hands: what `write_vectors` takes
        self.write_vectors: Callable[[Sequence[tuple[Any, bytes | None]]], None] = self._insert_vectors
        self.embedding: Future[Float32] | None = None
        self.bar: tqdm[NoReturn] | None = None
        self.decoded = 0
        self.refusal = ""  # to go on beyond the first files, to be raised once what is decoded is written
        self.faults_in_a_row: Counter[FaultKind] = Counter()

    def run(self) -> Summary:
        """Discover, filter, process, embed and insert, and return the account; raises a `PrepareError` to end early."""
        started = time.monotonic()
        root = self.root
        with self.signals, self._outputs():
            try:
                files = self._filter_processed(root)
                if files:
                    self._import(files)
                self._refuse_to_forget(files)
            finally:
                self._close_account(time.monotonic() - started)
        return self.summary

    def dry_run(self) -> list[FoundFile]:
        """Return what `run` would process, in its order; nothing is written, not even a log."""
        if not check_database(self.config.database):
            return self._new_files(KnownFiles({}, set()))[: self.config.limit]
        try:
            with contextlib.closing(open_read_only(self.config.database)) as connection:
                known = known_files(connection)
        except sqlite3.Error as error:
            raise RunStopped(f"{printable(self.config.database)}: cannot be read: {error}") from None
        return self._new_files(known)[: self.config.limit]

    def restore_quarantine(self) -> Counter[str]:
        """Move quarantined files back to where they came from, never over another; return what became of them."""
        outcomes: Counter[str] = Counter()
        with self.signals, self._outputs():
            for json_path in sorted(self.config.quarantine.glob("ERROR_*.json")):
                self.signals.check()
                try:
                    outcomes[self._restore(json_path)] += 1
                except OSError as error:  # what it left is repaired by the next start
                    log.error("%s: not restored: %s", printable(json_path.with_suffix("")), error)
                    outcomes["failed"] += 1
        return outcomes

    def re_embed(self) -> ReEmbedding:
        """Replace every vector that does not compare with this run's, and return the account.

        Rows name their model, so whenever this is stopped, the next call goes on where it was. Raises `UsageError`
        where there is no database, and a `PrepareError` to end early.
        """
        started = time.monotonic()
        self._require_database("--re-embed")
        with self.signals, self._outputs():
            try:
                self._re_embed()
            finally:
                self.re_embedding.seconds = time.monotonic() - started
                log.info("%s", self.re_embedding)
        return self.re_embedding

    def verify_vectors(self, percent: float = SAMPLE_PERCENT, replaces: bool = False) -> Verification:
        """Compute stored vectors of this run's model again, name the rows whose vectors differ, and return the account.

        Checked is a random sample of `percent` of the rows, at least 200. No row is changed, unless `replaces`: then
        the vectors that differ are replaced, and once there is one, all rows are checked. Raises `UsageError` where
        there is no database or no row of this run's model, and a `PrepareError` to end early.
        """
        started = time.monotonic()
        self._require_database("--verify-vectors")
        account = self.verification
        account.replaces = replaces
        with self.signals, self._outputs():
            try:
                self._verify(percent)
            finally:
                account.seconds = time.monotonic() - started
                log.info("%s", account)
                if account.next_step:
                    log.warning("%s", account.next_step)
        return account

    def _require_database(self, flag: str) -> None:
        if not check_database(self.config.database):
            raise UsageError(f"{flag}: there is no database at {printable(self.config.database)}: give --database")

    # -- before the first file ----------------------------------------------------------------------------------------

    @functools.cached_property
    def root(self) -> str:
        """The input folder's real path; raises `UsageError` where there is none or it is one of our own folders."""
        folder = self.config.input
        if folder is None:
            raise UsageError("no input: give the folder of stems as --input DIR, or as input: in config.yaml")
        if not folder.is_dir():
            raise UsageError(f"--input {printable(folder)}: {'not a folder' if folder.exists() else 'no such folder'}")
        root = os.path.realpath(folder)
        self.root_device = os.stat(root).st_dev
        for own_folder in self._own_folders:
            if is_inside(root, own_folder):
                raise UsageError(f"--input {printable(folder)}: lies in the output folder {printable(own_folder)}")
        return root

    @property
    def _own_folders(self) -> frozenset[str]:
        return frozenset(os.path.realpath(folder) for folder in (self.config.stems, self.config.quarantine) if folder)

    @functools.cached_property
    def _job(self) -> Job:
        config = self.config
        embeds = config.embed_on == "workers"
        return Job(
            root=self.root,
            stems=Path(os.path.realpath(config.stems)) if config.stems else None,
            quarantine=Path(os.path.realpath(config.quarantine)),
            worker_memory_bytes=None if config.scheduler else worker_memory_bytes(config),  # Dask limits its own
            config=dataclasses.replace(config, tags={}, category_prompts={}),  # for the parent alone: 5 kB less a file
            run_id=self.summary.run_id,
            weights=self.weights if embeds else None,
            reference_vector=self.provenance.reference_vector if embeds and self.provenance else None,
        )

    @contextlib.contextmanager
    def _outputs(self) -> Iterator[None]:
        """Hold the outputs, with the log and the database open and what a killed run left cleaned up."""
        refuse_network_drive(self.config.database)
        check_database(self.config.database)
        make_folders(self.config)
        with hold_outputs(self.config), log_to_file(self.config.log_file):
            log.debug("run %s of version %s begins", self.summary.run_id, __version__)
            self.database = Database(self.config.database, self._breathe)
            with contextlib.closing(self.database):
                self._clean_up()
                try:
                    yield
                finally:
                    self.model_thread.shutdown(wait=False, cancel_futures=True)

    def _clean_up(self) -> None:
        """Finish or undo what a killed run left: half WAVs, and quarantined files that no row names yet."""
        for folder in filter(None, (self.config.stems, self.config.quarantine)):
            shutil.rmtree(folder / SCRATCH, ignore_errors=True)
            for token in folder.glob(token_of(folder, "*").name):
                token.unlink(missing_ok=True)
        for half_a_copy in self.config.quarantine.glob(".*.tmp"):
            half_a_copy.unlink(missing_ok=True)
        noted = self.database.verdict_paths()
        quarantine = Path(os.path.realpath(self.config.quarantine))
        for json_path in sorted(quarantine.glob("ERROR_*.json")):
            path = json_path.with_suffix("")
            if str(path) not in noted:
                try:
                    self._repair(path, json_path)
                except OSError as error:  # one file that cannot be looked at must not end every run
                    log.warning("%s: not repaired: %s", printable(path), printable(error))

    def _repair(self, path: Path, json_path: Path) -> None:
        """Bring a quarantine JSON that the database does not know to one of its two ends."""
        if not os.path.lexists(path):  # killed before the move: the file is still in its place
            json_path.unlink()
            return
        entry = read_entry(json_path)
        if entry is None or entry.quarantined_at <= self.database.last_verdict_at(entry.original_file):
            return
        source = Path(entry.original_file)
        with contextlib.suppress(OSError):  # a read-only library, which holds none
            half_copy_of(source).unlink(missing_ok=True)  # killed while --restore-quarantine copied it back
        finish_move(entry)
        self._drop_wav(self.database.enter_quarantined(entry))

    def _restore(self, json_path: Path) -> str:
        """Put one quarantined file back; return what became of it. Killed at any moment, it can be called again."""
        entry = read_entry(json_path)
        path = json_path.with_suffix("")
        if entry is None or not os.path.lexists(path):
            return "without a file or a readable JSON"
        original = Path(entry.original_file)
        still_there = is_same_file(original, entry)
        if os.path.lexists(original) and not still_there:
            log.warning("%s: not restored, since there is another file now", printable(original))
            return "left, since its place is taken"
        self.database.forget_quarantined(entry)
        if still_there:  # a read-only library kept it
            path.unlink()
        else:
            put_back(path, original, entry)
        json_path.unlink()
        return "restored"

    # -- discover and resume ------------------------------------------------------------------------------------------

    def _filter_processed(self, root: str) -> list[FoundFile]:
        """Return the files to process: those that the database does not know as they are now."""
        with self.database.errors():
            known = known_files(self.database.connection)
        row_sizes = {size_bytes for size_bytes, _ in known.imported.values()}
        files = self._new_files(known)
        sizes = Counter(found.size_bytes for found in files)
        self.shared_sizes = {size for size, count in sizes.items() if count > 1 or size in row_sizes}
        summary = self.summary
        if not summary.found:
            log.info("%s holds no files: nothing to do", printable(root))
        elif not files:
            log.info(
                "nothing new: %d files already processed, %d ignored", summary.already_done, summary.ignored.total()
            )
        else:
            log.info("%d already processed, %d new", summary.already_done, len(files))
        return files[: self.config.limit]

    def _new_files(self, known: KnownFiles) -> list[FoundFile]:
        """Return the files that are not `known` as they are; what remains of its imported ones has vanished."""
        files = []
        for found in discover(self.root, self._own_folders, self.summary):
            status = (found.size_bytes, found.mtime_ns)
            if known.imported.pop(found.path, None) == status or (found.path, *status) in known.quarantined:
                self.summary.already_done += 1
            else:
                self.unsettled.add(found.path)
                files.append(found)
            self.signals.check()  # after the count, or the sum lacks this file
        vanished = [path for path in known.imported if is_inside(path, self.root)]
        if unseen := set(self.summary.unseen):
            vanished = [path for path in vanished if unseen.isdisjoint([path, *map(str, Path(path).parents)])]
        self.summary.vanished = len(vanished)
        return files

    def _with_former_row(self, found: FoundFile) -> FoundFile:
        """Add what must outlive the row of an earlier version of this file."""
        return dataclasses.replace(found, former=self.database.former_row(found.path))

    def _refuse_to_forget(self, files: Sequence[FoundFile]) -> None:
        """A run that ends well has an outcome for each of its files; else whoever called it takes them for done."""
        forgotten = [found.path for found in files if found.path in self.unsettled]
        if forgotten:
            raise RunStopped(
                f"a fault of this program: {len(forgotten)} files came to no outcome, the first of them "
                f"{printable(forgotten[0])}; what was committed stays: run again"
            )

    # -- process, embed, insert ---------------------------------------------------------------------------------------

    def _import(self, files: Sequence[FoundFile]) -> None:
        """Bring `files` into the database, batch by batch, the next one decoded while the model has the last."""
        self.weights = self._choose_model()
        self._refuse_to_mix_models()
        if self.config.embed_on == "workers":
            if self.config.scheduler is None:
                raise UsageError(
                    "--embed-on workers: only those of a Dask cluster embed: give --scheduler, or leave it"
                )
            self._need_clap()  # for the reference that the workers' must agree with
        with self._progress(len(files)), contextlib.closing(self._new_pool(files[0])) as pool:
            self._begin(pool, will_embed=any(found.size_bytes not in self.shared_sizes for found in files))
            while files:
                self._embed(self._processed(pool, files))
                files = [] if self.refusal else self._take_left_over()
        if self.refusal:
            raise RunStopped(self.refusal)

    def _new_pool(self, witness: FoundFile) -> WorkerPool:
        config, hooks = self.config, (self._tick, self._finish_embedding)
        if config.scheduler is not None:
            return ClusterPool(config.scheduler, witness, self._job, config.log_file, *hooks)
        return WorkerPool(usable_workers(config), self._job, config.log_file, *hooks)

    def _take_left_over(self) -> list[FoundFile]:
        """Return the copies of files that were to be decoded for them and came to nothing: each may fare better."""
        failed = [digest for digest, (original, *_) in self.waiting.items() if original.path not in self.unsettled]
        files = self.left_over + [copy for digest in failed for copy in self.waiting.pop(digest)[1:]]
        self.left_over = []
        return files

    def _choose_model(self) -> Weights:
        cache = ModelCache(self.config.model_cache)
        weights = self._wait_for(self.model_thread.submit(identify_weights, self.config.checkpoint, cache))
        self.embedding_model = weights.embedding_model(self.config.max_windows, self.config.precision)
        return weights

    def _refuse_to_mix_models(self) -> None:
        """Vectors of two models in one database would be compared as if they meant the same."""
        present = self.database.other_models(self.embedding_model)
        if present:
            raise UsageError(
                f"{printable(self.config.database)} holds vectors of {' and '.join(present)}, this run would add "
                f"{self.embedding_model}, and they do not compare: use the former settings, or another --database and "
                "--stems, or replace those vectors by --re-embed (also to finish one that was interrupted)"
            )

    def _refuse_another_engine(self) -> None:
        """Vectors of one model must compare, whatever engine and versions made them."""
        former = self._conflicting_provenance()
        if former is not None and self.database.forget_unused_models()[self.embedding_model]:
            raise RunStopped(self._conflict_text(former))

    def _conflict_text(self, former: Provenance) -> str:
        tolerance = REFERENCE_TOLERANCE[self.config.precision]
        return (
            f"the vectors of {self.embedding_model} in {printable(self.config.database)} were made by {former}, "
            f"and this run's engine, {self.provenance}, makes others: for the reference signal they differ by more "
            f"than {tolerance:g} in cosine. No file was touched: use the former versions (on the former "
            "machine, if they are the same), or replace all those vectors by --re-embed"
        )

    def _conflicting_provenance(self) -> Provenance | None:
        """Return what first wrote vectors of this run's model, if this run's engine makes others."""
        former = self.database.first_provenance(self.embedding_model)
        assert self.provenance is not None
        if former is None or former.reference_vector is None or self.provenance.reference_vector is None:
            return None
        distance = cosine_distance(former.reference_vector, self.provenance.reference_vector)
        tolerance = REFERENCE_TOLERANCE[self.config.precision]
        return None if distance <= tolerance else former  # a NaN is no agreement

    def _begin(self, pool: WorkerPool, will_embed: bool) -> None:
        """Let a worker test the decoders, and load CLAP meanwhile if it is needed; raises before any file is
        touched."""
        self_test = pool.self_test()
        if will_embed:
            self._need_clap()
        try:
            problem = self._wait_for(self_test)
        except BrokenProcessPool:
            problem = f"a worker process dies at its start; {printable(self.config.log_file)} may say why"
        if problem is not None:
            raise RunStopped(f"the self-test failed, so no file was touched: {problem}")
        log.debug("the decoders work")

    def _need_clap(self) -> None:
        """Load CLAP, unless it is loaded: where all that is new are copies or moved files, nothing is embedded."""
        if self.clap_model is None:
            self._show("loading CLAP")
            self._load_clap(self.weights)
            self._refuse_another_engine()
            log.debug("CLAP is loaded (%s, %s)", self.provenance, self.config.precision)

    def _load_clap(self, weights: Weights) -> None:
        """Load CLAP and the palettes, and note what its vectors are made with."""
        model, self.tags, self.categories = self._wait_for(self.model_thread.submit(self._loaded, weights))
        self.clap_model = model
        self.provenance = Provenance(
            embedding_model=self.embedding_model,
            engine=model.engine,
            versions=json.dumps(dict(model.versions), sort_keys=True),
            checkpoint=weights.name,
            checkpoint_sha256=weights.sha256,
            architecture=model.architecture,
            precision=self.config.precision,
            window_rule=window_rule(self.config.max_windows),
            reference_vector=blob_of(refuse_broken(model.reference)),
            first_used_at=utc_now(),
        )

    def _loaded(self, weights: Weights) -> tuple[ClapModel, Palette, Palette]:
        try:
            model = self.load_model(weights, self.config)
            if not weights.is_published:
                log.debug("no tags or categories by CLAP: %s is no published checkpoint", printable(weights.name))
                return model, NO_PALETTE, NO_PALETTE
            tags, categories = self.config.tags, self.config.category_prompts
            return model, embed_palette(model, tags), embed_palette(model, categories)
        except (RuntimeError, ImportError, AttributeError, MemoryError) as error:  # of torch, openvino, laion_clap
            log.debug("traceback", exc_info=True, extra={"file_only": True})
            raise RunStopped(
                f"CLAP cannot be loaded: {type(error).__name__}: {printable(error)}. No file was touched. Install what "
                "requirements.txt pins, free memory, or try another --device"
            ) from error

    def _processed(self, pool: WorkerPool, files: Sequence[FoundFile]) -> Iterator[ProcessedFile]:
        """Yield what the workers make of `files`; end early where the first ones are nearly all broken: what a whole
        library shares is no fault of its files."""
        broken_before, share = self.summary.quarantined, self.config.max_broken_share
        yield from self._received(pool, files[:JUDGED_FILES])
        broken = self.summary.quarantined - broken_before
        if len(files) >= JUDGED_FILES and broken > share * JUDGED_FILES:
            self.refusal = (
                f"{broken} of the first {JUDGED_FILES} files were quarantined, over max_broken_share = {share:g}: look "
                f"at some of them in {printable(self.config.quarantine)}. Nothing more was moved. --restore-quarantine "
                "puts them back where they were; --max-broken-share 1 goes on regardless"
            )
            return
        for start in range(JUDGED_FILES, len(files), FILES_A_PART):
            yield from self._received(pool, files[start : start + FILES_A_PART])

    def _received(self, pool: WorkerPool, files: Sequence[FoundFile]) -> Iterator[ProcessedFile]:
        """Yield what the workers make of `files` and is to be embedded; settle the rest."""
        digests = self._hash(pool, files)
        while files:
            for report in pool.reports(_process_file, self._originals(files, digests)):
                processed = self._receive(report)
                if processed is None or self._keeps_its_vector(processed):
                    continue
                if processed.is_embedded:
                    self._take_embedded(processed)
                else:
                    yield processed
            files = self._take_left_over()
        self._write_ready()

    def _originals(self, files: Sequence[FoundFile], digests: Mapping[str, str]) -> Iterator[FoundFile]:
        """Yield those of `files` that are to be decoded: of files with the same bytes, also in earlier runs, the first;
        the others' rows are made of its row."""
        for found in files:
            digest = digests.get(found.path)
            if digest is None:
                if found.path in self.unsettled:
                    yield self._to_decode(found)
            elif digest in self.waiting:
                self.waiting[digest].append(found)
            elif not self._settle_as_copy(found, digest):
                if digest not in self.broken_digests:
                    self.waiting[digest] = [found]
                yield self._to_decode(found)

    def _hash(self, pool: WorkerPool, files: Sequence[FoundFile]) -> dict[str, str]:
        """Return the sha256 of those of `files` that may be copies, by path; where there is none, settle the file."""
        digests = {}
        candidates = [found for found in files if found.size_bytes in self.shared_sizes]
        if candidates:
            self._show(f"hashing {len(candidates)} files that may be copies")
            for report in pool.reports(hash_file, map(self._with_former_row, candidates)):
                self._receive(report)
                if report.sha256 is not None:
                    digests[report.found.path] = report.sha256
            self._show("decoding")
        return digests

    def _to_decode(self, found: FoundFile) -> FoundFile:
        self._need_clap()
        return self._with_former_row(found)

    # -- what needs no embedding --------------------------------------------------------------------------------------

    def _settle_as_copy(self, found: FoundFile, digest: str) -> bool:
        """Make the row of a file whose bytes a row has, be it its own; False where none can serve."""
        own = self.database.stem_at(found.path)
        same = self._rows_with_bytes(digest)
        moved = own is None and bool(same.gone)
        if moved:
            stem_id = same.gone.pop()
            self.moves.append((stem_id, found.path))
            source = own = self.database.stem_of(stem_id)
        elif own is not None and own.metadata.sha256 == digest:
            source = own
        else:
            source, own = self.database.stem_of(same.any_id) if same.any_id else None, None
        if source is None or source.metadata.sha256 != digest or not self._can_serve(source.metadata):
            self.rows_by_digest.pop(digest, None)  # this file's row will serve the next
            self._write_ready()  # a row that was moved is there for its new file
            return False
        self.ready.append(self._copy_of(source, found, is_own=own is not None))
        self.summary.moved += moved
        self.summary.vectors_kept += not moved and own is not None
        self.summary.copied += own is None
        if len(self.ready) >= self.config.batch_windows:
            self._write_ready()
        return True

    def _rows_with_bytes(self, digest: str) -> SameBytes:
        """Return the rows of files with this sha256, looked up once in a run: there may be thousands."""
        if digest not in self.rows_by_digest:
            rows = self.database.rows_of(digest)
            if not rows:
                return SameBytes("", [])
            gone = [stem_id for stem_id, original_file in reversed(rows) if self._is_gone(original_file)]
            self.rows_by_digest[digest] = SameBytes(rows[-1][0], gone)
        return self.rows_by_digest[digest]

    def _is_gone(self, path: str) -> bool:
        folder = os.path.dirname(path)
        try:
            return folder not in self.silent_folders and is_gone(path)
        except TimeoutError:
            self.silent_folders.add(folder)
            return False

    def _can_serve(self, stem: StemMetadata) -> bool:
        """Whether a row has all that a copy's is made of: rows of earlier versions may not say what was heard."""
        has_wav = self._job.stems is None or (stem.path is not None and os.path.exists(stem.path))
        return has_wav and "tempo_candidates" in json.loads(stem.features)

    def _copy_of(self, source: StemRecord, found: FoundFile, is_own: bool) -> StemRecord:
        """Return `source`'s row as that of another file with the same bytes, or of its own under a new name."""
        names = read_name(found.path, self._job.root, self.config.categories)
        stem, stems = renamed(source.metadata, found, names), self._job.stems
        if not is_own:
            stem_id = self.database.free_id(found.path, stem.sha256)
            stem = dataclasses.replace(stem, id=stem_id, path=wav_path(stems, stem_id) if stems else None)
            if stem.path and source.metadata.path:
                link_wav(source.metadata.path, stem.path, scratch_folder(stems, self._job.quarantine))
        told_by_name = json.loads(source.metadata.features)["category_source"] == "name"
        if stem.category == UNKNOWN_CATEGORY and told_by_name and self.weights.is_published:
            self._need_clap()
            stem = self._described(stem, source.clap_embedding)
        return dataclasses.replace(source, metadata=stem, imported_at=utc_now())

    def _keeps_its_vector(self, processed: ProcessedFile) -> bool:
        """Whether a file that changed has the samples that it had, as when a pack is tagged anew; its row is made."""
        if processed.found.former is None:
            return False
        former = self.database.stem_at(processed.found.path)
        if former is None or former.metadata.samples_sha256 != processed.metadata.samples_sha256:
            return False
        stem = self._described(processed.metadata, former.clap_embedding)
        self.ready.append(dataclasses.replace(former, metadata=stem, imported_at=utc_now()))
        was_moved = former.metadata.mtime_ns == MOVED_MTIME_NS
        self.summary.moved += was_moved
        self.summary.vectors_kept += not was_moved
        return True

    def _take_embedded(self, processed: ProcessedFile) -> None:
        self.embedded.append((processed, processed.vector))
        if len(self.embedded) >= self.config.batch_windows:
            self._write_ready()

    def _write_ready(self) -> None:
        """Write the rows that need no embedding here."""
        if self.embedded:
            embedded, self.embedded = self.embedded, []
            self._insert_vectors(embedded)
        while self.ready or self.moves:  # those that are written may have copies of their own
            (moves, self.moves), (ready, self.ready) = (self.moves, []), (self.ready, [])
            if moves:
                self.database.take_over(moves)
            self._insert_meta(ready)

    def _embed(self, files: Iterator[Windowed]) -> None:
        """Give `files` to the model batch by batch, the next one collected while it has the last, and write them."""
        self._show("decoding")
        try:
            for batch in batches(files, self.config.batch_windows):
                self._finish_embedding()
                self._start_embedding(batch)
            self._finish_embedding()
        except Interrupted:
            self._settle_interrupted()
            raise

    def _receive(self, report: TaskReport) -> ProcessedFile | None:
        """Take a worker's report: log its lines, and settle a file that is not to be embedded."""
        for record in report.log_records:
            log.handle(record)
        if report.fault is not None:
            self._settle(report.found, "failed")
            self._check_input_is_there()
            self._count_fault(report.fault)
            return None
        self.faults_in_a_row.clear()
        self.decoded += report.processed is not None
        if report.quarantine_json is not None:
            self._enter_quarantined(report.found, report.quarantine_json)
        return report.processed

    def _check_input_is_there(self) -> None:
        """Stop when the input folder is gone: each of its files would fail, one by one.

        A drive that was pulled out may leave an empty folder, on another device, where it was mounted. (An inode's
        number would tell nothing: FAT makes them up as it goes.)
        """
        if not answers(self.root):
            why = f"its drive does not answer within {STAT_S:g} s"
        elif not os.path.isdir(self.root):
            why = "there is no such folder any more"
        elif os.stat(self.root).st_dev != self.root_device:
            why = "its drive is gone"
        else:
            return
        raise RunStopped(
            f"the input folder {printable(self.root)} is gone: {why}. Nothing was moved for it, and what was committed "
            "stays: plug the drive in, or put the folder back, and run again"
        )

    def _count_fault(self, fault: MachineFault) -> None:
        """Stop when the machine does the same again and again: a full disk would fail a whole library one by one."""
        count = self.faults_in_a_row[fault.kind] + 1
        self.faults_in_a_row = Counter({fault.kind: count})
        if count >= self.config.max_faults_in_a_row:
            text = f"the same fault on {count} files in a row (max_faults_in_a_row): {printable(fault)}"
            raise RunStopped(f"{text}. Nothing was moved for it; mend it, or raise that setting, and run again")

    def _enter_quarantined(self, found: FoundFile, json_path: str) -> None:
        entry = read_entry(json_path)
        if entry is None:
            raise RunStopped(f"{printable(json_path)}: just written, and cannot be read; is the disk failing?")
        self._drop_wav(self.database.enter_quarantined(entry))
        self.broken_digests.add(entry.sha256)
        self._settle(found, "quarantined")

    def _start_embedding(self, batch: list[Windowed]) -> None:
        windows = [window for file in batch for window in file.windows]
        self._show(f"embedding {len(windows)} windows")
        log.debug("embedding %d windows of %d files in one call", len(windows), len(batch))
        self.batch = batch
        assert self.clap_model is not None
        self.embedding = self.model_thread.submit(embed_windows, self.clap_model, windows)

    def _finish_embedding(self) -> None:
        """Wait for the batch in the model's hands, if there is one, and write it."""
        if self.embedding is not None:
            self._wait_for(self.embedding)
            self._write_embedded()

    def _write_embedded(self) -> None:
        """Give each file of the finished batch its vector, and write them."""
        assert self.embedding is not None
        vectors, batch, self.batch, self.embedding = self.embedding.result(), self.batch, [], None
        self.write_vectors(list(zip(batch, file_vectors(vectors, [len(f.windows) for f in batch]), strict=True)))
        self._show("decoding")

    def _insert_vectors(self, embedded: Sequence[tuple[ProcessedFile, bytes | None]]) -> None:
        """Write the rows of files with a good vector, and quarantine the others."""
        records = []
        for processed, vector in embedded:
            if vector is None:
                self._quarantine_for_its_vector(processed)
            else:
                metadata = self._described(processed.metadata, vector)
                records.append(StemRecord(metadata, utc_now(), vector, self.embedding_model))
        self._insert_meta(records)
        self._write_ready()

    def _described(self, stem: Described, vector: bytes) -> Described:
        return described_by_clap(stem, np.frombuffer(vector, "<f4"), self.tags, self.categories)

    def _insert_meta(self, records: Sequence[StemRecord]) -> None:
        """Write `records` in one transaction, then remove the WAVs of the rows they replaced."""
        if not records:  # every file of the batch has a bad vector: nothing is of this run's provenance
            return
        holders = self.database.holders_of(record.metadata.id for record in records)
        records = [self._with_free_id(record, holders.get(record.metadata.id)) for record in records]
        for wav in self.database.insert(records, self.provenance):
            self._drop_wav(wav)
        for record in records:
            self._settle(record.metadata, "inserted")
        log.debug("%d rows written", len(records))
        for record in records:
            copies = self.waiting.pop(record.metadata.sha256, [])[1:]
            self.left_over += [copy for copy in copies if not self._settle_as_copy(copy, record.metadata.sha256)]

    def _with_free_id(self, record: StemRecord, holder: str | None) -> StemRecord:
        """Return `record` with another id, and another name of its WAV, where a row that was moved away has the one.

        `holder` is the file whose row has the id."""
        stem = record.metadata
        if holder in (None, stem.original_file):
            return record
        stem_id = self.database.free_id(stem.original_file, stem.sha256)
        path = wav_path(self._job.stems, stem_id) if self._job.stems else None
        if path and stem.path:
            link_wav(stem.path, path, scratch_folder(self._job.stems, self._job.quarantine))
        return dataclasses.replace(record, metadata=dataclasses.replace(stem, id=stem_id, path=path))

    def _quarantine_for_its_vector(self, processed: ProcessedFile) -> None:
        found = dataclasses.replace(processed.found, former=self.database.former_row(processed.found.path))
        report = quarantine_report(found, BadVector(BAD_VECTOR_TEXT), self._job)
        if report.fault is None and processed.metadata.path:  # else it may be the WAV of the row that stays
            self._drop_wav(Path(processed.metadata.path))
        self._receive(report)

    def _drop_wav(self, wav: Path | None) -> None:
        if wav is not None:
            try:
                wav.unlink(missing_ok=True)
            except OSError as error:
                log.warning("%s: an old WAV that no row names cannot be removed: %s", printable(wav), error)

    def _settle(self, stem: FoundFile | StemMetadata, outcome: Literal["inserted", "quarantined", "failed"]) -> None:
        """Count the one outcome of a file; a second one raises."""
        self.unsettled.remove(stem.path if isinstance(stem, FoundFile) else stem.original_file)
        setattr(self.summary, outcome, getattr(self.summary, outcome) + 1)
        if self.bar is not None:
            self.bar.update()

    def _settle_interrupted(self) -> None:
        """Write the batch in hand if it is done within five seconds."""
        self._write_ready()
        if self.embedding is None:
            return
        log.warning("interrupted: giving the batch in hand %g seconds; again ends at once", INTERRUPT_GRACE_S)
        if not wait([self.embedding], INTERRUPT_GRACE_S).done:
            return
        if self.embedding.exception() is None:
            self._write_embedded()

    # -- re-embed -----------------------------------------------------------------------------------------------------

    def _re_embed(self) -> None:
        weights = self._choose_model()
        used = self.database.forget_unused_models()
        account = self.re_embedding
        account.rows, account.already_done = used.total(), used[self.embedding_model]
        account.left = account.rows - account.already_done
        with self._progress(account.left):
            if not self._begin_to_re_embed(weights):
                log.info("nothing to re-embed: all %d rows are of %s", account.rows, self.embedding_model)
                return
            self.write_vectors = self._replace_vectors
            stems = self.database.stems_of_other_models(self.embedding_model)
            self._embed(self._read_stems(itertools.islice(stems, self.config.limit), self._fail_to_read))
        self.database.forget_unused_models()

    def _begin_to_re_embed(self, weights: Weights) -> bool:
        """Load CLAP, and outdate the rows of this run's model if its engine makes other vectors now; return whether
        there is anything to do. Where no row's engine can be compared, that is known without CLAP."""
        account = self.re_embedding
        if account.left or self.database.first_provenance(self.embedding_model) is not None:
            self._show("loading CLAP")
            self._load_clap(weights)
            former = self._conflicting_provenance()
            if former is not None:
                log.info("%s made other vectors than %s makes: all are replaced", former, self.provenance)
                self.database.mark_outdated(self.embedding_model)
                account.left, account.already_done = account.rows, 0
                if self.bar is not None:
                    self.bar.reset(account.rows)
        return account.left > 0

    def _read_stems(
        self, stems: Iterable[StoredStem], fail: Callable[[StoredStem, MachineFault], None]
    ) -> Iterator[ReadStem]:
        """Yield `stems` with their windows, read in a thread: a drive that hangs must not stop Ctrl-C."""
        reader = ThreadPoolExecutor(1)
        try:
            for stem in stems:
                reading = reader.submit(read_windows, stem, self.config)
                while not wait([reading], TICK_S).done:
                    self._tick()
                self._tick()
                try:
                    windows = reading.result()
                except MachineFault as fault:
                    fail(stem, fault)
                    continue
                self.decoded += 1
                yield ReadStem(stem, windows)
        finally:
            reader.shutdown(wait=False, cancel_futures=True)

    def _replace_vectors(self, embedded: Sequence[tuple[ReadStem, bytes | None]]) -> None:
        """Write the good vectors; a row with a bad one stays."""
        self._write_vectors([(read.stem, vector) for read, vector in embedded if vector])
        for read, vector in embedded:
            if vector is None:
                self._fail(read.stem, BAD_VECTOR_TEXT)
            else:
                self._count_row("re_embedded")

    def _write_vectors(self, vectors: Sequence[tuple[StoredStem, bytes]]) -> None:
        """Write new vectors, and what CLAP tells by them, to their rows in one transaction."""
        new = []
        for stored, vector in vectors:
            stem = self._described(stored, vector)
            told = (stem.category, stem.tags, stem.features)
            new.append(NewVector(stem.id, utc_now(), *told, vector, self.embedding_model))
        if new:
            assert self.provenance is not None
            self.database.replace_vectors(new, self.provenance)

    def _fail_to_read(self, stem: StoredStem, fault: MachineFault) -> None:
        self._fail(stem, f"{fault}; {advice_for(fault, '--re-embed')}")

    def _fail(self, stem: StoredStem, reason: str) -> None:
        remove = f"""sqlite3 {shlex.quote(str(self.config.database))} "DELETE FROM stems WHERE id = '{stem.id}'\""""
        log.error(
            "%s: failed, its row keeps its former vector: %s. To go on without it, remove the row: %s",
            printable(stem.original_file),
            printable(reason),
            printable(remove),
        )
        self._count_row("failed")

    def _count_row(self, outcome: Literal["re_embedded", "failed"]) -> None:
        setattr(self.re_embedding, outcome, getattr(self.re_embedding, outcome) + 1)
        self.re_embedding.left -= 1
        if self.bar is not None:
            self.bar.update()

    # -- verify vectors -----------------------------------------------------------------------------------------------

    def _verify(self, percent: float) -> None:
        account, limit = self.verification, self.config.limit
        weights = self._choose_model()
        if not account.replaces:
            self.database.forbid_writes()
        rows = self._rows_to_verify()
        if not rows:
            log.info("nothing to verify: %s holds no rows", printable(self.config.database))
            return
        sample = sample_of(rows, percent, limit, self.summary.run_id)
        drawn = f", drawn by the run's id, {account.run_id}" if len(sample) < len(rows) else ""
        log.info("checking the vectors of %d of %d rows%s", len(sample), len(rows), drawn)
        with self._progress(len(sample)):
            self._show("loading CLAP")
            self._load_clap(weights)
            former = self._conflicting_provenance()
            if former is not None:  # every row would differ, and to replace some would mix two engines' vectors
                raise RunStopped(f"{self._conflict_text(former)} without --verify-vectors; no row was checked")
            self.write_vectors = self._check_vectors
            self._embed(self._read_stems(self.database.stems_at(sample), self._cannot_read))
            if account.replaces and account.differ:
                self._check_the_rest(rows, sample)

    def _rows_to_verify(self) -> Sequence[int]:
        """Return the rowids of this run's model. The other rows' vectors cannot be checked: count and name them."""
        account = self.verification
        rowids = self.database.rowids_by_model()
        account.rows = sum(map(len, rowids.values()))
        own = rowids.pop(self.embedding_model, array("q"))
        account.left, account.other_models = len(own), account.rows - len(own)
        if rowids:
            text = (
                f"{account.other_models} of {account.rows} rows in {printable(self.config.database)} hold vectors of "
                f"{' and '.join(sorted(rowids))}, which this run's model, {self.embedding_model}, cannot check: verify "
                "them with the settings that they were made with (checkpoint, precision, max_windows), or replace them "
                "all by --re-embed without --verify-vectors"
            )
            if not own:
                raise UsageError(text)
            log.warning("%s", text)
        return own

    def _check_the_rest(self, rows: Sequence[int], sample: Sequence[int]) -> None:
        """Check what is not in the sample, which held wrong vectors: there are more of them elsewhere."""
        drawn = set(sample)
        limit = self.config.limit or len(rows)
        rest = array("q", itertools.islice((row for row in rows if row not in drawn), limit - len(sample)))
        if not rest:
            return
        log.warning(
            "%d of %d rows differ: the other %d are checked as well", self.verification.differ, len(sample), len(rest)
        )
        if self.bar is not None:
            self.bar.total = len(sample) + len(rest)
        self._embed(self._read_stems(self.database.stems_at(rest), self._cannot_read))

    def _check_vectors(self, embedded: Sequence[tuple[ReadStem, bytes | None]]) -> None:
        """Name the rows whose stored vectors differ from those computed now; with --re-embed, replace them."""
        account = self.verification
        compared = [(read.stem, new, cosine_of(read.stem.clap_embedding, new)) for read, new in embedded if new]
        wrong = [(stem, new, cosine) for stem, new, cosine in compared if not cosine >= VERIFIED_COSINE]  # a NaN too
        if account.replaces:
            self._write_vectors([(stem, new) for stem, new, _ in wrong])
            account.replaced += len(wrong)
        for stem, _, cosine in wrong:
            log.warning(
                "%s (id %s): its stored vector is wrong: cosine %.6f with the one computed now%s",
                printable(stem.original_file),
                stem.id,
                cosine,
                "; replaced" if account.replaces else "",
            )
        account.differ += len(wrong)
        account.checked += len(compared)
        self._count_verified(len(compared))
        for read, vector in embedded:
            if vector is None:
                self._cannot_check(read.stem, BAD_VECTOR_TEXT)

    def _cannot_read(self, stem: StoredStem, fault: MachineFault) -> None:
        self._cannot_check(stem, f"unreadable: {fault}; {advice_for(fault, '--verify-vectors')}")

    def _cannot_check(self, stem: StoredStem, reason: str) -> None:
        log.error("%s (id %s): not checked: %s", printable(stem.original_file), stem.id, printable(reason))
        self.verification.unreadable += 1
        self._count_verified(1)

    def _count_verified(self, rows: int) -> None:
        self.verification.left -= rows
        if self.bar is not None:
            self.bar.update(rows)

    # -- what a person sees -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _progress(self, files: int) -> Iterator[None]:
        disable = None if self.show_progress else True  # None: where stderr is no terminal
        with tqdm(
            total=files, unit="file", dynamic_ncols=True, smoothing=0, disable=disable, file=sys.stderr
        ) as self.bar:
            yield
        self.bar = None

    def _close_account(self, seconds: float) -> None:
        """Say what became of every file, and where everything is."""
        self.summary.left = len(self.unsettled)
        self.summary.seconds = seconds
        log.info("%s", self.summary)
        for name in OUTPUTS:
            log.info("%-10s %s", name, printable(getattr(self.config, name) or "none written"))

    def _show(self, activity: str) -> None:
        if self.bar is not None:
            self.bar.set_description_str(activity)

    def _tick(self) -> None:
        """Look for Ctrl-C, move the bar's clock, and write a batch as soon as it is embedded."""
        self._breathe()
        if self.embedding is not None and self.embedding.done():
            self._write_embedded()

    def _wait_for(self, future: Future[T]) -> T:
        while not wait([future], TICK_S).done:
            self._breathe()
        return future.result()

    def _breathe(self) -> None:
        self.signals.check()
        if self.bar is not None:
            self.bar.set_postfix_str(f"{self.decoded} decoded", refresh=False)
            with contextlib.suppress(OSError):  # a closed terminal is no reason to lose a batch
                self.bar.refresh()


# ---------------------------------------------------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; a flag that is not given leaves its setting to config.yaml."""
    parser = argparse.ArgumentParser(
        description="Put a folder of audio stems into a SQLite database of CLAP vectors and metadata; rerun to resume.",
        epilog="Exit codes: 0 done, 1 some files failed through no fault of theirs (run again) or stored vectors are "
        "wrong, 2 usage or config, 3 no CLAP weights, 4 stopped, 5 another run is at work, 130 interrupted.",
        argument_default=argparse.SUPPRESS,
    )
    for name in ("input", "database", "stems", "quarantine", "log_file"):
        _add_setting(parser, name, type=path_if_given, metavar="FILE" if name in ("database", "log_file") else "DIR")
    parser.add_argument("--no-stems", dest="stems", action="store_const", const=None, help="write no standardised WAVs")
    for name in ("workers", "batch_windows", "limit"):
        _add_setting(parser, name, type=int, metavar="N")
    _add_setting(parser, "max_broken_share", type=float, metavar="SHARE")
    _add_setting(parser, "scheduler", metavar="tcp://HOST:PORT")
    _add_setting(parser, "embed_on", choices=("driver", "workers"))
    _add_setting(parser, "checkpoint", metavar="NAME|FILE")
    _add_setting(parser, "trust_checkpoint", action="store_true")
    _add_setting(parser, "device", choices=("auto", "cpu", "cuda"))
    _add_setting(parser, "precision", choices=("f32", "bf16"))
    _add_setting(parser, "model_cache", type=path_if_given, metavar="DIR")
    parser.add_argument(
        "--config", type=path_if_given, metavar="FILE", default=None, help="settings (default: ./config.yaml)"
    )
    _add_modes(parser)
    parser.add_argument(
        "--report", type=path_if_given, metavar="FILE", default=None, help="write the account there, as JSON"
    )
    parser.add_argument("-v", dest="level", action="store_const", const=logging.DEBUG, help="more on the console")
    parser.add_argument(
        "-q", dest="level", action="store_const", const=logging.WARNING, help="warnings and errors only"
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.set_defaults(level=logging.INFO)
    return parser


def path_if_given(text: str) -> Path | str:
    """Return a flag's path, or `text` as it is where that names nothing, which the checks refuse: Path("") is '.'."""
    return Path(text) if is_given(text) else text


def _add_modes(parser: argparse.ArgumentParser) -> None:
    """Add what else can be done than a run."""
    modes = parser.add_mutually_exclusive_group()
    for flag, text in {
        "--dry-run": "list what would be processed, touch nothing",
        "--restore-quarantine": "move quarantined files back to where they were",
        "--re-embed": "replace the vectors that another model or engine made; rerun to resume",
    }.items():
        modes.add_argument(flag, action="store_true", default=False, help=text)
    parser.add_argument(
        "--verify-vectors",
        nargs="?",
        type=percent_of_rows,
        const=SAMPLE_PERCENT,
        default=None,
        metavar="PERCENT|all",
        help=f"compute {SAMPLE_PERCENT:g} %% of the stored vectors again (or PERCENT, or all; at least {LEAST_SAMPLE}) "
        "and list those that differ; with --re-embed, check all rows where one differs, and replace what differs",
    )


def percent_of_rows(text: str) -> float:
    """Read the value of --verify-vectors: a number over 0 and up to 100, with or without a %, or 'all'."""
    try:
        percent = 100.0 if text == "all" else float(text.removesuffix("%"))
    except ValueError:
        percent = math.nan
    if not 0 < percent <= 100:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number over 0 and up to 100 (per cent of the rows), or all")
    return percent


def _add_setting(parser: argparse.ArgumentParser, name: str, **options: Any) -> None:
    """Add the flag of a `Config` field, with the field's own words and default."""
    text = f"{CONFIG_FIELDS[name].metadata['help']} (default: {default_text(name)})"
    parser.add_argument(f"--{name.replace('_', '-')}", help=text.replace("%", "%%"), **options)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` and return the exit code."""
    with StopSignals() as signals:
        try:
            options = build_parser().parse_args(argv)
        except SystemExit as stop:  # --help, --version, or a flag that argparse refuses
            return int(stop.code or 0)
        with log_to_console(options.level):
            return run_safely(options, signals)


def run_safely(options: argparse.Namespace, outer_signals: StopSignals) -> int:
    """Do what the command line asks for and return the exit code; errors are told."""
    try:
        with StopSignals(outer_signals) as signals:
            for flag in ("config", "report"):
                refuse_nothing(flag, getattr(options, flag))
            flags = {name: value for name, value in vars(options).items() if name in CONFIG_FIELDS}
            config = load_config(options.config, flags)
            signals.check()
            if config.scheduler is not None and __name__ == "__main__":
                # Dask sends what is of `__main__` by value: a worker would run the driver's program, whatever its own
                # is.
                return int(importlib.import_module(PROGRAM).run_safely(options, signals))
            return _run_options(options, config, signals)
    except PrepareError as error:
        log.error("%s", error)
        return error.exit_code
    except (OSError, MemoryError) as error:  # the machine's, as for a file
        log.error("stopped: %s; what was committed stays, run again", printable(with_remedy(error)))
        log.debug("traceback", exc_info=True)
        return RunStopped.exit_code
    except Exception:
        log.critical("a fault of this program, not of your files; what was committed stays", exc_info=True)
        return RunStopped.exit_code


def _run_options(options: argparse.Namespace, config: Config, signals: StopSignals) -> int:
    preparer = DatasetPreparer(config, show_progress=options.level <= logging.INFO, outer_signals=signals)
    if options.verify_vectors is not None and (options.dry_run or options.restore_quarantine):
        other = "--dry-run" if options.dry_run else "--restore-quarantine"
        raise UsageError(f"--verify-vectors: not allowed with {other}: give it alone, or with --re-embed")
    if options.dry_run:
        return _print_plan(preparer)
    if options.restore_quarantine:
        outcomes = preparer.restore_quarantine()
        for outcome, count in sorted(outcomes.items()):
            log.info("%d %s", count, outcome)
        return 1 if outcomes["failed"] else 0
    exit_code = RunStopped.exit_code
    account, work = _account_and_work(options, preparer)
    try:
        exit_code = 1 if work().failed else 0
    except PrepareError as error:
        exit_code = error.exit_code
        raise
    finally:
        if options.report is not None and not _write_report(options.report, account, exit_code):
            exit_code = exit_code or RunStopped.exit_code
    return exit_code


def _account_and_work(options: argparse.Namespace, preparer: DatasetPreparer) -> tuple[Account, Callable[[], Account]]:
    """Return what is to be done, and the account that it keeps also where it raises."""
    if options.verify_vectors is not None:
        verify = functools.partial(preparer.verify_vectors, options.verify_vectors, replaces=options.re_embed)
        return preparer.verification, verify
    if options.re_embed:
        return preparer.re_embedding, preparer.re_embed
    return preparer.summary, preparer.run


def _write_report(path: Path, account: Account, exit_code: int) -> bool:
    """Write the account as JSON; whether that went well."""
    try:
        path.write_text(json.dumps({**account.as_dict(), "exit_code": exit_code}, indent=1) + "\n", encoding="utf-8")
    except OSError as error:  # the run itself went as it went
        log.error("--report %s: cannot be written: %s", printable(path), printable(with_remedy(error)))
        return False
    return True


def _print_plan(preparer: DatasetPreparer) -> int:
    files = preparer.dry_run()
    try:
        for found in files:
            print(printable(found.path))
        sys.stdout.flush()
    except BrokenPipeError:  # `| head`; Python flushes stdout once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    log.info("%d to process, %d already processed; nothing was touched", len(files), preparer.summary.already_done)
    return 0


def leave(exit_code: int) -> NoReturn:
    """End this process at once: Python would wait for the model, which may be in a call that nothing stops, and for
    worker processes, which may be in the kernel."""
    logging.shutdown()
    with contextlib.suppress(OSError, ValueError):  # a closed terminal or pipe
        sys.stdout.flush()
    os._exit(exit_code)


if __name__ == "__main__":
    leave(main())
