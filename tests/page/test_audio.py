"""Which files are played, seeking in them, and their waveforms."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from libraries import SearchedLibrary
from page_client import PageClient, opened_page
from page_server import running_server
from stem_dataset.audio.wav import StandardisedAudio
from stem_dataset.output_folders import stem_id_of

SAMPLES = np.linspace(-1, 0.999, 48_000, dtype=np.float32)


@pytest.fixture
def kick(searched: SearchedLibrary) -> str:
    """The id of a stem with an original and a standardised WAV, on disk."""
    return add_stem(searched, "kick.flac")


@pytest.fixture
def page(searched: SearchedLibrary, kick: str) -> Iterator[PageClient]:
    """The page of a library with `kick`."""
    with opened_page(searched) as client:
        yield client


def add_stem(library: SearchedLibrary, name: str, has_wav: bool = True) -> str:
    """Add a stem and its files, and return its id."""
    original = library.folder / "library" / name
    stem_id = stem_id_of(str(original), "0" * 64)
    wav = library.folder / "stems" / stem_id[:2] / f"{stem_id}.wav"
    original.parent.mkdir(exist_ok=True)
    suffix = original.suffix[1:].upper()
    if suffix in soundfile.available_formats():
        soundfile.write(original, SAMPLES, 48_000)
    else:
        original.write_bytes(b"no audio")
    if has_wav:
        write_wav(wav)
    library.add(str(original), path=str(wav) if has_wav else None)
    return stem_id


def write_wav(path: Path) -> None:
    """Write a standardised WAV of one second."""
    with StandardisedAudio(path.parent) as audio:
        audio.append(SAMPLES)
        audio.finish()
        audio.publish(path)


def wav_of(library: SearchedLibrary, stem_id: str) -> Path:
    """Return where the standardised WAV of a stem is."""
    return library.folder / "stems" / stem_id[:2] / f"{stem_id}.wav"


def test_the_standardised_wav_is_played_and_the_original_if_asked(
    searched: SearchedLibrary, page: PageClient, kick: str
) -> None:
    answer = page.http.get(f"/audio/{kick}")
    assert answer.content == wav_of(searched, kick).read_bytes()
    assert (answer.headers["content-type"], answer.headers["accept-ranges"]) == ("audio/wav", "bytes")
    answer = page.http.get(f"/audio/{kick}?original=1")
    assert answer.content == (searched.folder / "library" / "kick.flac").read_bytes()
    assert answer.headers["content-type"] == "audio/flac"


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("a.WAV", "audio/wav"),
        ("a.mp3", "audio/mpeg"),
        ("a.ogg", "audio/ogg"),
        ("a.m4a", "audio/mp4"),
        ("a.opus", "audio/ogg"),
    ],
)
def test_without_a_wav_the_original_is_played_where_a_browser_can(
    searched: SearchedLibrary, name: str, media_type: str
) -> None:
    stem_id = add_stem(searched, name, has_wav=False)
    with opened_page(searched) as page:
        assert page.rows()[0]["audio"] == "original"
        assert page.http.get(f"/audio/{stem_id}").headers["content-type"] == media_type


def test_what_no_browser_plays_is_said(searched: SearchedLibrary) -> None:
    stem_id = add_stem(searched, "a.ape", has_wav=False)
    with opened_page(searched) as page:
        assert page.rows()[0]["audio"] is None
        error = page.get(f"/audio/{stem_id}", 404)["error"]
        assert error == "no browser plays files .ape, and this stem has no standardised WAV"


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=144000-", 144_000, 144_044),
        ("bytes=-44", 144_000, 144_044),
    ],
)
def test_seeking_gets_a_part(
    searched: SearchedLibrary, page: PageClient, kick: str, asked: str, start: int, stop: int
) -> None:
    answer = page.http.get(f"/audio/{kick}", headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.content == wav_of(searched, kick).read_bytes()[start:stop]
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/144044"
    assert answer.headers["content-length"] == str(stop - start)


@pytest.mark.parametrize("asked", ["bytes=144044-", "bytes=999999-1000000"])
def test_a_part_behind_the_end_is_refused(page: PageClient, kick: str, asked: str) -> None:
    answer = page.http.get(f"/audio/{kick}", headers={"Range": asked})
    assert (answer.status_code, answer.headers["content-range"]) == (416, "bytes */144044")


def test_a_file_that_has_changed_is_sent_whole(searched: SearchedLibrary, page: PageClient, kick: str) -> None:
    tag = page.http.get(f"/audio/{kick}").headers["etag"]
    part = {"Range": "bytes=0-9", "If-Range": tag}
    assert page.http.get(f"/audio/{kick}", headers=part).status_code == 206
    os.utime(wav_of(searched, kick), (1, 1))
    assert page.http.get(f"/audio/{kick}", headers=part).status_code == 200


def test_head_has_the_length_and_no_sound(page: PageClient, kick: str) -> None:
    answer = page.http.head(f"/audio/{kick}")
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "144044")


def test_a_real_server_sends_parts(searched: SearchedLibrary, kick: str) -> None:
    import httpx2

    with running_server(searched) as server:
        answer = httpx2.get(f"{server.address}/audio/{kick}", headers={"Range": "bytes=-4"}, trust_env=False)
        assert (answer.status_code, answer.content) == (206, wav_of(searched, kick).read_bytes()[-4:])


def test_the_original_is_a_download_by_its_name(searched: SearchedLibrary) -> None:
    plain = add_stem(searched, "kick.flac")
    odd = add_stem(searched, 'ü"\n.wav')
    with opened_page(searched) as page:
        answer = page.http.get(f"/file/{plain}")
        assert answer.headers["content-disposition"] == 'attachment; filename="kick.flac"'
        assert answer.content == (searched.folder / "library" / "kick.flac").read_bytes()
        disposition = page.http.get(f"/file/{odd}").headers["content-disposition"]
        assert disposition == "attachment; filename*=utf-8''%C3%BC%22%5Cn.wav"


@pytest.mark.parametrize("address", ["/audio/{}", "/audio/{}?original=1", "/file/{}", "/api/waveform/{}"])
def test_a_file_that_is_gone_is_said(searched: SearchedLibrary, page: PageClient, kick: str, address: str) -> None:
    wav_of(searched, kick).unlink()
    (searched.folder / "library" / "kick.flac").unlink()
    assert "kick.flac" in page.get(address.format(kick), 404)["error"]
    stem = page.get(f"/api/stem/{kick}")
    assert (stem["wav"], stem["file_exists"]) == (None, False)


@pytest.mark.parametrize("address", ["/audio/{}", "/file/{}", "/api/waveform/{}", "/api/stem/{}"])
@pytest.mark.parametrize("stem_id", ["0" * 16, "%2Fetc%2Fpasswd", "..%2F..%2Fetc%2Fpasswd", "%00", "' OR 1=1 --"])
def test_nothing_is_served_but_by_the_id_of_a_stem(page: PageClient, address: str, stem_id: str) -> None:
    assert page.http.get(address.format(stem_id)).status_code == 404


def test_a_stem_says_where_its_files_are(searched: SearchedLibrary, page: PageClient, kick: str) -> None:
    stem = page.get(f"/api/stem/{kick}")
    assert (stem["wav"], stem["file_exists"]) == (str(wav_of(searched, kick)), True)
    assert (stem["name"], stem["audio"]) == ("kick.flac", "wav")


def test_a_link_is_followed_and_what_is_no_file_is_not_opened(searched: SearchedLibrary, tmp_path: Path) -> None:
    linked, pipe, folder, device = (add_stem(searched, f"{name}.wav", has_wav=False) for name in "abcd")
    paths = {name: searched.folder / "library" / f"{name}.wav" for name in "abcd"}
    paths["a"].rename(tmp_path / "real.wav")
    paths["a"].symlink_to(tmp_path / "real.wav")
    for name in "bcd":
        paths[name].unlink()
    os.mkfifo(paths["b"])
    paths["c"].mkdir()
    paths["d"].symlink_to("/dev/zero")
    with opened_page(searched) as page:
        assert page.http.get(f"/audio/{linked}").content == (tmp_path / "real.wav").read_bytes()
        for stem_id in (pipe, folder, device):
            assert page.http.get(f"/audio/{stem_id}").status_code == 404
            assert page.http.get(f"/file/{stem_id}").status_code == 404


def test_a_row_cannot_make_the_page_serve_another_file(searched: SearchedLibrary, page: PageClient, kick: str) -> None:
    secret = searched.folder / "secret.txt"
    secret.write_text("hush")
    searched.change("UPDATE stems SET original_file = ?, path = ?", str(secret), str(secret))
    for address in (f"/audio/{kick}", f"/file/{kick}", f"/api/waveform/{kick}"):
        assert b"hush" not in page.http.get(address).content
    wav_of(searched, kick).unlink()
    for address in (f"/audio/{kick}", f"/file/{kick}", f"/api/waveform/{kick}"):
        assert page.http.get(address).status_code == 404


def test_a_stems_folder_that_was_moved_is_found_beside_the_database_or_by_the_settings(
    searched: SearchedLibrary, page: PageClient, kick: str, tmp_path: Path
) -> None:
    content = wav_of(searched, kick).read_bytes()
    searched.change("UPDATE stems SET path = '/gone/' || substr(id, 1, 2) || '/' || id || '.wav'")
    assert page.http.get(f"/audio/{kick}").content == content
    (searched.folder / "stems").rename(tmp_path / "elsewhere")
    with opened_page(searched, stems=tmp_path / "elsewhere") as other:
        assert other.http.get(f"/audio/{kick}").content == content


def test_a_waveform_has_the_lowest_and_the_highest_of_400_parts(page: PageClient, kick: str) -> None:
    waveform = page.get(f"/api/waveform/{kick}")
    peaks = np.array(waveform["peaks"])
    parts = SAMPLES.reshape(400, 120)
    assert waveform["seconds"] == 1.0
    assert np.allclose(peaks, np.stack([parts.min(axis=1), parts.max(axis=1)], axis=1), atol=1e-4)


def test_a_waveform_without_a_wav_is_that_of_the_original(searched: SearchedLibrary) -> None:
    stem_id = add_stem(searched, "slow.flac", has_wav=False)
    broken = add_stem(searched, "broken.ape", has_wav=False)
    with opened_page(searched) as page:
        peaks = page.get(f"/api/waveform/{stem_id}")["peaks"]
        assert len(peaks) == 400
        assert peaks[0][0] == pytest.approx(-1, abs=1e-3)
        assert "cannot be decoded" in page.get(f"/api/waveform/{broken}", 404)["error"]


def test_a_few_samples_have_a_waveform_too(searched: SearchedLibrary, page: PageClient, kick: str) -> None:
    path = wav_of(searched, kick)
    path.unlink()
    with StandardisedAudio(path.parent) as audio:
        audio.append(np.array([0.5, -0.5, 0.25], np.float32))
        audio.finish()
        audio.publish(path)
    peaks = page.get(f"/api/waveform/{kick}")["peaks"]
    assert (len(peaks), peaks[0], peaks[200], peaks[-1]) == (400, [0.5, 0.5], [-0.5, -0.5], [0.25, 0.25])


def test_a_waveform_follows_its_file(searched: SearchedLibrary, page: PageClient, kick: str) -> None:
    assert page.get(f"/api/waveform/{kick}") == page.get(f"/api/waveform/{kick}")
    path = wav_of(searched, kick)
    path.write_bytes(path.read_bytes()[:24_044])
    os.utime(path, (1, 1))
    assert page.get(f"/api/waveform/{kick}")["seconds"] < 1


def test_audio_plays_while_a_search_runs(searched: SearchedLibrary, page: PageClient, kick: str) -> None:
    with page.desk.opened.lock, page.desk.opened.embedding:
        statuses: list[int] = []
        player = threading.Thread(target=lambda: statuses.append(page.http.get(f"/audio/{kick}").status_code))
        player.start()
        player.join(60)
        assert statuses == [200]
