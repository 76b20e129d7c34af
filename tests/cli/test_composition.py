from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml

from beam_semdedup.cli import composition
from beam_semdedup.cli.composition import CommandLine
from beam_semdedup.cli.overrides import jobs_of, overrides_of
from beam_semdedup.config.choices import GROUPS
from beam_semdedup.config.parameters import ForecastParameters, Parameters, RemovalParameters
from beam_semdedup.config.validation import resolve
from beam_semdedup.errors import InputError
from beam_semdedup.fields import declared
from beam_semdedup.runners.flink.settings import FlinkConfig

CHECKOUT = Path(composition.__file__).resolve().parents[2]


def values(*arguments: str, schema: type = Parameters, name: str = "semdedup") -> dict[str, Any]:
    """What a command has for its parameters, before they are checked."""
    line = CommandLine.read(name, schema, arguments)
    line.register()
    return composition.plain(line.compose(line.overrides))


@pytest.mark.parametrize(("group", "name"), [(group, name) for group in GROUPS for name in GROUPS[group]])
def test_a_choice_brings_its_settings(group, name):
    found = resolve(values("input_path=in", "output_path=out", f"{group}={name}"))
    assert getattr(found, group) == GROUPS[group][name].settings()


@pytest.mark.parametrize(
    ("schema", "name"), [(Parameters, "semdedup"), (RemovalParameters, "removal"), (ForecastParameters, "plan")]
)
def test_the_configuration_of_a_command_is_its_parameters(schema, name):
    required = [f"{f.name}=x" for f in declared(schema) if f.default is dataclasses.MISSING]
    assert set(values(*required, schema=schema, name=name)) == {f.name for f in dataclasses.fields(schema)}


def test_a_value_that_must_be_given_is_not_there_until_it_is():
    assert "output_path" not in values("output_path=???")
    assert values("output_path=out")["output_path"] == "out"


@pytest.mark.parametrize("argument", ["runner.num_worker=2", "runner.num_cpus=2", "read_kwargs.a.b=1"])
def test_what_is_no_parameter_is_composed_and_left_to_the_check(argument):
    key, _, value = argument.partition("=")
    found: Any = values(argument)
    for name in key.split("."):
        found = found[name]
    assert found == int(value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["eps=0.1", "n_clusters=null", "input_path=[a,b]"],
        ["output_path='results/${eps}-${n_clusters}'", "eps=0.1"],
        ["read_kwargs={storage_options: {key: a}}", "read_kwargs.storage_options.key=b", "read_kwargs.x.y=[1,2]"],
        ["read_kwargs.storage_options.key=b", "read_kwargs={storage_options: {secret: a}}"],
        ["runner.num_workers=3", "runner=ray", "kmeans=ray"],
        ["ranking_strategy={metadata_cols: [a]}", "~metadata_fields", "metadata_fields=[a]", "~eps"],
        ["eps=0.1", "~eps", "eps=0.2"],
        ["eps=0.1", "eps=0.2"],
        ["metadata_fields=[a,b]", "metadata_fields=[]", "read_kwargs={}", "verbose=false"],
    ],
)
def test_a_configuration_is_what_hydra_composes_of_all_its_overrides(arguments, tmp_path):
    stored = {"input_path": ["in"], "output_path": "out", "eps": 0.3, "read_kwargs": {"storage_options": {"z": 1}}}
    (tmp_path / "semdedup.yaml").write_text(yaml.safe_dump({**stored, "metadata_fields": ["b"], "runner": "direct"}))
    line = CommandLine.read("semdedup", Parameters, [f"--config-path={tmp_path}", *arguments])
    line.register()
    with hydra.initialize_config_dir(str(line.home), version_base="1.3"):
        expected = line.completed(hydra.compose(line.name, overrides=line.overrides))
    for _ in range(2):  # what was composed before is as it was
        assert line.compose(line.overrides) == expected
    assert composition.plain(line.compose(line.overrides)) == composition.plain(expected)


def test_what_hydra_takes_long_for_is_done_once_for_all_jobs_with_the_same_choices(monkeypatch):
    composed, compose = [], hydra.compose
    monkeypatch.setattr(hydra, "compose", lambda *a, **kw: composed.append(kw["overrides"]) or compose(*a, **kw))
    line = CommandLine.read("semdedup", Parameters, ["-m", "eps=0.1,0.2,0.3", "runner=direct,ray", "output_path=a,b"])
    line.register()
    jobs = jobs_of(line.overrides)
    found = [composition.plain(line.compose(job)) for job in jobs]
    assert [(f["eps"], f["runner"], f["output_path"]) for f in found] == [
        (eps, {"name": runner}, output) for eps in (0.1, 0.2, 0.3) for runner in ("direct", "ray") for output in "ab"
    ]
    assert composed == [["runner=direct"], ["runner=ray"]]


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_a_mapping_is_given_as_the_help_shows_it(plus):
    (shown,) = re.findall(r"such as ({.*})", next(f.help for f in declared(FlinkConfig) if f.name == "options"))
    found = resolve(values("input_path=in", "output_path=out", "runner=flink", f"{plus}runner.options={shown}"))
    assert found.runner.options == {"job_server_jvm_properties": ["-Xmx4g"]}


