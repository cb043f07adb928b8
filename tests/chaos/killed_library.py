"""A library of many small stems, every 14th of them broken in one way or another, the same for the same seed."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

import make_stems

BROKEN_EVERY = 14  # a few in each folder, so that a kill finds one at any time of a run
LONG_EVERY = 40
RECIPES = {"kick": "punchy", "snare": "fat", "hat": "open", "bass": "soft", "chord": "saw", "texture": "wind"}
FORMS = {
    "wav": [
        (44_100, 1, "PCM_16"),
        (48_000, 2, "PCM_24"),
        (96_000, 1, "FLOAT"),
        (8_000, 1, "ULAW"),
        (22_050, 1, "PCM_U8"),
    ],
    "flac": [(44_100, 2, "PCM_16"), (48_000, 1, "PCM_24")],
    "aiff": [(32_000, 1, "PCM_16")],
    "ogg": [(44_100, 2, "VORBIS")],
    "mp3": [(44_100, 1, "MPEG_LAYER_III")],
    "w64": [(48_000, 1, "PCM_16")],
    "caf": [(44_100, 1, "PCM_24")],
    "au": [(16_000, 1, "PCM_16")],
}


def encoded(samples: object, container: str, subtype: str) -> bytes:
    """Return `samples` at 48 kHz as a file of that format."""
    file = io.BytesIO()
    soundfile.write(file, samples, 48_000, subtype, format=container)
    return file.getvalue()


def spoilt(value: float) -> bytes:
    """Return a float WAV with that value in its middle."""
    samples = np.zeros(4_800, np.float32)
    samples[2_400] = value
    return encoded(samples, "WAV", "FLOAT")


def flac_of(start: float, stop: float) -> bytes:
    """Return that part of a FLAC's bytes."""
    whole = encoded(np.random.default_rng(1).uniform(-0.5, 0.5, 48_000), "FLAC", "PCM_16")
    return whole[int(start * len(whole)) : int(stop * len(whole))]


BROKEN: dict[str, Callable[[], bytes]] = {
    "empty.wav": lambda: b"",
    "notes.wav": lambda: b"no audio at all\n" * 20,
    "cut.flac": lambda: flac_of(0, 0.5),
    "nan.wav": lambda: spoilt(np.nan),
    "no samples.wav": lambda: encoded(np.zeros(0), "WAV", "PCM_16"),
    "zeros.aiff": lambda: bytes(5_000),
    "infinite.wav": lambda: spoilt(np.inf),
    "empty.mp3": lambda: b"",
    "headless.flac": lambda: flac_of(0.5, 1),
    "no samples.aiff": lambda: encoded(np.zeros(0), "AIFF", "PCM_16"),
    "cut in its header.wav": lambda: encoded(np.zeros(100), "WAV", "PCM_16")[:30],
    "a page.ogg": lambda: b"<html><body>404 Not Found</body></html>",
}


def make_library(folder: Path, files: int, seed: int) -> None:
    """Write `files` stems in folders of twenty. The broken ones' names come again: their quarantine is crowded."""
    dice = random.Random(seed)
    names = list(BROKEN)
    for number in range(files):
        place = folder / f"take {number // 20:02}"
        place.mkdir(parents=True, exist_ok=True)
        if number % BROKEN_EVERY == 5:
            name = names[number // BROKEN_EVERY % len(names)]
            (place / name).write_bytes(BROKEN[name]())
        else:
            write_stem(place, number, dice)


def write_stem(folder: Path, number: int, dice: random.Random) -> None:
    """Write one valid stem; its sound hangs on its name, which the number makes unique."""
    suffix = dice.choice(list(FORMS))
    rate_hz, channels, subtype = dice.choice(FORMS[suffix])
    category = dice.choice(list(RECIPES))
    key = "Am" if category in ("bass", "chord") else None
    seconds = 12.0 if number % LONG_EVERY == 7 else dice.uniform(0.05, 3)
    form = make_stems.Form(rate_hz, channels, subtype)
    stem = make_stems.Stem(f"{category} {number:03}.{suffix}", category, RECIPES[category], seconds, key, form)
    make_stems.write(stem, folder / stem.file)
