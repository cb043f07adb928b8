"""A folder of audio stems in, one SQLite database of CLAP vectors and musical metadata out.

    python prepare_dataset_sql.py --input DIR      # rerun to resume

    discover ──► filter_processed ──► worker pool: _process_file ──► batch ──► one CLAP call ──► _insert_meta
     (stat only)  (asks the database)  decode, check, standardise,   (whole      (N windows in,   (one transaction
                                       analyse, write the WAV         files)      N vectors out)   per batch)
                                            │ broken
                                            └──► quarantine/ERROR_… + a .json beside it, returns None

These guarantees hold whatever the folder contains and whenever the run is stopped:

- Each file found has exactly one outcome: already done, inserted, quarantined, failed, ignored, or left for the next
  run. The sum of the outcomes is the number of files found.
- A broken file is moved to the quarantine folder and never enters the database. If the machine is at fault (disk full,
  permission denied), or this program after decoding, the file stays where it is and the next run tries it again. If a
  worker dies, hangs or takes too much memory, its file is tried again alone before it is blamed.
- After a kill at any moment, the next run ends with the same rows as an uninterrupted run. A run with nothing new opens
  no audio file and loads no model.
- A file's vector depends only on its samples. It does not depend on the path, the batch or the number of workers, nor
  on whether they are local processes or on a Dask cluster (--scheduler).
- Files with the same bytes are decoded and embedded once, and a file that was moved keeps its row. Rows whose files are
  gone are counted and kept, until --forget-missing removes them.
- Vectors that are not comparable are never mixed: each row names its model. A run with another model, or on an engine
  that computes other vectors, is refused until --re-embed has replaced them all. --verify-vectors computes stored
  vectors again and lists those that differ.
- Rows are copied to the database's main file soon after each batch. At the end of a run, a plain copy of that file is
  complete. --verify checks the file, each row, its WAV, and the quarantine.

Exit codes: 0 done · 1 done, but some files failed through no fault of theirs, or stored vectors are wrong · 2 usage or
configuration · 3 no CLAP weights · 4 stopped (not writable, disk full, broken installation) · 5 another run holds the
outputs · 130 interrupted.
"""

from __future__ import annotations

if __name__ == "__main__":
    from stem_dataset.startup import prepare_process

    prepare_process("interrupted: what was committed stays; run again to go on")

import argparse
import contextlib
import dataclasses
import functools
import importlib
import json
import logging
import os
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Literal, NoReturn

from stem_dataset import __version__
from stem_dataset.audio.standardise import standardise
from stem_dataset.audio.wav import StandardisedAudio
from stem_dataset.audio.windowing import cut_windows
from stem_dataset.clap.embed import BatchEmbedder, embed_windows
from stem_dataset.clap.engine import ClapModel, ModelLoader
from stem_dataset.clap.session import ClapSession, load_clap, refuse_mistakes
from stem_dataset.clap.vectors import BAD_VECTOR_TEXT
from stem_dataset.commands.check_library import CheckLibrary
from stem_dataset.commands.missing import ForgetMissing, list_missing, refuse_without_terminal
from stem_dataset.commands.moved_folders import Move, announce, find_move, rebase
from stem_dataset.commands.re_embed import ReEmbed
from stem_dataset.commands.restore import clean_up, restore_quarantine
from stem_dataset.commands.stored_stems import StoredStems
from stem_dataset.commands.verify import LEAST_SAMPLE, SAMPLE_PERCENT, VerifyVectors, percent_of_rows
from stem_dataset.config import (
    CONFIG_FIELDS,
    OUTPUTS,
    TRIAL_FILES,
    Config,
    flag_options,
    has_flag,
    load_config,
    path_if_given,
    refuse_nothing,
)
from stem_dataset.database.connection import check_database, require_database
from stem_dataset.database.moves import note_inodes
from stem_dataset.database.resume import ResumeFilter, read_known
from stem_dataset.database.stems import Database
from stem_dataset.datatypes import (
    Description,
    Float32,
    FoundFile,
    Int16,
    ProcessedFile,
    QuarantineEntry,
    SourceFormat,
    StemMetadata,
    StemRecord,
    utc_now,
)
from stem_dataset.discover import WalkRules, discover
from stem_dataset.drives import STAT_S, answers, refuse_network_drive
from stem_dataset.duplicates import Decision, Duplicates
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
)
from stem_dataset.files import check_unchanged, is_inside, open_regular, sha256_of
from stem_dataset.logs import add_level_flags, exit_code_of, log, log_to_console, log_to_file, print_lines, printable
from stem_dataset.music.describe import describe, features_of_audio
from stem_dataset.music.features import analyse
from stem_dataset.music.filenames import read_name
from stem_dataset.output_folders import (
    drop_wav,
    hold_outputs,
    make_folders,
    scratch_folder,
    stem_id_of,
    wav_path,
)
from stem_dataset.progress import Progress
from stem_dataset.quarantine import (
    log_quarantined,
    quarantine_file,
)
from stem_dataset.resources import usable_workers, worker_memory_bytes
from stem_dataset.signals import StopSignals
from stem_dataset.startup import open_standard_streams, read_names_as_utf8
from stem_dataset.summary import (
    Account,
    Forgetting,
    LibraryCheck,
    Problem,
    ReEmbedding,
    Report,
    StoredAccount,
    Summary,
    Verification,
)
from stem_dataset.time_left import FilesToDecode
from stem_dataset.workers.dask_pool import DaskBackend, connect
from stem_dataset.workers.dask_worker import PROGRAM
from stem_dataset.workers.local_pool import LocalBackend
from stem_dataset.workers.pool import Backend, Pool
from stem_dataset.workers.tasks import RunContext, TaskReport, Work, as_fault, quarantine_report
from stem_dataset.workers.worker import hash_file

