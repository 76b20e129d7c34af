"""The commands: Hydra composes, the workflow, removal or planning works, exit codes say how it went.

0: done. 1: a run failed. 2: bad input or parameters. 130: interrupted.
"""

from __future__ import annotations

import atexit
import csv
import dataclasses
import io
import itertools
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

from beam_semdedup import config, progress
from beam_semdedup.config import InputError
from beam_semdedup.progress import counted, in_bytes, in_time

_SHARED = "SEMDEDUP_SHARED_OUTPUTS"
_SCRATCH = "SEMDEDUP_SCRATCH"
DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


@dataclasses.dataclass(frozen=True)
class _Command:
    """What `--help` says of a command, and the node of Hydra's configuration that holds its parameters."""

    name: str
    usage: str
    what: str
    node: str


_COMMANDS: dict[type, _Command] = {
    config.Parameters: _Command(
        "semdedup",
        "input_path=… output_path=… [eps=…]",
        "Finds rows of embedding files that mean the same.",
        "parameters",
    ),
    config.RemovalParameters: _Command(
        "semdedup-remove",
        "input_path=… duplicates_path=… output_path=…",
        "Writes a dataset without its duplicates.",
        "removal_parameters",
    ),
    config.PlanParameters: _Command(
        "semdedup-plan",
        "input_path=… | rows=… dimension=… [workers=…]",
        "Says what a run of semdedup will take, before it runs.",
        "plan_parameters",
    ),
}


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
        _print_help(schema)
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
        os.environ[_SHARED] = json.dumps(_shared_outputs(name, arguments))

    def task(composed: Any) -> None:
        outcome: dict[str, Any] = {}
        overrides = [o for o in HydraConfig.get().overrides.task if _key(o) in _swept(arguments)]
        if overrides:
            print(f"\n{', '.join(overrides)}")
        code = _guarded(lambda: outcome.update(job(composed)) or DONE)
        outcome = {"overrides": overrides, "exit_code": code, **outcome}
        number = HydraConfig.get().job.num if multirun else 0
        (scratch / f"outcome-{number:06d}.json").write_text(json.dumps(outcome))
        if code == INTERRUPTED:
            raise KeyboardInterrupt

    # Overrides last: Hydra's parser of the command line takes them in one run only.
    sys.argv[1:] = sorted(arguments, key=lambda argument: argument in _overrides(arguments))
    hydra.main(version_base="1.3", config_path=str(config.conf_dir()), config_name=name)(task)()
    outcomes = [json.loads(path.read_text()) for path in sorted(scratch.glob("outcome-*.json"))]
    if multirun and schema is config.Parameters:
        _report_sweep(outcomes, arguments)
    return max((outcome["exit_code"] for outcome in outcomes), default=DONE)


def _run_job(composed: Any) -> dict[str, Any]:
    parameters = config.resolve(_without_hydra(composed))
    progress.log_to_console(parameters.verbose)
    _give_own_output(parameters)
    from beam_semdedup.workflow import SemanticDeduplicationWorkflow

    summary = SemanticDeduplicationWorkflow(**dataclasses.asdict(parameters)).run()
    _print_summary(summary)
    return {"summary": dataclasses.asdict(summary)}


def _run_removal(composed: Any) -> dict[str, Any]:
    parameters = config.resolve(_without_hydra(composed), config.RemovalParameters)
    progress.log_to_console(parameters.verbose)
    from beam_semdedup.removal import remove_duplicates

    result = remove_duplicates(parameters)
    _print_removal(dataclasses.asdict(result), parameters.output_path)
    return {}


def _run_plan(composed: Any) -> dict[str, Any]:
    parameters = config.resolve(_without_hydra(composed), config.PlanParameters)
    progress.log_to_console(parameters.verbose)
    from beam_semdedup.planning import plan_run

    _print_plan(plan_run(parameters))
    return {}


def _guarded(action: Callable[[], int]) -> int:
    """The exit code of `action`, after saying on standard error what went wrong."""
    try:
        return action()
    except KeyboardInterrupt:
        _say("Interrupted. Finished units are kept: the same command goes on from there.")
        return INTERRUPTED
    except InputError as error:
        _say(f"Error: {error}")
        return BAD_INPUT
    except Exception as error:
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException

        if isinstance(error, (HydraException, OmegaConfBaseException)):
            _say(f"Error: {_hydra_message(error)}")
            return BAD_INPUT
        from beam_semdedup.failures import RunError

        if isinstance(error, RunError):
            _say(f"Failed: {error}")
        else:
            traceback.print_exc()
        return FAILED


