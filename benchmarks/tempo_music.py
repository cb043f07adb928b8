"""Make music of known tempo for fit_tempo.py: drum loops, loops with chords and bass, tunes in six metres, lone drums.

The instruments are those of fixtures/make_music.py and drum_sounds.py, the music is not: no benchmark that reports a
figure uses it. All of it is drawn at random from the rules below, so that no two pieces have the same pattern.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from drum_sounds import lone_drum
from make_music import (
    KEYS,
    LOOP_CHANGES,
    PROGRESSIONS,
    SOUND_VARIANTS,
    TIMBRES,
    Chord,
    Dice,
    Float32,
    Note,
    Timbre,
    between,
    chords_of,
    dice,
    drum,
    finished,
    nearest,
    neighbour,
    one_of,
    place,
    play,
    reverberated,
    slope,
    voiced,
)
from make_stems import Signal

RATE_HZ = 48_000


class Metre(NamedTuple):
    """Beats in a bar, and parts of a beat: 4 for sixteenths, 3 for the eighths of 6/8 and for triplets."""

    beats: int
    parts: int

    @property
    def steps(self) -> int:
        return self.beats * self.parts


@dataclass(frozen=True)
class Piece:
    """Samples at `RATE_HZ`, the tempo in felt beats (dotted quarters in 6/8), and whether a beat has three parts."""

    samples: Float32
    kind: str
    bpm: float
    is_triple: bool


class Plan(NamedTuple):
    """What is common to all parts of a piece."""

    metre: Metre
    bpm: float
    bars: int
    # What each first of two steps is longer than its half, as a share of the pair.
    swing: float
    human_s: float
    rng: Dice

    def at_s(self, step: float) -> float:
        """Return when a step, counted from the start, is played."""
        late = self.swing * (step % 2 == 1) + self.rng.normal(0, self.human_s * self.bpm / 60 * self.metre.parts)
        return (step + late) * 60 / self.bpm / self.metre.parts

    @property
    def seconds(self) -> float:
        return self.bars * self.metre.beats * 60 / self.bpm


# ------------------------------------------------------------------------------------------------------- drums

# What a part plays in a beat of four or of three parts; "." is a rest, "o" is soft.
KICK_CELLS = {4: "X... X..x X.x. ..x. ...x .... X... ....", 3: "X.. X.x ..x ... X.. ..."}
GHOST_CELLS = {4: ".... ...o .o.. .... .... .oo.", 3: "... ..o ... ..."}
HAT_CELLS = {
    4: "x.x. x.x. x.x. xoxo xxxx x... ..x. ..x. x.xx X.x. xox. ...x",
    3: "x.x x.x xxx Xoo x.. xoo ..x X.o",
}
# Bars of 16 steps that musics of the Caribbean, Brazil and West Africa have in common.
CLAVES = (
    "x..x..x...x.x...",
    "..x.x...x..x..x.",
    "x..x..x..x..x...",
    "x..x...x..x.x...",
    "x.x.x.xx.x.x.xx.",
    "x.xx.xx.x.xx.xx.",
)
VELOCITY = {"X": 1.0, "x": 0.75, "o": 0.3}


def bar_of(cells: str, metre: Metre, rng: Dice) -> str:
    """Return a bar of one or two kinds of beats in turn."""
    choices = [one_of(rng, cells.split()) for _ in range(2 if rng.random() < 0.5 else 1)]
    return "".join(choices[beat % len(choices)] for beat in range(metre.beats))


def hits_on(steps: Sequence[int], metre: Metre) -> str:
    return "".join("X" if step in steps else "." for step in range(metre.steps))


def merged(*bars: str) -> str:
    """Return a bar with the first bar's hits, and in its rests those of the next."""
    return "".join(next((mark for mark in marks if mark != "."), ".") for marks in zip(*bars, strict=True))


