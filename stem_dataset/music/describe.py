"""One description out of all the evidence: names, rhythm, key and levels; and the quality issues."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from stem_dataset.config import Config
from stem_dataset.datatypes import UNKNOWN_CATEGORY, Description, Measurements, NameFacts, SourceFormat, Tempo
from stem_dataset.music.features import decibels
from stem_dataset.music.filenames import first_known
from stem_dataset.music.key import hear_keys, judge_key, single_pitch_hz
from stem_dataset.music.tempo import MIN_RHYTHM_S, hear_rhythm, judge_tempo, regularity_at, tempo_candidates

# -- quality and the whole --------------------------------------------------------------------------------------------


def listen(measured: Measurements, source: SourceFormat, config: Config) -> dict[str, Any]:
    """Return the features that a file has whatever it is called: what was measured, what it may be heard as, and its
    quality issues. A row holds them, so that a copy of the file under another name needs no second look."""
    tempi = tempo_candidates(measured.onsets, config.tempo_center_bpm) if measured.duration_s >= MIN_RHYTHM_S else []
    return {
        **measured.features,
        "tempo_candidates": [[round(value, 4) for value in dataclasses.astuple(tempo)] for tempo in tempi],
        "key_confidences": [round(float(confidence), 4) for confidence in hear_keys(measured.pitch_classes)],
        "pitch_hz": single_pitch_hz(measured),
        "quality_issues": quality_issues(source, measured.features, config),
        "decoder": source.decoder,
    }


def describe(name: NameFacts, features: Mapping[str, Any], duration_s: float) -> Description:
    """Return all that is judged of a file from its names and the features that `listen` made of it."""
    rhythm = hear_rhythm(name, [Tempo(*values) for values in features["tempo_candidates"]], duration_s)
    bpm, bpm_source = judge_tempo(name, rhythm)
    key, key_confidence, key_source = judge_key(name, features["key_confidences"], features["pitch_hz"], duration_s)
    judged = {
        "is_loop": rhythm.is_loop,
        "bpm_source": bpm_source,
        "bpm_confidence": regularity_at(bpm, rhythm),
        "key_source": key_source,
        "key_confidence": key_confidence,
        "category_source": "name" if name.category else None,
    }
    category = name.category or UNKNOWN_CATEGORY
    return Description(bpm, key, category, {**features, **judged}, not features["quality_issues"])


def quality_issues(source: SourceFormat, features: Mapping[str, float | None], config: Config) -> list[str]:
    """Return why a valid file needs a listen before it is used, in words that a query can ask for; [] if nothing does.

    truncated: the container says that more should be there · too_short, too_quiet, clipped, dc_offset: beyond the
    setting (`min_duration_s`, `min_loudness_lufs`, `max_clipped_share`, `max_dc_offset`) · silent: not one sample other
    than 0 · dead_channel: of stereo, one peaks under -80 dBFS, the other does not.
    """
    # No loudness is defined for less than 0.4 s: there the RMS level stands in, which is the same for a tone of 1 kHz.
    # Of a long file the RMS may be that of silent parts alone; a level of its peak is better than none.
    level = first_known([features["loudness_lufs"], decibels(features["rms"]), features["peak_dbfs"]])
    checks = {
        "truncated": source.truncated,
        "too_short": source.duration_s < config.min_duration_s,
        "silent": level is None,
        "too_quiet": level is not None and level < config.min_loudness_lufs,
        "clipped": source.clipped_share > config.max_clipped_share,
        "dc_offset": abs(source.dc_offset) > config.max_dc_offset,
        "dead_channel": source.dead_channel,
    }
    return [issue for issue, found in checks.items() if found]
