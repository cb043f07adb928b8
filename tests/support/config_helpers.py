"""What the tests of config share."""

from __future__ import annotations

from pathlib import Path


def config_file(folder: Path, text: str | bytes, name: str = "settings.yaml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path