# This many files are hashed and then decoded, so that the second read comes from the page cache.
FILES_PER_PART = 5_000


# ---------------------------------------------------------------------------------------------------------------------
# One file, in a worker process
# ---------------------------------------------------------------------------------------------------------------------


def _process_file(found: FoundFile, run_context: RunContext, report: TaskReport | None = None) -> ProcessedFile | None:
    """Decode, standardise and analyse one file, and write its WAV.

    Returns None after moving a broken file, one that cannot be decoded, to quarantine. Raises `MachineFault` and moves
    nothing if the machine or this program is at fault, and MemoryError if the worker reached its limit.
    """
    try:
        with (
            open_regular(found.path) as file,
            StandardisedAudio(scratch_folder(run_context.stems, run_context.quarantine)) as audio,
        ):
            digest = sha256_of(file)
            source = standardise(file, audio, run_context.config.max_duration_s)
            with blaming_the_program():
                names = read_name(found.path, run_context.root, run_context.config.categories)
                features = features_of_audio(analyse(audio), source, run_context.config)
                windows = cut_windows(audio, run_context.config.max_windows)
                check_unchanged(file, found)
                description = describe(names, features, source.duration_s)
                metadata = _metadata(found, run_context, source, audio, digest, description)
                if metadata.path is not None:
                    audio.publish(Path(metadata.path))
                return ProcessedFile(found, metadata, windows)
    except Exception as error:
        if is_memory_error(error) and run_context.worker_memory_bytes is not None:
            # This is the worker's limit, not the machine's: the parent tries the file again alone.
            raise MemoryError(str(error)) from None
        if is_machine_fault(error):
            raise as_fault(error, found) from None
        log.debug("%s: traceback", printable(found.path), exc_info=True)
        try:
            entry = quarantine_file(found, error, run_context.quarantine, run_context.run_id)
        except (OSError, MachineFault) as why:
            raise as_fault(why, found) from None
        log_quarantined(entry)
        if report is not None:
            report.quarantined = entry
        return None


def _metadata(
    found: FoundFile,
    run_context: RunContext,
    source: SourceFormat,
    audio: StandardisedAudio,
    digest: str,
    description: Description,
) -> StemMetadata:
    """Return a file's row, without the columns that the parent fills in."""
    stem_id = stem_id_of(found.path, digest)
    return StemMetadata(
        id=stem_id,
        original_file=found.path,
        path=wav_path(run_context.stems, stem_id) if run_context.stems else None,
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
        inode=found.inode,
    )


# ---------------------------------------------------------------------------------------------------------------------
# The conductor
# ---------------------------------------------------------------------------------------------------------------------


