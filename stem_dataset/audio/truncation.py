"""Whether a file is cut off: it has less audio than its header promises.

A module of its own, because each format promises in its own way, and decoding needs none of it.
"""

from __future__ import annotations

import re

from stem_dataset.audio.decoders import UNKNOWN_CHUNK_BYTES, StreamedSoundFile, WatchedFile

# What libsndfile logs where a container says that more should be there: "data : 176400 (should be 105822)" in WAV (the
# outer RIFF size is often wrong in healthy files and is not asked), SSND in AIFF, riff in W64, Data Size in AU.
STATED_SIZE = re.compile(r"^\s*(?:data|SSND|riff|Data Size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
STATED_FRAMES = re.compile(r"Calculated frame count (\d+) does not match value from 'ds64' chunk of (\d+)")
OGG_WITHOUT_END = "without an End-Of-Stream flag"


def is_truncated(stream: StreamedSoundFile, watched: WatchedFile, frames: int) -> bool:
    """Whether the container of `stream`, read to its end as `frames` frames, says that there should be more."""
    notes = stream.extra_info
    if stream.format == "MP3":
        promised = _promised_mp3_frames(watched, stream.samplerate)
        return promised is not None and frames < promised
    sizes = [(int(stated), int(real)) for stated, real in STATED_SIZE.findall(notes)]
    if any(real < stated and not any(stated in unknown for unknown in UNKNOWN_CHUNK_BYTES) for stated, real in sizes):
        return True
    if any(int(real) < int(stated) for real, stated in STATED_FRAMES.findall(notes)):
        return True
    return OGG_WITHOUT_END in notes


def _promised_mp3_frames(watched: WatchedFile, rate_hz: int) -> int | None:
    """Return how many sample frames the Xing/Info header of an MP3 promises at least, or None without one.

    libsndfile's own count is no promise: it is off by up to 70 times, with tags and cover art counted in. Layout: an
    ID3v2 tag with its size in 4 x 7 bits, then the first frame with "Xing" or "Info", flags, and the count of frames.
    """
    watched.seek(0)
    tag = watched.read(10)
    id3_bytes = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(tag[6:10], (21, 14, 7, 0), strict=False))
    watched.seek(id3_bytes if tag.startswith(b"ID3") else 0)
    first_frame = watched.read(1_024)
    watched.check()
    match = re.search(rb"(?:Xing|Info)...(.)(....)", first_frame, re.DOTALL)
    if match is None or not match[1][0] & 1:
        return None
    samples_per_frame = 1_152 if rate_hz >= 32_000 else 576  # MPEG-1 or MPEG-2, layer III
    # The encoder's delay and padding are cut from the decoded audio: up to three frames.
    return (int.from_bytes(match[2], "big") - 3) * samples_per_frame
