"""The types that a file passes through: `FoundFile`, `ProcessedFile`, `StemRecord`, and their parts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

# The category when neither the path nor CLAP gives one.
UNKNOWN_CATEGORY = "unknown"
# The category when the names say "loop" and nothing more specific.
LOOP_CATEGORY = "loop"

# Every CLAP checkpoint was trained at this rate.
SAMPLE_RATE_HZ = 48_000

EMBEDDING_SIZE = 512
EMBEDDING_BYTES = EMBEDDING_SIZE * 4  # 2,048: little-endian float32

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int16 = npt.NDArray[np.int16]
T = TypeVar("T")

DecoderName = Literal["libsndfile", "ffmpeg"]


class Windowed(Protocol):
    """A file that waits for the model."""

    @property
    def windows(self) -> list[Int16]:
        """CLAP's windows in int16 steps of 1/32767."""


@dataclass(frozen=True, slots=True)
class FormerRow:
    """What outlives the row of an earlier version of a file."""

    id: str
    user_rating: int | None


@dataclass(frozen=True, slots=True)
class FoundFile:
    """An audio file that the walk found.

    Size and time are those of its `stat`.
    """

    # Absolute. Bytes that are not UTF-8 are surrogates.
    path: str
    size_bytes: int
    mtime_ns: int
    # The row of an earlier version of this file.
    former: FormerRow | None = None
    # None where the file system has no such numbers.
    inode: int | None = None


@dataclass(frozen=True, slots=True)
class FileTags:
    """What a file says about its own music.

    bpm: a stated tempo, 30 to 300
    beats: how many quarter notes the file is long
    key: as it is stated, such as 'Am', 'B flat minor' or '8A'
    is_loop: True for a loop, False for a one-shot
    root_note: the MIDI number of the note that sounds if the file is played at its own speed, 0 to 127
    """

    bpm: float | None = None
    beats: float | None = None
    key: str | None = None
    is_loop: bool | None = None
    root_note: int | None = None


@dataclass(frozen=True, slots=True)
class SourceFormat:
    """The format of a decoded file, the levels of its source, and its tags."""

    sample_rate_hz: int
    channels: int
    frames: int
    truncated: bool
    # The share of samples at full scale, in the channel that has most of them.
    clipped_share: float = 0.0
    # The mean of the channel that is farthest from zero; full scale is 1.
    dc_offset: float = 0.0
    # Of stereo: one channel is silent, the other is not.
    dead_channel: bool = False
    decoder: DecoderName = "libsndfile"
    tags: FileTags = FileTags()

    @property
    def duration_s(self) -> float:
        return self.frames / self.sample_rate_hz


@dataclass(frozen=True, slots=True)
class Measurements:
    """What `analyse` measures in the samples of a file, before anything is decided.

    features: the means over the frames, and the levels, under the names that `features` of a row has
    onsets: (3, frames), how much the lows, middles and highs rise from frame to frame
    pitch_classes: (PITCH_CLASS_STEPS,), how much sounds in each 10 cents of the octave, from A upwards
    pitches: (frames, 3), pitch in Hz (0: none), its clarity up to 1, and energy
    spectrum: (PITCH_BINS,), the power summed over the file
    """

    duration_s: float
    features: dict[str, float | None]
    onsets: Float32
    pitch_classes: Float64
    pitches: Float64
    spectrum: Float64


@dataclass(frozen=True, slots=True)
class Tempo:
    """A tempo that the audio may have.

    regularity: mean autocorrelation after one, two and four beats; 1 if they sound alike, 0 for noise
    score: the higher, the more likely; comparable only within one file
    """

    bpm: float
    regularity: float
    score: float


@dataclass(frozen=True, slots=True)
class Rhythm:
    """What the audio says about time.

    tempi: the possible tempi, most likely first; empty without a steady pulse
    is_loop: True for a loop, False for a one-shot, None if undecided
    """

    duration_s: float
    tempi: list[Tempo]
    is_loop: bool | None


