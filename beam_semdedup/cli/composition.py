"""What Hydra composes: the one module that knows its configuration files, its command line and its errors."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from beam_semdedup.cli.overrides import (
    FORCED,
    LISTED,
    for_message,
    forced,
    in_quotes,
    jobs_of,
    key_of,
    overrides_of,
    parsed_overrides,
    swept,
    understood,
)
from beam_semdedup.cli.stored import TRUST, dropped, take_out_code, values_in
from beam_semdedup.config.choices import GROUPS
from beam_semdedup.config.validation import required
from beam_semdedup.errors import InputError
from beam_semdedup.fields import declared

_UNSET = "???"
"""What Hydra and OmegaConf take for a value that must be given."""
_SHOWS = {"--cfg", "-c", "--info", "-i", "--shell-completion", "-sc", "--hydra-help", "--help", "-h", "--version"}
"""The options with which nothing runs."""


@dataclass(frozen=True)
class CommandLine:
    """What a command was given; what Hydra composes of it lies above the stored values, and these above the defaults.

    Attributes:
        name: the configuration that Hydra composes.
        home: the directory that it is in.
        schema: the parameters of the command.
        options: the arguments for Hydra, such as -m and --cfg job.
        overrides: the others, as Hydra understands them.
        stored: the values of an earlier run, which Hydra is not given.
        memory: what Hydra composed, by the overrides.
    """

    name: str
    home: Path
    schema: type[Any]
    options: list[str]
    overrides: list[str]
    stored: dict[str, Any]
    memory: dict[tuple[str, ...], Any] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str, schema: type[Any], arguments: Sequence[str]) -> CommandLine:
        """Returns what the arguments of a command say.

        Raises:
            InputError: an argument that nothing can be made of, a sweep without -m, nothing stored where it is said.
        """
        rest, place = _without_option(arguments, "--config-path", "-cp")
        rest, directory = _without_option(rest, "--config-dir", "-cd")
        rest, own = _without_option(rest, "--config-name", "-cn")
        rest, trust = _without_option(rest, TRUST) if place is not None else (rest, None)
        stored = {} if place is None else values_in(name, schema, place)
        overrides = overrides_of(rest)
        options = [argument for argument in rest if argument not in overrides]
        overrides = [o for o in overrides if not (o.startswith("~") and dropped(stored, key_of(o)))]
        if trust not in ("true", "True"):
            take_out_code(stored, overrides, f"--config-path={place}")
        line = cls((own or name).removesuffix(".yaml"), conf_dir(), schema, options, overrides, stored)
        _check_options(options, overrides)
        if {"-sc", "--shell-completion"} & set(options):
            return line  # install=bash is no parameter
        places = [line.home, *([] if directory is None else [Path(directory).absolute()])]
        if not places[-1].is_dir():
            raise InputError(f"--config-dir={directory}: no such directory")
        taken = [forced(schema, o, places) for o in understood(schema, overrides, line.multirun)]
        for group in GROUPS.keys() & stored.keys() - {key_of(override) for override in overrides}:
            taken.append(f"{group}={stored[group]['name']}")
        home = next((place for place in places if (place / f"{line.name}.yaml").is_file()), None)
        if home is None:
            raise InputError(f"--config-name={own}: no {line.name}.yaml in {' or '.join(map(str, places))}")
        taken += [f"hydra.searchpath=[{in_quotes(f'file://{place}')}]" for place in places if place != home]
        return dataclasses.replace(line, home=home, overrides=taken)

    @property
    def multirun(self) -> bool:
        """Whether a sweep is asked for."""
        return bool({"-m", "--multirun"} & set(self.options))

    def register(self) -> None:
        """Gives Hydra the choices of the groups, and where it shows or completes the parameters these too."""
        from hydra.core.config_store import ConfigStore

        below = {**_defaults(self.schema), **self.stored} if shows(self.options) else {}
        values = {name: value for name, value in below.items() if name not in GROUPS}
        store = ConfigStore.instance()
        store.store(name="parameters", node=values)
        for group, choices in GROUPS.items():
            for name in choices:
                store.store(group=group, name=name, node={"name": name})

    def compose(self, overrides: Sequence[str]) -> Any:
        """Returns the configuration of a job, its interpolations not resolved.

        Hydra takes a twentieth of a second for one. So it composes what jobs have in common, mostly all but the
        values, once; these are put in as Hydra does it.
        """
        from omegaconf import OmegaConf

        taken = [override for override in overrides if not override.startswith("hydra") or "searchpath" in override]
        with self._in_words(taken):
            if any(override.startswith("~") for override in taken):  # which drops what was given before
                return self._composed(taken)
            common = tuple(override for override in taken if not override.startswith(FORCED))
            if common not in self.memory:
                self.memory[common] = self._composed(common)
            composed = copy.deepcopy(self.memory[common])
            for value in parsed_overrides([override for override in taken if override.startswith(FORCED)]):
                OmegaConf.update(composed, value.key_or_group, value.value(), merge=True, force_add=True)
        return composed

    def _composed(self, overrides: Sequence[str]) -> Any:
        import hydra

        with hydra.initialize_config_dir(str(self.home), version_base="1.3"):
            return self.completed(hydra.compose(self.name, overrides=[*overrides]))

    def completed(self, composed: Any) -> Any:
        """Returns what Hydra composed, with the stored values and the defaults for what is not given."""
        from omegaconf import OmegaConf

        chosen = {g: composed[g].get("name") if OmegaConf.is_dict(composed.get(g)) else composed.get(g) for g in GROUPS}
        kept = {k: v for k, v in self.stored.items() if k not in GROUPS or v["name"] == chosen[k]}
        return OmegaConf.merge(_defaults(self.schema), kept, composed)

    @property
    def _is_plain(self) -> bool:
        """Whether jobs in their order are all that is asked for, of nothing but this program's own configuration."""
        return (
            set(self.options) <= {"-m", "--multirun"}
            and self.home == conf_dir()
            and not any(override.startswith("hydra") or "${hydra:" in override for override in self.overrides)
            and "${hydra:" not in str(self.stored)
        )

    def run(self, scratch: Path, task: Callable[[int, list[str], Any], None]) -> None:
        """Does what is asked for: mostly, calls `task` with the job, or with each job of a sweep.

        Args:
            scratch: a directory for what Hydra would leave in the working directory.
            task: takes the number of a job, the overrides in which it differs from others, and its configuration.
        """
        if not self._is_plain:
            self._run_by_hydra(scratch, task)
            return
        varied = swept(self.overrides)
        jobs = jobs_of(self.overrides) if self.multirun else [tuple(self.overrides)]
        for overrides in jobs:
            self.compose(overrides)  # as Hydra does: a mistake in one is told before the first runs
        for number, overrides in enumerate(jobs):
            task(number, [o for o in overrides if key_of(o) in varied], self.compose(overrides))

    def _run_by_hydra(self, scratch: Path, task: Callable[[int, list[str], Any], None]) -> None:
        import hydra
        from hydra.core.hydra_config import HydraConfig
        from omegaconf import OmegaConf

        def with_job(composed: Any) -> None:
            varied = swept(self.overrides)
            current = HydraConfig.get()
            given = OmegaConf.to_container(current.overrides.task)  # which does not resolve the interpolations in them
            own = [str(o) for o in given or [] if key_of(str(o)) in varied]
            completed = self.completed(composed)
            try:
                task(current.job.num if self.multirun else 0, own, completed)
            except Exception as error:
                raise _OfTask from error

        # Hydra shows its own errors and exits with 1 unless it is told to raise them.
        os.environ.update({"SEMDEDUP_SCRATCH": str(scratch), "HYDRA_FULL_ERROR": "1"})
        # Overrides last: Hydra's parser of the command line takes them in one run only.
        sys.argv[1:] = [*self.options, *self.overrides]
        with self._in_words(self.overrides):
            hydra.main(version_base="1.3", config_path=str(self.home), config_name=self.name)(with_job)()

    def _in_words(self, overrides: Sequence[str]) -> contextlib.AbstractContextManager[None]:
        own = [] if self.home == conf_dir() else [f"--config-name={self.name}"]
        given = [for_message(o.lstrip("+")) for o in overrides if not o.startswith("hydra.searchpath=[")]
        return _in_words([o for o in given if o.startswith("hydra")] or [*own, *given])


