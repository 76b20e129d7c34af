"""The commands: Hydra composes, the workflow, removal or planning works, exit codes say how it went.

0: done. 1: a run failed. 2: bad input or parameters. 130: interrupted.
"""

from __future__ import annotations

import atexit
import dataclasses
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from beam_semdedup import composition, console, progress, sweep
from beam_semdedup.config import Parameters, PlanParameters, RemovalParameters
from beam_semdedup.failures import InputError, RunError
from beam_semdedup.validation import resolve
from beam_semdedup.wording import without_secrets

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def main() -> None:
    """The command `semdedup`."""
    _command("semdedup", Parameters, _deduplicate)


def remove_main() -> None:
    """The command `semdedup-remove`."""
    _command("removal", RemovalParameters, _remove)


def plan_main() -> None:
    """The command `semdedup-plan`."""
    _command("plan", PlanParameters, _plan)


def _deduplicate(parameters: Parameters) -> dict[str, Any]:
    from beam_semdedup.workflow import SemanticDeduplicationWorkflow

    summary = SemanticDeduplicationWorkflow(**dataclasses.asdict(parameters)).run()
    console.print_summary(summary)
    return {"summary": dataclasses.asdict(summary)}


def _remove(parameters: RemovalParameters) -> dict[str, Any]:
    from beam_semdedup.removal import remove_duplicates

    result = remove_duplicates(parameters)
    console.print_removal(dataclasses.asdict(result), parameters.output_path)
    return {}


def _plan(parameters: PlanParameters) -> dict[str, Any]:
    from beam_semdedup.plan_report import report_plan

    console.print_plan(report_plan(parameters))
    return {}


def _command(name: str, schema: type, action: Callable[[Any], dict[str, Any]]) -> None:
    arguments = sys.argv[1:]
    if {"--help", "-h"} & set(arguments):
        console.print_help(schema)
        sys.exit(DONE)
    if "--version" in arguments:
        from importlib.metadata import version

        print(version("beam-semdedup"))
        sys.exit(DONE)
    with tempfile.TemporaryDirectory(prefix="semdedup-") as scratch:
        code = _guarded(lambda: _run_jobs(name, schema, action, arguments, Path(scratch)))
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


def _run_jobs(
    name: str, schema: type, action: Callable[[Any], dict[str, Any]], arguments: Sequence[str], scratch: Path
) -> int:
    """The worst exit code of the jobs that the arguments ask for."""
    composition.check_overrides(schema, arguments)
    composition.register(schema)
    multirun = composition.is_multirun(arguments)
    writes = schema is not PlanParameters
    shared = sweep.shared_outputs(name, arguments) if multirun and writes else []

    def task(job: composition.Job) -> None:
        outcome: dict[str, Any] = {"overrides": job.overrides}

        def run() -> int:
            parameters = resolve(composition.plain(job.composed), schema)
            progress.log_to_console(parameters.verbose)
            if writes and parameters.output_path in shared:
                sweep.give_own_output(parameters, job.overrides)
            outcome.update(action(parameters))
            return DONE

        if job.overrides:
            print(without_secrets(f"\n{', '.join(job.overrides)}"))
        outcome["exit_code"] = _guarded(run)
        (scratch / f"outcome-{job.number:06d}.json").write_text(json.dumps(outcome))
        if outcome["exit_code"] == INTERRUPTED:
            raise _Told

    composition.run(name, arguments, scratch, task)
    outcomes = [json.loads(path.read_text()) for path in sorted(scratch.glob("outcome-*.json"))]
    if multirun and schema is Parameters:
        sweep.report(outcomes, arguments, shared)
    return max((outcome["exit_code"] for outcome in outcomes), default=DONE)


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
    except RunError as error:
        console.say(f"Failed: {error}")
        return FAILED
    except Exception as error:
        message = composition.message_of(error)
        console.say(f"Error: {message}" if message else traceback.format_exc().rstrip())
        return BAD_INPUT if message else FAILED
