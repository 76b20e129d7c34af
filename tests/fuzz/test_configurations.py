"""Random and adversarial command lines and configuration files: a valid composition, or exit code 2 and a message that
says where it comes from; never a traceback.

Seeded, so that each case is the same on every machine. `SEMDEDUP_FUZZ_CASES` sets how many there are.
"""

from __future__ import annotations

import logging
import os
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from beam_semdedup.cli import commands
from beam_semdedup.config.choices import GROUPS
from beam_semdedup.config.parameters import ForecastParameters, Parameters, RemovalParameters
from beam_semdedup.fields import Declared, declared
from beam_semdedup.text import printable

CASES = int(os.environ.get("SEMDEDUP_FUZZ_CASES", "200"))
COMMANDS = {"semdedup": Parameters, "removal": RemovalParameters, "plan": ForecastParameters}
VALID = {
    "semdedup": ["input_path=in", "output_path=out"],
    "removal": ["input_path=in", "output_path=out", "duplicates_path=dups"],
    "plan": ["rows=1000", "dimension=8"],
}
HYDRAS = [
    *("hydra.verbose", "hydra/launcher", "hydra/sweeper", "hydra.job.chdir", "hydra.job.name", "hydra.run.dir"),
    *("hydra.sweep.subdir", "hydra.sweep.dir", "hydra.output_subdir", "hydra.mode", "hydra.searchpath", "hydra.foo"),
    *("hydra.callbacks", "hydra.job_logging", "hydra/job_logging", "hydra.sweeper.max_batch_size", "hydra", "hydra/"),
    *("hydra.sweeper.params", "hydra.launcher", "hydra.job.env_set", "hydra.job", "hydra.overrides", "hydra.runtime"),
    *("hydra.hydra_help", "hydra.job.num", "hydra.job.id", "hydra.job.config", "hydra.job.override_dirname"),
]
ODD_NAMES = [
    *(
        "",
        "@",
        "a@b",
        "runner@x",
        "kmeans@_global_",
        "eps.x",
        "input_path.0",
        "runner.options.a.b",
        "runner/x",
        "_self_",
    ),
    *("defaults", "parameters", "quiet", "override", "package", "???", "a b", "ä", "1", "runner.", ".runner", "a..b"),
    *("read_kwargs.storage_options.key", "storage_options", "null", "$", "${eps}", "x\x1b[2J", "kmeans.name", "/"),
    *("_target_", "read_kwargs._target_", "eps[0]", "runner[name]", "[x]"),
]
ATOMS = [
    *("", "0", "1", "-1", "0.03", "1e-3", "1e999", "nan", "inf", "-inf", "true", "false", "null", "NULL", "~", "???"),
    *("9" * 30, "7" * 5000, "-" + "7" * 5000, "0x10", "1_000", "1__0", ".", "..", "/", "a/b", "a b", " ", "\t", "\n"),
    *("in,out", ",", "a,,b", "a=b", "=", "a:b", ":", "'", '"', "\\", "'a", '"a', "a\\", "\\'", "x'y\"z", "é", "\udcff"),
    *(
        "\x00",
        "\x1b[31mred",
        "\r",
        "\u202e",
        "\U0001f600",
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        "${",
        "${}",
        "${eps}",
        "${a.b}",
    ),
    *("${eps", "${oc.env:HOME}", "${oc.env:NOPE_NO}", "${oc.env:NOPE_NO,x}", "${oc.decode:'['}", "${hydra:job.num}"),
    *(
        "${hydra:nope}",
        "${nope:1}",
        "${.x}",
        "${..}",
        "${n_clusters}",
        "${output_path}",
        "${oc.select:a,b}",
        "$$",
        "$x",
    ),
    *("glob(*)", "interval(0,1)", "range(1,3)", "range(0,0)", "range(1,2,0)", "choice(1,2)", "choice()", "sort(3,1)"),
    *("shuffle(1,2)", "tag(a,choice(1,2))", "int(1.5)", "int(x)", "float(a)", "str(1)", "bool(2)", "json_str([1])"),
    *("extend_list(a,b)", "nope(1)", "sort(1,a)", "range(1,1e9)", "interval(1)", "glob([*],exclude=a)", "glob(1)"),
    *("[]", "{}", "[null]", "[[]]", "{a: 1}", "{a: {b: [1, {c: d}]}}", "{storage_options: {key: a}}", "{a}", "{a:}"),
    *(
        "{1: 2}",
        "{null: 1}",
        "{a: 1, a: 2}",
        "[1, a, null]",
        "[" * 50,
        "[" * 50 + "]" * 50,
        "{a: " * 30 + "1" + "}" * 30,
    ),
    *("direct", "ray", "flink", "local", "cuml", "basic", "joblib", "none", "stdout", "runner=x", "-1,2", "4GiB", "0B"),
]
USUAL = [
    "1",
    "3",
    "0.03",
    "true",
    "false",
    "null",
    "a",
    "/d/x=1",
    "[a, b]",
    "{a: 1}",
    "1,2",
    "4GiB",
    "random",
    "ray",
    "flink",
]
ALPHABET = "abc01 .,:;=+-~@$'\"\\/()[]{}*?!#%&|<>\n\t\x01é"
OPTIONS = [
    *(
        ["-m"],
        ["--multirun"],
        ["--cfg", "job"],
        ["--cfg=all"],
        ["-c", "nope"],
        ["--info", "all"],
        ["--info=nope"],
        ["-i"],
    ),
    *(
        ["--foo"],
        ["-x"],
        ["--resolve"],
        ["--package", "runner"],
        ["-p"],
        ["--run"],
        ["-m", "--cfg", "job"],
        ["--"],
        ["-"],
    ),
    *(["--config-dir"], ["--config-dir="], ["--config-dir=nope"], ["--config-name"], ["--config-name=nope"]),
    *(
        ["--config-path="],
        ["--config-path=nope"],
        ["-cp"],
        ["--config-name=../x"],
        ["--hydra-help"],
        ["--experimental-rerun=x"],
    ),
    *(["--config-path=nope://x"], ["--cfg", "job", "--resolve"], ["-sc", "install=nope"]),
]


