"""What the commands on existing rows share: they read and embed stems again."""

from __future__ import annotations

import errno
import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import wait
from typing import Any, ClassVar

from stem_dataset.audio.standardise import standardise
from stem_dataset.audio.wav import SAMPLE_BYTES, WAV_HEADER_BYTES, StandardisedAudio, StoredAudio
from stem_dataset.audio.windowing import cut_windows
from stem_dataset.clap.embed import BatchEmbedder
from stem_dataset.clap.session import ClapSession
from stem_dataset.config import Config
from stem_dataset.database.stems import Database
from stem_dataset.datatypes import Float32, FoundFile, Int16, NewVector, ReadStem, StoredStem, utc_now
from stem_dataset.drives import start_call
from stem_dataset.errors import (
    PROGRAM_ERRORS,
    REPORT_TEXT,
    Interrupted,
    MachineFault,
    ProgramFault,
    blaming_the_program,
    is_memory_error,
)
from stem_dataset.files import check_unchanged, open_regular, sha256_of, size_and_mtime_ns
from stem_dataset.logs import log, printable
from stem_dataset.output_folders import scratch_folder
from stem_dataset.progress import Progress
from stem_dataset.signals import TICK_S

# Errors that would repeat for every file.
OF_ALL_FILES = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def read_windows(stem: StoredStem, config: Config) -> list[Int16]:
    """Return CLAP's windows of `stem`, from its WAV or its original.

    The original is read if the WAV cannot be used and the original has not changed. Raises `MachineFault` with both
    reasons if neither can be used, and `ProgramFault` if the program fails on one.
    """
    reasons = []
    for read in (windows_of_wav, _windows_of_original):
        try:
            windows = read(stem, config)
        except Exception as error:
            # A damaged file or a lost drive may raise anything. The row then keeps its vector.
            if is_memory_error(error):
                raise MemoryError(f"not enough memory to read {stem.original_file}: {error}") from None
            if isinstance(error, PROGRAM_ERRORS) or getattr(error, "errno", None) in OF_ALL_FILES:
                # The stem is not the cause, and every other stem would fail too.
                raise
            log.debug("%s: traceback", printable(stem.original_file), exc_info=True)
            if isinstance(error, ProgramFault):
                raise
            reasons.append(str(error) if isinstance(error, MachineFault) else f"{type(error).__name__}: {error}")
            continue
        if reasons and stem.path:
            log.warning("%s: read from the original, since %s", printable(stem.original_file), printable(reasons[0]))
        return windows
    raise MachineFault("; ".join(reasons))


def windows_of_wav(stem: StoredStem, config: Config) -> list[Int16]:
    """Return CLAP's windows of `stem` from its WAV.

    Raises `MachineFault` if that is missing or damaged.
    """
    if stem.path is None:
        raise MachineFault("it has no WAV")
    with open_regular(stem.path) as file:
        length = (os.fstat(file.fileno()).st_size - WAV_HEADER_BYTES) // SAMPLE_BYTES
        file.seek(WAV_HEADER_BYTES)
        digest = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]  # accepts IO[bytes]
        if digest.hexdigest() != stem.samples_sha256:
            raise MachineFault(f"{stem.path} is damaged: its samples are not those that were imported")
        with blaming_the_program():
            return cut_windows(StoredAudio(file, length), config.max_windows)


def _windows_of_original(stem: StoredStem, config: Config) -> list[Int16]:
    with (
        open_regular(stem.original_file) as file,
        StandardisedAudio(scratch_folder(config.stems, config.quarantine)) as audio,
    ):
        status = os.fstat(file.fileno())
        if sha256_of(file) != stem.sha256:
            raise MachineFault("the original has changed since its import")
        # No limit: the file was within it when it was imported.
        standardise(file, audio, max_duration_s=math.inf)
        check_unchanged(file, FoundFile(stem.original_file, *size_and_mtime_ns(status)))
        with blaming_the_program():
            return cut_windows(audio, config.max_windows)


def advice_for(fault: MachineFault, flag: str) -> str:
    """Return what a user can do about a stem that `read_windows` cannot read."""
    return REPORT_TEXT if isinstance(fault, ProgramFault) else f"restore the missing file and run {flag} again"


class StoredStems:
    """A command on the rows that exist.

    It can read stems again, embed them, and write new vectors.
    """

    flag: ClassVar[str]
    needs_clap: ClassVar[bool] = True

    def __init__(
        self,
        config: Config,
        database: Database,
        session: ClapSession,
        progress: Progress,
        embed: Callable[[Sequence[Int16]], Float32],
    ) -> None:
        """`embed` returns one vector per window, (N, 512)."""
        self.config = config
        self.database = database
        self.session = session
        self.progress = progress
        self.embed = embed

    def run(self, account: Any) -> None:
        """Do the command's work, and count it in its `account`."""
        raise NotImplementedError

    def embed_all(
        self,
        stems: Iterable[StoredStem],
        write: Callable[[Sequence[tuple[ReadStem, bytes | None]]], None],
        fail: Callable[[StoredStem, MachineFault], None],
    ) -> None:
        """Embed `stems` batch by batch.

        Each batch goes to `write`, and each stem that cannot be read to `fail`.
        """
        embedder = BatchEmbedder(self.session.thread, self.progress, self.config.batch_windows, self.embed, write)
        self.progress.say("decoding")
        try:
            for stem in self._read(stems, embedder.tick, fail):
                embedder.add(stem)
            embedder.flush()
        except Interrupted:
            embedder.settle_interrupted()
            raise

    def _read(
        self, stems: Iterable[StoredStem], tick: Callable[[], None], fail: Callable[[StoredStem, MachineFault], None]
    ) -> Iterator[ReadStem]:
        """Yield `stems` with their windows.

        Ctrl-C works while a drive hangs.
        """
        for stem in stems:
            reading = start_call(read_windows, stem, self.config)
            while not wait([reading], TICK_S).done:
                tick()
            tick()
            try:
                windows = reading.result()
            except MachineFault as fault:
                fail(stem, fault)
                continue
            self.progress.decoded += 1
            yield ReadStem(stem, windows)

    def write_vectors(self, vectors: Sequence[tuple[StoredStem, bytes]]) -> None:
        """Write new vectors, and the labels that CLAP derives, to their rows.

        All is one transaction.
        """
        new = []
        for stored, vector in vectors:
            stem = self.session.described(stored, vector)
            labels = (stem.category, stem.tags, stem.features)
            new.append(NewVector(stem.id, utc_now(), *labels, vector, self.session.embedding_model))
        if new:
            assert self.session.provenance is not None
            self.database.replace_vectors(new, self.session.provenance)
