"""The commands: Hydra composes, the workflow, removal or planning works, exit codes say how it went.

0: done. 1: a run failed. 2: bad input or parameters. 130: interrupted (Ctrl-C). 143: terminated (SIGTERM).
"""

from __future__ import annotations

import atexit
import dataclasses
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from beam_semdedup.cli import composition, console, interrupts, sweep
from beam_semdedup.cli.interrupts import INTERRUPTED, TERMINATED
from beam_semdedup.cli.overrides import LISTED, shown
from beam_semdedup.config.parameters import (
    CorpusParameters,
    EmbedParameters,
    ForecastParameters,
    Parameters,
    RemovalParameters,
    ReportParameters,
    WatchParameters,
)
from beam_semdedup.config.shared import WriterParameters
from beam_semdedup.config.validation import resolve
from beam_semdedup.errors import InputError, RunError, StorageError, reason
from beam_semdedup.runners import imports, progress
from beam_semdedup.runners.registry import RUNNERS
from beam_semdedup.storage import scratch as scratches
from beam_semdedup.text import counted

DONE, FAILED, BAD_INPUT = 0, 1, 2
_LEAVE_SECONDS = 5


def main() -> None:
    """Runs the command `semdedup`."""
    _command("semdedup", Parameters, _deduplicate)


def remove_main() -> None:
    """Runs the command `semdedup-remove`."""
    _command("removal", RemovalParameters, _remove)


def watch_main() -> None:
    """Runs the command `semdedup-watch`."""
    _command("watch", WatchParameters, _watch)


def report_main() -> None:
    """Runs the command `semdedup-report`."""
    _command("report", ReportParameters, _report)


def embed_main() -> None:
    """Runs the command `semdedup-embed`."""
    _command("embed", EmbedParameters, _embed)


def corpus_main() -> None:
    """Runs the command `semdedup-corpus`, whose first argument may be an action."""
    if sys.argv[1:] and not sys.argv[1].startswith("-") and "=" not in sys.argv[1]:
        sys.argv[1] = f"action={sys.argv[1]}"
    _command("corpus", CorpusParameters, _corpus)


def plan_main() -> None:
    """Runs the command `semdedup-plan`."""
    _command("plan", ForecastParameters, _plan)


def _deduplicate(parameters: Parameters) -> dict[str, Any]:
    from beam_semdedup.workflow.run import SemanticDeduplicationWorkflow

    summary = SemanticDeduplicationWorkflow(**dataclasses.asdict(parameters)).run()
    console.print_summary(summary)
    return {"summary": dataclasses.asdict(summary)}


def _remove(parameters: RemovalParameters) -> dict[str, Any]:
    from beam_semdedup.removal.job import remove_duplicates

    result = remove_duplicates(parameters)
    console.print_removal(result, parameters.output_path)
    return {}


def _watch(parameters: WatchParameters) -> dict[str, Any]:
    from beam_semdedup.streams.watch import watch

    with interrupts.draining() as draining:
        found = watch(parameters, draining.is_set)
    console.print_generations(found, parameters.output_path)
    if draining.is_set():
        console.say("Terminated. What had arrived is finished: the same command goes on with what comes.")
        raise _Told
    return {}


def _report(parameters: ReportParameters) -> dict[str, Any]:
    from beam_semdedup.report.job import read_report, write_report

    run, content = read_report(parameters)
    if parameters.text:
        from beam_semdedup.report.text import lines

        console.tell(*lines(run, content, parameters.pairs))
    else:
        console.print_report(*write_report(parameters, run, content))
    return {}


def _embed(parameters: EmbedParameters) -> dict[str, Any]:
    from beam_semdedup.embed.job import embed_texts

    console.print_embedding(embed_texts(parameters), parameters.output_path)
    return {}


def _corpus(parameters: CorpusParameters) -> dict[str, Any]:
    from beam_semdedup.workflow import corpus

    if parameters.action == "verify":
        wrong = corpus.verify(parameters)
        if wrong:
            raise RunError("\n".join([f"{counted(len(wrong), 'thing')} wrong with the corpus:", *wrong]))
        console.tell(f"The corpus {parameters.corpus_path} is whole")
    elif parameters.action == "drop":
        console.tell(f"Dropped generation {corpus.drop(parameters)} of the corpus {parameters.corpus_path}")
    else:
        look = corpus.refit if parameters.action == "refit" else corpus.look
        console.print_corpus(look(parameters))
    return {}


def _plan(parameters: ForecastParameters) -> dict[str, Any]:
    from beam_semdedup.forecast.report import report

    console.print_plan(report(parameters))
    return {}


