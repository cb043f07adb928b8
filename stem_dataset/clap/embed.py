"""Windows in, one vector a file out: batches, one call of CLAP for each, and the mean over a file's windows."""

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

INTERRUPT_GRACE_S = 5.0  # the batch in hand may still be finished after Ctrl-C


EmbedAudio = Callable[[Sequence[Float32]], Float32]  # `get_audio_embedding_from_data` of a `ClapModel`


def embed_windows(embed_audio: EmbedAudio, windows: Sequence[Int16]) -> Float32:
    """Return one vector a window, shape (N, 512), from one call; a row that is bad twice is left bad.

    A bad row is embedded again alone. Where several are bad, or one stays bad, a reference signal decides whether it is
    the engine: then `RunStopped`, since no file is to blame.
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
        raise RunStopped(f"CLAP is broken: it answered {len(windows)} windows with an array of shape {vectors.shape}")
    return vectors


Batched = TypeVar("Batched", bound=Windowed)


def batches(files: Iterable[Batched], batch_windows: int) -> Iterator[list[Batched]]:
    """Yield lists of whole files with up to `batch_windows` windows together, at the end what is left."""
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
    """Return the vector of each file as the database keeps it, from those of all their windows, (N, 512); None where
    one of them is not well-formed."""
    parts = np.split(vectors, np.cumsum(window_counts)[:-1])
    means = [(rows, file_vector(rows)) for rows in parts]
    return [blob_of(mean) if well_formed(rows).all() and well_formed(mean) else None for rows, mean in means]


def file_vector(vectors: Float32) -> Float32:
    """Return the vector of a file from those of its windows, (n, 512): the mean, normalised again."""
    mean = vectors.mean(axis=0, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):  # windows that cancel out are caught as not well-formed
        return np.asarray(mean / np.linalg.norm(mean), dtype=np.float32)


class BatchEmbedder(Generic[Batched]):
    """Embeds files batch by batch; the next batch is collected while the model has the last."""

    def __init__(
        self,
        thread: ThreadPoolExecutor,
        progress: Progress,
        batch_windows: int,
        embed: Callable[[Sequence[Int16]], Float32],
        write: Callable[[Sequence[tuple[Batched, bytes | None]]], None],
    ) -> None:
        """`embed` returns one vector a window, (N, 512), and is called in `thread`. `write` takes the files of a batch
        with their vectors, None where one is not well-formed."""
        self.thread = thread
        self.progress = progress
        self.batch_windows = batch_windows
        self.embed = embed
        self.write = write
        self.collected: list[Batched] = []  # for the next batch
        self.batch: list[Batched] = []  # in the model's hands
        self.vectors: Future[Float32] | None = None  # of it

    def add(self, file: Batched) -> None:
        """Take a file; a batch that is full goes to the model, once that has finished the last."""
        if self.collected and self._collected_windows() + len(file.windows) > self.batch_windows:
            self._start()
        self.collected.append(file)

    def flush(self) -> None:
        """Embed and write all that was taken."""
        if self.collected:
            self._start()
        self.finish()

    def _collected_windows(self) -> int:
        return sum(len(file.windows) for file in self.collected)

    def _start(self) -> None:
        self.finish()
        self.batch, self.collected = self.collected, []
        windows = [window for file in self.batch for window in file.windows]
        self.progress.say(f"embedding {len(windows)} windows")
        log.debug("embedding %d windows of %d files in one call", len(windows), len(self.batch))
        self.vectors = self.thread.submit(self.embed, windows)

    def finish(self) -> None:
        """Wait for the batch in the model's hands, if there is one, and write it."""
        if self.vectors is not None:
            self.progress.wait_for(self.vectors)
            self._write()

    def tick(self) -> None:
        """Look for Ctrl-C, move the bar's clock, and write a batch as soon as it is embedded."""
        self.progress.tick()
        if self.vectors is not None and self.vectors.done():
            self._write()

    def _write(self) -> None:
        assert self.vectors is not None
        vectors, batch, self.batch, self.vectors = self.vectors.result(), self.batch, [], None
        self.write(list(zip(batch, file_vectors(vectors, [len(file.windows) for file in batch]), strict=True)))
        self.progress.say("decoding")

    def settle_interrupted(self) -> None:
        """Write the batch in the model's hands if it is done within five seconds."""
        if self.vectors is None:
            return
        log.warning("interrupted: giving the batch in hand %g seconds; again ends at once", INTERRUPT_GRACE_S)
        if wait([self.vectors], INTERRUPT_GRACE_S).done and self.vectors.exception() is None:
            self._write()
