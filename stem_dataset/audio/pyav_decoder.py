"""Decode with FFmpeg (PyAV) what libsndfile cannot read, or reads only in part.

If FFmpeg may guess, it takes nearly anything for audio: text for subtitles, noise for MP3. These rules keep text and
noise out, and keep a file from referring to other files:

- FFmpeg never guesses. `formats` chooses the demuxer by the first bytes of the audio. For a stream without a container,
  these must be a chain of matching frames (see `frames`). Any other file never gets here.
- Only the decoders in `DECODERS` are used, and only for the first audio stream.
- FFmpeg reads through a file object, without any protocol. If a file names another file, opening that fails.
- A file is broken if most of its packets cannot be decoded. A lossless file is broken if any packet before the last
  cannot be decoded.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from stem_dataset.audio.formats import AudioFormat
from stem_dataset.audio.frames import PARSERS
from stem_dataset.audio.source import BLOCK_S, BLOCK_VALUES, Block, WatchedFile
from stem_dataset.audio.truncation import Promise, is_truncated
from stem_dataset.datatypes import DecoderName, Float32
from stem_dataset.errors import BrokenFile
from stem_dataset.resources import beyond_the_memory_limit

if TYPE_CHECKING:
    import av.container
    from av.audio.frame import AudioFrame

LOSSLESS = frozenset("alac als ape flac mlp shorten tak truehd tta wavpack wmalossless".split())
LOSSY = frozenset(
    "aac aac_latm ac3 adpcm_ima_qt adpcm_ima_wav adpcm_ms adpcm_swf adpcm_yamaha amrnb amrwb atrac3 cook dca eac3 gsm "
    "gsm_ms mace3 mace6 mp1 mp1float mp2 mp2float mp3 mp3float mpc7 mpc8 opus pcm_alaw pcm_mulaw qdm2 qdmc real_144 "
    "real_288 sipr speex vorbis wmapro wmav1 wmav2 wmavoice".split()
)
PCM = frozenset(
    "pcm_f32be pcm_f32le pcm_f64be pcm_f64le pcm_s16be pcm_s16le pcm_s24be pcm_s24le pcm_s32be pcm_s32le pcm_s8 "
    "pcm_u8".split()
)
DECODERS = LOSSLESS | LOSSY | PCM

SAMPLE_KINDS = {
    "u8": "u1",
    "s16": "i2",
    "s32": "i4",
    "s64": "i8",
    "flt": "f4",
    "dbl": "f8",
}  # FFmpeg's names to numpy's
SCALES = {"u1": 2.0**7, "i2": 2.0**15, "i4": 2.0**31, "i8": 2.0**63}  # divisors, for [-1, 1)
BUFFER_BYTES = 2**16
MOST_CHANNELS = 1_024  # libsndfile's limit


class NotDecoded(BrokenFile):
    """FFmpeg found no audio in a file, or damage in a lossless one."""


class PyAVDecoder:
    """A `Decoder` that uses FFmpeg, one packet at a time.

    The memory it needs therefore does not grow with the file.
    """

    name: DecoderName = "ffmpeg"

    def __init__(self, watched: WatchedFile, found: AudioFormat) -> None:
        """Raises `NotDecoded`, and OSError or MemoryError from reading the file."""
        self.found = found
        self.part = found.part_of(watched)
        self.format = found.kind
        self.packets = 0
        self.bad_packets = 0
        self.last_error = ""
        self.last_is_bad = False
        self.rate_hz = 0
        self.container = self._open()
        try:
            self.stream = self._first_stream()
        except BaseException:
            self.container.close()
            raise
        self.claimed_s = self._claimed_s()

    def blocks(self) -> Iterator[Block]:
        """Yield the audio; raises the same as `__init__`."""
        pending: list[Float32] = []
        values, rate_hz, channels = 0, 0, 0
        for frame in self._frames():
            samples = samples_of(frame)
            if (frame.sample_rate, samples.shape[1]) != (rate_hz, channels) and pending:
                yield Block(np.concatenate(pending), rate_hz)
                pending, values = [], 0
            rate_hz, channels = frame.sample_rate, samples.shape[1]
            pending.append(samples)
            values += samples.size
            if values >= min(BLOCK_S * rate_hz * channels, BLOCK_VALUES):
                yield Block(np.concatenate(pending), rate_hz)
                pending, values = [], 0
        if pending:
            yield Block(np.concatenate(pending), rate_hz)
        self._refuse_damage()

    def is_truncated(self, frames: int) -> bool:
        # In a stream without a container, the last packet may be a tag, which is no damage.
        ends_badly = self.last_is_bad and self.found.kind not in PARSERS
        if ends_badly:
            return True
        read = Promise(frames, self.rate_hz, 0, claimed_s=self.claimed_s)
        return is_truncated(self.part, self.found, read)

    def close(self) -> None:
        self.container.close()

    def _open(self) -> av.container.InputContainer:
        with beyond_the_memory_limit() if "av" not in sys.modules else contextlib.nullcontext():
            # This takes 0.3 s, and few files need it.
            import av

        self.part.seek(0)
        with self._blaming_the_file():
            return av.open(
                _Source(self.part),
                "r",
                format=self.found.demuxer,
                container_options={"protocol_whitelist": "none", "codec_whitelist": ",".join(sorted(DECODERS))},
                metadata_errors="replace",
                buffer_size=BUFFER_BYTES,
                io_open=_refuse_reference,
            )

    def _first_stream(self) -> Any:
        streams = self.container.streams.audio
        if not streams:
            raise NotDecoded(f"no audio in this {self.found.kind}")
        stream = streams[0]
        context = stream.codec_context
        if context is None or context.codec.name not in DECODERS:
            raise NotDecoded(f"no decoder for the audio in this {self.found.kind}")
        if not 1 <= context.channels <= MOST_CHANNELS and context.channels:
            raise NotDecoded(f"{context.channels} channels")
        context.thread_count = 1  # the workers keep all cores busy
        if context.codec.name in LOSSLESS:
            context.options = {**context.options, "err_detect": "crccheck+explode"}
        return stream

    def _claimed_s(self) -> float:
        duration = self.stream.duration
        if duration is None or self.stream.time_base is None:
            return 0.0 if self.container.duration is None else self.container.duration / 1e6
        return float(duration * self.stream.time_base)

    def _frames(self) -> Iterator[AudioFrame]:
        """Yield the frames that can be decoded.

        If a packet cannot be decoded, it is counted and the next one is tried, as players do.
        """
        demuxer = self.container.demux(self.stream)
        while True:
            try:
                with self._blaming_the_file():
                    packet = next(demuxer, None)
            except NotDecoded:
                if not self.rate_hz:
                    raise
                self.last_is_bad = True  # usually because the file is cut
                return
            if packet is None:
                return
            self.packets += bool(packet.size)
            try:
                with self._blaming_the_file():
                    frames = packet.decode()
            except NotDecoded as error:
                self._count_bad(str(error))
                continue
            for frame in frames:
                if frame.samples and frame.sample_rate > 0:
                    self._count_good()
                    self.rate_hz = self.rate_hz or frame.sample_rate
                    yield frame

    def _count_bad(self, error: str) -> None:
        self.bad_packets += 1
        self.last_error = error
        self.last_is_bad = True

    def _count_good(self) -> None:
        """Note a good frame; in lossless audio, no bad packet may precede it."""
        if self.last_is_bad and self.stream.codec_context.codec.name in LOSSLESS:
            raise NotDecoded(f"damaged: {self.last_error}")
        self.last_is_bad = False

    def _refuse_damage(self) -> None:
        if self.bad_packets > self.packets / 2:
            raise NotDecoded(f"{self.bad_packets} of {self.packets} packets cannot be decoded: {self.last_error}")

    @contextlib.contextmanager
    def _blaming_the_file(self) -> Iterator[None]:
        """Raise `NotDecoded` for FFmpeg's errors, unless the machine is at fault.

        FFmpeg's errors are subclasses of OSError, but do not show whether reading failed. The file object knows that.
        """
        import av

        try:
            yield
        except (av.FFmpegError, ValueError, EOFError, RuntimeError) as error:
            self.part.check()
            if isinstance(error, MemoryError):
                raise MemoryError(f"FFmpeg: {error}") from None
            text = error.strerror if isinstance(error, av.FFmpegError) else str(error)
            raise NotDecoded(f"{self.found.kind}: {text}") from error
        self.part.check()


class _Source:
    """A file object for PyAV, whose methods do not raise.

    PyAV would raise such an error only at some later call of FFmpeg.
    """

    def __init__(self, part: WatchedFile) -> None:
        self.read = part.read
        self.tell = part.tell
        self._part = part

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_SET and offset < 0:
            return -errno.EINVAL  # FFmpeg's convention for errors
        return self._part.seek(offset, whence)


def _refuse_reference(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise ValueError(f"it refers to another file, which is not followed: {url!a}")


def samples_of(frame: AudioFrame) -> Float32:
    """Return the samples of a frame, shape (frames, channels), in [-1, 1].

    With eight planes or more, `frame.planes`, and so `to_ndarray`, reads beyond the last plane and crashes (PyAV 18.1).
    Therefore each plane is made separately.
    """
    from av.audio import plane

    kind = SAMPLE_KINDS.get(frame.format.name.removesuffix("p"))
    if kind is None:
        raise NotDecoded(f"samples in {frame.format.name}")
    channels = frame.layout.nb_channels
    audio_plane: Any = plane.AudioPlane  # its stub lacks the buffer protocol
    if frame.format.is_planar:
        planes = [np.frombuffer(audio_plane(frame, index), kind, frame.samples) for index in range(channels)]
        values = np.stack(planes, axis=1)
    else:
        values = np.frombuffer(audio_plane(frame, 0), kind, frame.samples * channels).reshape(-1, channels)
    if kind == "u1":
        values = values.astype(np.float32) - np.float32(SCALES[kind])
    return np.asarray(values.astype(np.float32) * np.float32(1 / SCALES.get(kind, 1.0)), np.float32)