def _check_overrides(schema: type, arguments: Sequence[str], multirun: bool) -> None:
    """Raises an InputError for what Hydra would not understand, saying how to write it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    for argument in _overrides(arguments):
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
    store.store(name=_COMMANDS[schema].node, node=values)
    for group, registry in config.GROUPS.items():
        for name, settings in registry.items():
            store.store(group=group, name=f"{name}_settings", node=dataclasses.asdict(settings()))


def _open(mapping: dict[str, Any]) -> Any:
    """`mapping` for Hydra, with whatever keys the command line gives it."""
    from omegaconf import DictConfig

    return DictConfig(mapping, flags={"struct": False})


def _without_hydra(composed: Any) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(composed, resolve=True)


def _overrides(arguments: Sequence[str]) -> list[str]:
    """The arguments that are neither an option nor the value of one, such as `job` in `--cfg job`."""
    return [
        argument
        for before, argument in itertools.pairwise(["", *arguments])
        if not argument.startswith("-") and ("=" in argument or not before.startswith("--"))
    ]


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def _swept(arguments: Sequence[str]) -> list[str]:
    """The parameters that a multirun varies."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(_overrides(arguments))
    return [o.key_or_group for o in parsed if o.is_sweep_override()]


def _shared_outputs(name: str, arguments: Sequence[str]) -> list[str]:
    """The output paths that more than one job of the sweep would write to."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    parsed = OverridesParser.create().parse_overrides(_overrides(arguments))
    choices = [
        [f"{o.get_key_element()}={v}" for v in o.sweep_string_iterator()]
        if o.is_sweep_override()
        else [o.input_line or ""]
        for o in parsed
    ]
    jobs = list(itertools.product(*choices))
    first = _composed(name, jobs[0])
    plain = {f.name for f in dataclasses.fields(config.Parameters)} - {"output_path", *config.GROUPS}
    if set(_swept(arguments)) <= plain and not OmegaConf.is_interpolation(first, "output_path"):
        return [str(first.output_path)] if len(jobs) > 1 else []  # composing takes longer than a job with another eps
    seen = [str(first.output_path), *(str(_composed(name, overrides).output_path) for overrides in jobs[1:])]
    return sorted({path for path in seen if seen.count(path) > 1})


def _composed(name: str, overrides: Sequence[str]) -> Any:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(config.conf_dir()), version_base="1.3"):
        return compose(name, overrides=[o for o in overrides if not o.startswith("hydra")])


def _give_own_output(parameters: Any) -> None:
    """In a sweep: changes the job's output_path where others share it."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if HydraConfig.get().mode != RunMode.MULTIRUN:
        return
    shared = parameters.output_path
    if shared not in json.loads(os.environ.get(_SHARED, "[]")):
        return
    swept = _swept(sys.argv[1:])
    own = [o for o in HydraConfig.get().overrides.task if _key(o) in swept]
    parameters.output_path = f"{shared.rstrip('/')}/{re.sub(r'[^A-Za-z0-9_.=,+-]+', '_', ','.join(own))}"
    parameters.cache_path = parameters.cache_path or shared


def _report_sweep(outcomes: Sequence[dict[str, Any]], arguments: Sequence[str]) -> None:
    """The table over the jobs of a sweep, on standard output and as a CSV file."""
    rows = []
    for outcome in outcomes:
        row = dict(o.split("=", 1) for o in outcome["overrides"])
        summary = outcome.get("summary")
        if summary:
            row |= {
                "duplicates": summary["num_duplicates"],
                "kept": "" if summary["rows_kept"] is None else f"{summary['rows_kept'] / summary['rows_read']:.4f}",
                "seconds": summary["total_time"],
                "reused": ", ".join(
                    name
                    for name, stage in summary["stages"].items()
                    if stage["units_reused"] and not stage["units_done"]
                ),
                "output_path": summary["paths"]["output"],
            }
        row["exit_code"] = outcome["exit_code"]
        rows.append(config.without_secrets(row))
    columns = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
    from rich.table import Table

    table = Table(*columns, title="Sweep")
    for row in rows:
        table.add_row(*("" if row.get(c) is None else str(row.get(c, "")) for c in columns))
    _console().print(table)
    done = [o for o in outcomes if o.get("summary")]
    if not done:
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    try:
        target = _write_table(text.getvalue(), done, arguments)
    except Exception as error:  # the runs are done, whatever the storage makes of the table
        _say(f"Warning: the table could not be written: {type(error).__name__}: {config.without_secrets(str(error))}")
        return
    print(f"The table is in {config.without_secrets(target)}")


