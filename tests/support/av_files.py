"""Audio files that libsndfile does not write, made with FFmpeg's libraries."""

from __future__ import annotations

import functools
import io
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from audio_files import Float32, noise


@dataclass(frozen=True)
class Form:
    """A container and a codec, as FFmpeg names them, and the suffix that such files have."""

    suffix: str
    container: str
    codec: str
    is_lossless: bool = False
    rate_hz: int = 44_100
    options: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.codec} in {self.suffix}"


FORMS = [
    Form("m4a", "ipod", "aac"),
    Form("m4a", "ipod", "alac", is_lossless=True),
    Form("mp4", "mp4", "aac"),
    Form("mp4", "mp4", "flac", is_lossless=True),
    Form("mp4", "mp4", "opus", rate_hz=48_000),
    Form("mp4", "mp4", "ac3"),
    Form("mp4", "mp4", "libmp3lame"),
    Form("mov", "mov", "pcm_s16le", is_lossless=True),
    Form("mov", "mov", "pcm_s24be", is_lossless=True),
    Form("mov", "mov", "alac", is_lossless=True),
    Form("mov", "mov", "adpcm_ima_qt"),
    Form("aac", "adts", "aac"),
    Form("wma", "asf", "wmav1"),
    Form("wma", "asf", "wmav2"),
    Form("wv", "wv", "wavpack", is_lossless=True),
    Form("tta", "tta", "tta", is_lossless=True),
    Form("mka", "matroska", "flac", is_lossless=True),
    Form("mka", "matroska", "aac"),
    Form("mka", "matroska", "pcm_s16le", is_lossless=True),
    Form("mka", "matroska", "libmp3lame"),
    Form("mka", "matroska", "ac3"),
    Form("webm", "webm", "libopus", rate_hz=48_000),
    Form("ac3", "ac3", "ac3"),
    Form("eac3", "eac3", "eac3"),
    Form("caf", "caf", "alac", is_lossless=True),
    Form("caf", "caf", "adpcm_ima_qt"),
    Form("mp2", "mp2", "mp2"),
    Form("ra", "rm", "real_144", rate_hz=8_000),
    Form("wav", "wav", "libmp3lame"),
    Form("ogg", "ogg", "flac", is_lossless=True),
]


SAMPLE_FORMATS = {"adpcm_ima_qt": "s16p", "wavpack": "s16p", "tta": "s16"}  # else 8 bits, or none that is taken


def sound(frames: int, channels: int, seed: int = 0) -> Float32:
    """Return smoothed noise that swells twice a second, shape (frames, channels): it survives any codec."""
    white = noise(frames + 31, channels, seed)
    smooth = np.stack([np.convolve(column, np.ones(32) / 8, "valid") for column in white.T], axis=1)
    return np.asarray(smooth * (0.6 + 0.4 * np.sin(np.arange(frames) / 3_000))[:, None], np.float32)


def encode_with_ffmpeg(form: Form, samples: Float32, metadata: dict[str, str] | None = None) -> bytes:
    """Return a file of 16-bit `samples`, shape (frames, channels)."""
    channels = samples.shape[1]
    layout = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}.get(channels, f"{channels} channels")
    steps = np.rint(samples * 2**15).clip(-(2**15), 2**15 - 1).astype(np.int16)
    folder = tempfile.TemporaryDirectory()  # faststart reads the file again by its name
    path = Path(folder.name) / "a"
    with folder, av.open(str(path), "w", form.container, container_options=dict(form.options)) as output:
        output.metadata.update(metadata or {})
        stream = output.add_stream(form.codec, rate=form.rate_hz, layout=layout)
        assert isinstance(stream, av.AudioStream)
        if form.container == "asf":
            stream.codec_context.bit_rate = 128_000
        if form.codec in SAMPLE_FORMATS:
            stream.codec_context.format = av.AudioFormat(SAMPLE_FORMATS[form.codec])
        for start in range(0, len(steps), 4_096):
            frame = av.AudioFrame.from_ndarray(steps[start : start + 4_096].reshape(1, -1), "s16", layout)
            frame.sample_rate = form.rate_hz
            frame.pts = start
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        output.close()
        return path.read_bytes()


@functools.cache
def encoded(form: Form, seconds: float = 3, channels: int = 1) -> bytes:
    return encode_with_ffmpeg(form, sound(int(seconds * form.rate_hz), channels))


def caf_with_aac(seconds: float = 3, channels: int = 2) -> bytes:
    """Return an Apple Loop: AAC in CAF, which FFmpeg reads and does not write."""
    packets, cookie, rate_hz = aac_packets(seconds, channels)
    description = struct.pack(">d4sIIIII", rate_hz, b"aac ", 0, 0, 1_024, channels, 0)
    sizes = b"".join(variable_length(len(packet)) for packet in packets)
    table = struct.pack(">qqii", len(packets), int(seconds * rate_hz), 1_024, 0) + sizes
    chunks = {b"desc": description, b"kuki": esds(cookie), b"pakt": table, b"data": bytes(4) + b"".join(packets)}
    return b"caff\0\1\0\0" + b"".join(name + struct.pack(">q", len(body)) + body for name, body in chunks.items())


def aac_packets(seconds: float, channels: int) -> tuple[list[bytes], bytes, int]:
    """Return the packets of AAC without headers, its AudioSpecificConfig and its rate."""
    form = Form("m4a", "ipod", "aac")
    with av.open(io.BytesIO(encoded(form, seconds, channels)), "r") as container:
        stream = container.streams.audio[0]
        packets = [bytes(packet) for packet in container.demux(stream) if packet.size]
        return packets, stream.codec_context.extradata or b"", form.rate_hz


def esds(config: bytes) -> bytes:
    """Return the descriptors of MPEG-4 that hold an AudioSpecificConfig."""
    decoder = descriptor(4, b"\x40\x15" + bytes(11) + descriptor(5, config))
    return descriptor(3, bytes(3) + decoder + descriptor(6, b"\2"))


def descriptor(tag: int, body: bytes) -> bytes:
    return bytes([tag]) + b"\x80\x80\x80" + bytes([len(body)]) + body


def variable_length(number: int) -> bytes:
    """Return a number in 7 bits a byte, as CAF's table of packets has them."""
    parts = [number & 0x7F]
    while number := number >> 7:
        parts.append(number & 0x7F | 0x80)
    return bytes(reversed(parts))
