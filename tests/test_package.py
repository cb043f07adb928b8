"""The program as `pip install .`, pipx and `uv tool install .` install it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

from stem_dataset import __version__

REPOSITORY = Path(__file__).resolve().parent.parent
METADATA = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins(file: str) -> list[str]:
    """Return the requirements in a file, without its comments."""
    lines = (REPOSITORY / file).read_text(encoding="utf-8").splitlines()
    return [line.split(" #")[0].strip() for line in lines if line and not line.startswith("#")]


def test_the_metadata_has_the_pins_of_requirements_txt() -> None:
    assert METADATA["dependencies"] == pins("requirements.txt")
    assert METADATA["optional-dependencies"]["cluster"] == pins("requirements-cluster.txt")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of a wheel in a fresh venv. The wheel's dependencies are those of the venv that runs the tests."""
    folder = tmp_path_factory.mktemp("package")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--no-input"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(REPOSITORY)]
    done = subprocess.run([*pip, *build], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True, timeout=60)
    scripts = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    subprocess.run(
        [*pip, "--python", str(scripts / "python"), "install", "--no-deps", "--no-index", str(wheel)],
        check=True,
        timeout=120,
    )
    (packages,) = (folder / "venv").rglob("site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return scripts / "prepare-dataset-sql"


def called(command: Path, *flags: str, folder: Path) -> str:
    """Return what the installed command prints, called in `folder`."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(command), *flags], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_installed_command_tells_its_version_and_its_flags(installed: Path, tmp_path: Path) -> None:
    assert called(installed, "--version", folder=tmp_path).strip() == __version__
    assert "--input DIR" in called(installed, "--help", folder=tmp_path)


def test_the_search_is_installed_too(installed: Path, tmp_path: Path) -> None:
    search = installed.with_name("search-dataset-sql")
    assert called(search, "--version", folder=tmp_path).strip() == __version__
    assert "--near-duplicates" in called(search, "--help", folder=tmp_path)


def test_the_page_is_installed_with_all_its_files(installed: Path) -> None:
    own = REPOSITORY / "stem_dataset" / "page" / "static"
    (static,) = (installed.parent.parent).rglob("page/static")
    assert {path.name for path in static.iterdir()} == {path.name for path in own.iterdir()} >= {"page.html"}


def test_the_installed_command_knows_the_categories_and_tags_of_config_yaml(installed: Path, tmp_path: Path) -> None:
    python = installed.with_name("python")
    code = "from stem_dataset import config, __file__; c = config.load_config(None, {}); print(__file__, *c.categories)"
    told = subprocess.run([str(python), "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert str(installed.parent.parent) in told
    assert re.search(r"\bkick\b", told)
