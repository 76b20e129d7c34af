"""A sweep (Hydra multirun): where its jobs write, and the table over them."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from beam_semdedup import config, console

SHARED = "SEMDEDUP_SHARED_OUTPUTS"
"""The environment variable that tells the jobs which output paths several of them were given, as a JSON list."""


def overrides_of(arguments: Sequence[str]) -> list[str]:
    """The arguments that are neither an option nor the value of one, such as `job` in `--cfg job`."""
    return [
        argument
        for before, argument in itertools.pairwise(["", *arguments])
        if not argument.startswith("-") and ("=" in argument or not before.startswith("--"))
    ]


def key_of(override: str) -> str:
    """The parameter that an override is for."""
    return override.partition("=")[0].lstrip("+~")


def swept(arguments: Sequence[str]) -> list[str]:
    """The parameters that a multirun varies."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(overrides_of(arguments))
    return [o.key_or_group for o in parsed if o.is_sweep_override()]


def shared_outputs(name: str, arguments: Sequence[str]) -> list[str]:
    """The output paths that more than one job of the sweep would write to."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    parsed = OverridesParser.create().parse_overrides(overrides_of(arguments))
    choices = [
        [f"{o.get_key_element()}={v}" for v in o.sweep_string_iterator()]
        if o.is_sweep_override()
        else [o.input_line or ""]
        for o in parsed
    ]
    jobs = list(itertools.product(*choices))
    first = _composed(name, jobs[0])
    independent = {f.name for f in dataclasses.fields(config.Parameters)} - {"output_path", *config.GROUPS}
    if set(swept(arguments)) <= independent and not OmegaConf.is_interpolation(first, "output_path"):
        return [str(first.output_path)] if len(jobs) > 1 else []  # composing takes longer than a job with another eps
    seen = [str(first.output_path), *(str(_composed(name, overrides).output_path) for overrides in jobs[1:])]
    return sorted({path for path in seen if seen.count(path) > 1})


def _composed(name: str, overrides: Sequence[str]) -> Any:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(config.conf_dir()), version_base="1.3"):
        return compose(name, overrides=[o for o in overrides if not o.startswith("hydra")])


def plain(composed: Any) -> Any:
    """A composed configuration as plain values, interpolations resolved."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(composed, resolve=True)


def give_own_output(parameters: Any) -> None:
    """In a sweep: changes the job's output_path where others share it."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if HydraConfig.get().mode != RunMode.MULTIRUN:
        return
    shared = parameters.output_path
    if shared not in json.loads(os.environ.get(SHARED, "[]")):
        return
    varied = swept(sys.argv[1:])
    own = [o for o in HydraConfig.get().overrides.task if key_of(o) in varied]
    parameters.output_path = f"{shared.rstrip('/')}/{re.sub(r'[^A-Za-z0-9_.=,+-]+', '_', ','.join(own))}"
    parameters.cache_path = parameters.cache_path or shared


def report(outcomes: Sequence[dict[str, Any]], arguments: Sequence[str]) -> None:
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
    console.wide().print(table)
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
        console.say(
            f"Warning: the table could not be written: {type(error).__name__}: {config.without_secrets(str(error))}"
        )
        return
    print(f"The table is in {config.without_secrets(target)}")


def _write_table(text: str, done: Sequence[dict[str, Any]], arguments: Sequence[str]) -> str:
    """Writes the table where the finished jobs of a sweep have a place in common, and returns its URL."""
    from beam_semdedup import storage

    common = [o for o in overrides_of(arguments) if key_of(o) not in swept(arguments)]
    first = config.resolve(plain(_composed("semdedup", [*common, *done[0]["overrides"]])))
    if first.output_path in json.loads(os.environ[SHARED]):
        home, options = first.output_path, first.write_options
    elif first.cache_path:
        home, options = first.cache_path, first.cache_options
    else:
        home, options = _common_parent([o["summary"]["paths"]["output"] for o in done]), first.write_options
    target = storage.join(storage.absolute(home, options), "sweep.csv")
    storage.write_bytes(target, text.encode(), options)
    return target


def _common_parent(urls: Sequence[str]) -> str:
    """The innermost directory that holds all absolute `urls`; the first of them where there is none."""
    columns = zip(*(url.split("/") for url in urls), strict=False)
    common = [names[0] for names in itertools.takewhile(lambda names: len(set(names)) == 1, columns)]
    root = 2 if "://" in urls[0] else 1  # components before a bucket's, a host's or a directory's name
    return "/".join(common) if len(common) > root else urls[0]