class DatasetPreparer:
    """Import every stem under `config.input`; read `run` first."""

    def __init__(
        self,
        config: Config,
        load_model: ModelLoader = load_clap,
        show_progress: bool = True,
        *,
        outer_signals: StopSignals | None = None,
    ) -> None:
        self.config = config
        self.summary = Summary(run_id=uuid.uuid4().hex)
        self.unsettled: set[str] = set()  # new files without an outcome yet
        self.signals = StopSignals(outer_signals)
        self.progress = Progress(config, show_progress, self.signals)
        self.session = ClapSession(config, load_model, self.progress)
        self.embedder = BatchEmbedder(
            self.session.thread, self.progress, config.batch_windows, self._embed_windows, self._insert_vectors
        )
        self.database: Database
        self.duplicates: Duplicates
        self.known: ResumeFilter
        self.embedded: list[tuple[ProcessedFile, bytes | None]] = []  # files that workers have embedded
        self.ready: list[StemRecord] = []  # rows that need no embedding
        self.faults_in_a_row: Counter[FaultKind] = Counter()

    def run(self) -> Summary:
        """Import all new files; raises a `PrepareError` if it must stop."""
        started = time.monotonic()
        root = self.root
        with self.signals, self.session, self._outputs():
            try:
                files = self._filter_processed(root)
                if files:
                    self._import(files)
                self._refuse_to_forget(files)
            finally:
                self._close_account(time.monotonic() - started)
        return self.summary

    def dry_run(self) -> list[FoundFile]:
        """Return what `run` would process, in order, and write nothing."""
        self.known = read_known(self.config.database)
        return self._new_files(announce)[: self.config.limit]

    def restore_quarantine(self) -> Counter[str]:
        """Move quarantined files back without overwriting any; count the outcomes."""
        with self.signals, self._outputs():
            return restore_quarantine(self.config, self.database, self.signals)

    def tend(self, command: type[StoredStems], account: StoredAccount) -> StoredAccount:
        """Run a command on the rows that exist, and return its account.

        After an interruption, the next call continues with the remaining rows. Raises `UsageError` if there is no
        database, or another `PrepareError` if it has to stop early.
        """
        started = time.monotonic()
        require_database(self.config.database, command.flag)
        session = self.session if command.needs_clap else contextlib.nullcontext()
        with self.signals, session, self._outputs():
            try:
                command(self.config, self.database, self.session, self.progress, self._embed_windows).run(account)
            finally:
                account.seconds = time.monotonic() - started
                log.info("%s", account)
                if account.next_step:
                    log.warning("%s", account.next_step)
        return account

    @property
    def clap_model(self) -> ClapModel | None:
        """The CLAP model with laion_clap's two methods, or None before it is needed."""
        return self.session.model

    # -- before the first file ----------------------------------------------------------------------------------------

    @functools.cached_property
    def root(self) -> str:
        """The input folder's real path; raises `UsageError` if it is missing or in an output folder."""
        folder = self.config.input
        if folder is None:
            raise UsageError("no input: give the folder of stems as --input DIR, or as input: in config.yaml")
        if not folder.is_dir():
            raise UsageError(f"--input {printable(folder)}: {'not a folder' if folder.exists() else 'no such folder'}")
        root = os.path.realpath(folder)
        self.root_device = os.stat(root).st_dev
        for own_folder in self._own_folders:
            if is_inside(root, own_folder):
                raise UsageError(f"--input {printable(folder)}: is inside the output folder {printable(own_folder)}")
        return root

    @property
    def _own_folders(self) -> frozenset[str]:
        return frozenset(os.path.realpath(folder) for folder in (self.config.stems, self.config.quarantine) if folder)

    @property
    def _walk_rules(self) -> WalkRules:
        return WalkRules(self.root, self._own_folders, tuple(self.config.exclude), self.config.follow_links)

    @functools.cached_property
    def _run_context(self) -> RunContext:
        config, provenance = self.config, self.session.provenance
        embeds = config.embed_on == "workers"
        return RunContext(
            root=self.root,
            stems=Path(os.path.realpath(config.stems)) if config.stems else None,
            quarantine=Path(os.path.realpath(config.quarantine)),
            worker_memory_bytes=None if config.scheduler else worker_memory_bytes(config),  # Dask limits its workers
            # Only the parent uses these two; leaving them out saves 5 kB per task.
            config=dataclasses.replace(config, tags={}, category_prompts={}),
            run_id=self.summary.run_id,
            weights=self.session.weights if embeds else None,
            reference_vector=provenance.reference_vector if embeds and provenance else None,
        )

    @contextlib.contextmanager
    def _outputs(self) -> Iterator[None]:
        """Lock the outputs, open the log and database, and clean up after a killed run."""
        refuse_network_drive(self.config.database)
        check_database(self.config.database)
        make_folders(self.config)
        with hold_outputs(self.config), log_to_file(self.config.log_file):
            log.debug("run %s of version %s begins", self.summary.run_id, __version__)
            self.database = Database(self.config.database, self.progress.tick)
            with contextlib.closing(self.database):
                clean_up(self.config, self.database)
                yield

    # -- discover and resume ------------------------------------------------------------------------------------------

    def _filter_processed(self, root: str) -> list[FoundFile]:
        """Return the files that are new or have changed since their import."""
        with self.database.errors():
            self.known = ResumeFilter(self.database.connection)
        files = self._new_files(functools.partial(rebase, config=self.config, database=self.database))
        note_inodes(self.database, self.known.new_inodes)
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

    def _new_files(self, follow: Callable[[Move], None]) -> list[FoundFile]:
        """Return new and changed files, and count the imported files that have vanished.

        If the library was moved as a whole, `follow` is called with the move.
        """
        files = []
        for found in discover(self._walk_rules, self.summary):
            if self.known.is_done(found):
                self.summary.already_done += 1
            else:
                self.unsettled.add(found.path)
                files.append(found)
            # The check comes after the count; otherwise the sum would lack this file.
            self.signals.check()
        if (move := find_move(self.known, files, self.root)) is not None:
            follow(move)
            files = self.known.rebase(move.old, move.new, files)
            self.summary.moved = self.summary.inserted = len(self.unsettled) - len(files)
            self.unsettled = {found.path for found in files}
        self.known.take(files)
        self.summary.vanished = self.known.vanished(self.root, self.summary.unseen)
        return files

    def _refuse_to_forget(self, files: Sequence[FoundFile]) -> None:
        """Raise `RunStopped` if a file has no outcome: callers would assume success."""
        forgotten = [found.path for found in files if found.path in self.unsettled]
        if forgotten:
            raise RunStopped(
                f"a fault of this program: {len(forgotten)} files have no outcome, the first of them "
                f"{printable(forgotten[0])}; what was committed stays: run again"
            )

    # -- process, embed, insert ---------------------------------------------------------------------------------------

    def _import(self, files: Sequence[FoundFile]) -> None:
        """Import `files` in batches; workers decode one while the model embeds another."""
        self.database.prepare_to_write()
        self._refuse_to_mix_models()
        if self.config.embed_on == "workers":
            self._need_clap()  # its reference vector checks the workers'
        self.duplicates = Duplicates(self.config, self.root, self.database, self.session, self._need_clap)
        upcoming = FilesToDecode(files, self.config)
        with self.progress.over(len(files), upcoming), contextlib.closing(self._new_pool(files[0])) as pool:
            self._begin(pool, will_embed=any(found.size_bytes not in self.known.shared_sizes for found in files))
            try:
                first = self.duplicates.to_hash_first(self.known)
                self.duplicates.follow_bytes(self._hash(pool, first), self.known)
                self._import_part(pool, files[:TRIAL_FILES])
                self._refuse_a_broken_library(len(files))
                for start in range(TRIAL_FILES, len(files), FILES_PER_PART):
                    self._import_part(pool, files[start : start + FILES_PER_PART])
            except Interrupted:
                self.embedder.settle_interrupted()
                self._write_ready()
                raise

    def _import_part(self, pool: Pool, files: Sequence[FoundFile]) -> None:
        """Decide about each file, decode where needed, and write the rows."""
        while files:
            digests = self._hash(pool, files)
            unsettled = [found for found in files if found.path in self.unsettled]
            decisions = self.duplicates.decide(unsettled, digests)
            self._settle_duplicates(decisions)
            self._decode(pool, [decision.found for decision in decisions if decision.action.endswith("decode")])
            self.embedder.flush()
            self._write_ready()
            files = self.duplicates.left_over(self.unsettled)

    def _hash(self, pool: Pool, files: Sequence[FoundFile]) -> dict[str, str]:
        """Return the sha256 of possible copies, by path; settle unreadable files."""
        hashed = self.duplicates.digests
        digests = {found.path: hashed[found.path] for found in files if found.path in hashed}
        files = [found for found in files if found.path in self.unsettled and found.path not in hashed]
        candidates = [found for found in files if found.size_bytes in self.known.shared_sizes]
        if candidates:
            self.progress.say(f"hashing {len(candidates)} files that may be copies")
            for report in self._reports(pool, hash_file, map(self.database.with_former_row, candidates)):
                self._receive(report)
                if report.sha256 is not None:
                    digests[report.found.path] = report.sha256
        return digests

    def _settle_duplicates(self, decisions: Sequence[Decision]) -> None:
        """Write the rows of kept, copied and moved files, which need no decoding."""
        moves = [(each.row_id, each.found.path) for each in decisions if each.action.startswith("move")]
        if moves:
            self.database.take_over(moves)
        for decision in decisions:
            if decision.action in ("keep", "copy", "move"):
                self.ready.append(self.duplicates.row_of(decision))
                self.summary.vectors_kept += decision.action == "keep"
                self.summary.copied += decision.action == "copy"
                self.summary.moved += decision.action == "move"
                self._write_ready(at_least=self.config.batch_windows)
        self._write_ready()

    def _decode(self, pool: Pool, files: Sequence[FoundFile]) -> None:
        """Have the workers decode `files`, and pass the windows on to the model."""
        if not files:
            return
        self._need_clap()
        self.progress.say("decoding")
        for report in self._reports(pool, _process_file, map(self.database.with_former_row, files)):
            processed = self._receive(report)
            if processed is None:
                continue
            with_former_vector = self.duplicates.row_with_former_vector(processed)
            if with_former_vector is not None:
                record, was_moved = with_former_vector
                self.ready.append(record)
                self.summary.moved += was_moved
                self.summary.vectors_kept += not was_moved
            elif processed.is_embedded:
                self.embedded.append((processed, processed.vector))
            else:
                self.embedder.add(processed)
            self._write_ready(at_least=self.config.batch_windows)

    def _refuse_a_broken_library(self, files: int) -> None:
        """Stop if nearly all of the first files were broken."""
        broken, share = self.summary.quarantined, self.config.max_broken_share
        if files >= TRIAL_FILES and broken > share * TRIAL_FILES:
            raise RunStopped(
                f"{broken} of the first {TRIAL_FILES} files were quarantined, over max_broken_share = {share:g}: look "
                f"at some of them in {printable(self.config.quarantine)}. Nothing more was moved. --restore-quarantine "
                "puts them back where they were; --max-broken-share 1 continues regardless"
            )

    def _new_pool(self, witness: FoundFile) -> Pool:
        config = self.config
        if config.scheduler is None:
            backend: Backend = LocalBackend(usable_workers(config), self._run_context, config.log_file)
        else:
            client = self.progress.wait_for(connect(config.scheduler))
            backend = DaskBackend(client, config.scheduler, witness, self._run_context)
        return Pool(backend, self._run_context)

    def _reports(self, pool: Pool, work: Work, files: Iterator[FoundFile]) -> Iterator[TaskReport]:
        """Yield the pool's reports; between them, check for Ctrl-C and write embedded batches.

        Nothing is embedded while a file is tried again alone. Otherwise a model that fills the memory could get the
        worker killed, and a good file would be blamed.
        """
        for report in pool.reports(work, files):
            self.embedder.tick()
            self.database.checkpoint_if_due()
            if pool.is_retrying:
                self.embedder.finish()
            if report is not None:
                yield report

    def _refuse_to_mix_models(self) -> None:
        """Raise `UsageError` if the database holds another model's vectors."""
        present = self.database.other_models(self.session.embedding_model)
        if present:
            raise UsageError(
                f"{printable(self.config.database)} holds vectors of {' and '.join(present)}, this run would add "
                f"{self.session.embedding_model}, which are not comparable: use the former settings, or another "
                "--database and --stems, or replace those vectors by --re-embed (also to finish one that was "
                "interrupted)"
            )

    def _refuse_another_engine(self) -> None:
        """Raise `RunStopped` if another engine computed this model's stored vectors differently."""
        model = self.session.embedding_model
        former = self.database.first_provenance(model)
        differs = former is not None and self.session.differs_from(former)
        if former is not None and differs and self.database.forget_unused_models()[model]:
            raise RunStopped(self.session.conflict_text(former))

    def _begin(self, pool: Pool, will_embed: bool) -> None:
        """Run the workers' self-test, and load CLAP meanwhile if needed."""
        self_test = pool.self_test()
        if will_embed:
            self._need_clap()
        try:
            problem = self.progress.wait_for(self_test)
        except BrokenProcessPool:
            problem = f"a worker process dies at its start; {printable(self.config.log_file)} may say why"
        if problem is not None:
            raise RunStopped(f"the self-test failed, so no file was touched: {problem}")
        log.debug("the decoders work")

    def _need_clap(self) -> None:
        """Load CLAP on first use; copies and moved files need none."""
        if self.session.model is None:
            self.session.load()
            self._refuse_another_engine()
            log.debug("CLAP is loaded (%s, %s)", self.session.provenance, self.config.precision)

    def _write_ready(self, at_least: int = 1) -> None:
        """Write the rows that are ready if there are `at_least` this many."""
        if len(self.ready) + len(self.embedded) < at_least:
            return
        embedded, self.embedded = self.embedded, []
        ready, self.ready = self.ready, []
        self._insert_vectors(embedded)
        self._commit(ready)

    def _embed_windows(self, windows: Sequence[Int16]) -> Float32:
        """Return one vector per window, shape (N, 512), from one call of CLAP."""
        assert self.session.model is not None
        return embed_windows(self.session.model.get_audio_embedding_from_data, windows)

    def _receive(self, report: TaskReport) -> ProcessedFile | None:
        """Log a report's lines, and settle a file that failed or was quarantined."""
        for record in report.log_records:
            log.handle(record)
        if report.fault is not None:
            self._settle(report.found, "failed")
            self.summary.failed_files.append(Problem(report.found.path, str(report.fault)))
            self._check_input_is_there()
            self._count_fault(report.fault)
            return None
        self.faults_in_a_row.clear()
        if report.processed is not None:
            times_s = (report.processed.metadata.duration_s, report.seconds, report.cpu_s)
            self.progress.decode(report.found, *times_s)
        if report.quarantined is not None:
            self._enter_quarantined(report.found, report.quarantined)
        return report.processed

    def _check_input_is_there(self) -> None:
        """Stop if the input folder is gone; its files would fail one by one.

        A drive that was pulled out may leave its mount point as an empty folder on another device. (Inode numbers prove
        nothing here, because FAT drivers make them up.)
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
        """Stop after equal faults in a row: a full disk fails every file."""
        count = self.faults_in_a_row[fault.kind] + 1
        self.faults_in_a_row = Counter({fault.kind: count})
        if count >= self.config.max_faults_in_a_row:
            text = f"the same fault on {count} files in a row (max_faults_in_a_row): {printable(fault)}"
            raise RunStopped(f"{text}. Nothing was moved for it; fix the cause, or raise that setting, and run again")

    def _enter_quarantined(self, found: FoundFile, entry: QuarantineEntry) -> None:
        drop_wav(self.database.enter_quarantined(entry))
        self.duplicates.broken.add(entry.sha256)
        self._settle(found, "quarantined")
        self.summary.quarantined_files.append(Problem(found.path, entry.error_text, entry.path))

    def _insert_vectors(self, embedded: Sequence[tuple[ProcessedFile, bytes | None]]) -> None:
        """Write the rows of files with good vectors; quarantine the others."""
        records = []
        for processed, vector in embedded:
            if vector is None:
                self._quarantine_for_its_vector(processed)
            else:
                metadata = self.session.described(processed.metadata, vector)
                records.append(StemRecord(metadata, utc_now(), vector, self.session.embedding_model))
        self._commit(records)

    def _commit(self, records: Sequence[StemRecord]) -> None:
        """Write `records`, then the rows of files that waited for them."""
        while records:
            self._insert_meta(records)
            records = self.duplicates.follow(records)
            self.summary.copied += len(records)

    def _insert_meta(self, records: Sequence[StemRecord]) -> None:
        """Write `records` in one transaction, then remove the WAVs they replace."""
        holders = self.database.holders_of(record.metadata.id for record in records)
        records = [self._with_free_id(record, holders.get(record.metadata.id)) for record in records]
        for wav in self.database.insert(records, self.session.provenance):
            drop_wav(wav)
        for record in records:
            self._settle(record.metadata, "inserted")
        log.debug("%d rows written", len(records))

    def _with_free_id(self, record: StemRecord, holder: str | None) -> StemRecord:
        """Return `record`, with a free id if another file's row has its id.

        `holder` is that file, or None. A row keeps its id when it moves to another file. The WAV is named by the id.
        """
        stem = record.metadata
        if holder in (None, stem.original_file):
            return record
        stem = self.duplicates.with_id(stem, self.database.free_id(stem.original_file, stem.sha256))
        return dataclasses.replace(record, metadata=stem)

    def _quarantine_for_its_vector(self, processed: ProcessedFile) -> None:
        found = dataclasses.replace(processed.found, former=self.database.former_row(processed.found.path))
        report = quarantine_report(found, BadVector(BAD_VECTOR_TEXT), self._run_context)
        # After a fault the file's former row stays, and may name the same WAV.
        if report.fault is None and processed.metadata.path:
            drop_wav(Path(processed.metadata.path))
        self._receive(report)

    def _settle(self, stem: FoundFile | StemMetadata, outcome: Literal["inserted", "quarantined", "failed"]) -> None:
        """Count a file's outcome; raises KeyError if it already has one."""
        path = stem.path if isinstance(stem, FoundFile) else stem.original_file
        self.unsettled.remove(path)
        setattr(self.summary, outcome, getattr(self.summary, outcome) + 1)
        self.progress.settle(path, stem.size_bytes)

    # -- what a person sees -------------------------------------------------------------------------------------------

    def _close_account(self, seconds: float) -> None:
        """Log the outcomes of all files and the paths of the outputs."""
        self.summary.left = len(self.unsettled)
        self.summary.seconds = seconds
        log.info("%s", self.summary)
        for name in OUTPUTS:
            log.info("%-10s %s", name, printable(getattr(self.config, name) or "none written"))


