"""What Hydra composes: the one module that knows its configuration files, its command line and its errors."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import itertools
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from beam_semdedup.config.groups import GROUPS
from beam_semdedup.config.validation import present_name, required, unknown
from beam_semdedup.errors import InputError, as_input_error
from beam_semdedup.fields import declared
from beam_semdedup.text import shortened

LISTED = "see --help"
"""Where the parameters are listed, for a message."""
_UNSET = "???"
"""What Hydra and OmegaConf take for a value that must be given."""
_SHOWS = {"--cfg", "-c", "--info", "-i", "--shell-completion", "-sc", "--hydra-help", "--help", "-h", "--version"}
"""The options with which nothing runs."""
_TRUST = "trust_stored"
"""What is given beside --config-path to take all that is stored there."""
_FORCED = "++"
"""What begins an override that gives a value, whether or not Hydra knows the parameter."""
_RESOLVER = re.compile(r"\$\{[^}]*:")
_PIECE = re.compile(r"""(?:'(?:\\'|[^'])*'|"(?:\\"|[^"])*"|\$\{[^{}]*\}|[^][{},])+""")
"""What stands between the brackets and commas of a value; an interpolation has braces of its own."""
_MOST_JOBS = 10_000
"""How many runs a sweep may have: more are a mistake, which would take the memory of this machine before the first."""


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
        rest, trust = _without_option(rest, _TRUST) if place is not None else (rest, None)
        stored = {} if place is None else _stored(name, schema, place)
        overrides = overrides_of(rest)
        options = [argument for argument in rest if argument not in overrides]
        overrides = [o for o in overrides if not (o.startswith("~") and _dropped(stored, key_of(o)))]
        if trust not in ("true", "True"):
            _take_out_code(stored, overrides, f"--config-path={place}")
        line = cls((own or name).removesuffix(".yaml"), conf_dir(), schema, options, overrides, stored)
        _check_options(options, overrides)
        if {"-sc", "--shell-completion"} & set(options):
            return line  # install=bash is no parameter
        places = [line.home, *([] if directory is None else [Path(directory).absolute()])]
        if not places[-1].is_dir():
            raise InputError(f"--config-dir={directory}: no such directory")
        taken = [_forced(schema, o, places) for o in understood(schema, overrides, line.multirun)]
        for group in GROUPS.keys() & stored.keys() - {key_of(override) for override in overrides}:
            taken.append(f"{group}={stored[group]['name']}")
        home = next((place for place in places if (place / f"{line.name}.yaml").is_file()), None)
        if home is None:
            raise InputError(f"--config-name={own}: no {line.name}.yaml in {' or '.join(map(str, places))}")
        taken += [f"hydra.searchpath=[{_in_quotes(f'file://{place}')}]" for place in places if place != home]
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
            common = tuple(override for override in taken if not override.startswith(_FORCED))
            if common not in self.memory:
                self.memory[common] = self._composed(common)
            composed = copy.deepcopy(self.memory[common])
            for value in _parsed([override for override in taken if override.startswith(_FORCED)]):
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
        given = [_told(o.lstrip("+")) for o in overrides if not o.startswith("hydra.searchpath=[")]
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


def _stored(name: str, schema: type[Any], place: str) -> dict[str, Any]:
    """Returns the parameters of the configuration `name` that a run stored in a place.

    Raises:
        InputError: there is none, it cannot be read, or holds what is no parameter.
    """
    from beam_semdedup.storage.folder import Folder

    file = Folder.at(place, {}).file(f"{name}.yaml")
    with as_input_error(f"--config-path={place}: cannot read {file}"):
        values = yaml.safe_load(file.read_bytes())
        if not isinstance(values, dict):
            raise InputError(f"{file}: expected a mapping of parameters to values")
        values = {present_name(str(name)): value for name, value in values.items()}
        known = [f.name for f in declared(schema)]
        for wrong in [name for name in values if name not in known]:
            raise InputError(f"{file}: {unknown(wrong, known, LISTED)}")
    for group in GROUPS.keys() & values.keys():
        settings = values[group] if isinstance(values[group], dict) else {"name": values[group]}
        values[group] = {"name": next(iter(GROUPS[group])), **settings}
    return values


def _take_out_code(stored: dict[str, Any], overrides: Sequence[str], place: str) -> None:
    """Takes out of the stored values what has code run, and is given anew.

    Raises:
        InputError: something of that kind is not given anew.
    """
    given = {key_of(override): override.partition("=")[2] for override in overrides}
    for group in GROUPS.keys() & stored.keys():
        settings = stored[group]
        if settings["name"] not in GROUPS[group] or given.get(group, settings["name"]) != settings["name"]:
            continue  # which `resolve` refuses, or which another choice replaces
        for setting in declared(GROUPS[group][settings["name"]].settings):
            if setting.is_code and settings.pop(setting.name, None) not in (None, setting.default):
                name = f"{group}.{setting.name}"
                if name not in given:
                    raise InputError(
                        f"{place}: {name} has code run, and is not taken from a stored file: give it again, or drop "
                        f"it ('~{name}'), or give {_TRUST}=true where you know who wrote the file"
                    )
    if _RESOLVER.search(yaml.safe_dump(stored)):
        raise InputError(f"{place}: ${{…:…}} in a stored file is not resolved, unless {_TRUST}=true is given")


def _dropped(values: dict[str, Any], key: str) -> bool:
    """Takes a value out of nested ones, and says whether it was there."""
    name, inside, inner = key.partition(".")
    if inside:
        return isinstance(values.get(name), dict) and _dropped(values[name], inner)
    return values.pop(name, _UNSET) != _UNSET


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


def overrides_of(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments that are neither an option nor the value of one, such as `job` in `--cfg job`."""
    return [
        argument
        for before, argument in itertools.pairwise(["", *arguments])
        if not argument.startswith("-") and ("=" in argument or not re.match("--|-[cip]", before))
    ]


def shows(arguments: Sequence[str]) -> bool:
    """Says whether a command shows something, in place of a run."""
    return bool(_SHOWS & {argument.partition("=")[0] for argument in arguments})


def key_of(override: str) -> str:
    """Returns the parameter that an override is for."""
    return override.partition("=")[0].lstrip("+~")


def swept(overrides: Sequence[str]) -> list[str]:
    """Returns the parameters that a sweep varies."""
    return [o.key_or_group for o in _parsed(overrides) if o.is_sweep_override()]


def jobs_of(overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """Returns the overrides of each job of a sweep; of several for the same parameter the last counts."""
    choices = {
        o.get_key_element(): [f"{o.get_key_element()}={v}" for v in o.sweep_string_iterator()]
        if o.is_sweep_override()
        else [o.input_line or ""]
        for o in _parsed(overrides)
    }
    jobs = math.prod(map(len, choices.values()))
    if jobs > _MOST_JOBS:
        raise InputError(
            f"{', '.join(swept(overrides))}: a sweep of {jobs:,} runs; more than {_MOST_JOBS:,} are refused"
        )
    return list(itertools.product(*choices.values()))


def shown(override: str) -> str:
    """Returns an override of a job for people: its value without the quotes that Hydra needs."""
    (parsed,) = _parsed([override])
    value = parsed.value()
    return f"{parsed.key_or_group}={value}" if isinstance(value, str) else override.lstrip("+")


def _parsed(overrides: Sequence[str]) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_overrides(list(overrides))


def _forced(schema: type[Any], override: str, places: Sequence[Path]) -> str:
    """Returns an override that Hydra takes whether or not it knows the parameter, which `resolve` alone decides.

    Args:
        places: the directories of configurations; what is a directory in one of them is a group, of which Hydra knows
            the choices.
    """
    key = key_of(override)
    names = [f.name for f in declared(schema)]
    is_group = key in GROUPS or any(Path(place, key).is_dir() for place in places)
    of_hydra = re.match(r"hydra[./]", key)
    present = key if of_hydra else present_name(key)
    if not of_hydra and re.split("[./]", present)[0] not in names and not (is_group and key not in GROUPS):
        raise unknown(key, names, LISTED)
    if key == "hydra.mode":
        raise InputError(f"{override}: -m alone makes a sweep")
    if is_group or override.startswith("~") or of_hydra:
        return override
    return f"{_FORCED}{present}={override.partition('=')[2]}"


def understood(schema: type[Any], overrides: Sequence[str], multirun: bool = False) -> list[str]:
    """Returns the overrides as Hydra understands them: with quotes where its grammar refuses a value, or sees no text.

    Raises:
        InputError: an override that nothing can be made of, or a sweep without -m.
    """
    texts = [f.name for f in declared(schema) if f.is_text or f.name in ("input_path", "against")]
    for group, choices in GROUPS.items():
        texts += [f"{group}.{f.name}" for choice in choices.values() for f in declared(choice.settings) if f.is_text]
    return [_understood(override, key_of(override) in texts, multirun) for override in overrides]


def _understood(override: str, is_text: bool, multirun: bool) -> str:
    key, equals, value = override.partition("=")
    if not key_of(override) or not (equals or key.startswith("~")):
        raise InputError(
            f"cannot understand {shortened(repr(override))}: parameters are given as name=value, without spaces "
            f"around =; {LISTED}"
        )
    whole = f"{key}={_in_quotes(value)}"
    told, quoted = _told(override), "in quotes" if "_kwargs" in key else shortened(shlex.quote(whole))
    candidates = [override, *(f"{key}={_with_quotes(value, in_mapping)}" for in_mapping in (False, True))]
    taken = next(filter(_is_understood, [*candidates, *([whole] if is_text else [])]), None)
    if taken is None:
        spaced = key.strip() != key and "_kwargs" not in key
        hint = (
            f"write {shortened(key.strip() + equals + value.strip())}, without spaces around ="
            if spaced
            else ("a list is written [a, b], a mapping {a: 1, b: 2}")
        )
        raise InputError(f"{told}: cannot be understood; {hint}")
    (parsed,) = _parsed([taken])
    if parsed.is_sweep_override():
        _check_sweep(parsed, told)
        if multirun:
            return taken
        raise InputError(
            f"{told}: several values are a sweep: add -m for one run each. A list is written {key}=[…], a value with "
            f"a comma {quoted}"
        )
    return whole if is_text and isinstance(parsed.value(), (bool, int, float)) else taken  # a path such as 2024_01


def _check_sweep(parsed: Any, told: str) -> None:
    """Raises InputError for a sweep whose values cannot be listed, which those of Hydra's optimizers need not be."""
    try:
        values = parsed.sweep_string_iterator()
        if next(itertools.islice(values, _MOST_JOBS, None), None) is not None:
            raise InputError(f"{told}: a sweep of more than {_MOST_JOBS:,} runs is refused")
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{told}: a sweep takes a,b,c or range(start,stop,step), and glob(…) for a choice such as runner "
            f"({type(error).__name__}: {error})"
        ) from error


def _told(override: str) -> str:
    """Returns an override for a message, without what may be a credential."""
    key = override.partition("=")[0]
    return f"{key}=…" if "_kwargs" in key else shortened(override)


def _with_quotes(value: str, in_mapping: bool) -> str:
    """Puts each text in a value that the grammar refuses in quotes; in a mapping, without the `key:` before it."""

    def quoted(piece: re.Match[str]) -> str:
        key, colon, text = piece[0].partition(":") if in_mapping and ":" in piece[0] else ("", "", piece[0])
        return piece[0] if _is_understood(f"key={text.strip()}") else f"{key}{colon}{_in_quotes(text.strip())}"

    return _PIECE.sub(quoted, value)


def _in_quotes(value: str) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(value, Quote.double).with_quotes()


def _is_understood(override: str) -> bool:
    try:
        _parsed([override])
    except Exception:  # among them a number of 5,000 digits, and brackets that are nested too deep for the parser
        return False
    return True


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