@pytest.mark.parametrize(
    "options", [[], ["-m"], ["--multirun"], ["--cfg", "job"], ["-c", "job", "-p", "runner"], ["--info", "all"]]
)
def test_options_and_their_values_are_no_overrides(options):
    given = ["eps=0.1", "runner=ray"]
    assert overrides_of([*options, *given]) == given
    assert overrides_of([*given, *options]) == given
    line = CommandLine.read("semdedup", Parameters, [*options, *given])
    assert (line.options, line.overrides) == (options, ["++eps=0.1", "runner=ray"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["n_cluster=3"], "unknown parameter n_cluster; did you mean n_clusters?"),
        (["eps@x=1"], "unknown parameter eps@x"),
        (["hydra=1"], "unknown parameter hydra"),
        (["eps=interval(0,1)"], r"eps=interval\(0,1\): a sweep takes a,b,c or range"),
        (["-m", "eps=interval(0,1)"], r"eps=interval\(0,1\): a sweep takes a,b,c or range"),
        (["-m", "eps=glob(*)"], r"eps=glob\(\*\): a sweep takes .* glob\(…\) for a choice"),
        (["-m", "eps=range(1,2,0)"], r"eps=range\(1,2,0\): a sweep takes .*must not be zero"),
        (["-m", "n_clusters=range(1,1e12)"], r"n_clusters=range\(1,1e12\): a sweep of more than 10,000 runs"),
        (["-m", "n_clusters=range(0,200)", "max_iter=range(0,200)"], "n_clusters, max_iter: a sweep of 40,000 runs"),
        (["max_iter=" + "[" * 2000], r"max_iter=\[{191}…: cannot be understood"),
        (["hydra.mode=MULTIRUN"], "hydra.mode=MULTIRUN: -m alone makes a sweep"),
        (["--foo"], "unrecognized arguments: --foo; see --help"),
        (["--info=nope"], "argument --info/-i: invalid choice"),
        (["--cfg"], "argument --cfg/-c"),
        (["--experimental-rerun=x"], "--experimental-rerun: not known"),
        (["-"], "cannot understand '-'"),
        (["eps = 0.01"], "eps = 0.01: cannot be understood; write eps=0.01, without spaces around ="),
        (["eps", "=", "0.01"], "cannot understand 'eps': parameters are given as name=value, without spaces around ="),
        (["runner=flink", 'runner.options={"a": 1}'], "cannot be understood; a list is written .*, a mapping {a: 1"),
        (["--config-name=nope"], "--config-name=nope: no nope.yaml in "),
    ],
)
def test_what_is_not_understood_is_told_in_the_words_of_the_parameters(arguments, said):
    with pytest.raises(InputError, match=said):
        jobs_of(CommandLine.read("semdedup", Parameters, arguments).overrides)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["~eps"], "~eps: eps is not given, so that there is nothing to drop"),
        (["~read_kwargs.storage_options"], "~read_kwargs.storage_options: read_kwargs.storage_options is not given"),
        (["hydra.verbose=5"], "hydra.verbose=5: Hydra does not take it"),
        (["hydra/launcher=[null]"], r"hydra/launcher=\[null\]: argument of type 'NoneType'"),
        (["hydra/sweeper=[[]]", "-m"], r"hydra/sweeper=\[\[\]\]: "),
        (["hydra.sweeper.max_batch_size=0", "-m"], "hydra.sweeper.max_batch_size=0: Hydra does not take it"),
        (["output_path=${nope}"], "output_path: Interpolation key 'nope' not found"),
        (["n_clusters=" + "7" * 5000], "n_clusters='7{199}…: expected an integer"),
    ],
)
def test_what_hydra_refuses_is_told_in_the_words_of_the_parameters(arguments, said, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["semdedup"])

    def task(number: int, overrides: list[str], composed: Any) -> None:
        resolve(composition.plain(composed))

    line = CommandLine.read("semdedup", Parameters, ["input_path=in", "++output_path=out", *arguments])
    line.register()
    with pytest.raises(InputError, match=said):
        line.run(tmp_path, task)


def test_what_goes_wrong_in_a_job_is_not_said_to_be_hydras(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["semdedup"])

    def task(number: int, overrides: list[str], composed: Any) -> None:
        raise OSError("disk full")

    line = CommandLine.read("semdedup", Parameters, [])
    line.register()
    with pytest.raises(OSError, match="disk full"):
        line.run(tmp_path, task)


def test_what_the_shell_completes_is_left_alone():
    line = CommandLine.read("semdedup", Parameters, ["-sc", "install=bash"])
    assert (line.options, line.overrides) == (["-sc"], ["install=bash"])


class TestConfDir:
    def test_an_editable_install_uses_the_checkout(self):
        assert composition.conf_dir() == CHECKOUT / "conf"

    def test_a_broken_install_is_an_error_that_says_so(self, monkeypatch, tmp_path):
        monkeypatch.setattr(composition, "__file__", str(tmp_path / "beam_semdedup" / "cli" / "composition.py"))
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

        where = run(
            python, "-c", "from beam_semdedup.cli import composition; print(composition.conf_dir())"
        ).stdout.strip()
        assert Path(where) == site / "beam_semdedup" / "conf"
        assert "n_clusters" in run(python.parent / "semdedup", "--help").stdout
        assert "duplicates_path" in run(python.parent / "semdedup-remove", "--help").stdout
        composed = run(python.parent / "semdedup", "input_path=nowhere", check=False)
        assert composed.returncode == 2
        assert "output_path is required" in composed.stderr
        assert {path.name for path in tmp_path.iterdir()} == {"venv", wheel.name}