@dataclass(frozen=True, slots=True)
class NameFacts:
    """What the names of a file and its folders say.

    stated_bpm: a tempo with its unit, as in '128bpm', or the only number that may be one in the name of a loop
    numbers: bare numbers that may be a tempo, as in '_128_'
    key_root: the note on which the key is, if the file's own name has no key but that note beside a tempo: '_98_G#'
    is_loop: True for a loop, False for a one-shot, None if no name says so
    is_loop_if_long: the same, ignoring the words 'hit', 'single' and 'shot', which may belong to a title
    """

    stated_bpm: float | None = None
    numbers: tuple[float, ...] = ()
    key: str | None = None
    key_root: str | None = None
    category: str | None = None
    is_loop: bool | None = None
    is_loop_if_long: bool | None = None


@dataclass(frozen=True, slots=True)
class Description:
    """What is decided about a file, for the columns of these names."""

    bpm: float | None
    key: str | None
    category: str
    features: dict[str, Any]
    quality_ok: bool


@dataclass(frozen=True, slots=True)
class StemMetadata:
    """A row of `stems` without time, vector and model.

    The parent process adds those.
    """

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
    inode: int | None = None


@dataclass(frozen=True, slots=True)
class ProcessedFile:
    """A standardised file: its metadata, and its audio as windows.

    The windows are CLAP's, in int16 steps of 1/32767. If the worker has embedded the windows, `windows` is empty and
    `vector` is the result (None: not well-formed).
    """

    found: FoundFile
    metadata: StemMetadata
    windows: list[Int16]
    is_embedded: bool = False
    vector: bytes | None = None


@dataclass(frozen=True, slots=True)
class StemRecord:
    """A finished row."""

    metadata: StemMetadata
    imported_at: str
    clap_embedding: bytes
    embedding_model: str


@dataclass(frozen=True, slots=True)
class StoredStem:
    """What --re-embed and --verify-vectors read of a row.

    It is enough to compute the vector again and to update the labels.
    """

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
class StoredFile:
    """What --forget-missing reads of a row."""

    id: str
    original_file: str
    path: str | None
    is_rated: bool


@dataclass(frozen=True, slots=True)
class RowToCheck:
    """What --verify reads of a row.

    has_json: whether tags and features are JSON
    """

    rowid: int
    id: str
    original_file: str
    path: str | None
    samples_sha256: str
    size_bytes: int
    clap_embedding: bytes
    has_json: int


@dataclass(frozen=True, slots=True)
class KnownRow:
    """A row that has the bytes of a new file."""

    id: str
    original_file: str
    is_gone: bool  # there is nothing at `original_file` any more
    can_serve: bool  # it is current and has its WAV


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
    """A row of `provenance`: what computed the vectors of this run."""

    embedding_model: str
    engine: str
    # A JSON object with sorted names.
    versions: str
    checkpoint: str
    checkpoint_sha256: str
    architecture: str | None
    precision: str
    window_rule: str
    # Little-endian float32.
    reference_vector: bytes | None
    first_used_at: str

    def __str__(self) -> str:
        return f"{self.engine} {self.versions}"


@dataclass(frozen=True, slots=True)
class QuarantineEntry:
    """The content of the JSON beside a quarantined file.

    `path` is the quarantined file's own.
    """

    path: str
    original_file: str
    # With the keys type, message and traceback.
    error: dict[str, str]
    quarantined_at: str
    size_bytes: int
    mtime_ns: int
    sha256: str
    run_id: str
    # The text of the link, if the original was a symbolic link.
    link_target: str | None = None
    former: FormerRow | None = None

    @property
    def error_text(self) -> str:
        return f"{self.error['type']}: {self.error['message']}"


def utc_now() -> str:
    """Return the current time as sortable text, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def text_of(raw: bytes) -> str:
    """Decode a TEXT value that need not be UTF-8.

    It may be a file name. With Python's default decoder, one such name makes the whole query fail.
    """
    return raw.decode("utf-8", "surrogateescape")


def path_text_of(path: str) -> str | None:
    """Return `path` as valid UTF-8, with the other bytes escaped; None if it is valid already."""
    raw = os.fsencode(path)
    text = raw.decode("utf-8", "backslashreplace")
    return None if text.encode() == raw else text


def storable(text: str) -> str:
    """Escape what sqlite3 refuses in a text that is not a path.

    These are lone surrogates.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