def _write_table(text: str, done: Sequence[dict[str, Any]], arguments: Sequence[str]) -> str:
    """Writes the table where the finished jobs of a sweep have a place in common, and returns its URL."""
    from beam_semdedup import storage

    common = [o for o in _overrides(arguments) if _key(o) not in _swept(arguments)]
    first = config.resolve(_without_hydra(_composed("semdedup", [*common, *done[0]["overrides"]])))
    if first.output_path in json.loads(os.environ[_SHARED]):
        home, kwargs = first.output_path, first.write_kwargs
    elif first.cache_path:
        home, kwargs = first.cache_path, first.cache_options
    else:
        home, kwargs = _common_parent([o["summary"]["paths"]["output"] for o in done]), first.write_kwargs
    options = kwargs.get("storage_options", {})
    target = storage.join(storage.absolute(home, options), "sweep.csv")
    storage.write_bytes(target, text.encode(), options)
    return target


def _common_parent(urls: Sequence[str]) -> str:
    """The innermost directory that holds all absolute `urls`; the first of them where there is none."""
    columns = zip(*(url.split("/") for url in urls), strict=False)
    common = [names[0] for names in itertools.takewhile(lambda names: len(set(names)) == 1, columns)]
    root = 2 if "://" in urls[0] else 1  # components before a bucket's, a host's or a directory's name
    return "/".join(common) if len(common) > root else urls[0]


def _print_summary(summary: Any) -> None:
    lines = [f"Read        {summary.rows_read:>14,} rows"]
    if summary.eps is not None:
        share = summary.num_duplicates / summary.rows_read
        lines += [
            f"Kept        {summary.rows_kept:>14,}",
            f"Duplicates  {summary.num_duplicates:>14,}  ({share:.2%} at eps={summary.eps})",
        ]
    lines.append(
        f"Rejected    {summary.rows_rejected:>14,}"
        + (f"  (see {summary.paths['rejected']})" if summary.rows_rejected else "")
    )
    lines.append(f"Largest of {summary.n_clusters:,} clusters: {summary.largest_cluster:,} rows")
    lines.append("Stage      seconds   computed     reused     rows/s       MB/s    GFLOP/s")
    for name, stage in summary.stages.items():
        rates = (stage.rows_per_second, stage.megabytes_per_second, stage.gflops)
        shown = "".join(f"{rate:>11,.0f}" if stage.units_done else f"{'':>11}" for rate in rates)
        lines.append(f"{name:<9}{stage.seconds:>9.1f}{stage.units_done:>11,}{stage.units_reused:>11,}{shown}".rstrip())
    lines.append(f"Total: {summary.total_time:.1f} s")
    if summary.repeated_ids["count"]:
        repeated, examples = counted(summary.repeated_ids["count"], "id"), ", ".join(summary.repeated_ids["examples"])
        lines.append(f"Warning: {repeated} found more than once, such as {examples}")
    results = "summary.json, semdedup.yaml" if summary.eps is None else "summary.json, duplicates/, semdedup.yaml"
    lines.append(f"Results: {summary.paths['output']} ({results})")
    print("\n".join(lines))
    if summary.removal:
        _print_removal(summary.removal, summary.paths["deduplicated"])
        if summary.rows_rejected:
            print(f"It still holds {counted(summary.rows_rejected, 'rejected row')}")


def _print_removal(result: dict[str, Any], output: str) -> None:
    kept = result["rows_read"] - result["rows_removed"]
    print(
        f"Removed {counted(result['rows_removed'], 'row')} ({counted(result['ids_removed'], 'id')}), kept {kept:,}, "
        f"in {output}; not found: {counted(result['ids_not_found'], 'listed id')}"
    )


