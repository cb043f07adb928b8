"""Audio files that say something about their music, in the bytes that other programs write.

The chunks are made here from their published layouts, and the text tags by FFmpeg, except where FFmpeg writes none.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence

import av

from audio_files import Float32, encode
from av_files import Form, encode_with_ffmpeg

ONE_SHOT, ROOT_NOTE_SET, STRETCH = 1, 2, 4
LOOP_UUID = bytes.fromhex("29819273b5bf4aefb78d62d1ef90bb2c")
FLAC, OGG_FLAC, OPUS, MP3, M4A, WMA, AIFF = (
    Form("flac", "flac", "flac"),
    Form("ogg", "ogg", "flac"),
    Form("opus", "ogg", "libopus", rate_hz=48_000),
    Form("mp3", "mp3", "libmp3lame"),
    Form("m4a", "ipod", "aac"),
    Form("wma", "asf", "wmav2"),
    Form("aiff", "aiff", "pcm_s16be", options=(("write_id3v2", "1"),)),
)


def acid(flags: int = 0, root_note: int = 60, beats: int = 0, bpm: float = 0.0, order: str = "<") -> bytes:
    return struct.pack(f"{order}IHHfIHHf", flags, root_note, 0x8000, 0.0, beats, 4, 4, bpm)


def smpl(root_note: int, *loops: tuple[int, int], order: str = "<") -> bytes:
    """Return a sampler chunk; each loop has a first and a last frame."""
    header = struct.pack(f"{order}9I", 0, 0, 22_675, root_note, 0, 0, 0, len(loops), 0)
    return header + b"".join(
        struct.pack(f"{order}6I", n, 0, first, last, 0, 0) for n, (first, last) in enumerate(loops)
    )


def inst(root_note: int) -> bytes:
    return bytes([root_note, 0, 0, 0, 127, 1, 127])


def aiff_inst(root_note: int) -> bytes:
    return bytes([root_note, 0, 0, 127, 1, 127]) + struct.pack(">h6H", 0, 0, 0, 0, 0, 0, 0)


def basc(beats: int, root_note: int = 48, scale: int = 3, meter: tuple[int, int] = (4, 4), kind: int = 0) -> bytes:
    """Return Apple's chunk: scale 1 is minor, 2 major, 3 neither; kind 0 is a loop, 1 a one-shot."""
    return struct.pack(">II5H", 1, beats, root_note, scale, *meter, kind) + bytes(66)


def apple_loop_texts(**texts: str) -> bytes:
    """Return the chunk of texts in an Apple Loop in CAF; `beat_count` is 'beat count' there."""
    pairs = [f"{name.replace('_', ' ')}\0{text}\0".encode() for name, text in texts.items()]
    return LOOP_UUID + struct.pack(">I", len(pairs)) + b"".join(pairs)


def id3(frames: Mapping[str, str | bytes], version: int = 4) -> bytes:
    """Return an ID3v2 tag; a text is stored as UTF-8, and bytes as they are, with their encoding in front."""
    body = b""
    for name, value in frames.items():
        content = b"\3" + value.encode() if isinstance(value, str) else value
        body += name.encode() + (synchsafe(len(content)) if version == 4 else struct.pack(">I", len(content)))
        body += b"\0\0" + content
    return b"ID3" + bytes([version, 0, 0]) + synchsafe(len(body)) + body


def synchsafe(size: int) -> bytes:
    return bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))


def wav(
    samples: Float32,
    rate_hz: int,
    chunks: Sequence[tuple[bytes, bytes]] = (),
    later: Sequence[tuple[bytes, bytes]] = (),
    order: str = "<",
) -> bytes:
    """Return a WAV of 16 bits, with `chunks` before its audio and `later` behind it."""
    plain = encode(samples, rate_hz, "WAV", "PCM_16")
    assert plain[12:16] == b"fmt "
    assert plain[36:40] == b"data"
    layout, audio = plain[20:36], plain[44:]
    if order == ">":
        layout = struct.pack(">HHIIHH", *struct.unpack("<HHIIHH", layout))
        audio = b"".join(audio[at : at + 2][::-1] for at in range(0, len(audio), 2))
    every = [(b"fmt ", layout), *chunks, (b"data", audio), *later]
    body = b"".join(name + struct.pack(f"{order}I", len(content)) + padded(content) for name, content in every)
    return (b"RIFX" if order == ">" else b"RIFF") + struct.pack(f"{order}I", 4 + len(body)) + b"WAVE" + body


def aiff(samples: Float32, rate_hz: int, *chunks: tuple[bytes, bytes]) -> bytes:
    plain = encode(samples, rate_hz, "AIFF", "PCM_16")
    body = plain[12:] + b"".join(name + struct.pack(">I", len(content)) + padded(content) for name, content in chunks)
    return b"FORM" + struct.pack(">I", 4 + len(body)) + b"AIFF" + body


def caf(samples: Float32, rate_hz: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a CAF of 16 bits, with `chunks` before its audio."""
    plain = encode(samples, rate_hz, "CAF", "PCM_16")
    return caf_with(plain, *chunks)


def caf_with(plain: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    added = b"".join(name + struct.pack(">q", len(content)) + content for name, content in chunks)
    at = 8 + 12 + 32  # behind the description
    assert plain[:4] == b"caff"
    assert plain[8:12] == b"desc"
    return plain[:at] + added + plain[at:]


def padded(content: bytes) -> bytes:
    return content + bytes(len(content) % 2)


def tagged(form: Form, samples: Float32, **tags: str) -> bytes:
    """Return a file with text tags, as FFmpeg writes them."""
    return encode_with_ffmpeg(form, samples, tags)


def tagged_vorbis(samples: Float32, rate_hz: int, **tags: str) -> bytes:
    """Return an Ogg Vorbis file, of which libsndfile writes the audio and FFmpeg the comments."""
    file = io.BytesIO()
    with (
        av.open(io.BytesIO(encode(samples, rate_hz, "OGG", "VORBIS")), "r") as source,
        av.open(file, "w", "ogg") as output,
    ):
        stream = output.add_stream_from_template(source.streams.audio[0])
        stream.metadata.update(tags)
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                output.mux(packet)
    return file.getvalue()


def m4a_with(plain: bytes, *items: bytes) -> bytes:
    """Return an m4a with a list of items as iTunes writes it, at the end of its last atom, `moov`."""
    moov = plain.rindex(b"moov") - 4
    assert moov + int.from_bytes(plain[moov : moov + 4], "big") == len(plain)
    handler = atom(b"hdlr", bytes(8) + b"mdirappl" + bytes(9))
    user_data = atom(b"udta", atom(b"meta", bytes(4) + handler + atom(b"ilst", b"".join(items))))
    return plain[:moov] + atom(b"moov", plain[moov + 8 :] + user_data)


def tmpo(bpm: int) -> bytes:
    return atom(b"tmpo", atom(b"data", struct.pack(">IIh", 21, 0, bpm)))


def freeform(name: str, text: str) -> bytes:
    """Return an item with a name of its own, as Mixed In Key and Picard write them."""
    mean = atom(b"mean", bytes(4) + b"com.apple.iTunes")
    return atom(b"----", mean + atom(b"name", bytes(4) + name.encode()) + text_data(text))


def text_data(text: str) -> bytes:
    return atom(b"data", struct.pack(">II", 1, 0) + text.encode())


def atom(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + name + content
