"""The commands: Hydra composes, the workflow, removal or planning works, exit codes say how it went.

0: done. 1: a run failed. 2: bad input or parameters. 130: interrupted.
"""

from __future__ import annotations

import atexit
import dataclasses
import json
import os
import re
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from beam_semdedup import config, console, progress, sweep
from beam_semdedup.failures import InputError

_SCRATCH = "SEMDEDUP_SCRATCH"
DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def main() -> None:
    """The command `semdedup`."""
    _command("semdedup", config.Parameters, _run_job)


def remove_main() -> None:
    """The command `semdedup-remove`."""
    _command("removal", config.RemovalParameters, _run_removal)


def plan_main() -> None:
    """The command `semdedup-plan`."""
    _command("plan", config.PlanParameters, _run_plan)


def _command(name: str, schema: type, job: Callable[[Any], dict[str, Any]]) -> None:
    arguments = sys.argv[1:]
    if {"--help", "-h"} & set(arguments):
        console.print_help(schema)
        sys.exit(DONE)
    if "--version" in arguments:
        from importlib.metadata import version

        print(version("beam-semdedup"))
        sys.exit(DONE)
    with tempfile.TemporaryDirectory(prefix="semdedup-") as scratch:
        # Hydra shows its own errors and exits with 1 unless it is told to raise them.
        os.environ.update({_SCRATCH: scratch, "HYDRA_FULL_ERROR": "1"})
        code = _guarded(lambda: _compose_and_run(name, schema, job, arguments, Path(scratch)))
    if "ray" in sys.modules:
        from beam_semdedup import ray_cluster

        ray_cluster.disconnect()
    _end(code)


def _end(code: int) -> None:
    """Ends the process without taking the interpreter's modules apart, which would take a third of a second.

    After an interrupt it does not wait for threads of Beam, which may be waiting for what does not come.
    """
    if code != INTERRUPTED:
        atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _compose_and_run(
    name: str, schema: type, job: Callable[[Any], dict[str, Any]], arguments: Sequence[str], scratch: Path
) -> int:
    import hydra
    from hydra.core.hydra_config import HydraConfig

    multirun = bool({"-m", "--multirun"} & set(arguments))
    _check_overrides(schema, arguments, multirun)
    _register(schema)
    if multirun and schema is not config.PlanParameters:  # which writes nothing
        os.environ[sweep.SHARED] = json.dumps(sweep.shared_outputs(name, arguments))

    def task(composed: Any) -> None:
        outcome: dict[str, Any] = {}
        overrides = [o for o in HydraConfig.get().overrides.task if sweep.key_of(o) in sweep.swept(arguments)]
        if overrides:
            print(f"\n{', '.join(overrides)}")
        code = _guarded(lambda: outcome.update(job(composed)) or DONE)
        outcome = {"overrides": overrides, "exit_code": code, **outcome}
        number = HydraConfig.get().job.num if multirun else 0
        (scratch / f"outcome-{number:06d}.json").write_text(json.dumps(outcome))
        if code == INTERRUPTED:
            raise _Told

    # Overrides last: Hydra's parser of the command line takes them in one run only.
    sys.argv[1:] = sorted(arguments, key=lambda argument: argument in sweep.overrides_of(arguments))
    hydra.main(version_base="1.3", config_path=str(config.conf_dir()), config_name=name)(task)()
    outcomes = [json.loads(path.read_text()) for path in sorted(scratch.glob("outcome-*.json"))]
    if multirun and schema is config.Parameters:
        sweep.report(outcomes, arguments)
    return max((outcome["exit_code"] for outcome in outcomes), default=DONE)


def _run_job(composed: Any) -> dict[str, Any]:
    parameters = config.resolve(sweep.plain(composed))
    progress.log_to_console(parameters.verbose)
    sweep.give_own_output(parameters)
    from beam_semdedup.workflow import SemanticDeduplicationWorkflow

    summary = SemanticDeduplicationWorkflow(**dataclasses.asdict(parameters)).run()
    console.print_summary(summary)
    return {"summary": dataclasses.asdict(summary)}


