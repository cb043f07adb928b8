"""Small audio files for the tests, good and broken, and ways to look at what a run did to a folder."""

from __future__ import annotations

import faulthandler
import io
import os
import shutil
import struct
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

import prepare_dataset_sql as product
from fake_clap import FakeClap
from stem_dataset.output_folders import LOCK_NAME, README_NAME, SCRATCH
from stem_dataset.workers.local_pool import LocalWorker

Float32 = npt.NDArray[np.float32]
T = TypeVar("T")
RATE_HZ = 48_000


def write_tone(path: Path, hz: float = 440, seconds: float = 0.05) -> Path:
    """Write a valid mono WAV (whatever the name's suffix says), and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = 0.5 * np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE_HZ)) / RATE_HZ)
    with open(path, "wb") as file:  # libsndfile is not to see the name
        soundfile.write(file, tone, RATE_HZ, format="WAV", subtype="PCM_16")
    return path


def write_text(path: Path, text: str = "no audio at all") -> Path:
    """Write a file that is audio by its name only, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def write_nan(path: Path) -> Path:
    """Write a float WAV with a NaN in its middle."""
    samples = np.zeros(4_800, np.float32)
    samples[2_400] = np.nan
    soundfile.write(path, samples, RATE_HZ, subtype="FLOAT")
    return path


