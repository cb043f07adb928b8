"""Which file of a stem is played, and what its waveform looks like.

A request names a stem, never a path. Whatever the database says, only regular files with the suffix of an audio file
are served.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from stem_dataset.audio.standardise import standardise
from stem_dataset.audio.wav import StandardisedAudio, StoredAudio
from stem_dataset.config import Config
from stem_dataset.datatypes import SAMPLE_RATE_HZ
from stem_dataset.discover import READABLE_SUFFIXES
from stem_dataset.errors import BrokenFile, MachineFault, text_of_error
from stem_dataset.files import open_regular
from stem_dataset.logs import printable
from stem_dataset.page.stored import StemPaths

# What Chromium and Firefox play, with the types by which they know it; Safari plays most of them.
PLAYED_TYPES = {
    ".wav": "audio/wav",
    ".wave": "audio/wav",
    ".bwf": "audio/wav",
    ".flac": "audio/flac",
    ".mp3": "audio/mpeg",
    ".ogg": "audio/ogg",
    ".oga": "audio/ogg",
    ".opus": "audio/ogg",
    ".m4a": "audio/mp4",
    ".m4b": "audio/mp4",
    ".mp4": "audio/mp4",
    ".aac": "audio/aac",
    ".webm": "audio/webm",
}
PEAKS = 400
# Of the waveforms that were shown last; each has 800 numbers.
KEPT_WAVEFORMS = 256


class FileGone(Exception):
    """A stem has no such file, or it cannot be read."""


@dataclass(frozen=True)
class ServedFile:
    """A file that exists."""

    path: str
    media_type: str
    status: os.stat_result


def suffix_of(path: str) -> str:
    """Return the suffix of a file's name, in lower case."""
    return os.path.splitext(path)[1].lower()


def plays(path: str) -> bool:
    """Whether a browser can play a file of this name."""
    return suffix_of(path) in PLAYED_TYPES


def source_of(original: str, wav: str | None) -> str | None:
    """Return which file of a stem is played: 'wav', 'original', or None."""
    if wav is not None:
        return "wav"
    return "original" if plays(original) else None


def wav_places(paths: StemPaths, config: Config) -> Iterator[str]:
    """Yield where the standardised WAV of a stem may be.

    If its folder was moved, the preparer notes it in its next run. Until then, the WAV is looked for where the settings
    say, and beside the database.
    """
    if paths.wav is None:
        return
    yield paths.wav
    place = Path(paths.stem_id[:2]) / f"{paths.stem_id}.wav"
    for folder in (config.stems, config.database.resolve().parent / "stems"):
        if folder is not None:
            yield str(folder / place)


def file_to_play(paths: StemPaths, config: Config, wants_original: bool) -> ServedFile:
    """Return the file to play; raises `FileGone` if there is none."""
    candidates = [] if wants_original else list(wav_places(paths, config))
    if plays(paths.original):
        candidates.append(paths.original)
    for path in candidates:
        with contextlib.suppress(FileGone):
            return served(path)
    if not candidates:
        suffix = suffix_of(paths.original) or "without a suffix"
        raise FileGone(f"no browser plays files {suffix}, and this stem has no standardised WAV")
    raise FileGone(f"{printable(candidates[-1])}: the file is gone, or its drive is")


def served(path: str) -> ServedFile:
    """Return a file by its path; raises `FileGone` unless it is an audio file that can be read."""
    suffix = suffix_of(path)
    if suffix not in READABLE_SUFFIXES:
        raise FileGone(f"{printable(path)}: is not named like an audio file")
    try:
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
    except (OSError, ValueError, MachineFault) as error:
        raise FileGone(f"{printable(path)}: {printable(error)}") from None
    return ServedFile(path, PLAYED_TYPES.get(suffix, "application/octet-stream"), status)


class Waveforms:
    """The waveforms of stems; the last ones are kept."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.lock = threading.Lock()
        self.kept: OrderedDict[tuple[str, int, int], dict[str, Any]] = OrderedDict()

    def of(self, paths: StemPaths) -> dict[str, Any]:
        """Return {"peaks": [[lowest, highest], ...], "seconds": ...} of a stem; raises `FileGone`."""
        source = self._source(paths)
        key = (source.path, source.status.st_size, source.status.st_mtime_ns)
        with self.lock:
            if key in self.kept:
                self.kept.move_to_end(key)
                return self.kept[key]
        is_wav = source.path != paths.original
        try:
            waveform = stored_waveform(source.path) if is_wav else decoded_waveform(source.path, self.config)
        except (OSError, MachineFault, BrokenFile, soundfile.LibsndfileError) as error:
            raise FileGone(f"{printable(source.path)}: cannot be decoded: {printable(text_of_error(error))}") from None
        with self.lock:
            self.kept[key] = waveform
            while len(self.kept) > KEPT_WAVEFORMS:
                self.kept.popitem(last=False)
        return waveform

    def _source(self, paths: StemPaths) -> ServedFile:
        for path in wav_places(paths, self.config):
            with contextlib.suppress(FileGone):
                return served(path)
        return served(paths.original)


def stored_waveform(path: str) -> dict[str, Any]:
    """Return the waveform of a standardised WAV."""
    with open_regular(path) as file, soundfile.SoundFile(file) as sound:
        # The program wrote it: 48 kHz, mono, 24 bit, and the header says how long it is.
        if (sound.samplerate, sound.channels, sound.subtype) != (SAMPLE_RATE_HZ, 1, "PCM_24"):
            raise FileGone(f"{printable(path)}: is not a standardised WAV")
        return waveform_of(StoredAudio(file, sound.frames))


def decoded_waveform(path: str, config: Config) -> dict[str, Any]:
    """Return the waveform of an original."""
    with (
        open_regular(path) as file,
        tempfile.TemporaryDirectory() as folder,
        StandardisedAudio(Path(folder)) as audio,
    ):
        standardise(file, audio, config.max_duration_s)
        return waveform_of(audio)


def waveform_of(audio: StoredAudio) -> dict[str, Any]:
    """Return the lowest and the highest sample of each of `PEAKS` parts of equal length.

    Audio of fewer samples has its samples more than once. Each part is read by itself: of six hours, it takes 10 MB.
    """
    peaks: list[Sequence[float]] = []
    for part in range(PEAKS if audio.length else 0):
        start = part * audio.length // PEAKS
        samples = audio.samples(start, max(start + 1, (part + 1) * audio.length // PEAKS))
        peaks.append([round(float(np.min(samples)), 4), round(float(np.max(samples)), 4)])
    return {"peaks": peaks, "seconds": round(audio.length / SAMPLE_RATE_HZ, 6)}
