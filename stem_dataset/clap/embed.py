"""Embed files in batches, with one call of CLAP per batch.

The vector of a file is the mean of its windows' vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

import numpy as np

from stem_dataset.audio.windowing import Waveforms
from stem_dataset.clap.engine import reference_signal
from stem_dataset.clap.vectors import blob_of, refuse_broken, well_formed
from stem_dataset.datatypes import EMBEDDING_SIZE, Float32, Int16, Windowed
from stem_dataset.errors import RunStopped
from stem_dataset.logs import log
from stem_dataset.progress import Progress

# After Ctrl-C, the batch that is being embedded has this long to finish.
INTERRUPT_GRACE_S = 5.0


# The method `get_audio_embedding_from_data` of a `ClapModel`.
EmbedAudio = Callable[[Sequence[Float32]], Float32]


def embed_windows(embed_audio: EmbedAudio, windows: Sequence[Int16]) -> Float32:
    """Return one vector per window, shape (N, 512), from one call of CLAP.

    If a vector is not well-formed, its window is embedded again alone. If several are not, or one is still not, the
    reference signal is embedded too. If its vector is also bad, the engine is broken, no file is to blame, and
    `RunStopped` is raised. Otherwise the bad vectors are returned.
    """
    vectors = _call_clap(embed_audio, windows)
    bad = np.flatnonzero(~well_formed(vectors))
    for row in bad:
        vectors[row] = _call_clap(embed_audio, [windows[row]])[0]
    if len(bad) > 1 or not well_formed(vectors).all():
        refuse_broken(_call_clap(embed_audio, [reference_signal()])[0])
    return vectors


def _call_clap(embed_audio: EmbedAudio, windows: Sequence[Int16]) -> Float32:
    try:
        vectors = np.array(embed_audio(Waveforms(windows)), dtype=np.float32)
    except (RuntimeError, MemoryError) as error:
        text = f"CLAP failed on {len(windows)} windows: {type(error).__name__}: {error}"
        raise RunStopped(f"{text}. No file is to blame; if memory ran out, free some, or try --device cpu") from error
    if vectors.shape != (len(windows), EMBEDDING_SIZE):
        raise RunStopped(f"CLAP is broken: for {len(windows)} windows it returned an array of shape {vectors.shape}")
    return vectors


Batched = TypeVar("Batched", bound=Windowed)


def batches(files: Iterable[Batched], batch_windows: int) -> Iterator[list[Batched]]:
    """Yield lists of files with at most `batch_windows` windows in total.

    A file is never split, so a list with a single file may have more.
    """
    batch: list[Batched] = []
    windows = 0
    for file in files:
        if batch and windows + len(file.windows) > batch_windows:
            yield batch
            batch, windows = [], 0
        batch.append(file)
        windows += len(file.windows)
    if batch:
        yield batch


def file_vectors(vectors: Float32, window_counts: Sequence[int]) -> list[bytes | None]:
    """Return each file's vector as the database stores it, or None.

    `vectors` are those of all windows, shape (N, 512), and `window_counts` says how many belong to each file. None
    means that a vector of the file is not well-formed.
    """
    parts = np.split(vectors, np.cumsum(window_counts)[:-1])
    means = [(rows, file_vector(rows)) for rows in parts]
    return [blob_of(mean) if well_formed(rows).all() and well_formed(mean) else None for rows, mean in means]


def file_vector(vectors: Float32) -> Float32:
    """Return the normalised mean of a file's window vectors, shape (n, 512)."""
    mean = vectors.mean(axis=0, dtype=np.float64)
    # If the vectors cancel out, the result is not well-formed, which the caller checks.
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(mean / np.linalg.norm(mean), dtype=np.float32)


class BatchEmbedder(Generic[Batched]):
    """Embeds files in batches, and collects one while the model embeds another."""

    def __init__(
        self,
        thread: ThreadPoolExecutor,
        progress: Progress,
        batch_windows: int,
        embed: Callable[[Sequence[Int16]], Float32],
        write: Callable[[Sequence[tuple[Batched, bytes | None]]], None],
    ) -> None:
        """`embed` is called in `thread`, and `write` in the caller's.

        `embed` returns one vector per window, shape (N, 512). `write` takes the files of a batch with their vectors,
        which are None if they are not well-formed.
        """
        self.thread = thread
        self.progress = progress
        self.batch_windows = batch_windows
        self.embed = embed
        self.write = write
        self.collected: list[Batched] = []  # for the next batch
        self.batch: list[Batched] = []  # being embedded
        self.vectors: Future[Float32] | None = None  # of the windows in `batch`

    def add(self, file: Batched) -> None:
        """Add a file; if the batch is too full for it, embed that first.

        This waits until the model has finished the previous batch.
        """
        if self.collected and self._collected_windows() + len(file.windows) > self.batch_windows:
            self._start()
        self.collected.append(file)
        self.progress.collect(len(file.windows))

    def flush(self) -> None:
        """Embed and write all files that were added."""
        if self.collected:
            self._start()
        self.finish()

    def _collected_windows(self) -> int:
        return sum(len(file.windows) for file in self.collected)

    def _start(self) -> None:
        self.finish()
        self.batch, self.collected = self.collected, []
        windows = [window for file in self.batch for window in file.windows]
        self.progress.begin_batch(len(windows))
        log.debug("embedding %d windows of %d files in one call", len(windows), len(self.batch))
        self.vectors = self.thread.submit(self.embed, windows)

    def finish(self) -> None:
        """Wait for the batch that is being embedded, if any, and write it."""
        if self.vectors is not None:
            self.progress.wait_for(self.vectors)
            self._write()

    def tick(self) -> None:
        """Check for Ctrl-C, redraw the bar, and write an embedded batch."""
        self.progress.tick()
        if self.vectors is not None and self.vectors.done():
            self._write()

    def _write(self) -> None:
        assert self.vectors is not None
        vectors, batch, self.batch, self.vectors = self.vectors.result(), self.batch, [], None
        self.progress.end_batch()
        self.write(list(zip(batch, file_vectors(vectors, [len(file.windows) for file in batch]), strict=True)))

    def settle_interrupted(self) -> None:
        """Write the batch that is being embedded if that ends within `INTERRUPT_GRACE_S`."""
        if self.vectors is None:
            return
        log.warning(
            "interrupted: waiting up to %g seconds for the current batch; press Ctrl-C again to end at once",
            INTERRUPT_GRACE_S,
        )
        if wait([self.vectors], INTERRUPT_GRACE_S).done and self.vectors.exception() is None:
            self._write()
