"""Combine all evidence about a file into one description.

The evidence is names, tags, rhythm, key and levels. The description includes quality issues.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from stem_dataset.config import Config
from stem_dataset.datatypes import UNKNOWN_CATEGORY, Description, Measurements, NameFacts, SourceFormat, Tempo
from stem_dataset.music.features import decibels
from stem_dataset.music.file_tags import loop_in_tags, stored_tags, tag_features, tempo_in_tags
from stem_dataset.music.filenames import at_duration, first_known
from stem_dataset.music.key import KEY_NAMES, decide_key, estimate_keys, single_pitch_hz
from stem_dataset.music.tempo import MIN_RHYTHM_S, decide_tempo, estimate_rhythm, regularity_at, tempo_candidates


def features_of_audio(measured: Measurements, source: SourceFormat, config: Config) -> dict[str, Any]:
    """Return the features that do not depend on a file's name.

    They are measurements, candidates for tempo and key, and quality issues. A row stores them, so that a copy of the
    file under another name need not be analysed again.
    """
    tempi = tempo_candidates(measured.onsets, config.tempo_center_bpm) if measured.duration_s >= MIN_RHYTHM_S else []
    return {
        **measured.features,
        "tempo_candidates": [[round(value, 4) for value in dataclasses.astuple(tempo)] for tempo in tempi],
        "key_confidences": [round(float(confidence), 4) for confidence in estimate_keys(measured.pitch_classes)],
        "pitch_hz": single_pitch_hz(measured),
        "quality_issues": quality_issues(source, measured.features, config),
        **tag_features(source.tags),
        "decoder": source.decoder,
    }


def describe(name: NameFacts, features: Mapping[str, Any], duration_s: float) -> Description:
    """Return the description of a file, from its names and its features.

    The features are those of `features_of_audio`.
    """
    name = at_duration(name, duration_s)
    tags = stored_tags(features)
    is_loop = loop_in_tags(name, tags, duration_s, is_note=features["pitch_hz"] is not None)
    evidence = name if is_loop is None else dataclasses.replace(name, is_loop=is_loop)
    tempi = [Tempo(*values) for values in features["tempo_candidates"]]
    rhythm = estimate_rhythm(evidence, tempi, duration_s)
    bpm, bpm_source = decide_tempo(name, rhythm)
    stated_bpm = tempo_in_tags(tags, tempi, duration_s)
    if bpm_source != "name" and rhythm.is_loop is not False and stated_bpm is not None:
        bpm, bpm_source = stated_bpm, "tag"
    key, key_confidence, key_source = decide_key(name, features["key_confidences"], features["pitch_hz"], duration_s)
    if key_source != "name" and tags.key is not None:
        key, key_source = tags.key, "tag"
        key_confidence = features["key_confidences"][KEY_NAMES.index(key)]
    decisions = {
        "is_loop": rhythm.is_loop,
        "bpm_source": bpm_source,
        "bpm_confidence": regularity_at(bpm, rhythm),
        "key_source": key_source,
        "key_confidence": key_confidence,
        "category_source": "name" if name.category else None,
    }
    category = name.category or UNKNOWN_CATEGORY
    return Description(bpm, key, category, {**features, **decisions}, not features["quality_issues"])


def quality_issues(source: SourceFormat, features: Mapping[str, float | None], config: Config) -> list[str]:
    """Return why a valid file should be checked by ear before use.

    A query can ask for these words:

    truncated: the container announces more audio than there is
    too_short, too_quiet, clipped, dc_offset: beyond the setting (`min_duration_s`, `min_loudness_lufs`,
    `max_clipped_share`, `max_dc_offset`)
    silent: all samples are 0
    dead_channel: of a stereo file, one channel peaks below -80 dBFS, the other does not
    """
    # Loudness is not defined for less than 0.4 s; there the RMS level is used, which is the same for a tone of 1 kHz.
    # The analysed blocks of a long file may all be silent; then the level of its peak is used.
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
