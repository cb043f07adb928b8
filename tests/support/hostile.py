"""A folder with all that a folder can do to the program, and what is to come of each thing in it.

`HOSTILE` is the table, `make_hostile` builds the folder, test_hostile.py runs the program on it. The table's counts:

    python tests/support/hostile.py
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import stat
import struct
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for `python tests/support/hostile.py`

import numpy as np

from audio_files import ODD_BUT_VALID, POOR, encode, id3_with_picture, noise, with_sizes, with_total_samples

Outcome = Literal["inserted", "quarantined", "ignored", "failed", "gone"]
Make = Callable[["Hostile", Path], None]  # makes the entry at that path, whose folder is there

BAD_VECTOR_SAMPLES = 4_321  # a window of that length gets NaN from the driver's CLAP
PATH_MAX = 4_096  # Linux: with the NUL at its end


@dataclass(frozen=True)
class Hostile:
    """One thing in the folder."""

    kind: str
    name: str  # relative to the input; bytes that are not UTF-8 as surrogates
    make: Make
    outcome: Outcome  # of the first run
    detail: str = ""  # the exception's name, the reason to ignore it, or what the log says of a failure
    issues: tuple[str, ...] = ()  # of an inserted one
    later: Outcome | None = None  # of a run without the faults below; None: the same again
    later_detail: str = ""
    faults: tuple[tuple[str, Any], ...] = ()  # of driver.py, while it is processed
    kept: bool = False  # it is copied to quarantine, and cannot be removed
    path_bytes: int = 0  # folders are put between, so that the path has that length

    def path(self, root: Path) -> Path:
        """Return where it is in `root`."""
        above, name = os.path.split(self.name)
        missing = self.path_bytes - len(os.fsencode(root / self.name)) - 1
        if missing <= 0:
            return root / self.name
        between = ("deep" * 50 + "/") * (missing // 201) + "d" * (missing % 201)
        return root / above / (between[:-1] + "d" if between.endswith("/") else between) / name


# -- what makes them --------------------------------------------------------------------------------------------------


def tone(hz: float, frames: int = 2_400) -> bytes:
    """Return a WAV; of a multiple of 20 Hz it holds whole periods, so that its mean is 0 also where they are few."""
    return encode(0.5 * np.sin(2 * np.pi * hz * np.arange(frames) / 48_000), 48_000, "WAV", "PCM_16")


def valid(entry: Hostile, path: Path) -> None:
    """Write a tone of its own."""
    write(path, tone(200 + HOSTILE.index(entry)))


def text(entry: Hostile, path: Path) -> None:
    """Write what is no audio, a text of its own."""
    write(path, f"no audio, number {HOSTILE.index(entry)}".encode())


def holding(content: bytes) -> Make:
    return lambda _, path: write(path, content)


def write(path: Path, content: bytes) -> None:
    """Write a file whose path may be longer than the system takes."""
    folder = open_folder(path.parent)
    try:
        with open(path.name, "wb", opener=lambda name, flags: os.open(name, flags, 0o644, dir_fd=folder)) as file:
            file.write(content)
    finally:
        os.close(folder)


def open_folder(path: Path) -> int:
    """Open a folder, each one in the one above it, and make those that are not there."""
    folder = os.open(path.anchor, os.O_RDONLY)
    for part in path.parts[1:]:
        try:
            inner = os.open(part, os.O_RDONLY, dir_fd=folder)
        except FileNotFoundError:
            os.mkdir(part, dir_fd=folder)
            inner = os.open(part, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    return folder


def link(target: str) -> Make:
    """Make a link; `{outside}` is a folder beside the input."""
    return lambda _, path: path.symlink_to(target.format(outside=outside(path)))


def outside(path: Path) -> Path:
    """Return the folder beside the input that `path` is in: `links/…`, `moving/…` and so on are one below it."""
    return path.parent.parent.parent / "outside"


def link_to_outside(content: bytes) -> Make:
    """Make a link to a file outside the input that holds `content`."""

    def make(_: Hostile, path: Path) -> None:
        write(outside(path) / path.name, content)
        path.symlink_to(f"../../outside/{path.name}")

    return make


def beside(content: bytes, content_outside: bytes) -> Make:
    """Write a file, and another one of its name outside that it will be swapped with."""

    def make(_: Hostile, path: Path) -> None:
        write(path, content)
        write(outside(path) / path.name, content_outside)

    return make


def chain(_: Hostile, path: Path) -> None:
    """Make a link that takes more steps than the system goes (40)."""
    for step in range(50):
        (outside(path) / f"step {step}").symlink_to(f"step {step + 1}")
    path.symlink_to(outside(path) / "step 0")


def link_into_closed(_: Hostile, path: Path) -> None:
    """Make a link to a file in a folder that may not be entered."""
    path.symlink_to("../folders/closed/a.wav")


def bind_socket(_: Hostile, path: Path) -> None:
    folder = open_folder(path.parent)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{folder}/{path.name}")  # a socket's path must be short
    os.close(folder)


def device(kind: int, major: int, minor: int) -> Make:
    return lambda _, path: os.mknod(path, kind | 0o666, os.makedev(major, minor))  # only root may


def folder_of(name: str, content: bytes, mode: int) -> Make:
    """Make a folder with that mode and one file in it."""

    def make(_: Hostile, path: Path) -> None:
        path.mkdir()
        write(path / name, content)
        path.chmod(mode)

    return make


def hard_link(_: Hostile, path: Path) -> None:
    os.link(path.parent / "inside.wav", path)


def read_only_file(entry: Hostile, path: Path) -> None:
    text(entry, path)
    path.chmod(0o444)


def in_read_only_folder(entry: Hostile, path: Path) -> None:
    text(entry, path)
    path.parent.chmod(0o555)


def without_permission(_: Hostile, path: Path) -> None:
    write(path, tone(900))
    path.chmod(0)


# -- names ------------------------------------------------------------------------------------------------------------

NAMES = [
    "kick and  snare .wav",
    'it\'s "quoted" `here`.wav',
    "line\nbreak.wav",
    "carriage\rreturn\ttab.wav",
    "-rf.wav",
    "--help.wav",
    "100%s %d %(name)s {0}.wav",
    "x'); DROP TABLE stems; --.wav",
    "\x1b[2J\x1b]0;title\x07.wav",
    "back\\slash.wav",
    "$HOME ~ * ? [a].wav",
    "🥁🎹.wav",
    "right‮to left.wav",
    "caf\u00e9.wav",  # one character
    "cafe\u0301.wav",  # two: another name, which looks the same
    "UPPER.WAV",
    "two.dots..wav",
    " .wav",
    "a" * 251 + ".wav",
    "é" * 125 + "a.wav",
]
NAMES_OF_LINUX = [os.fsdecode(b"caf\xe9.wav"), os.fsdecode(b"\xff\xfe\x80.wav"), os.fsdecode(b"\xf0\x9f.wav")]
MORE_NAMES = [
    *("'; DROP TABLE stems; --.wav", "NUL.wav", "con.wav", "a&b|c;d>e<f.wav", "$(reboot).wav", "`reboot`.wav"),
    *("\x9b31m eight-bit escape.wav", "\x7fdelete\x08backspace.wav", "\x85next line\u2028line\u2029.wav"),
    *("isolate\u2066\u2069.wav", "zero\u200bwidth\ufeff.wav", "👩🏽‍🚀👨‍👩‍👧‍👦.wav", "İstanbul ıi.WAV"),
    *("http:__a.b?c=d#e.wav", "ERROR_LibsndfileError_kick.wav", "kick.wav.json.wav", "kick~2.wav", "~.wav"),
    *("upper.WAV", "Upper.wAv", "🥁" * 62 + "abc.wav", os.fsdecode(b"\xff" * 251 + b".wav")),
    *("file:memory?mode=rw.wav", "null \\x00 \\0 %00.wav", "𝕶𝖎𝖈𝖐.wav", "كيك.wav", "キック.wav"),
]


def names() -> list[Hostile]:
    """Every name twice: as a valid file, and as a broken one."""
    table = []
    for name in NAMES + NAMES_OF_LINUX + MORE_NAMES:
        table.append(Hostile("odd name", f"valid/{name}", valid, "inserted"))
        table.append(Hostile("odd name", f"broken\n\x1b[31m/{name}", text, "quarantined", "LibsndfileError"))
    return table


def dated(write_it: Make, mtime_s: int) -> Make:
    """Make a file with that mtime, or the nearest that the file system has."""

    def make(entry: Hostile, path: Path) -> None:
        write_it(entry, path)
        os.utime(path, ns=(0, mtime_s * 10**9 + 123_456_789))

    return make


DATES_S = {
    "1901": -(2**31),
    "1969": -1,
    "1970": 0,
    "2038": 2**31,
    "2106": 2**32,
    "2262": 9_223_372_037,
    "2446": 2**34 - 2**31 - 1,
}
DATES = [
    entry
    for year, mtime_s in DATES_S.items()
    for entry in (
        Hostile("odd time", f"times/of {year}.wav", dated(valid, mtime_s), "inserted"),
        Hostile("odd time", f"times/broken of {year}.wav", dated(text, mtime_s), "quarantined", "LibsndfileError"),
    )
]
LONG_PATHS = [
    Hostile("long path", "long/over 1024.wav", valid, "inserted", path_bytes=1_025),
    Hostile("long path", "long/over 1024 and broken.wav", text, "quarantined", "LibsndfileError", path_bytes=1_025),
    Hostile("long path", "long/longest.wav", valid, "inserted", path_bytes=PATH_MAX - 1),
    Hostile("long path", "long/longest broken.wav", text, "quarantined", "LibsndfileError", path_bytes=PATH_MAX - 1),
    Hostile("long path", "long/a byte too long.wav", valid, "failed", "File name too long", path_bytes=PATH_MAX),
    Hostile("long path", "too long/a folder.wav", valid, "failed", "cannot be listed", path_bytes=PATH_MAX + 500),
]

# -- links, special files, folders ------------------------------------------------------------------------------------

NOT_REGULAR, DANGLING = "not a regular file", "dangling link"
LINKS = [
    Hostile("link", "links/inside.wav", valid, "inserted"),
    Hostile("link", "links/hard.wav", hard_link, "inserted"),
    Hostile("link", "links/to inside.wav", link("inside.wav"), "ignored", "link to a file inside"),
    Hostile("link", "links/to a link.wav", link("to inside.wav"), "ignored", "link to a file inside"),
    Hostile("link", "links/to outside.wav", link_to_outside(tone(80)), "inserted"),
    Hostile("link", "links/to outside \udcff.wav", link_to_outside(tone(100)), "inserted"),
    Hostile("link", "links/broken.wav", link_to_outside(b"no audio"), "quarantined", "LibsndfileError"),
    Hostile("link", "links/no\nway\udcff.wav", link_to_outside(b"no"), "quarantined", "LibsndfileError"),
    Hostile("link", "links/to nowhere.wav", link("nowhere"), "ignored", DANGLING),
    Hostile("link", "links/to no name.wav", link("n" * 300), "ignored", DANGLING),
    Hostile("link", "links/to itself.wav", link("to itself.wav"), "ignored", DANGLING),
    Hostile("link", "links/loop a.wav", link("loop b.wav"), "ignored", DANGLING),
    Hostile("link", "links/loop b.wav", link("loop a.wav"), "ignored", DANGLING),
    Hostile("link", "links/through a file.wav", link("inside.wav/x.wav"), "ignored", DANGLING),
    Hostile("link", "links/to what is closed.wav", link_into_closed, "failed", "Permission denied"),
    Hostile("link", "links/of 50 steps.wav", chain, "ignored", DANGLING),
    Hostile("link", "links/to its folder.wav", link("."), "ignored", "linked folder"),
    Hostile("link", "links/to the root.wav", link("/"), "ignored", "linked folder"),
    Hostile("link", "links/to above", link("../.."), "ignored", "linked folder"),
    Hostile("link", "links/to a folder outside", link("{outside}"), "ignored", "linked folder"),
    Hostile("link", "links/to zero.wav", link("/dev/zero"), "ignored", NOT_REGULAR),
    Hostile("link", "links/to random.wav", link("/dev/random"), "ignored", NOT_REGULAR),
    Hostile("link", "links/to a fifo.wav", link("../special/fifo.wav"), "ignored", NOT_REGULAR),
]
SPECIAL = [
    Hostile("special file", "special/fifo.wav", lambda _, path: os.mkfifo(path), "ignored", NOT_REGULAR),
    Hostile("special file", "special/socket.wav", bind_socket, "ignored", NOT_REGULAR),
    Hostile("special file", "special/zero.wav", device(stat.S_IFCHR, 1, 5), "ignored", NOT_REGULAR),
    Hostile("special file", "special/ram.wav", device(stat.S_IFBLK, 1, 0), "ignored", NOT_REGULAR),
    Hostile("special file", "special/.hidden.wav", valid, "ignored", "hidden"),
    Hostile("special file", "special/..wav", valid, "ignored", "hidden"),
    Hostile("special file", "special/._fork.wav", text, "ignored", "resource fork"),
    Hostile("special file", "special/.git", folder_of("inside.wav", tone(80), 0o755), "ignored", "hidden"),
]
FOLDERS = [
    Hostile("folder", "folders/empty.wav", lambda _, path: path.mkdir(), "ignored", "folder with an audio name"),
    Hostile("folder", "folders/closed", folder_of("a.wav", tone(81), 0o000), "failed", "Permission denied"),
    Hostile("folder", "folders/not listed", folder_of("b.wav", tone(82), 0o300), "failed", "Permission denied"),
    Hostile("folder", "folders/not entered", folder_of("c.wav", tone(83), 0o400), "failed", "Permission denied"),
    Hostile("folder", "folders/read only.wav", read_only_file, "quarantined", "LibsndfileError"),
    Hostile("folder", "read only/link.wav", link_to_outside(b"x"), "quarantined", "LibsndfileError", kept=True),
    Hostile("folder", "read only/kept.wav", in_read_only_folder, "quarantined", "LibsndfileError", kept=True),
]

# -- files that change while the program is at them -------------------------------------------------------------------

CHANGED, NO_FILE, MISSING = "changed after it was found", "no longer a regular file", "No such file"
BROKEN = b"no audio yet"


CLOSED = "moving/closed.wav"
IS_ENDLESS, IS_FOLDER = "link to /dev/zero", "folder with an audio name"


def moving(name: str, when: str, into: str, content: bytes, *told: str) -> Hostile:
    """Return a file that is swapped while it is processed, see driver.py.

    `told`: the outcome, what the log says, and the outcome and the reason of the next run.
    """
    outcome, detail, later, later_detail = (*told, "")[:4]
    deadly = name.startswith("deadly")
    return Hostile(
        kind="moving file",
        name=f"{'deadly' if deadly else 'moving'}/{name}.wav",  # what is in flight beside a deadly one is read twice
        make=beside(content, tone(1_000 + len(name))),
        outcome=cast(Outcome, outcome),
        detail=detail,
        later=cast(Outcome, later),
        later_detail=later_detail,
        faults=(("swap", (when, into)), *([("die", int(signal.SIGSEGV))] if deadly else [])),
    )


MOVING = [
    moving("becomes a fifo", "open", "fifo", tone(70), "failed", NO_FILE, "ignored", NOT_REGULAR),
    moving("becomes a folder", "open", "folder", tone(70), "failed", "Is a directory", "ignored", IS_FOLDER),
    moving("becomes dangling", "open", "dangling link", tone(70), "failed", MISSING, "ignored", DANGLING),
    moving("becomes endless", "open", IS_ENDLESS, tone(70), "failed", NO_FILE, "ignored", NOT_REGULAR),
    moving("becomes a link", "open", "link outside", tone(70), "failed", CHANGED, "inserted"),
    moving("is replaced early", "open", "other file", tone(70), "failed", CHANGED, "inserted"),
    moving("vanishes early", "open", "nothing", tone(70), "failed", MISSING, "gone"),
    moving("vanishes late", "decode", "nothing", tone(120), "inserted", "", "gone"),
    moving("is replaced late", "decode", "other file", tone(140), "inserted", "", "inserted"),
    moving("grows", "decode", "grows", tone(70), "failed", CHANGED, "inserted"),
    moving("shrinks", "decode", "shrinks", tone(70), "failed", CHANGED, "inserted"),
    moving("is touched", "decode", "other mtime", tone(70), "failed", CHANGED, "inserted"),
    moving("half copied grows", "quarantine", "grows", BROKEN, "failed", CHANGED, "quarantined", "LibsndfileError"),
    moving("half copied is done", "quarantine", "other file", BROKEN, "failed", CHANGED, "inserted"),
    moving("broken and gone", "quarantine", "nothing", BROKEN, "failed", MISSING, "gone"),
    moving("broken becomes a fifo", "quarantine", "fifo", BROKEN, "failed", NO_FILE, "ignored", NOT_REGULAR),
    moving("broken becomes endless", "quarantine", IS_ENDLESS, BROKEN, "failed", NO_FILE, "ignored", NOT_REGULAR),
    moving("deadly becomes a fifo", "quarantine", "fifo", tone(70), "failed", NO_FILE, "ignored", NOT_REGULAR),
    Hostile("moving file", CLOSED, without_permission, "failed", "Permission denied", later="inserted"),
]

# -- audio ------------------------------------------------------------------------------------------------------------

WAV, FLAC, MP3, OGG = (
    encode(noise(22_050), 44_100, container, subtype)
    for container, subtype in (("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("MP3", None), ("OGG", "VORBIS"))
)


def with_rate(rate_hz: int) -> bytes:
    return WAV[:24] + struct.pack("<I", rate_hz) + WAV[28:]


def with_xing_frames(frames: int) -> bytes:
    """Return an MP3 whose Xing header tells another count of frames."""
    count = MP3.index(b"Xing") + 8
    return MP3[:count] + struct.pack(">I", frames) + MP3[count + 4 :]


def spoiled(content: bytes, share: float) -> bytes:
    """Return `content` with one bit of it turned."""
    at = int(len(content) * share)
    return content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :]


TRUNCATED, SHORT, SILENT = ("truncated",), ("too_short",), ("silent",)
ODD: dict[str, tuple[bytes, tuple[str, ...]]] = {
    **{name: (encode(*odd), tuple(POOR.get(name, ()))) for name, odd in ODD_BUT_VALID.items()},
    "655350 Hz.flac": (encode(noise(65_535), 655_350, "FLAC", "PCM_16"), ()),
    "655350 Hz.wav": (encode(noise(65_535), 655_350, "WAV", "PCM_16"), ()),
    "2 GHz.wav": (with_rate(2**31 - 1), SHORT),
    "1024 channels.wav": (encode(noise(4_800, channels=1_024), 48_000, "WAV", "PCM_16"), ()),
    "one sample.mp3": (encode(noise(1), 48_000, "MP3"), ("too_short", "dc_offset")),
    "unknown length.flac": (with_total_samples(FLAC, 0), ()),
    "claims 9 days.flac": (with_total_samples(FLAC, 2**35), ()),
    "claims 4 GB.wav": (with_sizes(WAV, data=4_000_000_000), TRUNCATED),
    "from ffmpeg's pipe.wav": (with_sizes(WAV, riff=0xFFFF_FFFF, data=0xFFFF_FFFF), ()),
    "from sox's pipe.wav": (with_sizes(WAV, riff=0x7FFF_F024, data=0x7FFF_F000), ()),
    "from arecord's pipe.wav": (with_sizes(WAV, riff=0x8000_0024, data=0x8000_0000), ()),
    "not closed.wav": (with_sizes(WAV, riff=8, data=0), ()),
    "half.wav": (WAV[: len(WAV) // 2], TRUNCATED),
    "half.mp3": (MP3[: len(MP3) // 2], TRUNCATED),
    "half.aiff": (encode(noise(22_050), 44_100, "AIFF", "PCM_16")[:20_000], TRUNCATED),
    "too many frames.mp3": (with_xing_frames(400), TRUNCATED),
    "too few frames.mp3": (with_xing_frames(1), ()),
    "cover of 2 MB.mp3": (id3_with_picture(2_000_000) + MP3, ()),
    "wav in truth.mp3": (WAV, ()),
    "flac in truth.wav": (FLAC, ()),
    "louder than can be.wav": (
        encode(np.full(4_800, 1e38, np.float32), 48_000, "WAV", "FLOAT"),
        ("clipped", "dc_offset"),
    ),
    "denormal.wav": (encode(np.full(4_800, 1e-40, np.float32), 48_000, "WAV", "FLOAT"), SILENT),
}
NAN, INFINITE = (np.where(np.arange(4_800) == 100, value, 0).astype(np.float32) for value in (np.nan, np.inf))
BROKEN_AUDIO: dict[str, tuple[bytes, str]] = {
    "empty.wav": (b"", "LibsndfileError"),
    "twelve bytes.wav": (WAV[:12], "LibsndfileError"),
    "zeros.wav": (bytes(10_000), "LibsndfileError"),
    "random.wav": (np.random.default_rng(1).bytes(10_000), "LibsndfileError"),
    "random.mp3": (np.random.default_rng(2).bytes(10_000), "LibsndfileError"),
    "zeros.mp3": (bytes(10_000), "LibsndfileError"),
    "page not found.wav": (b"<!DOCTYPE html><html>404 Not Found</html>", "LibsndfileError"),
    "picture.flac": (b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(1_000), "LibsndfileError"),
    "aac in truth.wav": (b"\0\0\0\x20ftypM4A \0\0\0\0" + bytes(1_000), "LibsndfileError"),
    "cover without audio.mp3": (id3_with_picture(1_000), "LibsndfileError"),
    "no rate.wav": (with_rate(0), "LibsndfileError"),
    "no channels.wav": (WAV[:22] + b"\0\0" + WAV[24:], "LibsndfileError"),
    "65535 channels.wav": (WAV[:22] + b"\xff\xff" + WAV[24:], "LibsndfileError"),
    "half.flac": (FLAC[: len(FLAC) // 2], "LibsndfileError"),
    "one bit.flac": (spoiled(FLAC, 0.5), "LibsndfileError"),
    "header alone.flac": (FLAC[:60], "LibsndfileError"),
    "header alone.ogg": (OGG[:200], "LibsndfileError"),
    "header alone.wav": (WAV[:44], "NoSamples"),
    "nan.wav": (encode(NAN, 48_000, "WAV", "FLOAT"), "NotFinite"),
    "infinite.wav": (encode(INFINITE, 48_000, "WAV", "FLOAT"), "NotFinite"),
    "a week at 1 Hz.wav": (encode(np.zeros(604_800), 1, "WAV", "PCM_U8"), "TooLong"),
}
AUDIO = [
    *(Hostile("odd audio", f"odd/{n}", holding(content), "inserted", "", x) for n, (content, x) in ODD.items()),
    *(Hostile("broken audio", f"no/{n}", holding(b), "quarantined", error) for n, (b, error) in BROKEN_AUDIO.items()),
    *(
        Hostile("other format", f"a/x.{s}", text, "quarantined", "LibsndfileError")
        for s in ("m4a", "aac", "wma", "ape")
    ),
    *(Hostile("other format", f"a/Y.{s}", text, "quarantined", "LibsndfileError") for s in ("M4A", "WMA", "MP4")),
    *(Hostile("other format", f"a/{n}", text, "ignored", "not audio") for n in ("x", "x.jpg", "x.wav.part", "x.wav ")),
]

# -- files that bring the program down --------------------------------------------------------------------------------

INNOCENT = [
    Hostile("innocent file", f"innocent/{name}.wav", make, "quarantined", error, later="inserted", faults=(fault,))
    for name, make, error, fault in [
        ("segfault", valid, "WorkerDied", ("die", int(signal.SIGSEGV))),
        ("hangs", valid, "Timeout", ("hang", None)),
        ("bad vector", holding(tone(99, BAD_VECTOR_SAMPLES)), "BadVector", ("bad_vector", None)),
    ]
]

HOSTILE = [*names(), *LONG_PATHS, *DATES, *LINKS, *SPECIAL, *FOLDERS, *MOVING, *AUDIO, *INNOCENT]


def make_hostile(root: Path, entries: Sequence[Hostile]) -> dict[Hostile, str]:
    """Make `entries` in `root`; return those that this system or user cannot make, with the reason."""
    outside(root / "kind" / "name").mkdir(exist_ok=True)
    refused = {}
    for entry in entries:
        path = entry.path(root)
        os.close(open_folder(path.parent))
        try:
            entry.make(entry, path)
        except PermissionError as error:
            refused[entry] = f"{entry.name!a} cannot be made by this user: {error.strerror}"
    return refused


def faults(entries: Sequence[Hostile]) -> dict[str, Any]:
    """Return what driver.py is to do to `entries`."""
    asked: dict[str, Any] = {}
    for entry in entries:
        for fault, value in entry.faults:
            asked.setdefault(fault, {})[os.path.basename(entry.name)] = value
    return {**asked, "hang": list(asked.get("hang", [])), "bad_vector": BAD_VECTOR_SAMPLES}


def snapshot(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Return all in `folder`, however deep: its mode, and of a file its sha256 and mtime, of a link its text."""
    found: dict[str, tuple[Any, ...]] = {}
    for above, folders, files, descriptor in os.fwalk(folder):
        for name in (*folders, *files):
            path = os.path.relpath(os.path.join(above, name), folder)
            try:
                found[path] = state_of(name, descriptor)
            except PermissionError:
                found[path] = ("closed",)
    return found


def state_of(name: str, folder: int) -> tuple[Any, ...]:
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        return ("link", os.readlink(name, dir_fd=folder))
    if not stat.S_ISREG(status.st_mode):
        return ("other", oct(status.st_mode))
    with open(name, "rb", opener=lambda name, flags: os.open(name, flags, dir_fd=folder)) as file:
        return (hashlib.file_digest(file, "sha256").hexdigest(), oct(status.st_mode), status.st_mtime_ns)


def counts() -> Counter[tuple[str, str]]:
    """Return how many there are of each kind and outcome."""
    return Counter((entry.kind, f"{entry.outcome}") for entry in HOSTILE)


if __name__ == "__main__":
    outcomes = ("inserted", "quarantined", "ignored", "failed")
    table = counts()
    print("| kind | files |", " | ".join(outcomes), "|")
    print("|---" * (2 + len(outcomes)) + "|")
    for kind in dict.fromkeys(entry.kind for entry in HOSTILE):
        row = [table[kind, outcome] for outcome in outcomes]
        print(f"| {kind} | {sum(row)} |", " | ".join(map(str, row)), "|")
    print(f"| all | {len(HOSTILE)} |", " | ".join(str(sum(e.outcome == o for e in HOSTILE)) for o in outcomes), "|")
