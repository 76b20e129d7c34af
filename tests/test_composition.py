from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from beam_semdedup import composition
from beam_semdedup.config import Parameters, PlanParameters, RemovalParameters
from beam_semdedup.settings import GROUPS

CHECKOUT = Path(composition.__file__).resolve().parent.parent


@pytest.mark.parametrize(("group", "name"), [(group, name) for group in GROUPS for name in GROUPS[group]])
def test_a_choice_brings_its_settings(group, name):
    composition.register(Parameters)
    composed = composition.compose("semdedup", [f"{group}={name}"])
    assert composed[group] == dataclasses.asdict(GROUPS[group][name]())


@pytest.mark.parametrize(
    ("schema", "name"), [(Parameters, "semdedup"), (RemovalParameters, "removal"), (PlanParameters, "plan")]
)
def test_the_configuration_of_a_command_is_its_parameters(schema, name):
    composition.register(schema)
    assert set(composition.plain(composition.compose(name, []))) == {f.name for f in dataclasses.fields(schema)}


@pytest.mark.parametrize(
    "options", [[], ["-m"], ["--multirun"], ["--cfg", "job"], ["-c", "job", "-p", "runner"], ["--info", "all"]]
)
def test_options_and_their_values_are_no_overrides(options):
    overrides = ["eps=0.1", "runner=ray"]
    assert composition.overrides_of([*options, *overrides]) == overrides
    assert composition.overrides_of([*overrides, *options]) == overrides


class TestConfDir:
    def test_an_editable_install_uses_the_checkout(self):
        assert composition.conf_dir() == CHECKOUT / "conf"

    def test_a_broken_install_is_an_error_that_says_so(self, monkeypatch, tmp_path):
        monkeypatch.setattr(composition, "__file__", str(tmp_path / "beam_semdedup" / "composition.py"))
        with pytest.raises(FileNotFoundError, match="installation of beam-semdedup is incomplete"):
            composition.conf_dir()

    @pytest.mark.slow
    def test_a_plain_install_works_from_any_directory(self, tmp_path):
        python = tmp_path / "venv" / "bin" / "python"

        def run(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
            environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            assert not check or done.returncode == 0, done.stdout + done.stderr
            return done

        run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, CHECKOUT)
        run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
        (wheel,) = tmp_path.glob("beam_semdedup-*.whl")
        run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel)
        # The dependencies are borrowed; a .pth file named in a borrowed directory, such as that of the editable
        # install, is not followed.
        (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
        (site / "borrowed.pth").write_text(sysconfig.get_path("purelib"))

        where = run(python, "-c", "from beam_semdedup import composition; print(composition.conf_dir())").stdout.strip()
        assert Path(where) == site / "beam_semdedup" / "conf"
        assert "n_clusters" in run(python.parent / "semdedup", "--help").stdout
        assert "duplicates_path" in run(python.parent / "semdedup-remove", "--help").stdout
        composed = run(python.parent / "semdedup", "input_path=nowhere", check=False)
        assert composed.returncode == 2
        assert "output_path is required" in composed.stderr
        assert {path.name for path in tmp_path.iterdir()} == {"venv", wheel.name}