class _OfTask(Exception):
    """What a task raised, its cause, on its way through Hydra."""


def conf_dir() -> Path:
    """Says where the Hydra configuration lies: packaged with a wheel, else the checkout's `conf/`."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "conf", package.parent / "conf"):
        if (candidate / "semdedup.yaml").is_file():
            return candidate
    raise FileNotFoundError(
        f"no conf/semdedup.yaml in {package} or {package.parent}: the installation of beam-semdedup is incomplete"
    )


def plain(completed: Any) -> dict[str, Any]:
    """Returns a configuration as plain values, its interpolations resolved."""
    from omegaconf import OmegaConf

    with _in_words([]):
        values = OmegaConf.to_container(completed, resolve=True)
    assert isinstance(values, dict)
    return {str(name): value for name, value in values.items() if value != _UNSET}


def _defaults(schema: type[Any]) -> dict[str, Any]:
    """Returns the parameters by name with their defaults; the groups have settings of their own."""
    return {
        f.name: _UNSET if f.default is dataclasses.MISSING else f.default
        for f in declared(schema)
        if f.name not in GROUPS
    }


def _without_option(arguments: Sequence[str], *names: str) -> tuple[list[str], str | None]:
    """Returns the arguments without an option and its value, and this value."""
    rest, value, left = [], None, iter(arguments)
    for argument in left:
        name, equals, after = argument.partition("=")
        if name in names:
            value = after if equals else next(left, "")
        else:
            rest.append(argument)
    return rest, value


def shows(arguments: Sequence[str]) -> bool:
    """Says whether a command shows something, in place of a run."""
    return bool(_SHOWS & {argument.partition("=")[0] for argument in arguments})


def _check_options(options: Sequence[str], overrides: Sequence[str]) -> None:
    """Raises InputError unless Hydra knows the options, and takes them together."""
    from hydra._internal.utils import get_args_parser

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            taken = get_args_parser().parse_args([*options, *overrides])
    except SystemExit as error:
        raise InputError(f"{said.getvalue().rpartition(' error: ')[2].strip()}; {LISTED}") from error
    for argument in taken.overrides:
        if argument not in overrides:
            raise InputError(f"cannot understand {argument!r}: parameters are given as name=value; {LISTED}")
    if taken.experimental_rerun:
        raise InputError("--experimental-rerun: not known; --config-path=DIR repeats the run whose results are in DIR")


@contextlib.contextmanager
def _in_words(blamed: Sequence[str]) -> Iterator[None]:
    """Turns whatever Hydra and OmegaConf raise into an InputError that says which of some overrides it is about."""
    try:
        yield
    except _OfTask as error:
        raise error.__cause__ or error from None
    except InputError:
        raise
    except Exception as error:
        said = _message_of(error)
        if blamed and not any(key_of(override) in said for override in blamed):
            said = f"{' '.join(blamed)}: {said}"
        raise InputError(said) from error


def _message_of(error: Exception) -> str:
    """Returns what an error of Hydra says, on one line."""
    from hydra.errors import MissingConfigException
    from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue

    if isinstance(error, AssertionError):
        return "Hydra does not take it"
    said = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MissingMandatoryValue):
        return str(required(error.full_key or "a parameter"))
    if isinstance(error, InterpolationKeyError):
        first = str(error).splitlines()[0]
        (key,) = re.findall("'(.*)'", first) or ["NAME"]
        return (
            f"{error.full_key}: {first}; an environment variable is written ${{oc.env:{key}}}, or in double quotes, "
            "for the shell to expand it"
        )
    if "'hydra/launcher/joblib'" in said:
        return (
            "hydra/launcher=joblib is not installed: pip install 'beam-semdedup[sweep]', or make install EXTRAS=sweep"
        )
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        options = dict.fromkeys([*GROUPS.get(group, ()), *error.options])  # in our order, then what a user added
        return f"{group}={choice}: {group} is one of: {', '.join(options)}"
    if dropped := re.match(r"Could not delete from config\. '(.*)' does not exist", said):
        return f"~{dropped[1]}: {dropped[1]} is not given, so that there is nothing to drop"
    return said + (f" ({str(error.__cause__).splitlines()[0]})" if str(error.__cause__ or "") else "")