def value(rng: random.Random, depth: int = 0) -> str:
    """A value as it may be typed."""
    if not depth and rng.random() < 0.3:
        return rng.choice(USUAL)
    kind = rng.random()
    if kind < 0.6 or depth > 2:
        return rng.choice(ATOMS)
    if kind < 0.75:
        return "".join(rng.choice(ALPHABET) for _ in range(rng.randrange(1, 12)))
    inner = [value(rng, depth + 1) for _ in range(rng.randrange(1, 4))]
    if kind < 0.83:
        return f"[{', '.join(inner)}]"
    if kind < 0.9:
        return "{" + ", ".join(f"{rng.choice('abc')}: {item}" for item in inner) + "}"
    return ",".join(inner)


def fitting(rng: random.Random, f: Declared) -> str:
    """A value of the kind that a parameter takes."""
    if f.choices:
        return str(rng.choice(f.choices))
    kinds = {"list": "[a, b]", "bool": "true", "Kwargs": "{storage_options: {a: b}}", "float": "0.5", "int": "3"}
    return next((value for kind, value in kinds.items() if kind in str(f.kind)), "a")


def argument(rng: random.Random, command: str) -> str:
    """An override as it may be typed."""
    parameters = declared(COMMANDS[command])
    if rng.random() < 0.3:
        f = rng.choice(parameters)
        return f"{f.name}={fitting(rng, f)}"
    names = [f.name for f in parameters]
    settings = [f"{group}.{f.name}" for group in GROUPS for c in GROUPS[group].values() for f in declared(c.settings)]
    name = rng.choice(rng.choice([names, names, settings, HYDRAS, ODD_NAMES]))
    prefix = rng.choice(["", "", "", "", "", "", "+", "++", "~", "~", rng.choice(["+~", "~~"])])
    if prefix == "~" and rng.random() < 0.7:
        return f"~{name}"
    equals = "=" if rng.random() < 0.95 else rng.choice(["==", "", " = "])
    return f"{prefix}{name}{equals}{value(rng)}"


def command_line(rng: random.Random, command: str) -> list[str]:
    """The arguments of a command, mostly valid."""
    arguments = [*VALID[command], *(argument(rng, command) for _ in range(rng.choice([1, 1, 1, 1, 1, 2, 3])))]
    if rng.random() < 0.3:
        arguments += rng.choice(OPTIONS)
    elif rng.random() < 0.2:
        arguments.append("-m")
    if rng.random() < 0.2:
        rng.shuffle(arguments)
    return arguments


