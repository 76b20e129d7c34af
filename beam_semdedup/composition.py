"""What Hydra composes: the one module that knows its configuration files, its command line and its errors."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beam_semdedup.failures import InputError
from beam_semdedup.settings import GROUPS, default
from beam_semdedup.validation import closest


@dataclass(frozen=True)
class Job:
    """One run: its number in the sweep, the overrides that the sweep varies, and what they were composed to."""

    number: int
    overrides: list[str]
    composed: Any


def conf_dir() -> Path:
    """Where the Hydra configuration lies: packaged with a wheel, else the checkout's `conf/`."""
    package = Path(__file__).resolve().parent
    for candidate in (package / "conf", package.parent / "conf"):
        if (candidate / "semdedup.yaml").is_file():
            return candidate
    raise FileNotFoundError(
        f"no conf/semdedup.yaml in {package} or {package.parent}: the installation of beam-semdedup is incomplete"
    )


def register(schema: type) -> None:
    """Gives Hydra the parameters of a command, and the settings of the groups, as the files in `conf/` name them."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import DictConfig

    store = ConfigStore.instance()
    # `validation.resolve` checks the types, and its messages name the parameter; here a value may be anything, and a
    # mapping have whatever keys the command line gives it.
    values = {f.name: default(f) for f in dataclasses.fields(schema) if f.name not in GROUPS}
    values = {k: DictConfig(v, flags={"struct": False}) if isinstance(v, dict) else v for k, v in values.items()}
    store.store(name="parameters", node=values)
    for group, choices in GROUPS.items():
        for name, settings in choices.items():
            store.store(group=group, name=name, node=dataclasses.asdict(settings()))


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


def run(name: str, arguments: Sequence[str], scratch: Path, task: Callable[[Job], None]) -> None:
    """Has Hydra do what a command line asks for: mostly, to call `task` with a job, or with each job of a sweep.

    Args:
        name: the configuration in `conf/`.
        scratch: a directory for what Hydra would leave in the working directory.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig

    def with_job(composed: Any) -> None:
        current = HydraConfig.get()
        own = [o for o in current.overrides.task if key_of(o) in swept(arguments)]
        task(Job(current.job.num if is_multirun(arguments) else 0, own, composed))

    # Hydra shows its own errors and exits with 1 unless it is told to raise them.
    os.environ.update({"SEMDEDUP_SCRATCH": str(scratch), "HYDRA_FULL_ERROR": "1"})
    # Overrides last: Hydra's parser of the command line takes them in one run only.
    sys.argv[1:] = sorted(arguments, key=lambda argument: argument in overrides_of(arguments))
    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(with_job)()


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


def _parsed(arguments: Sequence[str]) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_overrides(overrides_of(arguments))


def check_overrides(schema: type, arguments: Sequence[str]) -> None:
    """Raises an InputError for what Hydra would not understand, saying how to write it."""
    for argument in overrides_of(arguments):
        _check_known(schema, argument)
        _check_value(schema, argument, is_multirun(arguments))


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
    close = closest(name, names)
    raise InputError(f"unknown parameter {name}; " + (f"did you mean {close}?" if close else "see --help"))


def _check_value(schema: type, argument: str, multirun: bool) -> None:
    from hydra.errors import HydraException

    key, _, value = argument.partition("=")
    quoted = shlex.quote(key + '="' + value.replace("\\", "\\\\").replace('"', '\\"') + '"')
    try:
        (parsed,) = _parsed([argument])
    except HydraException as error:
        if value.startswith(("[", "{")) and key not in _texts(schema):
            raise InputError(
                f"{argument}: cannot be understood; a list is written [a, b], a mapping {{a: 1, b: 2}}"
            ) from error
        raise InputError(
            f"{argument}: the value has characters that need quotes. Write: {quoted} (the outer quotes are for "
            "the shell, the inner ones for Hydra)"
        ) from error
    if parsed.is_sweep_override() and not multirun:
        raise InputError(
            f"{argument}: several values are a sweep: add -m for one run each. A list is written {key}=[…], a "
            f"value with a comma {quoted}"
        )


def _texts(schema: type) -> list[str]:
    """The parameters whose value is text, in which any character has a meaning."""
    return [f.name for f in dataclasses.fields(schema) if str(f.type).startswith("str") or f.name == "input_path"]


def message_of(error: Exception) -> str | None:
    """What an error of Hydra says, on one line; None for any other error."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if not isinstance(error, (HydraException, OmegaConfBaseException)):
        return None
    cause = f" ({str(error.__cause__).splitlines()[0]})" if error.__cause__ else ""
    return " ".join(str(error).splitlines()) + cause
