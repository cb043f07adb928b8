"""Synthesise single drums for tempo_music.py, each in several ways: membranes, FM, filtered noise, ring modulation.

Those of fixtures/make_music.py are sines, noise and squares; a rule fitted to them alone could fit the synthesis.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.signal import butter, sosfilt

from make_music import SOUND_VARIANTS, Dice, between, drum, noise, one_of, take_of
from make_stems import Signal, Take, decay, sine

# The modes of an ideal circular membrane, relative to the lowest (Fletcher and Rossing, "The Physics of Musical
# Instruments", chapter 3).
MEMBRANE_MODES = (1.0, 1.594, 2.136, 2.296, 2.653, 2.918, 3.156, 3.501)


def lone_drum(rng: Dice, kind: str, rate_hz: int) -> Signal:
    """Return a kick, snare or hat, peak 1, by one of its syntheses."""
    way = int(rng.integers(len(SYNTHESES[kind]) + 1))
    if way == len(SYNTHESES[kind]):
        others = {"kick": ("kick",), "snare": ("snare", "clap"), "hat": ("hat", "open_hat", "cymbal")}[kind]
        return drum(0, one_of(rng, others), int(rng.integers(SOUND_VARIANTS)), rate_hz)
    length_s = {"kick": 0.5, "snare": 0.4, "hat": 0.3}[kind]
    sound = SYNTHESES[kind][way](rng, take_of(rng, length_s, rate_hz), rate_hz)
    sound *= np.minimum(1, np.arange(sound.size)[::-1] / (0.02 * rate_hz))
    return sound / (float(np.max(np.abs(sound))) + 1e-9)


def membrane(rng: Dice, take: Take, lowest_hz: float, decay_s: float) -> Signal:
    """Return a struck skin: its higher modes die first, and its pitch falls a little."""
    fall: Signal = take.t + rng.uniform(0, 0.004) * (1 - decay(0.03, take.t))
    modes = [
        rng.uniform(0.3, 1) / mode * sine(lowest_hz * mode, fall) * decay(decay_s / mode, take.t)
        for mode in MEMBRANE_MODES
    ]
    return np.asarray(np.sum(modes, axis=0))


def fm(rng: Dice, take: Take, hz: float, index: float, index_decay_s: float) -> Signal:
    """Return a tone whose frequency is modulated, first much and then less."""
    ratio = between(rng, 0.3, 6)
    modulation: Signal = index * decay(index_decay_s, take.t) * sine(ratio * hz, take.t) / (2 * np.pi)
    return sine(1, hz * take.t + modulation)


def skin_kick(rng: Dice, take: Take, rate_hz: int) -> Signal:
    """A drum with a beater."""
    beater = noise(200, between(rng, 800, 6_000), take) * decay(between(rng, 0.002, 0.008), take.t)
    return membrane(rng, take, between(rng, 45, 80), between(rng, 0.06, 0.25)) + rng.uniform(0, 0.3) * beater


def fm_kick(rng: Dice, take: Take, rate_hz: int) -> Signal:
    tone = fm(rng, take, between(rng, 40, 70), rng.uniform(1, 12), between(rng, 0.005, 0.05))
    return tone * decay(between(rng, 0.06, 0.25), take.t)


def noise_kick(rng: Dice, take: Take, rate_hz: int) -> Signal:
    """A thump without a pitch: low noise, as a foot on a floor."""
    return noise(30, between(rng, 90, 200), take) * decay(between(rng, 0.03, 0.12), take.t)


def square_kick(rng: Dice, take: Take, rate_hz: int) -> Signal:
    """A square that falls, through a low-pass."""
    fall_s = between(rng, 0.01, 0.05)
    phase: Signal = between(rng, 40, 60) * take.t + between(rng, 50, 300) * fall_s * (1 - decay(fall_s, take.t))
    square = np.sign(sine(1, phase)) * decay(between(rng, 0.05, 0.2), take.t)
    return np.asarray(sosfilt(butter(2, between(rng, 150, 1_500), fs=rate_hz, output="sos"), square))


def skin_snare(rng: Dice, take: Take, rate_hz: int) -> Signal:
    """A skin above wires, which rattle a little later."""
    wires = noise(between(rng, 800, 3_000), between(rng, 7_000, 15_000), take)
    wires *= (1 - decay(0.003, take.t)) * decay(between(rng, 0.05, 0.18), take.t)
    skin = membrane(rng, take, between(rng, 150, 260), between(rng, 0.04, 0.12))
    return rng.uniform(0.3, 1) * skin + rng.uniform(0.2, 1) * wires


def fm_snare(rng: Dice, take: Take, rate_hz: int) -> Signal:
    tone = fm(rng, take, between(rng, 160, 320), rng.uniform(5, 40), between(rng, 0.02, 0.1))
    return tone * decay(between(rng, 0.04, 0.15), take.t)


def gated_snare(rng: Dice, take: Take, rate_hz: int) -> Signal:
    """Noise that ends at once, as in the eighties."""
    length_s = rng.uniform(0.06, 0.2)
    return noise(between(rng, 200, 1_000), between(rng, 4_000, 12_000), take) * (take.t < length_s)


def rim(rng: Dice, take: Take, rate_hz: int) -> Signal:
    """A stick on a rim."""
    click = noise(1_500, 9_000, take) * decay(0.003, take.t)
    wood = sine(between(rng, 400, 900), take.t) + 0.7 * sine(between(rng, 1_300, 2_600), take.t)
    return wood * decay(between(rng, 0.008, 0.03), take.t) + rng.uniform(0.2, 1) * click


def fm_hat(rng: Dice, take: Take, rate_hz: int) -> Signal:
    tones = [fm(rng, take, between(rng, 4_000, 9_000), rng.uniform(3, 20), 10) for _ in range(3)]
    return high(np.sum(tones, axis=0), rng, rate_hz) * decay(between(rng, 0.01, 0.08), take.t)


def ring_hat(rng: Dice, take: Take, rate_hz: int) -> Signal:
    """Squares multiplied with each other."""
    pairs = [
        np.sign(sine(between(rng, 300, 3_000), take.t)) * np.sign(sine(between(rng, 3_000, 9_000), take.t))
        for _ in range(3)
    ]
    return high(np.sum(pairs, axis=0), rng, rate_hz) * decay(between(rng, 0.01, 0.08), take.t)


def shaker(rng: Dice, take: Take, rate_hz: int) -> Signal:
    rise_s = between(rng, 0.004, 0.03)
    return noise(between(rng, 3_500, 7_000), 16_000, take) * (take.t / rise_s) * decay(rise_s, take.t)


def tambourine(rng: Dice, take: Take, rate_hz: int) -> Signal:
    """Some jingles: noise in narrow bands, each with its own decay."""
    bands_hz = [between(rng, 4_000, 13_000) for _ in range(5)]
    jingles = [noise(0.97 * hz, 1.03 * hz, take) * decay(between(rng, 0.02, 0.12), take.t) for hz in bands_hz]
    return np.asarray(np.sum(jingles, axis=0))


def high(sound: Signal, rng: Dice, rate_hz: int) -> Signal:
    return np.asarray(sosfilt(butter(3, between(rng, 4_000, 8_000), "high", fs=rate_hz, output="sos"), sound))


SYNTHESES: dict[str, tuple[Callable[[Dice, Take, int], Signal], ...]] = {
    "kick": (skin_kick, fm_kick, noise_kick, square_kick),
    "snare": (skin_snare, fm_snare, gated_snare, rim),
    "hat": (fm_hat, ring_hat, shaker, tambourine),
}