TEXTS = [
    *(
        "",
        "\x00",
        "\xff\xfe",
        "- a",
        "a",
        "{",
        "a: [",
        "a: b: c",
        "\t",
        "%YAML 9.9\n---\na: 1",
        "--- 1\n--- 2",
        "? [a]\n: 1",
    ),
    *(
        "eps: 0.1\neps: 0.2",
        "!!python/object/apply:os.getcwd []",
        "eps: !!python/name:os.getcwd",
        "a: &a [*a]",
        "<<: 1",
    ),
    *("a: &a [1, 1, 1]\nb: &b [*a, *a, *a]\nmetadata_fields: [*b, *b]", "[" * 3000, "{a: " * 3000, "eps: 2020-01-01"),
    *(
        "defaults: [_self_, nope]",
        "defaults: 5",
        "defaults: [{runner: nope}]",
        "hydra: {verbose: 5}",
        "hydra: 1",
        "!x y",
    ),
    *(
        "hydra: {run: {dir: x}}",
        "defaults: [semdedup, semdedup]",
        "defaults: [usual]",
        "eps: 0x10",
        "n_clusters: 1_000",
    ),
    *(
        "read_kwargs: {storage_options: {1: 2}}",
        "runner: []",
        "runner: {name: [ray]}",
        "runner: {options: {a: 1}}",
        "1: 2",
    ),
    *(
        'output_path: "\\x1b[2J"',
        'output_path: "\\uD800"',
        "eps: .nan",
        "eps: .inf",
        "input_path: {a: 1}",
        "null: null",
    ),
]
VALUES = [
    *(
        None,
        True,
        0,
        1,
        -1,
        0.5,
        10**30,
        1e300,
        float("inf"),
        float("nan"),
        "",
        "a",
        "${eps}",
        "${",
        "???",
        "***",
        "\x1b[2J",
    ),
    *([], ["a"], [None], [[1]], {}, {"name": "ray"}, {"name": None}, {"a": {"b": 1}}, {1: 2}, {"storage_options": {}}),
    *({"storage_options": None}, {"name": "direct", "num_workers": 2}, {"storage_options": {"key": "***"}}, "a" * 5000),
]


def configuration(rng: random.Random, command: str, head: str = "") -> bytes:
    """A file of parameters, or of anything."""
    names = [f.name for f in declared(COMMANDS[command])]
    if rng.random() < 0.4:
        text = rng.choice(TEXTS)
    else:
        keys = [rng.choice(names if rng.random() < 0.9 else ODD_NAMES) for _ in range(rng.randrange(1, 5))]
        text = yaml.safe_dump({key: rng.choice(VALUES) for key in keys}, allow_unicode=rng.random() < 0.5)
    data = (text if text.startswith("defaults") else head + text).encode(errors="surrogateescape")
    if rng.random() < 0.1:
        place = rng.randrange(len(data) + 1)
        data = data[:place] + rng.randbytes(2) + data[place + rng.randrange(3) :]
    return data


def run(capsys: pytest.CaptureFixture[str], command: str, arguments: list[str]) -> tuple[int, str]:
    """The exit code of a command that composes and checks its parameters and then does nothing, and what it says."""
    kept = sys.argv[:]
    try:
        code = commands._guarded(lambda: commands._run(command, COMMANDS[command], lambda parameters: {}, arguments))
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    finally:
        sys.argv[:] = kept
    return code, capsys.readouterr().err


def check(command: str, arguments: list[str], code: int, said: str) -> None:
    """Fails unless the command ended as promised."""
    case = f"{command} {arguments!r}: {code}\n{said[-1500:]}"
    assert "Traceback" not in said, case
    assert code in (commands.DONE, commands.BAD_INPUT), case
    if code == commands.DONE:
        return
    assert re.match(r"(.*\n)*?Error: ", said), case
    parameters = {f.name for f in declared(COMMANDS[command])}
    typed = {printable(part).strip("+~ ") for argument in arguments for part in re.split(r"[=.]", argument)[:2]} - {""}
    assert any(
        name in said for name in {*parameters, *typed, "--config-", "unknown parameter ", "cannot understand"}
    ), case
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", said), case


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    environment, root = dict(os.environ), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers  # hydra.verbose has others, which write to what pytest closes after each test
    root.setLevel(level)
    os.environ.clear()
    os.environ.update(environment)


def seeds(cases: int) -> list[Any]:
    """The first case of each test; three quarters of the tests are slow."""
    return [pytest.param(seed, marks=[pytest.mark.slow] * (4 * seed >= cases)) for seed in range(0, cases, 25)]


@pytest.mark.parametrize("seed", seeds(CASES))
def test_command_lines(capsys, seed):
    for number in range(seed, min(seed + 25, CASES)):
        rng = random.Random(number)
        command = rng.choice(["semdedup", "semdedup", "removal", "plan"])
        arguments = command_line(rng, command)
        check(command, arguments, *run(capsys, command, arguments))


@pytest.mark.parametrize("seed", seeds(CASES // 2))
def test_configuration_files(capsys, tmp_path, seed):
    for number in range(seed, min(seed + 25, CASES // 2)):
        rng = random.Random(number)
        command = rng.choice(list(COMMANDS))
        arguments = configured(rng, command, tmp_path)
        check(command, arguments, *run(capsys, command, arguments))


def configured(rng: random.Random, command: str, place: Path) -> list[str]:
    """The arguments of a command with a configuration that it finds in a place, stored by a run or one's own."""
    own = rng.random() < 0.5
    name = "usual" if own else command
    head = f"defaults: [{command}, _self_]\n" if own else ""
    for earlier in place.glob("*.yaml"):
        earlier.unlink()
    (place / f"{name}.yaml").write_bytes(configuration(rng, command, head))
    options = [f"--config-dir={place}", "--config-name=usual"] if own else [f"--config-path={place}"]
    return [*options, *VALID[command]]