# ---------------------------------------------------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------------------------------------------------


MODES = {
    "dry-run": "list what would be processed, touch nothing",
    "restore-quarantine": "move quarantined files back to where they were",
    "re-embed": "replace the vectors that another model or engine made; rerun to resume",
    "verify": "check the database, all rows, WAVs and quarantined files, and a sample of the vectors; touch nothing",
    "list-missing": "list the rows whose files are missing, touch nothing",
    "forget-missing": "remove the rows whose files are gone, with their WAVs and ratings; asks first",
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; without its flag, a setting comes from config.yaml."""
    parser = argparse.ArgumentParser(
        description="Put a folder of audio stems into a SQLite database of CLAP vectors and metadata; rerun to resume.",
        epilog="Exit codes: 0 done, 1 some files failed through no fault of theirs (run again) or stored vectors are "
        "wrong, 2 usage or config, 3 no CLAP weights, 4 stopped, 5 another run is at work, 130 interrupted.",
        argument_default=argparse.SUPPRESS,
    )
    for name in filter(has_flag, CONFIG_FIELDS):
        parser.add_argument(f"--{name.replace('_', '-')}", **flag_options(name))
    parser.add_argument("--no-stems", dest="stems", action="store_const", const=None, help="write no standardised WAVs")
    parser.add_argument(
        "--config", type=path_if_given, metavar="FILE", default=None, help="settings (default: ./config.yaml)"
    )
    _add_modes(parser)
    parser.add_argument(
        "--report", type=path_if_given, metavar="FILE", default=None, help="write the account there, as JSON"
    )
    add_level_flags(parser)
    parser.add_argument("--version", action="version", version=__version__)
    return parser


def _add_modes(parser: argparse.ArgumentParser) -> None:
    """Add the flags that select something other than an import."""
    modes = parser.add_mutually_exclusive_group()
    for mode, text in MODES.items():
        modes.add_argument(f"--{mode}", action="store_true", default=False, help=text)
    parser.add_argument("--yes", action="store_true", default=False, help="do not ask before --forget-missing")
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` and return the exit code."""
    open_standard_streams()
    with StopSignals() as signals:
        try:
            options = build_parser().parse_args(argv)
        except SystemExit as stop:  # --help, --version, or a usage error
            return int(stop.code or 0)
        with log_to_console(options.level):
            return run_safely(options, signals)


def run_safely(options: argparse.Namespace, outer_signals: StopSignals) -> int:
    """Run the command, log any error, and return the exit code."""
    try:
        with StopSignals(outer_signals) as signals:
            for flag in ("config", "report"):
                refuse_nothing(flag, getattr(options, flag))
            flags = {name: value for name, value in vars(options).items() if name in CONFIG_FIELDS}
            config = load_config(options.config, flags)
            signals.check()
            if config.scheduler is not None and __name__ == "__main__":
                # Dask pickles functions of `__main__` by value: a worker would run the driver's code, not its own.
                return int(importlib.import_module(PROGRAM).run_safely(options, signals))
            return _run_options(options, config, signals)
    except Exception as error:
        return exit_code_of(error, "; what was committed stays, run again")


def _run_options(options: argparse.Namespace, config: Config, signals: StopSignals) -> int:
    preparer = DatasetPreparer(config, show_progress=options.level <= logging.INFO, outer_signals=signals)
    other = next((f"--{mode}" for mode in MODES if getattr(options, mode.replace("-", "_"))), "--re-embed")
    if options.verify_vectors is not None and other != "--re-embed":
        raise UsageError(f"--verify-vectors: not allowed with {other}: give it alone, or with --re-embed")
    if options.dry_run:
        refuse_mistakes(config)
        return _print_plan(preparer)
    if options.list_missing:
        return list_missing(config, signals.check)
    if options.forget_missing:
        refuse_without_terminal(options.yes)
    if options.restore_quarantine:
        outcomes = preparer.restore_quarantine()
        for outcome, count in sorted(outcomes.items()):
            log.info("%d %s", count, outcome)
        return 1 if outcomes["failed"] else 0
    exit_code = RunStopped.exit_code
    report = Report(options.report)
    account, work = _account_and_work(options, preparer)
    try:
        refuse_mistakes(config)
        exit_code = 1 if work().failed else 0
    except PrepareError as error:
        exit_code = error.exit_code
        raise
    finally:
        exit_code = report.write(account, exit_code)
    return exit_code


def _account_and_work(options: argparse.Namespace, preparer: DatasetPreparer) -> tuple[Account, Callable[[], Account]]:
    """Return the account and the function that fills it, so that the account can be reported after an error."""
    run_id = preparer.summary.run_id
    command: type[StoredStems]
    account: StoredAccount
    if options.verify_vectors is not None:
        command, account = VerifyVectors, Verification(run_id, options.verify_vectors, options.re_embed)
    elif options.re_embed:
        command, account = ReEmbed, ReEmbedding(run_id)
    elif options.forget_missing:
        command, account = ForgetMissing, Forgetting(run_id, options.yes)
    elif options.verify:
        command, account = CheckLibrary, LibraryCheck(run_id)
    else:
        return preparer.summary, preparer.run
    return account, functools.partial(preparer.tend, command, account)


def _print_plan(preparer: DatasetPreparer) -> int:
    files = preparer.dry_run()
    print_lines(printable(found.path) for found in files)
    log.info("%d to process, %d already processed; nothing was touched", len(files), preparer.summary.already_done)
    return 0


def leave(exit_code: int) -> NoReturn:
    """End this process at once.

    A normal exit would wait for the model, which may be in a long call, and for workers that are stuck in the kernel.
    """
    logging.shutdown()
    with contextlib.suppress(OSError, ValueError):  # the terminal or pipe is closed
        sys.stdout.flush()
    os._exit(exit_code)


def command() -> NoReturn:
    """Run this process's command line; the installed `prepare-dataset-sql` calls this."""
    read_names_as_utf8()
    leave(main())


if __name__ == "__main__":
    command()
