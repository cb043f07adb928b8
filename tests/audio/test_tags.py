"""What a file says about its own music is read from its bytes, and damaged tags harm nothing."""

from __future__ import annotations

import errno
import io
import random
from collections.abc import Callable

import numpy as np
import pytest

import mutations
from audio_files import noise
from av_files import caf_with_aac, encoded
from ingest import Decode
from stem_dataset.audio.formats import AudioFormat, identify
from stem_dataset.audio.source import WatchedFile
from stem_dataset.audio.tags import read_tags
from stem_dataset.datatypes import FileTags
from tagged_files import (
    AIFF,
    FLAC,
    M4A,
    MP3,
    OGG_FLAC,
    ONE_SHOT,
    OPUS,
    ROOT_NOTE_SET,
    STRETCH,
    WMA,
    acid,
    aiff,
    aiff_inst,
    apple_loop_texts,
    basc,
    caf,
    caf_with,
    freeform,
    id3,
    inst,
    m4a_with,
    smpl,
    synchsafe,
    tagged,
    tagged_vorbis,
    tmpo,
    wav,
)

RATE_HZ = 44_100
SOUND = noise(RATE_HZ // 10)
FRAMES = len(SOUND)


def with_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    return wav(SOUND, RATE_HZ, chunks)


def tags_of(decode: Decode, content: bytes) -> FileTags:
    return decode(content).source.tags


# -- chunks -----------------------------------------------------------------------------------------------------------


def test_an_acid_loop_states_its_beats_its_tempo_and_its_root_note(decode: Decode) -> None:
    chunk = acid(ROOT_NOTE_SET | STRETCH, root_note=57, beats=16, bpm=97)
    expected = FileTags(bpm=97, beats=16, is_loop=True, root_note=57)
    assert tags_of(decode, with_chunks((b"acid", chunk))) == expected
    assert tags_of(decode, wav(SOUND, RATE_HZ, later=[(b"acid", chunk)])) == expected


def test_the_chunk_may_follow_audio_of_an_odd_size(decode: Decode) -> None:
    eight_bits = [(b"LIST", b"odd"), (b"acid", acid(beats=4))]
    assert tags_of(decode, wav(SOUND, RATE_HZ, later=eight_bits)).beats == 4


def test_the_root_note_of_acid_counts_only_with_its_flag(decode: Decode) -> None:
    assert tags_of(decode, with_chunks((b"acid", acid(beats=4, root_note=57)))).root_note is None


def test_an_acid_one_shot_has_neither_beats_nor_tempo(decode: Decode) -> None:
    chunk = acid(ONE_SHOT | ROOT_NOTE_SET, root_note=60, beats=4, bpm=150)
    assert tags_of(decode, with_chunks((b"acid", chunk))) == FileTags(is_loop=False, root_note=60)


def test_an_empty_acid_chunk_says_nothing(decode: Decode) -> None:
    assert tags_of(decode, with_chunks((b"acid", acid()))) == FileTags()


def test_a_big_endian_wav_is_read_too(decode: Decode) -> None:
    content = wav(
        SOUND,
        RATE_HZ,
        [(b"acid", acid(beats=8, bpm=90, order=">")), (b"smpl", smpl(64, order=">"))],
        order=">",
    )
    assert tags_of(decode, content) == FileTags(bpm=90, beats=8, is_loop=True, root_note=64)


@pytest.mark.parametrize("bpm", [float("nan"), float("inf"), -120.0, 0.0, 1e-30, 29.9, 300.1, 99_999.0])
def test_a_tempo_that_is_none_is_not_read(decode: Decode, bpm: float) -> None:
    assert tags_of(decode, with_chunks((b"acid", acid(bpm=bpm)))) == FileTags()


def test_the_root_note_of_a_sampler_is_read(decode: Decode) -> None:
    assert tags_of(decode, with_chunks((b"smpl", smpl(69)))) == FileTags(root_note=69)
    assert tags_of(decode, with_chunks((b"inst", inst(45)))) == FileTags(root_note=45)
    both = with_chunks((b"inst", inst(45)), (b"smpl", smpl(69)), (b"acid", acid(ROOT_NOTE_SET, root_note=60)))
    assert tags_of(decode, both).root_note == 69


@pytest.mark.parametrize("note", [128, 255, 0xFFFF_FFFF])
def test_a_number_above_127_is_no_root_note(decode: Decode, note: int) -> None:
    assert tags_of(decode, with_chunks((b"smpl", smpl(note)))) == FileTags()


def test_a_sampler_that_repeats_the_whole_file_calls_it_a_loop(decode: Decode) -> None:
    def is_loop(*loops: tuple[int, int]) -> bool | None:
        return tags_of(decode, with_chunks((b"smpl", smpl(60, *loops)))).is_loop

    assert is_loop((0, FRAMES - 1))
    assert is_loop((10, 20), (0, FRAMES))
    assert is_loop((FRAMES // 2, FRAMES - 1)) is None
    assert is_loop((0, FRAMES // 2)) is None
    assert is_loop((0, 0xFFFF_FFFF)) is None


def test_an_apple_loop_in_aiff_states_beats_and_key(decode: Decode) -> None:
    content = aiff(SOUND, RATE_HZ, (b"basc", basc(8, root_note=57, scale=1)))
    assert tags_of(decode, content) == FileTags(beats=8, key="Am", is_loop=True, root_note=57)


@pytest.mark.parametrize(
    ("root_note", "scale", "key"),
    [(48, 2, "C"), (54, 1, "F#m"), (58, 2, "A#"), (48, 3, None), (48, 4, None), (48, 0, None)],
)
def test_a_scale_that_is_neither_major_nor_minor_is_no_key(
    decode: Decode, root_note: int, scale: int, key: str | None
) -> None:
    assert tags_of(decode, aiff(SOUND, RATE_HZ, (b"basc", basc(4, root_note, scale)))).key == key


def test_the_beats_of_an_apple_loop_are_those_of_its_meter(decode: Decode) -> None:
    content = aiff(SOUND, RATE_HZ, (b"basc", basc(12, meter=(6, 8))))
    assert tags_of(decode, content).beats == 6


def test_an_apple_one_shot_has_no_beats(decode: Decode) -> None:
    content = aiff(SOUND, RATE_HZ, (b"basc", basc(4, kind=1)))
    assert tags_of(decode, content) == FileTags(is_loop=False, root_note=48)


def test_the_instrument_chunk_of_an_aiff_is_read(decode: Decode) -> None:
    assert tags_of(decode, aiff(SOUND, RATE_HZ, (b"INST", aiff_inst(52)))) == FileTags(root_note=52)


def test_an_apple_loop_in_caf_is_read(decode: Decode) -> None:
    assert tags_of(decode, caf(SOUND, RATE_HZ, (b"basc", basc(16, 50, 1)))) == FileTags(
        beats=16, key="Dm", is_loop=True, root_note=50
    )
    texts = {"category": "Bass", "beat_count": "8", "time_signature": "4/4", "key_signature": "Bb", "key_type": "minor"}
    expected = FileTags(beats=8, key="Bb minor", is_loop=True)
    assert tags_of(decode, caf(SOUND, RATE_HZ, (b"uuid", apple_loop_texts(**texts)))) == expected
    assert tags_of(decode, caf_with(caf_with_aac(0.5), (b"uuid", apple_loop_texts(**texts)))) == expected


def test_the_texts_of_a_caf_that_say_nothing_certain_are_not_read(decode: Decode) -> None:
    texts = apple_loop_texts(beat_count="some", key_signature="C", key_type="neither")
    assert tags_of(decode, caf(SOUND, RATE_HZ, (b"uuid", texts))) == FileTags()


# -- text tags --------------------------------------------------------------------------------------------------------

STATED = FileTags(bpm=92, key="Dm")
ID3_TAG = id3({"TBPM": "92", "TKEY": "Dm"})
QUIET = noise(RATE_HZ, seed=1) / 8


TEXT_TAGGED: dict[str, Callable[[], bytes]] = {
    "ID3 in MP3": lambda: tagged(MP3, QUIET, TBPM="92", TKEY="Dm"),
    "ID3v2.3 in MP3": lambda: id3({"TBPM": "92", "TKEY": "Dm"}, version=3) + tagged(MP3, QUIET),
    "free text in MP3": lambda: id3({"TXXX": "BPM\x0092", "TKEY": "Dm"}) + tagged(MP3, QUIET),
    "ID3 in WAV": lambda: with_chunks((b"id3 ", ID3_TAG)),
    "ID3 behind the audio of a WAV": lambda: wav(SOUND, RATE_HZ, later=[(b"ID3 ", ID3_TAG)]),
    "ID3 in front of a WAV": lambda: ID3_TAG + with_chunks(),
    "ID3 in AIFF": lambda: aiff(SOUND, RATE_HZ, (b"ID3 ", ID3_TAG)),
    "FFmpeg's ID3 in AIFF": lambda: tagged(AIFF, QUIET, TBPM="92", TKEY="Dm"),
    "ID3 in front of a FLAC": lambda: ID3_TAG + tagged(FLAC, QUIET),
    "Vorbis comments in FLAC": lambda: tagged(FLAC, QUIET, BPM="92", INITIALKEY="Dm"),
    "Vorbis comments in Ogg": lambda: tagged_vorbis(QUIET, RATE_HZ, tempo="92", key="Dm"),
    "Vorbis comments in Opus": lambda: tagged(OPUS, QUIET, BPM="92", KEY="Dm"),
    "Vorbis comments in FLAC in Ogg": lambda: tagged(OGG_FLAC, QUIET, BPM="92", KEY="Dm"),
    "MP4 atoms": lambda: m4a_with(encoded(M4A, 1), tmpo(92), freeform("initialkey", "Dm")),
    "free text in MP4": lambda: m4a_with(encoded(M4A, 1), freeform("BPM", "92"), freeform("KEY", "Dm")),
    "ASF": lambda: tagged(WMA, QUIET, **{"WM/BeatsPerMinute": "92", "WM/InitialKey": "Dm"}),
}


@pytest.mark.parametrize("name", TEXT_TAGGED)
def test_tempo_and_key_are_read_from_text_tags(decode: Decode, name: str) -> None:
    assert tags_of(decode, TEXT_TAGGED[name]()) == STATED


def test_ffmpegs_own_tempo_in_mp4_is_read(decode: Decode) -> None:
    assert tags_of(decode, tagged(M4A, QUIET, tmpo="92")).bpm == 92


@pytest.mark.parametrize(
    ("text", "bpm"),
    [
        *[("128", 128), (" 87.50 ", 87.5), ("127,97", 127.97), ("120 BPM", 120), ("030", 30), ("300", 300)],
        *[
            (text, None)
            for text in ("", "0", "-120", "nan", "inf", "1e2", "99999", "29", "301", "120-130", "fast", "１２０")
        ],
    ],
)
def test_a_tempo_is_a_plain_number_in_the_range_of_music(decode: Decode, text: str, bpm: float | None) -> None:
    assert tags_of(decode, with_chunks((b"id3 ", id3({"TBPM": text})))).bpm == bpm


def test_the_first_number_that_is_a_tempo_counts(decode: Decode) -> None:
    tag = id3({"TBPM": "0", "TXXX": "BPM\x00127.97"})
    assert tags_of(decode, with_chunks((b"id3 ", tag))).bpm == 127.97


def test_a_text_that_is_not_utf_8_is_no_error(decode: Decode) -> None:
    tag = id3({"TIT2": b"\3\xff\xfe\xff", "TKEY": b"\3\xff\xff", "TBPM": "92"})
    assert tags_of(decode, with_chunks((b"id3 ", tag))).bpm == 92
    utf_16 = id3({"TBPM": b"\1" + "92".encode("utf-16"), "TKEY": b"\1" + "Dm".encode("utf-16")})
    assert tags_of(decode, with_chunks((b"id3 ", utf_16))) == STATED


def test_text_tags_come_before_chunks(decode: Decode) -> None:
    """Editors write a default tempo into `acid`. The beats are not affected."""
    content = with_chunks((b"acid", acid(beats=16, bpm=120)), (b"id3 ", ID3_TAG))
    assert tags_of(decode, content) == FileTags(bpm=92, beats=16, key="Dm", is_loop=True)


# -- hostile tags -----------------------------------------------------------------------------------------------------


def test_a_long_key_is_not_read(decode: Decode) -> None:
    assert tags_of(decode, with_chunks((b"id3 ", id3({"TKEY": "Am" * 50_000, "TBPM": "92"})))) == FileTags(bpm=92)


def test_what_follows_a_huge_picture_is_read(decode: Decode) -> None:
    tag = id3({"APIC": b"\0image/png\0\3\0" + bytes(3_000_000), "TXXX": "cover\0" + "A" * 3_000_000, "TBPM": "92"})
    assert tags_of(decode, tag + tagged(MP3, QUIET)).bpm == 92


def test_a_tag_that_is_larger_than_its_file_is_no_error(decode: Decode) -> None:
    tag = b"ID3\4\0\0\x7f\x7f\x7f\x7fTIT2\x7f\x7f\x7f\x7f\0\0\3"
    assert tags_of(decode, with_chunks((b"id3 ", tag))) == FileTags()


def test_a_million_tags_are_not_read_one_by_one() -> None:
    frames = b"TENC\0\0\0\0\0\0" * 1_000_000
    content = b"ID3\4\0\0" + synchsafe(len(frames)) + frames + tagged(MP3, QUIET)
    reads = 0

    class Counting(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            nonlocal reads
            reads += 1
            return super().read(size)

    watched = WatchedFile(Counting(content))
    assert read_tags(watched, AudioFormat("MP3"), FRAMES) == FileTags()
    assert reads < 10_000


def test_a_disk_that_fails_under_the_tags_is_not_the_files_fault() -> None:
    content = wav(SOUND, RATE_HZ, later=[(b"id3 ", ID3_TAG)])

    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if len(content) - len(ID3_TAG) <= self.tell() < len(content):
                raise OSError(errno.EIO, "I/O error")
            return super().read(size)

    with pytest.raises(OSError, match="I/O error"):
        read_tags(WatchedFile(Failing(content)), AudioFormat("WAV"), FRAMES)


MUTATIONS = (
    *(mutations.flip_bits, mutations.flip_header_bits, mutations.overwrite_run, mutations.truncate),
    *(mutations.insert_run, mutations.delete_run, mutations.extreme_field, mutations.repeat_run),
)
LOOP_TEXTS = apple_loop_texts(beat_count="8", key_signature="C", key_type="major")
CHUNKS = {
    "acid": (with_chunks((b"acid", acid(ROOT_NOTE_SET, 57, 16, 97))), acid(ROOT_NOTE_SET, 57, 16, 97)),
    "smpl": (with_chunks((b"smpl", smpl(60, (0, FRAMES - 1)))), smpl(60, (0, FRAMES - 1))),
    "ID3 in WAV": (with_chunks((b"id3 ", ID3_TAG)), ID3_TAG),
    "basc": (aiff(SOUND, RATE_HZ, (b"basc", basc(8, 57, 1))), basc(8, 57, 1)),
    "uuid": (caf(SOUND, RATE_HZ, (b"uuid", LOOP_TEXTS)), LOOP_TEXTS),
}


@pytest.mark.parametrize("name", CHUNKS)
def test_a_damaged_chunk_never_breaks_a_file(decode: Decode, name: str) -> None:
    content, chunk = CHUNKS[name]
    whole = decode(content).samples
    for seed in range(60):
        dice = random.Random(f"{name} {seed}")
        spoilt = dice.choice(MUTATIONS)(chunk, dice)
        # The size in front of the chunk stays true, so that the audio does too.
        read = decode(content.replace(chunk, spoilt[: len(chunk)].ljust(len(chunk), b"\0")))
        np.testing.assert_array_equal(read.samples, whole)
        check(read.source.tags)


@pytest.mark.parametrize("name", [*TEXT_TAGGED, *CHUNKS])
def test_the_tags_of_a_damaged_file_are_read_without_an_error(name: str) -> None:
    """Whatever becomes of its audio. Half of the damage is in the first or last kilobyte, where tags are."""
    content = TEXT_TAGGED[name]() if name in TEXT_TAGGED else CHUNKS[name][0]
    for seed in range(60):
        dice = random.Random(f"{name} {seed}")
        start, stop = dice.choice([(0, len(content)), (0, 1_024), (max(0, len(content) - 1_024), len(content))])
        spoilt = content[:start] + dice.choice(MUTATIONS)(content[start:stop], dice) + content[stop:]
        watched = WatchedFile(io.BytesIO(spoilt))
        check(read_tags(watched, identify(watched), FRAMES))


def check(tags: FileTags) -> None:
    """Assert that all numbers are in their range."""
    assert tags.bpm is None or 30 <= tags.bpm <= 300
    assert tags.beats is None or 0 < tags.beats < 2**35
    assert tags.root_note is None or 0 <= tags.root_note <= 127
    assert tags.key is None or 0 < len(tags.key) <= 32
