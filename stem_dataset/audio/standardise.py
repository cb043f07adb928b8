"""Make any audio file 48 kHz, mono and 24 bit, and measure the levels of its channels on the way."""

from __future__ import annotations

from typing import IO

import numpy as np

from stem_dataset.audio.decoders import BLOCK_S, StreamedSoundFile, WatchedFile, count_frames, open_stream, read_blocks
from stem_dataset.audio.truncation import is_truncated
from stem_dataset.audio.wav import StandardisedAudio
from stem_dataset.datatypes import SAMPLE_RATE_HZ, Float32, SourceFormat
from stem_dataset.errors import NoSamples, NotFinite, blaming_the_program

LOUDEST = 1e30  # soxr overflows to NaN from 1e37 on, which would become silence; this clips just as well

FULL_SCALE = 0.99  # from here on samples may be clipped: 127/128, the top of 8 bits, is 0.992
DEAD_CHANNEL_PEAK = 10 ** (-80 / 20)  # 0.0001: a little over what dither leaves in 16 bits


class SourceLevels:
    """What the mono mix no longer tells: how each channel of the source is levelled."""

    def __init__(self, channels: int) -> None:
        self.frames = 0
        self.peaks, self.sums, self.clipped = np.zeros((3, channels))

    @blaming_the_program()
    def add(self, block: Float32) -> None:
        """Take in the next samples, shape (frames, channels)."""
        self.frames += len(block)
        for channel, samples in enumerate(block.T):  # column by column: numpy takes ten times as long along axis 0
            peak = max(float(samples.max()), -float(samples.min()))
            self.peaks[channel] = max(self.peaks[channel], peak)
            self.sums[channel] += samples.sum(dtype=np.float64)
            if peak >= FULL_SCALE:
                self.clipped[channel] += _count_clipped(samples)

    def source_format(self, stream: StreamedSoundFile, truncated: bool) -> SourceFormat:
        """Return the account of `stream`, all of whose frames were added."""
        return SourceFormat(
            stream.samplerate,
            stream.channels,
            self.frames,
            truncated,
            clipped_share=float(self.clipped.max() / self.frames),
            dc_offset=float(max(self.sums / self.frames, key=abs)),
            dead_channel=bool(self.peaks.min() < DEAD_CHANNEL_PEAK <= self.peaks.max()),
        )


def _count_clipped(samples: Float32) -> int:
    """Return how many samples, shape (n,), are clipped: beyond full scale (a decoded MP3 tells how far), or at it and
    equal to the one before, which is a top cut off flat and not just a loud peak."""
    level = np.abs(samples)
    flat = (samples[1:] == samples[:-1]) & (level[1:] >= FULL_SCALE)
    return int(np.count_nonzero(flat | (level[1:] > 1)))


def standardise(file: IO[bytes], audio: StandardisedAudio, max_duration_s: float) -> SourceFormat:
    """Decode `file` into `audio`: mono by the plain mean, 48 kHz by soxr HQ, rounded to 24 bit.

    Raises soundfile.LibsndfileError for what cannot be decoded, `NoSamples`, `NotFinite`, `TooLong`, what the file
    system raised while libsndfile read through `WatchedFile`, and `ProgramFault` where what was decoded cannot be
    measured or written.
    """
    watched = WatchedFile(file)
    with open_stream(watched) as stream:
        if stream.frames <= max_duration_s * stream.samplerate:
            return _standardise_stream(stream, watched, audio, max_duration_s)
    count_frames(watched, max_duration_s)
    with open_stream(watched) as stream:
        return _standardise_stream(stream, watched, audio, max_duration_s)


def _standardise_stream(
    stream: StreamedSoundFile, watched: WatchedFile, audio: StandardisedAudio, max_duration_s: float
) -> SourceFormat:
    import soxr

    rate_hz = stream.samplerate
    resampler = soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, "float32", "HQ")  # bit-equal at every block size
    levels = SourceLevels(stream.channels)
    first = np.zeros(0, np.float32)
    for block in read_blocks(stream, watched, max_duration_s):
        mono = _mono(block)
        if not np.isfinite(mono).all():
            raise NotFinite(f"NaN or infinity within {BLOCK_S} s of {levels.frames / rate_hz:.3f} s")
        np.clip(mono, np.float32(-LOUDEST), np.float32(LOUDEST), out=mono)
        first = first if levels.frames else mono[:1]
        levels.add(block)
        audio.append(mono if rate_hz == SAMPLE_RATE_HZ else resampler.resample_chunk(mono))
    if not levels.frames:
        raise NoSamples(f"no audio behind a valid {stream.format} header")
    if rate_hz != SAMPLE_RATE_HZ:
        audio.append(resampler.resample_chunk(first[:0], last=True))
    if audio.length == 0:  # one sample at 192 kHz resamples to none, and CLAP divides by the length
        audio.append(first)
    audio.finish()
    return levels.source_format(stream, is_truncated(stream, watched, levels.frames))


def _mono(block: Float32) -> Float32:
    """Return the plain mean over the channels, taken in float64, of shape (frames, channels)."""
    channels = block.shape[1]
    if channels == 1:  # the product below takes ten times as long for one
        return block[:, 0].copy()
    return np.asarray((block @ np.ones(channels) / channels).astype(np.float32))  # ten times faster than block.mean
