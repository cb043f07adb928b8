"""What a file becomes on its way: `FoundFile`, `ProcessedFile`, `StemRecord`, and what each is made of."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

UNKNOWN_CATEGORY = "unknown"  # of a file whose names tell none, until CLAP does
LOOP_CATEGORY = "loop"  # of a file whose names tell nothing more

SAMPLE_RATE_HZ = 48_000  # what every CLAP checkpoint was trained on

EMBEDDING_SIZE = 512
EMBEDDING_BYTES = EMBEDDING_SIZE * 4  # 2,048: little-endian float32

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int16 = npt.NDArray[np.int16]
T = TypeVar("T")

DecoderName = Literal["libsndfile", "ffmpeg"]


class Windowed(Protocol):
    """A file on its way to the model."""

    @property
    def windows(self) -> list[Int16]:
        """CLAP's windows in int16 steps of 1/32767."""


@dataclass(frozen=True, slots=True)
class FormerRow:
    """What outlives a row whose file broke: its `id` and the user's rating."""

    id: str
    user_rating: int | None


@dataclass(frozen=True, slots=True)
class FoundFile:
    """An audio file that the walk found, as `stat` told it."""

    path: str  # absolute; bytes that are not UTF-8 as surrogates
    size_bytes: int
    mtime_ns: int
    former: FormerRow | None = None  # the row of an earlier version of this file


@dataclass(frozen=True, slots=True)
class SourceFormat:
    """What was decoded."""

    sample_rate_hz: int
    channels: int
    frames: int
    truncated: bool
    clipped_share: float = 0.0  # of the samples, in the channel that has most
    dc_offset: float = 0.0  # mean of the channel that is farthest from zero; full scale is 1
    dead_channel: bool = False  # of stereo: one is silent, the other is not
    decoder: DecoderName = "libsndfile"

    @property
    def duration_s(self) -> float:
        return self.frames / self.sample_rate_hz


@dataclass(frozen=True, slots=True)
class Measurements:
    """What the samples of a file say, before anything is judged; `analyse` makes it."""

    duration_s: float
    features: dict[str, float | None]  # means over the frames, levels and loudness, as `features` of a row has them
    onsets: Float32  # (3, frames): how much lows, middle and highs rise from frame to frame
    pitch_classes: Float64  # (PITCH_CLASS_STEPS,): how much sounds in each 10 cents of the octave, from A on
    pitches: Float64  # (frames, 3): pitch in Hz (0: none), its clarity up to 1, energy
    spectrum: Float64  # (PITCH_BINS,): power summed over the file


@dataclass(frozen=True, slots=True)
class Tempo:
    """A tempo that the audio may have."""

    bpm: float
    regularity: float  # mean autocorrelation at a beat, two and four: 1 where they sound alike, 0 for noise
    score: float  # of the candidates of one file, the one with the highest is the most likely


@dataclass(frozen=True, slots=True)
class Rhythm:
    """What the audio says about time: the tempi that it may have, most likely first; none without a steady pulse."""

    duration_s: float
    tempi: list[Tempo]
    is_loop: bool | None  # a loop (True) or a one-shot (False); None: it cannot be told


@dataclass(frozen=True, slots=True)
class NameFacts:
    """What a file's name and its folders' names say."""

    stated_bpm: float | None = None  # with its unit: '128bpm'
    numbers: tuple[float, ...] = ()  # any of which may be a tempo: '_128_'
    key: str | None = None
    category: str | None = None
    is_loop: bool | None = None


@dataclass(frozen=True, slots=True)
class Description:
    """What is judged of a file; the columns of the same names hold it."""

    bpm: float | None
    key: str | None
    category: str
    features: dict[str, Any]
    quality_ok: bool


@dataclass(frozen=True, slots=True)
class StemMetadata:
    """A row of `stems` without what the parent adds: time, vector and model."""

    id: str
    original_file: str
    path: str | None
    sha256: str
    samples_sha256: str
    size_bytes: int
    mtime_ns: int
    duration_s: float
    sample_rate_hz: int
    channels: int
    bpm: float | None
    key: str | None
    category: str
    tags: str
    features: str
    quality_ok: int


@dataclass(frozen=True, slots=True)
class ProcessedFile:
    """A standardised file: its metadata, and its audio as CLAP's windows in int16 steps of 1/32767."""

    found: FoundFile
    metadata: StemMetadata
    windows: list[Int16]  # none where the worker has embedded them
    is_embedded: bool = False
    vector: bytes | None = None  # by the worker; None: not well-formed


@dataclass(frozen=True, slots=True)
class StemRecord:
    """A finished row."""

    metadata: StemMetadata
    imported_at: str
    clap_embedding: bytes
    embedding_model: str


@dataclass(frozen=True, slots=True)
class StoredStem:
    """What --re-embed and --verify-vectors need of a row to make its vector anew, and what CLAP tells by it."""

    id: str
    original_file: str
    path: str | None
    sha256: str
    samples_sha256: str
    category: str
    tags: str
    features: str
    quality_ok: int
    clap_embedding: bytes


@dataclass(frozen=True, slots=True)
class ReadStem:
    """A stored stem with its audio as CLAP's windows, as in `ProcessedFile`."""

    stem: StoredStem
    windows: list[Int16]


@dataclass(frozen=True, slots=True)
class NewVector:
    """What --re-embed writes to a row."""

    id: str
    imported_at: str
    category: str
    tags: str
    features: str
    clap_embedding: bytes
    embedding_model: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """A row of `provenance`: what makes this run's vectors."""

    embedding_model: str
    engine: str
    versions: str  # JSON object, names sorted
    checkpoint: str
    checkpoint_sha256: str
    architecture: str | None
    precision: str
    window_rule: str
    reference_vector: bytes | None  # little-endian float32
    first_used_at: str

    def __str__(self) -> str:
        return f"{self.engine} {self.versions}"


@dataclass(frozen=True, slots=True)
class QuarantineEntry:
    """What the JSON beside a quarantined file says; `path` is the quarantined file's."""

    path: str
    original_file: str
    error: dict[str, str]  # type, message, traceback
    quarantined_at: str
    size_bytes: int
    mtime_ns: int
    sha256: str
    run_id: str
    link_target: str | None = None  # the original was a link with this text
    former: FormerRow | None = None

    @property
    def error_text(self) -> str:
        return f"{self.error['type']}: {self.error['message']}"


def utc_now() -> str:
    """Return the time as ISO 8601 in UTC; such texts sort by time."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def text_of(raw: bytes) -> str:
    """Read a TEXT: a file name need not be UTF-8, and with Python's default one such name breaks a whole query."""
    return raw.decode("utf-8", "surrogateescape")


def storable(text: str) -> str:
    """Escape what sqlite3 refuses in a text that is no path: lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
