"""The wheel, as it is built, and the commands as they are installed from it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(*command: object, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the wheel and the source distribution."""
    place = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "-o", place, ROOT, cwd=place)
    return place


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of a fresh environment with the wheel, whose dependencies are those of this one."""
    place = tmp_path_factory.mktemp("fresh")
    venv.create(place, with_pip=False)
    libraries = place / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (wheel,) = built.glob("*.whl")
    target = ["--prefix", place, "--no-deps", "--no-index", "--no-compile", "-q"]
    run(sys.executable, "-m", "pip", "--python", place / "bin/python", "install", *target, wheel, cwd=place)
    (libraries / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return place / "bin"


def test_every_file_of_the_package_is_in_the_wheel(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        there = set(archive.namelist())
    listed = subprocess.run(["git", "ls-files", "beam_semdedup"], cwd=ROOT, capture_output=True, text=True).stdout
    assert set(listed.split()) <= there
    assert {f"beam_semdedup/{path.relative_to(ROOT)}" for path in ROOT.glob("conf/*.yaml")} <= there


def test_the_license_is_said_and_is_there(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (license_name,) = (name for name in archive.namelist() if name.endswith(".dist-info/licenses/LICENSE"))
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        said = archive.read(metadata).decode().splitlines()
        assert archive.read(license_name) == (ROOT / "LICENSE").read_bytes()
    assert {"License-Expression: Apache-2.0", "License-File: LICENSE"} <= set(said)
    assert f"Classifier: Programming Language :: Python :: 3.{sys.version_info.minor}" in said
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_the_source_distribution_can_be_read_and_tested(built: Path) -> None:
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "docs/formats.md",
        "tests/oracle.py",
        "Makefile",
        "pyproject.toml",
    } <= names


@pytest.mark.parametrize("command", PROJECT["scripts"])
def test_every_command_says_its_version_and_its_help(installed: Path, tmp_path: Path, command: str) -> None:
    assert run(installed / command, "--version", cwd=tmp_path) == f"{PROJECT['version']}\n"
    assert command in run(installed / command, "--help", cwd=tmp_path)


def test_the_installed_package_deduplicates(installed: Path, tmp_path: Path) -> None:
    script = "import beam_semdedup; print(beam_semdedup.__file__)"
    assert run(installed / "python", "-c", script, cwd=tmp_path).startswith(str(installed.parent))
    given = [f"input_path={ROOT}/examples/data", "output_path=out", "eps=0.05", "report=true", "remove=true"]
    assert "Duplicates" in run(installed / "semdedup", *given, cwd=tmp_path)
    assert sorted(path.name for path in (tmp_path / "out/deduplicated").glob("*.parquet")) == [
        path.name for path in sorted((ROOT / "examples/data").iterdir())
    ]
    assert (tmp_path / "out/report.html").stat().st_size > 10_000
