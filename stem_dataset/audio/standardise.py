"""Make any audio file 48 kHz, mono and 24 bit.

The levels of its channels are measured on the way, and its tags are read.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import IO, Any

import numpy as np
import soundfile

from stem_dataset.audio.formats import READ_BY_LIBSNDFILE, AudioFormat, identify
from stem_dataset.audio.libsndfile_decoder import LibsndfileDecoder, may_be_read_by_ffmpeg
from stem_dataset.audio.pyav_decoder import NotDecoded, PyAVDecoder
from stem_dataset.audio.source import BLOCK_S, Block, Clock, Decoder, WatchedFile
from stem_dataset.audio.tags import read_tags
from stem_dataset.audio.wav import StandardisedAudio
from stem_dataset.datatypes import SAMPLE_RATE_HZ, Float32, SourceFormat
from stem_dataset.errors import NoSamples, NotFinite, blaming_the_program

NOT_RECOGNISED = 1  # libsndfile's SF_ERR_UNRECOGNISED_FORMAT
# Samples are limited to this. From 1e37 on, soxr would overflow to NaN, which would become silence.
LOUDEST = 1e30

# Samples of at least this level may be clipped. The highest 8-bit sample, 127/128, is 0.992.
FULL_SCALE = 0.99
# A channel whose peak is below this is silent: 0.0001 is slightly above dither in 16 bits.
DEAD_CHANNEL_PEAK = 10 ** (-80 / 20)


class SourceLevels:
    """Levels of each channel, which the mono mix does not keep."""

    def __init__(self, channels: int) -> None:
        self.frames = 0
        self.peaks, self.sums, self.clipped = np.zeros((3, channels))

    @blaming_the_program()
    def add(self, block: Float32) -> None:
        """Measure the next samples, shape (frames, channels)."""
        self.frames += len(block)
        # numpy takes ten times as long along axis 0 as column by column.
        for channel, samples in enumerate(block.T):
            peak = max(float(samples.max()), -float(samples.min()))
            self.peaks[channel] = max(self.peaks[channel], peak)
            self.sums[channel] += samples.sum(dtype=np.float64)
            if peak >= FULL_SCALE:
                self.clipped[channel] += _count_clipped(samples)

    @property
    def clipped_share(self) -> float:
        return float(self.clipped.max() / self.frames)

    @property
    def dc_offset(self) -> float:
        return float(max(self.sums / self.frames, key=abs))

    @property
    def has_dead_channel(self) -> bool:
        """Whether one channel of a stereo file is silent.

        In surround files, a silent LFE or rear channel is normal.
        """
        return len(self.peaks) == 2 and bool(self.peaks.min() < DEAD_CHANNEL_PEAK <= self.peaks.max())


def _count_clipped(samples: Float32) -> int:
    """Return how many of `samples`, shape (n,), are clipped.

    A sample is clipped if it is beyond full scale, as in a decoded MP3. It is also clipped if it is at full scale and
    equal to the sample before it: that is a flat top, and not only a loud peak.
    """
    level = np.abs(samples)
    flat = (samples[1:] == samples[:-1]) & (level[1:] >= FULL_SCALE)
    return int(np.count_nonzero(flat | (level[1:] > 1)))


def standardise(file: IO[bytes], audio: StandardisedAudio, max_duration_s: float) -> SourceFormat:
    """Decode `file` into `audio`, as 48 kHz, mono and 24 bit.

    The channels are averaged, resampled by soxr HQ, and rounded.

    Raises soundfile.LibsndfileError, `NoSamples`, `NotFinite` or `TooLong` if the file is at fault, and OSError or
    MemoryError if reading it fails. Raises `ProgramFault` if the decoded audio cannot be measured or written.
    """
    watched = WatchedFile(file)
    found = identify(watched)
    source = _decode(watched, found, audio, max_duration_s)
    return dataclasses.replace(source, tags=read_tags(watched, found, source.frames))


def _decode(watched: WatchedFile, found: AudioFormat, audio: StandardisedAudio, max_duration_s: float) -> SourceFormat:
    """Decode with libsndfile, or with FFmpeg what libsndfile cannot read."""
    if found.kind not in READ_BY_LIBSNDFILE:
        return _standardise_with_ffmpeg(
            watched, found, audio, max_duration_s, soundfile.LibsndfileError(NOT_RECOGNISED)
        )
    decoder: LibsndfileDecoder | None = None

    def open_decoder() -> LibsndfileDecoder:
        nonlocal decoder
        decoder = LibsndfileDecoder(watched, found)
        return decoder

    try:
        source = _standardise(open_decoder, audio, max_duration_s)
        if decoder is None or not decoder.ended_early():
            return source
        reason: Exception = NoSamples("libsndfile stopped before the end")
    except (soundfile.LibsndfileError, NoSamples) as error:
        if not may_be_read_by_ffmpeg(error, found, is_open=decoder is not None):
            raise
        reason = error
    audio.restart()
    return _standardise_with_ffmpeg(watched, found, audio, max_duration_s, reason)


def _standardise_with_ffmpeg(
    watched: WatchedFile, found: AudioFormat, audio: StandardisedAudio, max_duration_s: float, reason: Exception
) -> SourceFormat:
    """Decode with FFmpeg, used because libsndfile gave `reason`.

    If FFmpeg fails too, soundfile.LibsndfileError is raised, with the messages of both libraries.
    """
    try:
        return _standardise(lambda: PyAVDecoder(watched, found), audio, max_duration_s)
    except NotDecoded as error:
        code = reason.code if isinstance(reason, soundfile.LibsndfileError) else NOT_RECOGNISED
        raise soundfile.LibsndfileError(code, f"FFmpeg: {error}; libsndfile: ") from error


def _standardise(open_decoder: Callable[[], Decoder], audio: StandardisedAudio, max_duration_s: float) -> SourceFormat:
    decoder = open_decoder()
    if decoder.claimed_s > max_duration_s:
        _count(decoder, max_duration_s)
        decoder = open_decoder()
    mix, clock = Mix(audio), Clock(max_duration_s)
    with contextlib.closing(decoder):
        for block in decoder.blocks():
            clock.add(block)
            mix.add(block)
        return mix.finish(decoder)


def _count(decoder: Decoder, max_duration_s: float) -> None:
    """Raise `TooLong` if the file really is longer than `max_duration_s`.

    Its header says so, but may be wrong. Counting first avoids writing gigabytes for a file of 400 kB at 1 Hz.
    """
    clock = Clock(max_duration_s)
    with contextlib.closing(decoder):
        for block in decoder.blocks():
            clock.add(block)


class Mix:
    """Mixes blocks to mono, resamples them to 48 kHz, and measures their levels."""

    def __init__(self, audio: StandardisedAudio) -> None:
        self.audio = audio
        # The rate and the levels of each run of blocks with the same rate and number of channels.
        self.levels: list[tuple[int, SourceLevels]] = []
        self.resampler: Any = None  # None at 48 kHz
        self.first = np.zeros(0, np.float32)

    def add(self, block: Block) -> None:
        """Add the next block; raises `NotFinite` if it holds NaN or infinity."""
        channels = block.samples.shape[1]
        if not self.levels or self.levels[-1][0] != block.rate_hz or len(self.levels[-1][1].peaks) != channels:
            self._begin(block.rate_hz, channels)
        levels = self.levels[-1][1]
        mono = _mono(block.samples)
        if not np.isfinite(mono).all():
            raise NotFinite(f"NaN or infinity within {BLOCK_S} s of {levels.frames / block.rate_hz:.3f} s")
        np.clip(mono, np.float32(-LOUDEST), np.float32(LOUDEST), out=mono)
        self.first = self.first if len(self.first) else mono[:1]
        levels.add(block.samples)
        self.audio.append(mono if self.resampler is None else self.resampler.resample_chunk(mono))

    def finish(self, decoder: Decoder) -> SourceFormat:
        """Complete the WAV and describe its source; raises `NoSamples` if it is empty."""
        if not self.levels:
            raise NoSamples(f"no audio behind a valid {decoder.format} header")
        self._end_resampling()
        # A single sample at 192 kHz is resampled to none, and CLAP would divide by a length of 0.
        if self.audio.length == 0:
            self.audio.append(self.first)
        self.audio.finish()
        rate_hz, first = self.levels[0]
        all_levels = [levels for _, levels in self.levels]
        frames = round(sum(levels.frames * rate_hz / rate for rate, levels in self.levels))
        return SourceFormat(
            rate_hz,
            len(first.peaks),
            frames,
            decoder.is_truncated(frames),
            clipped_share=max(levels.clipped_share for levels in all_levels),
            dc_offset=max((levels.dc_offset for levels in all_levels), key=abs),
            dead_channel=any(levels.has_dead_channel for levels in all_levels),
            decoder=decoder.name,
        )

    def _begin(self, rate_hz: int, channels: int) -> None:
        import soxr

        if not self.levels or self.levels[-1][0] != rate_hz:
            self._end_resampling()
            is_resampled = rate_hz != SAMPLE_RATE_HZ
            # The result is the same, bit for bit, at every block size.
            self.resampler = soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, "float32", "HQ") if is_resampled else None
        self.levels.append((rate_hz, SourceLevels(channels)))

    def _end_resampling(self) -> None:
        if self.resampler is not None:
            self.audio.append(self.resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        self.resampler = None


def _mono(block: Float32) -> Float32:
    """Return the mean of the channels of `block`, shape (frames, channels).

    It is computed in float64.
    """
    channels = block.shape[1]
    # The product below would take ten times as long for one channel.
    if channels == 1:
        return block[:, 0].copy()
    # This is ten times faster than block.mean.
    return np.asarray((block @ np.ones(channels) / channels).astype(np.float32))