def write_cut_flac(path: Path) -> Path:
    """Write the first half of a FLAC."""
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 48_000)
    soundfile.write(path, noise, RATE_HZ)
    with open(path, "rb+") as file:
        file.truncate(path.stat().st_size // 2)
    return path


def noise(frames: int, channels: int = 1, seed: int = 0) -> Float32:
    """Return white noise within ±0.5, shape (frames, channels)."""
    dice = np.random.default_rng(seed)
    return dice.uniform(-0.5, 0.5, (frames, channels)).astype(np.float32)


def encode(samples: npt.ArrayLike, rate_hz: int, container: str, subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.asarray(samples), rate_hz, format=container, subtype=subtype)
    return file.getvalue()


def with_sizes(wav: bytes, *, riff: int | None = None, data: int | None = None) -> bytes:
    """Return a WAV of soundfile's plain layout with other sizes in its header."""
    assert wav[36:40] == b"data"
    riff_size = wav[4:8] if riff is None else struct.pack("<I", riff)
    data_size = wav[40:44] if data is None else struct.pack("<I", data)
    return wav[:4] + riff_size + wav[8:40] + data_size + wav[44:]


def with_total_samples(flac: bytes, total: int) -> bytes:
    """Return a FLAC whose STREAMINFO claims `total` samples a channel: the last 36 bits before the MD5."""
    assert flac[:4] == b"fLaC"
    assert flac[4] & 0x7F == 0
    fields = int.from_bytes(flac[18:26], "big")
    return flac[:18] + (fields >> 36 << 36 | total).to_bytes(8, "big") + flac[26:]


def id3_with_picture(picture_bytes: int) -> bytes:
    """Return an ID3v2.3 tag with a cover of noise, in which an MP3 decoder may see frames."""
    dice = np.random.default_rng(3)
    picture = b"\0image/png\0\3\0" + dice.integers(0, 256, picture_bytes, dtype=np.uint8).tobytes()
    frame = b"APIC" + struct.pack(">I", len(picture)) + b"\0\0" + picture
    return b"ID3\3\0\0" + bytes(len(frame) >> shift & 0x7F for shift in (21, 14, 7, 0)) + frame


SECOND = noise(44_100)
ODD_BUT_VALID: dict[str, tuple[npt.NDArray[Any], int, str, str | None]] = {
    "1 Hz.wav": (noise(5), 1, "WAV", "PCM_16"),
    "384 kHz.wav": (noise(38_400), 384_000, "WAV", "PCM_24"),
    "one sample.wav": (noise(1), 48_000, "WAV", "PCM_16"),
    "one sample at 192 kHz.flac": (noise(1), 192_000, "FLAC", "PCM_24"),
    "16 channels.wav": (noise(4_800, channels=16), 48_000, "WAV", "PCM_16"),
    "a-law.wav": (SECOND, 44_100, "WAV", "ALAW"),
    "mu-law.wav": (SECOND, 44_100, "WAV", "ULAW"),
    "ima adpcm.wav": (SECOND, 44_100, "WAV", "IMA_ADPCM"),
    "ms adpcm.wav": (SECOND, 44_100, "WAV", "MS_ADPCM"),
    "gsm.wav": (noise(8_000), 8_000, "WAV", "GSM610"),
    "float64.wav": (SECOND, 44_100, "WAV", "DOUBLE"),
    "8 bit.wav": (SECOND, 44_100, "WAV", "PCM_U8"),
    "extensible.wav": (SECOND, 44_100, "WAVEX", "PCM_24"),
    "rf64.rf64": (SECOND, 44_100, "RF64", "PCM_16"),
    "rf64 named.wav": (SECOND, 44_100, "RF64", "PCM_24"),
    "sony.w64": (SECOND, 44_100, "W64", "PCM_16"),
    "core audio.caf": (SECOND, 44_100, "CAF", "PCM_16"),
    "alac.caf": (SECOND, 44_100, "CAF", "ALAC_16"),
    "sun.au": (SECOND, 44_100, "AU", "PCM_16"),
    "next.snd": (SECOND, 44_100, "AU", "ULAW"),
    "creative.voc": (SECOND, 44_100, "VOC", "PCM_16"),
    "float.aifc": (SECOND, 44_100, "AIFF", "FLOAT"),
    "mu-law.aifc": (SECOND, 44_100, "AIFF", "ULAW"),
    "ima.aifc": (SECOND, 44_100, "AIFF", "IMA_ADPCM"),
    "silence.wav": (np.zeros(44_100), 44_100, "WAV", "PCM_16"),
    "dc.wav": (np.full(44_100, 0.5), 44_100, "WAV", "PCM_16"),
    "clipped.wav": (np.sign(SECOND), 44_100, "WAV", "PCM_16"),
    "opposite phase.wav": (np.hstack([SECOND, -SECOND]), 44_100, "WAV", "PCM_16"),
    "opus.opus": (noise(48_000), 48_000, "OGG", "OPUS"),
    "opus.ogg": (noise(48_000), 48_000, "OGG", "OPUS"),
    "mpeg 2.5.mp3": (noise(8_000), 8_000, "MP3", None),
}
POOR = {
    "1 Hz.wav": ["dc_offset"],
    "one sample.wav": ["too_short", "dc_offset"],
    "one sample at 192 kHz.flac": ["too_short", "dc_offset"],
    "gsm.wav": ["clipped"],
    "silence.wav": ["silent"],
    "dc.wav": ["dc_offset"],
    "clipped.wav": ["clipped"],
    "opposite phase.wav": ["too_quiet"],  # 16 bits round the two of a sample otherwise
}  # what is wrong with those of them that are of little use


def tree(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Return what is in `folder`: of a file its bytes and mtime, of a link its text, of anything else its mode."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        name = os.path.relpath(path, folder)
        if path.is_symlink():
            found[name] = ("link", os.readlink(path))
        elif path.is_file():
            found[name] = ("file", path.read_bytes(), status.st_mtime_ns)
        else:
            found[name] = ("other", status.st_mode)
    return found


def everything(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the status of all in `folder`, its folders and itself included: what changes shows here."""
    status_of = {path: path.lstat() for path in [folder, *folder.rglob("*")]}
    return {
        str(path): (status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        for path, status in status_of.items()
    }


def file_names(folder: Path) -> list[str]:
    """Return the names in `folder`, sorted, but for its README, lock files and the folder of unfinished files."""
    return sorted(name for name in os.listdir(folder) if name not in (LOCK_NAME, README_NAME, SCRATCH))


class InlineExecutor(Executor):
    """An executor without processes, so that a test's faults reach `_process_file`."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def use_inline_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs in this process do the workers' part here too: fast, and within reach of `monkeypatch`."""
    monkeypatch.setattr(LocalWorker, "_new_executor", lambda *_: InlineExecutor())
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda *_, **__: None)  # wants a real stderr


def use_fake_clap(monkeypatch: pytest.MonkeyPatch, model: FakeClap | None = None) -> None:
    """Let `main` in this process use a fake model, and draw no bar."""
    defaults = (lambda *_: model or FakeClap(), False)
    monkeypatch.setattr(product.DatasetPreparer.__init__, "__defaults__", defaults)


def fail_for(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: OSError, source: Path, times: int = 1_000
) -> None:
    """Let the function `owner.name` raise `error` when its first argument is `source`."""
    real = getattr(owner, name)
    left = [times]

    def failing(first: Any, *rest: Any, **options: Any) -> Any:
        if os.fspath(first) == str(source) and left[0] > 0:
            left[0] -= 1
            raise error
        return real(first, *rest, **options)

    monkeypatch.setattr(owner, name, failing)


def copy_with_times(source: Path, target: Path) -> Path:
    """Copy a file, mtime included."""
    return Path(shutil.copy2(source, target))


def long_silence(path: Path, hours: float) -> None:
    with soundfile.SoundFile(path, "w", 44_100, 1, "PCM_16") as file:
        for _ in range(int(hours * 60)):
            file.write(np.zeros(60 * 44_100, np.int16))