def _print_plan(planned: Any) -> None:
    from rich.table import Table

    asked, best, machines, rates = planned.asked, planned.recommended, planned.machines, planned.rates
    data, console = asked.data, _console()
    store = f", {in_bytes(machines.storage_bandwidth)}/s of storage each" if machines.storage_bandwidth else ""
    print(
        f"{data.rows:,} rows of {data.dimension} values, on {counted(machines.workers, 'worker')} with "
        f"{counted(machines.cores, 'core')} and {in_bytes(machines.memory)} of memory budget each, "
        f"{counted(machines.gpus, 'GPU')}{store}\n"
        f"Rates: {planned.source}; assign {rates.assign_flops / 1e9:,.0f}, compare {rates.compare_flops / 1e9:,.0f} "
        f"GFLOP/s a worker with {counted(rates.cores, 'core')}\n"
    )
    lines = [
        ("n_clusters", f"{asked.n_clusters:,}; recommended: {best.n_clusters:,} ({in_time(best.seconds)})"),
        ("", "fewer would lose fewer pairs of similar rows at cluster boundaries, and leave more to compare"),
        ("Fit", f"on {counted(asked.sample_rows, 'row')}" if asked.sample_rows else "none: centroids are given"),
        ("Assign", f"{counted(asked.units, 'unit')} of {asked.unit_rows:,} rows"),
        (
            "Shuffle",
            f"{counted(asked.segments, 'segment')} of {asked.segment_rows:,.0f} rows, {in_bytes(asked.segment_bytes)}",
        ),
        ("Compare", f"{counted(asked.comparisons, 'unit')} of {data.rows / asked.comparisons:,.0f} rows"),
        ("Memory", f"{in_bytes(asked.worker_memory)} a worker, {in_bytes(asked.driver_memory)} in the driver"),
    ]
    print("\n".join(f"{name:<12}{text}" for name, text in lines) + "\n")
    table = Table("Stage", box=None, padding=(0, 2, 0, 0))
    for column in ("TFLOP", "read", "written", "predicted"):
        table.add_column(column, justify="right")
    table.add_column("bottleneck")
    for stage in asked.stages:
        amounts = [f"{stage.flops / 1e12:,.2f}" if stage.flops else ""]
        amounts += [in_bytes(amount) if amount else "" for amount in (stage.bytes_read, stage.bytes_written)]
        table.add_row(stage.name, *amounts, in_time(stage.seconds), stage.bottleneck)
    table.add_row("total", "", "", "", in_time(asked.seconds), asked.bottleneck)
    console.print(table)
    for limit in asked.limits:
        print(f"Breaks: {limit.what}; {limit.advice}")
    print("\nOther sizes on the same machines, with the recommended n_clusters:")
    table = Table(box=None, padding=(0, 2, 0, 0))
    columns = ("rows", "n_clusters", "segments", "rows each", "worker", "driver", "predicted")
    for column in columns:
        table.add_column(column, justify="right")
    table.add_column("bottleneck")
    table.add_column("breaks")
    for f in planned.table:
        numbers = [f"{f.data.rows:,}", f"{f.n_clusters:,}", f"{f.segments:,}", f"{f.segment_rows:,.0f}"]
        amounts = [in_bytes(f.worker_memory), in_bytes(f.driver_memory), in_time(f.seconds)]
        table.add_row(*numbers, *amounts, f.bottleneck, "; ".join(limit.what for limit in f.limits))
    console.print(table)
    for what, advice in {limit.what: limit.advice for f in planned.table for limit in f.limits}.items():
        print(f"{what}: {advice}")


def _print_help(schema: type) -> None:
    from rich.markup import escape
    from rich.table import Table

    console, command = _console(), _COMMANDS[schema]
    console.print(f"[bold]{command.name}[/] {escape(f'{command.usage} [name=value …]')}\n\n{command.what}\n")
    fields = dataclasses.fields(schema)
    for group in [heading for heading in config.HEADINGS if heading in {f.metadata["group"] for f in fields}]:
        table = Table(
            title=group, title_justify="left", title_style="bold", show_header=False, box=None, padding=(0, 1)
        )
        table.add_column(style="cyan", no_wrap=True)
        table.add_column()
        for f in fields:
            if f.metadata.get("group") != group:
                continue
            if f.name in ("runner", "kmeans"):
                for name, settings in config.GROUPS[f.name].items():
                    table.add_row(f"{f.name}={name}", escape((settings.__doc__ or "").splitlines()[0]))
                    for s in dataclasses.fields(settings):
                        if s.name != "name":
                            table.add_row(f"  {f.name}.{s.name}", escape(f"{s.metadata['help']} ({s.default})"))
                continue
            value = config.default(f)
            choices = " | ".join(f.metadata.get("choices", ()))
            default = "required" if value == "???" else json.dumps(value)
            table.add_row(f.name, escape("; ".join(t for t in (choices, f.metadata["help"]) if t) + f" ({default})"))
        console.print(table)
        console.print()
    console.print(
        "Several values, separated by commas, with -m: one run for each (a sweep). A path with = or other special\n"
        "characters: 'input_path=\"/data/a=b\"'. Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted."
    )


def _console() -> Any:
    from rich.console import Console

    return Console(soft_wrap=False, width=None if sys.stdout.isatty() else 160)


def _say(message: str) -> None:
    print(message, file=sys.stderr)