def _command(name: str, schema: type, action: Callable[[Any], dict[str, Any]]) -> None:
    console.open_outputs()
    arguments = sys.argv[1:]
    interrupts.listen()
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # as in this process: joblib's import nothing of the working directory
    code = _guarded(lambda: _run(name, schema, action, arguments))
    for runner in RUNNERS.values():
        runner.leave()
    lost = console.lost_output()
    if lost:
        console.say(f"Warning: standard output cannot be written: {lost}")
        if schema is ForecastParameters or composition.shows(arguments):  # it is all that there is
            code = code or FAILED
    _end(code)


def _end(code: int) -> None:
    """Ends the process without taking the interpreter's modules apart, which would take a third of a second.

    After an interrupt it does not wait for threads of Beam, which may be waiting for what does not come, and after a
    failure not for long.
    """
    if code == FAILED:
        signal.signal(signal.SIGALRM, lambda *_: os._exit(code))
        signal.alarm(_LEAVE_SECONDS)
    if code not in (INTERRUPTED, TERMINATED):
        threading._shutdown()  # type: ignore[attr-defined]  # joblib's workers end in it, and are waited for after it
        atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run(name: str, schema: type, action: Callable[[Any], dict[str, Any]], arguments: Sequence[str]) -> int:
    """Returns the exit code of what the arguments ask for, a job or an answer."""
    if {"--help", "-h"} & set(arguments):
        console.print_help(schema)
        return DONE
    if "--version" in arguments:
        from importlib.metadata import version

        console.tell(version("beam-semdedup"))
        return DONE
    try:
        return _run_jobs(name, schema, action, arguments)
    except SystemExit:  # Hydra has shown what was asked for
        return DONE


def _run_jobs(name: str, schema: type, action: Callable[[Any], dict[str, Any]], arguments: Sequence[str]) -> int:
    """Returns the worst exit code of the jobs that the arguments ask for."""
    try:
        os.getcwd()  # noqa: PTH109 - Hydra asks so
    except FileNotFoundError as error:
        raise InputError("the working directory does not exist any more; change to another") from error
    line = composition.CommandLine.read(name, schema, arguments)
    line.register()
    writes = issubclass(schema, WriterParameters)
    outputs = sweep.outputs(line) if line.multirun and writes else []
    shared = sweep.shared(outputs)
    sweeps = line.multirun and schema is Parameters
    place = sweep.table_place(line, outputs) if sweeps else None
    reach = sweep.reach_of(line) if sweeps else None

    def task(number: int, overrides: list[str], composed: Any) -> None:
        outcome: dict[str, Any] = {"overrides": overrides}

        def run() -> int:
            parameters = resolve(composition.plain(composed), schema, LISTED)
            if writes and not RUNNERS[parameters.runner.name].workers_are_here:
                interrupts.wait_for_cluster()
            if writes and parameters.output_path in shared:
                sweep.give_own_output(parameters, overrides)
            is_swept = reach is not None and parameters.reach is None  # only runs are
            if is_swept and (parameters.n_probes != 1 or parameters.recall_sample):
                parameters.reach = reach
            with progress.logged(parameters.verbose, by_caller=False):
                outcome.update(action(parameters))
            return DONE

        if overrides:
            console.tell(f"\n{', '.join(map(shown, overrides))}")
        outcome["exit_code"] = _guarded(run)
        Path(scratch, f"outcome-{number:06d}.json").write_text(json.dumps(outcome))
        if outcome["exit_code"] in (INTERRUPTED, TERMINATED):
            raise _Told

    with scratches.directory() as scratch:
        line.run(Path(scratch), task)
        outcomes = [json.loads(path.read_text()) for path in sorted(Path(scratch).glob("outcome-*.json"))]
    if sweeps:
        sweep.report(outcomes, place)
    return max((outcome["exit_code"] for outcome in outcomes), default=DONE)


class _Told(KeyboardInterrupt):
    """An interrupt of a job, perhaps in another process, on its way out, that a person was told of."""


def _guarded(action: Callable[[], int]) -> int:
    """Returns the exit code of `action`, after saying on standard error what went wrong."""
    try:
        with imports.needed_alone():
            return action()
    except KeyboardInterrupt as interrupt:
        return interrupts.exit_code(told=isinstance(interrupt, _Told))
    except (InputError, StorageError) as error:
        console.say(f"Error: {error}")
        return BAD_INPUT
    except RunError as error:
        console.say(f"Failed: {error}")
        return FAILED
    except OSError as error:
        console.say(f"Failed: {reason(error)}{f': {error.filename}' if error.filename else ''}")
        return FAILED
    except Exception:
        console.say(traceback.format_exc().rstrip())
        return FAILED
