"""The weights by which tempo.py chooses among the tempi of a sound.

Each is what its cue adds to the logarithm of the likelihood of a tempo. They were fitted as a logistic choice among all
tempi and both divisions of the beat, to 1,500 pieces of music that `benchmarks/fit_tempo.py` makes;
`python benchmarks/fit_tempo.py --write` puts the tables below here. No benchmark that reports a figure uses that music.
A module of its own, because the tables are replaced as a whole.
"""

LOW, MIDDLE, HIGH, ALL = range(4)
# Correlations of the onsets in two bands: a snare comes one beat after a kick (low, middle).
PAIRS = ((LOW, LOW), (MIDDLE, MIDDLE), (HIGH, HIGH), (ALL, ALL), (LOW, MIDDLE), (LOW, HIGH), (MIDDLE, HIGH))
# A beat has two or four parts, or three, as in 6/8. The two need different cues.
LAGS_BEATS = {
    "duple": (1 / 4, 1 / 2, 3 / 4, 1, 3 / 2, 2, 3, 4),
    "triple": (1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2, 3, 4),
}
RATES_A_BEAT = {"duple": (1 / 4, 1 / 2, 1, 2, 4), "triple": (1 / 4, 1 / 2, 1, 3 / 2, 3)}
# A row for each of `PAIRS`, with a column for each of `LAGS_BEATS`; then one for each band, with a column for each of
# `RATES_A_BEAT`; then one with the weight of each band's rate of events.
DIVISION_WEIGHTS = {
    "duple": (
        (0.1, -4.0, 1.3, -0.6, -1.3, 0.3, 0.2, 0.2),
        (-1.7, 1.4, 2.5, 2.2, -0.9, -0.1, -1.8, 2.0),
        (-1.2, 1.1, 0.2, 0.9, 0.8, 1.3, -2.1, 2.9),
        (-0.8, 2.7, 0.4, 0.4, 1.5, -1.3, -0.6, 1.5),
        (-1.4, 1.6, -0.4, 1.6, 0.0, -2.0, -0.3, -1.2),
        (-0.6, 1.2, -0.8, 3.6, -0.7, -0.3, -0.6, -2.3),
        (2.9, 2.9, 1.3, 1.4, -0.3, 0.6, -2.4, 1.0),
        (-5.2, 13.8, 6.4, -1.0, 17.3),
        (-0.2, 4.5, 7.7, 7.3, 12.4),
        (-1.6, 5.3, 7.1, 7.7, 11.9),
        (-0.22, -0.14, -0.02),
    ),
    "triple": (
        (-1.9, -1.8, -2.8, -1.4, -0.4, -0.6, 1.1, -1.9),
        (2.2, 0.9, 2.4, -0.4, 0.5, 1.8, 0.0, 0.3),
        (-0.9, 1.7, 1.6, -1.6, 0.5, 2.3, 0.6, -1.1),
        (2.0, 0.6, 1.4, 0.1, 0.2, 2.5, 0.6, 0.1),
        (1.9, -0.2, -0.9, -1.2, 0.4, 1.3, -1.4, 1.2),
        (1.7, 0.1, 0.6, -0.8, -0.4, -0.6, 0.8, 1.4),
        (3.1, 1.6, 0.8, 0.9, 0.0, 0.7, -0.9, -0.5),
        (-3.0, -2.4, 10.3, -2.6, 7.8),
        (4.9, 4.5, 13.6, -1.4, 8.9),
        (-1.5, 9.2, 11.3, -3.0, 8.4),
        (-0.18, -0.05, -0.06),
    ),
}  # fmt: skip
# The weight of the squared distance, in octaves, from `tempo_center_bpm`. It was not fitted: in the music of
# fit_tempo.py all tempi from 60 to 190 are about as frequent, in a library they are not.
DISTANCE_WEIGHT = -2.0
# The weight of the regularity (see `Tempo`). It was not fitted either: without it, in a loop of kicks alone, a tempo at
# which nothing comes again would win.
REGULARITY_WEIGHT = 0.5
