"""What Hydra composes: the one module that knows its configuration files, its command line and its errors."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beam_semdedup.config.groups import GROUPS, default
from beam_semdedup.config.validation import about_interpolation, choices_with, required, unknown
from beam_semdedup.errors import InputError, as_input_error

_CLOSING = {"[": "]", "{": "}", "(": ")", '"': '"', "'": "'"}


@dataclass(frozen=True)
class ComposedJob:
    """One run: its number in the sweep, the overrides that the sweep varies, and what they were composed to."""

    number: int
    overrides: list[str]
    composed: Any


def conf_dir() -> Path:
    """Where the Hydra configuration lies: packaged with a wheel, else the checkout's `conf/`."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "conf", package.parent / "conf"):
        if (candidate / "semdedup.yaml").is_file():
            return candidate
    raise FileNotFoundError(
        f"no conf/semdedup.yaml in {package} or {package.parent}: the installation of beam-semdedup is incomplete"
    )


def read_stored(name: str, arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The arguments without `--config-path=…`, and the values of the configuration `name` that a run stored there.

    They take the place of the defaults (see `register`), so that groups and `quiet` stay; Hydra alone would leave out
    all of its own, `conf/` included.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    from omegaconf import OmegaConf

    rest, directory = _without_option(arguments, "--config-path", "-cp")
    if directory is None:
        return rest, {}
    from beam_semdedup.storage.folder import Folder

    file = Folder.at(directory, {}).file(f"{name}.yaml")
    with as_input_error(f"--config-path={directory}: cannot read {file}"):
        values = OmegaConf.to_container(OmegaConf.create(file.read_bytes().decode()))
        if not isinstance(values, dict):
            raise InputError(f"{file}: expected a mapping of parameters to values")
    configuration = {str(name): value for name, value in values.items()}
    given = [key_of(argument) for argument in rest]
    for group in GROUPS & configuration.keys():
        value = configuration[group]
        settings = value if isinstance(value, dict) else {"name": value}
        configuration[group] = {"name": next(iter(GROUPS[group])), **settings}
        if group not in given:
            rest.insert(0, f"{group}={configuration[group]['name']}")
    return rest, configuration


def _without_option(arguments: Sequence[str], *names: str) -> tuple[list[str], str | None]:
    """The arguments without an option and its value, and this value."""
    rest, value, left = [], None, iter(arguments)
    for argument in left:
        name, equals, after = argument.partition("=")
        if name in names:
            value = after if equals else next(left, "")
        else:
            rest.append(argument)
    return rest, value


def register(schema: type, stored: Mapping[str, Any]) -> None:
    """Gives Hydra the parameters of a command, and the settings of the groups, as the files in `conf/` name them.

    Args:
        stored: values that take the place of the defaults.
    """
    from hydra.core.config_store import ConfigStore
    from omegaconf import DictConfig

    store = ConfigStore.instance()
    # `validation.resolve` checks the types, and its messages name the parameter; here a value may be anything, and a
    # mapping have whatever keys the command line gives it.
    values = {f.name: default(f) for f in dataclasses.fields(schema)} | dict(stored)
    values = {name: value for name, value in values.items() if name not in GROUPS}
    values = {k: DictConfig(v, flags={"struct": False}) if isinstance(v, dict) else v for k, v in values.items()}
    store.store(name="parameters", node=values)
    for group, choices in GROUPS.items():
        for name, settings in choices.items():
            own = stored.get(group, {})
            node = dataclasses.asdict(settings()) | (own if own.get("name") == name else {})
            store.store(group=group, name=name, node=node)


def compose(name: str, overrides: Sequence[str]) -> Any:
    """The configuration `name` with overrides, its interpolations not resolved."""
    import hydra

    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose(name, overrides=[o for o in overrides if not o.startswith("hydra")])


def plain(composed: Any) -> dict[str, Any]:
    """A composed configuration as plain values, interpolations resolved."""
    from omegaconf import OmegaConf

    values = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(values, dict)
    return {str(name): value for name, value in values.items()}


def run(name: str, arguments: Sequence[str], scratch: Path, task: Callable[[ComposedJob], None]) -> None:
    """Has Hydra do what a command line asks for: mostly, to call `task` with a job, or with each job of a sweep.

    Args:
        name: the configuration in `conf/`.
        scratch: a directory for what Hydra would leave in the working directory.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    overrides = overrides_of(arguments)

    def with_job(composed: Any) -> None:
        varied = swept(arguments)
        current = HydraConfig.get()
        plain = OmegaConf.to_container(current.overrides.task)  # which does not resolve the interpolations in them
        own = [str(o) for o in plain or [] if key_of(str(o)) in varied]
        task(ComposedJob(current.job.num if is_multirun(arguments) else 0, own, composed))

    # Hydra shows its own errors and exits with 1 unless it is told to raise them.
    os.environ.update({"SEMDEDUP_SCRATCH": str(scratch), "HYDRA_FULL_ERROR": "1"})
    # Overrides last: Hydra's parser of the command line takes them in one run only.
    sys.argv[1:] = sorted(arguments, key=lambda argument: argument in overrides)
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(with_job)()
    except ValueError as error:
        if message_of(error):
            raise
        raise InputError(str(error)) from error  # of options that exclude each other; `task` raises none


def is_multirun(arguments: Sequence[str]) -> bool:
    """Whether the arguments ask for a sweep."""
    return bool({"-m", "--multirun"} & set(arguments))


def overrides_of(arguments: Sequence[str]) -> list[str]:
    """The arguments that are neither an option nor the value of one, such as `job` in `--cfg job`."""
    return [
        argument
        for before, argument in itertools.pairwise(["", *arguments])
        if not argument.startswith("-") and ("=" in argument or not re.match("--|-[cip]", before))
    ]


def key_of(override: str) -> str:
    """The parameter that an override is for."""
    return override.partition("=")[0].lstrip("+~")


def swept(arguments: Sequence[str]) -> list[str]:
    """The parameters that a sweep varies."""
    return [o.key_or_group for o in _parsed(arguments) if o.is_sweep_override()]


def jobs_of(arguments: Sequence[str]) -> list[tuple[str, ...]]:
    """The overrides of each job of a sweep."""
    choices = [
        [f"{o.get_key_element()}={v}" for v in o.sweep_string_iterator()]
        if o.is_sweep_override()
        else [o.input_line or ""]
        for o in _parsed(arguments)
    ]
    return list(itertools.product(*choices))


def shown(override: str) -> str:
    """An override of a job for people: its value without the quotes that Hydra needs."""
    (parsed,) = _parsed([override])
    value = parsed.value()
    return f"{parsed.get_key_element()}={value}" if isinstance(value, str) else override


def _parsed(arguments: Sequence[str]) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_overrides(overrides_of(arguments))


def understood(schema: type, arguments: Sequence[str]) -> list[str]:
    """The arguments as Hydra understands them: values that its grammar refuses are in quotes.

    Raises:
        InputError: an argument that nothing can be made of, or a sweep without -m.
    """
    if {"-sc", "--shell-completion"} & set(arguments):
        return list(arguments)  # install=bash is no parameter
    overrides = overrides_of(arguments)
    for argument in overrides:
        _check_known(schema, argument)
    if not re.search(r"(?m)^(--config-(dir|name)|-c[dn])\b", "\n".join(arguments)):
        _check_settings(overrides)
    multirun = is_multirun(arguments)
    return [_quoted(schema, argument, multirun) if argument in overrides else argument for argument in arguments]


def _check_known(schema: type, argument: str) -> None:
    key, equals, value = argument.partition("=")
    if not key or not (equals or key.startswith("~")):
        raise InputError(f"cannot understand {argument!r}: parameters are given as name=value; see --help")
    name = key_of(argument)
    names = [f.name for f in dataclasses.fields(schema)]
    for group in [group for group in GROUPS if group in names]:
        settings = {f.name for choice in GROUPS[group].values() for f in dataclasses.fields(choice)}
        names += [f"{group}.{setting}" for setting in sorted(settings - {"name"})]
        if name == group and not set(value.split(",")) <= set(GROUPS[group]):
            raise InputError(f"{argument}: {group} is one of: {', '.join(GROUPS[group])}")
    mapping = name.partition(".")[0]
    if name in names or (mapping in names and mapping not in GROUPS) or re.match(r"hydra[./]", name):
        return
    raise unknown(name, names, "see --help")


def _check_settings(overrides: Sequence[str]) -> None:
    """That each setting of a group belongs to the choices that are made."""
    chosen = {group: [next(iter(choices))] for group, choices in GROUPS.items()}
    chosen |= {key_of(o): o.partition("=")[2].split(",") for o in overrides if key_of(o) in GROUPS}
    for name in map(key_of, overrides):
        group, _, setting = name.partition(".")
        if setting and group in GROUPS and not set(chosen[group]) <= set(choices_with(group, setting)):
            raise unknown(name, [], "see --help")


def _quoted(schema: type, argument: str, multirun: bool) -> str:
    """An override with its value in quotes as far as Hydra's grammar asks for them."""
    key, _, value = argument.partition("=")
    whole = f"{key}={_in_quotes(value)}"
    taken = argument if _is_understood(argument) else f"{key}={_with_quotes(value)}"
    may_be_secret = "_kwargs" in key
    told = f"{key}=…" if may_be_secret else argument
    if not _is_understood(taken):
        if key not in _texts(schema):
            raise InputError(f"{told}: cannot be understood; a list is written [a, b], a mapping {{a: 1, b: 2}}")
        taken = whole
    parsed = _parsed([taken])[0]
    if parsed.is_sweep_override() and not multirun:
        quoted = "in quotes" if may_be_secret else shlex.quote(whole)
        raise InputError(
            f"{told}: several values are a sweep: add -m for one run each. A list is written {key}=[…], a "
            f"value with a comma {quoted}"
        )
    if key in _texts(schema) and not parsed.is_sweep_override() and isinstance(parsed.value(), (bool, int, float)):
        return whole  # a path such as 2024_01
    return taken


def _with_quotes(value: str) -> str:
    """`value` with quotes around what the grammar refuses: each value of a sweep, a list and a mapping by itself."""
    if _is_understood(f"key={value}"):
        return value
    pieces = _pieces(value)
    if len(pieces) > 1 and all(pieces):
        return ",".join(map(_with_quotes, pieces))
    if value[:1] + value[-1:] == "[]":
        return f"[{_with_quotes(value[1:-1])}]"
    if value[:1] + value[-1:] == "{}":
        pairs = [piece.partition(":") for piece in _pieces(value[1:-1])]
        return "{" + ", ".join(f"{key}: {_with_quotes(inner.strip())}" for key, _, inner in pairs) + "}"
    return value if value.startswith(("[", "{")) else _in_quotes(value)


def _in_quotes(value: str) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(value, Quote.double).with_quotes()


def _pieces(value: str) -> list[str]:
    """`value` split at its commas outside of brackets and quotes."""
    pieces, closing = [""], ""
    for character in value:
        if character == "," and not closing:
            pieces.append("")
            continue
        pieces[-1] += character
        if character == closing[-1:]:
            closing = closing[:-1]
        elif closing[-1:] not in ("'", '"'):
            closing += _CLOSING.get(character, "")
    return [piece.strip() for piece in pieces]


def _is_understood(override: str) -> bool:
    from hydra.errors import HydraException

    try:
        _parsed([override])
    except HydraException:
        return False
    return True


def _texts(schema: type) -> list[str]:
    """The parameters whose value is text, in which any character has a meaning."""
    return [f.name for f in dataclasses.fields(schema) if str(f.type).startswith("str") or f.name == "input_path"]


def message_of(error: Exception) -> str | None:
    """What an error of Hydra says, on one line; None for any other error."""
    from hydra.errors import HydraException
    from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue, OmegaConfBaseException

    if isinstance(error, MissingMandatoryValue):
        return str(required(error.full_key or "a parameter"))
    if isinstance(error, InterpolationKeyError):
        return f"{error.full_key}: {str(error).splitlines()[0]}{about_interpolation(error)}"
    if not isinstance(error, (HydraException, OmegaConfBaseException)):
        return None
    cause = f" ({str(error.__cause__).splitlines()[0]})" if error.__cause__ else ""
    if "'hydra/launcher/joblib'" in str(error):
        return (
            "hydra/launcher=joblib is not installed: pip install 'beam-semdedup[sweep]', or make install EXTRAS=sweep"
        )
    return " ".join(str(error).splitlines()) + cause