def _run_removal(composed: Any) -> dict[str, Any]:
    parameters = config.resolve(sweep.plain(composed), config.RemovalParameters)
    progress.log_to_console(parameters.verbose)
    from beam_semdedup.removal import remove_duplicates

    result = remove_duplicates(parameters)
    console.print_removal(dataclasses.asdict(result), parameters.output_path)
    return {}


def _run_plan(composed: Any) -> dict[str, Any]:
    parameters = config.resolve(sweep.plain(composed), config.PlanParameters)
    progress.log_to_console(parameters.verbose)
    from beam_semdedup.planning import plan_run

    console.print_plan(plan_run(parameters))
    return {}


class _Told(KeyboardInterrupt):
    """An interrupt of a job, on its way out, that a person was told of."""


def _guarded(action: Callable[[], int]) -> int:
    """The exit code of `action`, after saying on standard error what went wrong."""
    try:
        return action()
    except _Told:
        return INTERRUPTED
    except KeyboardInterrupt:
        console.say("Interrupted. Finished units are kept: the same command goes on from there.")
        return INTERRUPTED
    except InputError as error:
        console.say(f"Error: {error}")
        return BAD_INPUT
    except Exception as error:
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException

        if isinstance(error, (HydraException, OmegaConfBaseException)):
            console.say(f"Error: {_hydra_message(error)}")
            return BAD_INPUT
        from beam_semdedup.failures import RunError

        if isinstance(error, RunError):
            console.say(f"Failed: {error}")
        else:
            traceback.print_exc()
        return FAILED


def _check_overrides(schema: type, arguments: Sequence[str], multirun: bool) -> None:
    """Raises an InputError for what Hydra would not understand, saying how to write it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    for argument in sweep.overrides_of(arguments):
        key, equals, value = argument.partition("=")
        if not key or not (equals or key.startswith("~")):
            raise InputError(f"cannot understand {argument!r}: parameters are given as name=value; see --help")
        _check_known(schema, argument)
        quoted = shlex.quote(key + '="' + value.replace("\\", "\\\\").replace('"', '\\"') + '"')
        try:
            parsed = OverridesParser.create().parse_override(argument)
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


def _check_known(schema: type, argument: str) -> None:
    name, _, value = argument.lstrip("+~").partition("=")
    names = [f.name for f in dataclasses.fields(schema)]
    for group, registry in config.GROUPS.items():
        if group not in names:
            continue
        settings = [f.name for choice in registry.values() for f in dataclasses.fields(choice)]
        names += [f"{group}.{setting}" for setting in settings if setting != "name"]
        if name == group and not set(value.split(",")) <= set(registry):
            raise InputError(f"{argument}: {group} is one of: {', '.join(registry)}")
    is_inside = name.partition(".")[0] in names and name.partition(".")[0] not in config.GROUPS
    if name not in names and not is_inside and not re.match(r"hydra[./]", name):
        close = config.closest(name, names)
        raise InputError(f"unknown parameter {name}; " + (f"did you mean {close}?" if close else "see --help"))


def _hydra_message(error: Exception) -> str:
    cause = f" ({str(error.__cause__).splitlines()[0]})" if error.__cause__ else ""
    return " ".join(str(error).splitlines()) + cause


def _register(schema: type) -> None:
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    # The types are checked by `config.resolve`, whose messages name the parameter; here all are free.
    values = {f.name: config.default(f) for f in dataclasses.fields(schema) if f.name not in config.GROUPS}
    values = {name: _open(value) if isinstance(value, dict) else value for name, value in values.items()}
    store.store(name=console.COMMANDS[schema].node, node=values)
    for group, registry in config.GROUPS.items():
        for name, settings in registry.items():
            store.store(group=group, name=f"{name}_settings", node=dataclasses.asdict(settings()))


def _open(mapping: dict[str, Any]) -> Any:
    """`mapping` for Hydra, with whatever keys the command line gives it."""
    from omegaconf import DictConfig

    return DictConfig(mapping, flags={"struct": False})