def drum_bars(metre: Metre, style: str, rng: Dice) -> dict[str, str]:
    """Return a bar for each instrument."""
    beats, parts = metre
    back = [beat * parts for beat in range(1, beats, 2)] if beats != 3 else [parts, 2 * parts]
    snare = hits_on(back, metre)
    kick = merged(hits_on([0], metre), "".join(one_of(rng, KICK_CELLS[parts].split()) for _ in range(beats)))
    kick = "".join(
        "." if there == "X" and step else mark for step, (mark, there) in enumerate(zip(kick, snare, strict=True))
    )
    hat = bar_of(HAT_CELLS[parts], metre, rng)
    extra = "." * metre.steps
    if style == "four on the floor":
        kick = hits_on(range(0, metre.steps, parts), metre)
        hat = one_of(rng, ("..X." * beats, hat)) if parts == 4 else hat
        snare = one_of(rng, (snare, snare, extra))
    elif style == "half time":
        snare = hits_on([metre.steps // 2], metre)
        kick = merged(hits_on([0], metre), one_of(rng, ("......x.........", "...x......x.....", "..........x.....")))
    elif style == "two-step":
        kick = one_of(rng, ("X.........X.....", "X.X.......X.....", "X..X......X.....", "X.......x.X....."))
        hat = one_of(rng, ("x.x.x.x.x.x.x.x.", "xoxoxoxoxoxoxoxo", "x.xxx.xxx.xxx.xx"))
    elif style == "one drop":
        kick = one_of(rng, (hits_on([8], metre), hits_on([0, 8], metre), hits_on([0, 4, 8, 12], metre)))
        snare = hits_on([8], metre)
    elif style == "clave":
        extra = one_of(rng, CLAVES)
        snare = one_of(rng, (extra, "." * 16, snare))
        kick = one_of(rng, ("X.......X.......", "X..xX..xX..xX..x", "X..x....X..x....", "...x..X....x..X."))
    elif style == "march":
        snare = bar_of({4: "X.xx X.x. xxxx X.Xo X.oo", 3: "X.x Xoo X.. XxX"}[parts], metre, rng)
        kick = hits_on([0] if beats == 3 else [0, metre.steps // 2], metre)
        hat = one_of(rng, (extra, hat))
    if rng.random() < (0.3 if parts == 4 else 0.15):
        snare = merged(snare, "".join(one_of(rng, GHOST_CELLS[parts].split()) for _ in range(beats)))
    return {"kick": kick, "snare": snare, "hat": hat, "percussion": extra}


def drum_part(plan: Plan, style: str) -> Signal:
    """Return a kit; now and then an instrument is missing, and now and then a bar is varied."""
    rng = plan.rng
    out = np.zeros(round(plan.seconds * RATE_HZ))
    bars = drum_bars(plan.metre, style, rng)
    other = bars if rng.random() < 0.5 else bars | {"kick": drum_bars(plan.metre, style, rng)["kick"]}
    played = {"kick", "snare", "hat", "percussion"} - {one_of(rng, ("", "", "", "", "", "", "hat", "kick", "snare"))}
    if style == "four on the floor" and rng.random() < 0.15:
        played = {"kick"}
    kinds = {
        "kick": "kick",
        "snare": one_of(rng, ("snare", "snare", "snare", "clap", "percussion")),
        "hat": one_of(rng, ("hat", "hat", "hat", "open_hat", "cymbal", "percussion")),
        "percussion": "percussion",
    }
    levels = {
        "kick": 1.0,
        "snare": rng.uniform(0.4, 1),
        "hat": rng.uniform(0.1, 0.6),
        "percussion": rng.uniform(0.2, 0.7),
    }
    for name, kind in kinds.items():
        if name not in played:
            continue
        sound = drum(0, kind, int(rng.integers(SOUND_VARIANTS)), RATE_HZ)
        for bar in range(plan.bars):
            line = (other if bar % 2 else bars)[name]
            is_fill = name == "snare" and bar % 4 == 3 and rng.random() < 0.3
            line = (
                line[: len(line) // 2] + one_of(rng, ("XoXo" * 4, "xxxx" * 4))[: len(line) - len(line) // 2]
                if is_fill
                else line
            )
            for step, mark in enumerate(line):
                if mark != ".":
                    level = levels[name] * VELOCITY[mark] * float(np.clip(rng.normal(1, 0.12), 0.5, 1.4))
                    place(out, sound, round(plan.at_s(bar * plan.metre.steps + step) * RATE_HZ), level)
    return out


DUPLE_STYLES = (
    "rock",
    "rock",
    "rock",
    "rock",
    "four on the floor",
    "four on the floor",
    "one drop",
    "clave",
    "clave",
    "march",
)


def a_drum_loop(rng: Dice) -> Piece:
    style = one_of(rng, (*DUPLE_STYLES, "two-step", "half time", "triple", "triple", "triple"))
    metre = Metre(4, 4)
    if style == "triple":
        style = one_of(rng, ("rock", "rock", "rock", "four on the floor", "march"))
        metre = Metre(int(rng.choice([4, 4, 4, 2, 3])), 3)
    elif style in ("rock", "march") and rng.random() < 0.1:
        metre = Metre(3, 4)
    low, high = {"two-step": (155, 180), "half time": (125, 170)}.get(style, (60, 190))
    plan = a_plan(metre, between(rng, low, high), rng)
    out = drum_part(plan, style)
    return piece(out, "drums", plan)


# What a drum alone plays, in beats of four parts and of three: a kick mostly each beat, a snare mostly each second one,
# a hat anything.
LONE_CELLS = {
    "kick": {4: "X... X... X... X... X..x X.x. X.....x.", 3: "X.. X.. X.x"},
    "snare": {4: "....X... ....X... ....X... ....X..o ........X....... X.xx X...", 3: "...X.. ...X.. X.x Xoo"},
    "hat": HAT_CELLS,
}


def a_lone_drum(rng: Dice) -> Piece:
    """A kick, a snare or a hat and nothing else."""
    kind = one_of(rng, ("kick", "kick", "snare", "hat"))
    metre = Metre(4, 3 if rng.random() < 0.15 else 4)
    plan = a_plan(metre, between(rng, 75, 180), rng)
    cells = one_of(rng, LONE_CELLS[kind][metre.parts].split())
    bar = (cells * metre.steps)[: metre.steps]
    # A pickup to the next bar.
    other = bar[:-2] + one_of(rng, ("X.", ".x", "xx")) if rng.random() < 0.25 else bar
    sound = lone_drum(rng, kind, RATE_HZ)
    out = np.zeros(round(plan.seconds * RATE_HZ))
    for number in range(plan.bars):
        for step, mark in enumerate(other if number % 4 == 3 else bar):
            if mark != ".":
                level = VELOCITY[mark] * float(np.clip(rng.normal(1, 0.08), 0.5, 1.4))
                place(out, sound, round(plan.at_s(number * metre.steps + step) * RATE_HZ), level)
    return piece(out, f"{kind} alone", plan)


# ---------------------------------------------------------------------------------------------- chords and bass

COMP_BARS = (
    "x..x..x...x.x... ..x...x...x...x. x...x...x...x... x.x.x.x.x.x.x.x. x..x....x..x.... ..x..x....x..x.. "
    "x.......x....... x......x..x..... xxxxxxxxxxxxxxxx x.xxx.xxx.xxx.xx x..xx.x.x..xx.x. x..x..x.x..x..x. "
    "X.x.x.xxX.x.x.xx x.....x...x..... x...x..x..x.x..."
).split()


def a_produced_loop(rng: Dice) -> Piece:
    """Chords or a bass line over a bar's rhythm, with drums or without."""
    style = one_of(rng, ("rock", "rock", "four on the floor", "four on the floor", "two-step", "half time", "one drop"))
    low, high = {"two-step": (155, 180), "half time": (125, 170), "four on the floor": (105, 150)}.get(style, (60, 180))
    plan = a_plan(Metre(4, 4), between(rng, low, high), rng)
    key = one_of(rng, KEYS)
    chords = chords_of(one_of(rng, LOOP_CHANGES["m" if key.endswith("m") else ""]), key)
    parts = [levelled(bar_part(plan, chords, is_bass=False))] if rng.random() < 0.7 else []
    if rng.random() < 0.5 or not parts:
        parts.append(rng.uniform(0.3, 1) * levelled(bar_part(plan, chords, is_bass=True)))
    if rng.random() < 0.6:
        parts.append(rng.uniform(0.4, 1.5) * levelled(drum_part(plan, style)))
    return piece(np.sum(parts, axis=0), "produced", plan)


def bar_part(plan: Plan, chords: Sequence[Chord], is_bass: bool) -> Signal:
    rng = plan.rng
    line = one_of(rng, COMP_BARS)
    timbre = bass_timbre(rng) if is_bass else quick_timbre(rng)
    held_s = 60 / plan.bpm / 4 * between(rng, 0.7, 3)
    is_arpeggio = not is_bass and rng.random() < 0.25
    centre = rng.uniform(52, 74)
    notes = []
    for bar in range(plan.bars):
        chord = chords[bar % len(chords)]
        pitches = [nearest(chord.root, 36)] if is_bass else voiced(chord, centre, root_below=is_arpeggio)
        for step, mark in enumerate(line):
            if mark == ".":
                continue
            at_s, level = plan.at_s(bar * 16 + step), VELOCITY[mark] * rng.uniform(0.8, 1.1)
            chosen = [pitches[step % len(pitches)]] if is_arpeggio else pitches
            notes += [Note(at_s, midi, held_s, level) for midi in chosen]
    return play(notes, timbre, plan.seconds, RATE_HZ)


def quick_timbre(rng: Dice) -> Timbre:
    """Return a timbre with a fast attack."""
    timbre = TIMBRES[one_of(rng, ("decaying", "decaying", "saw pad", "organ or FM"))](rng)
    attack_s, release_s = between(rng, 0.003, 0.04), between(rng, 0.03, 0.15)
    return Timbre(timbre.bright, timbre.dark, timbre.bright_s, timbre.dark_s, attack_s, release_s, timbre.unison)


def bass_timbre(rng: Dice) -> Timbre:
    return Timbre(
        slope(10, rng.uniform(1, 3)), slope(4, 2.5), between(rng, 0.1, 0.5), between(rng, 0.3, 2), 0.005, 0.04
    )


# ------------------------------------------------------------------------------------------------------- tunes

# 4/4 (twice), 2/4, 3/4, 6/8 (three times), 9/8 and 12/8.
TUNE_METRES = (
    *[Metre(4, 4), Metre(4, 4), Metre(2, 4), Metre(3, 4)],
    *[Metre(2, 3), Metre(2, 3), Metre(2, 3), Metre(3, 3), Metre(4, 3)],
)
# Lengths of notes in parts of a beat, for a beat or two.
MELODY_CELLS = {
    4: ((4,), (2, 2), (2, 2), (2, 2), (1, 1, 1, 1), (3, 1), (2, 1, 1), (1, 1, 2), (6, 2), (8,), (2, 4, 2)),
    3: ((1, 1, 1), (1, 1, 1), (2, 1), (2, 1), (3,), (1, 2), (1.5, 0.5, 1), (6,), (3, 2, 1)),
}
# How chords accompany: in each bar, bass notes (b) and chords (c) by the parts of one or two beats.
BACKINGS = {
    4: ("b...c...", "b.c.", "b...c...", "b...", "c...c...", "B...............", "c.c.c.c.", "b.c.c.c."),
    3: ("b.c", "b.c", "bcc", "b..", "c.c", "B.....", "c..c..", "..c"),
}


def a_tune(rng: Dice) -> Piece:
    """A melody in one of six metres, alone, with bass and chords, or with drums too."""
    metre = TUNE_METRES[int(rng.integers(len(TUNE_METRES)))]
    plan = a_plan(metre, between(rng, 60, 190), rng)
    key = one_of(rng, KEYS)
    chords = chords_of(one_of(rng, PROGRESSIONS["m" if key.endswith("m") else ""]), key)
    parts = [levelled(melody_part(plan, chords, key))]
    if rng.random() < 0.8:
        parts += [rng.uniform(0.3, 1) * part for part in backing(plan, chords)]
    if rng.random() < 0.4:
        parts.append(rng.uniform(0.2, 0.9) * levelled(drum_part(plan, one_of(rng, ("rock", "rock", "march")))))
    return piece(np.sum(parts, axis=0), "tune", plan)


def melody_part(plan: Plan, chords: Sequence[Chord], key: str) -> Signal:
    """Return a tune of two bars' rhythms; every second time the second bar is another."""
    rng, metre = plan.rng, plan.metre
    long_or_short = rng.random(len(MELODY_CELLS[metre.parts])) ** 2 + 0.05
    # At a fast tempo there are fewer short notes.
    shortest = np.array([min(cell) / metre.parts * 60 / plan.bpm for cell in MELODY_CELLS[metre.parts]])
    chances = long_or_short * (shortest > 0.09)
    rhythms = [bar_rhythm(metre, chances / chances.sum(), rng) for _ in range(3)]
    timbre = quick_timbre(rng)
    centre, legato = rng.uniform(62, 84), rng.uniform(0.5, 1)
    last, notes = round(centre), []
    for bar in range(plan.bars):
        chord = chords[bar // 2 % len(chords)]
        step = 0.0
        for length in rhythms[(0, 1, 0, 2)[bar % 4]]:
            if step % metre.parts == 0 and rng.random() < 0.6:
                last = nearest(chord.root + int(rng.choice(chord.intervals)), last)
            elif rng.random() < 0.85:
                last = neighbour(rng, key, chord, last)
            last += 12 * ((last < centre - 9) - (last > centre + 9))
            accent = 1 + rng.uniform(0, 0.3) * (step % metre.parts == 0)
            held_s = legato * length * 60 / plan.bpm / metre.parts
            notes.append(Note(plan.at_s(bar * metre.steps + step), last, held_s, accent * rng.uniform(0.7, 1)))
            step += length
    return play(notes, timbre, plan.seconds, RATE_HZ)


def bar_rhythm(metre: Metre, chances: Signal, rng: Dice) -> list[float]:
    """Return the lengths of a bar's notes in steps."""
    lengths: list[float] = []
    while sum(lengths) < metre.steps:
        cell = MELODY_CELLS[metre.parts][int(rng.choice(len(chances), p=chances))]
        lengths += cell if sum(lengths) + sum(cell) <= metre.steps else [metre.parts]
    return lengths


def backing(plan: Plan, chords: Sequence[Chord]) -> list[Signal]:
    """Return the bass and the chords below a tune."""
    rng, metre = plan.rng, plan.metre
    pattern = one_of(rng, BACKINGS[metre.parts])
    if metre.beats == 3 and rng.random() < 0.7:  # a waltz, or the same in 9/8
        pattern = "b" + "." * (metre.parts - 1) + ("c" + "." * (metre.parts - 1)) * 2
    centre, held = rng.uniform(52, 64), rng.uniform(0.3, 1)
    bass, chord_notes = [], []
    for bar in range(plan.bars):
        chord = chords[bar // 2 % len(chords)]
        for step in range(metre.steps):
            mark = pattern[step % len(pattern)] if metre.steps % len(pattern) == 0 else pattern[step % metre.parts]
            at_s, held_s = plan.at_s(bar * metre.steps + step), held * 60 / plan.bpm
            if mark in "bB":
                fifth = 7 * (mark == "b" and step > 0 and rng.random() < 0.5)
                bass.append(Note(at_s, nearest(chord.root, 40) + fifth, held_s, rng.uniform(0.8, 1)))
            if mark in "cB":
                chord_notes += [Note(at_s, midi, held_s, 0.3) for midi in voiced(chord, centre, root_below=False)]
    parts = [(bass, bass_timbre(rng)), (chord_notes, quick_timbre(rng))]
    return [levelled(play(notes, timbre, plan.seconds, RATE_HZ)) for notes, timbre in parts if notes]


# -------------------------------------------------------------------------------------------------- all of them


def a_plan(metre: Metre, bpm: float, rng: Dice) -> Plan:
    bar_s = metre.beats * 60 / bpm
    bars = max(1, round(between(rng, 4, 17) / bar_s))
    swing = rng.uniform(0.05, 0.3) if metre.parts == 4 and rng.random() < 0.25 else 0.0
    return Plan(metre, bpm, bars, swing, rng.uniform(0, 0.008), rng)


def levelled(part: Signal) -> Signal:
    return part / (float(np.max(np.abs(part))) + 1e-9)


def piece(sound: Signal, kind: str, plan: Plan) -> Piece:
    """Return it with or without a room; half of all start and end anywhere."""
    rng = plan.rng
    if rng.random() < 0.5:
        sound = reverberated(sound, rng, RATE_HZ, between(rng, 0.3, 1.8))
    if rng.random() < 0.5:
        first = int(rng.uniform(0, 60 / plan.bpm) * RATE_HZ)
        sound = sound[first : len(sound) - int(rng.uniform(0, 0.15) * len(sound))]
    samples = finished(sound, rng, RATE_HZ)
    mono = samples.mean(axis=1) if samples.ndim == 2 else samples
    return Piece(np.asarray(mono, np.float32), kind, plan.bpm, plan.metre.parts == 3)


def a_piece(seed: int, number: int) -> Piece:
    """Return a drum loop, a produced loop or a tune, in turn; it depends on the seed and the number alone."""
    makers = (a_drum_loop, a_produced_loop, a_tune)
    return makers[number % 3](dice(seed, "tempo", number))


def a_lone_piece(seed: int, number: int) -> Piece:
    """Return a lone drum; it depends on the seed and the number alone."""
    return a_lone_drum(dice(seed, "lone drum", number))
