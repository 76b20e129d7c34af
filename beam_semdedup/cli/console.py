"""What the commands print: results, plans, help and errors."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from beam_semdedup.config.choices import GROUPS
from beam_semdedup.config.parameters import (
    CorpusParameters,
    EmbedParameters,
    ForecastParameters,
    Parameters,
    RemovalParameters,
    ReportParameters,
    WatchParameters,
)
from beam_semdedup.fields import GROUP, HEADINGS, Declared, declared
from beam_semdedup.text import counted, in_bytes, in_time, printable, without_secrets

_MOST_FILES = 20


@dataclass(frozen=True)
class Command:
    """What `--help` says of a command."""

    name: str
    usage: str
    what: str


_COMMANDS: dict[type, Command] = {
    Parameters: Command(
        "semdedup",
        "input_path=… output_path=… [eps=…]",
        "Finds rows of embedding files that mean the same.\n"
        "--config-path=DIR: what is not given is as in the semdedup.yaml that a run left in its output_path DIR.\n"
        "What has code run, such as runner.runtime_env, is taken from there only with trust_stored=true.",
    ),
    RemovalParameters: Command(
        "semdedup-remove",
        "input_path=… duplicates_path=… output_path=…",
        "Writes a dataset without its duplicates.",
    ),
    ReportParameters: Command(
        "semdedup-report",
        "output_path=… [eps=…]",
        "Writes report.html of a finished run from its cache: what each eps would remove, and the pairs.",
    ),
    WatchParameters: Command(
        "semdedup-watch",
        "input_path=… output_path=… corpus_path=… eps=… [runner=prism]",
        "Waits for files of embeddings, and finds the rows of each that mean the same as one that came before.\n"
        "Files that come together are a generation: duplicates/generation=NNNN/ appears when it is compared.",
    ),
    EmbedParameters: Command(
        "semdedup-embed",
        "input_path=… text_field=… model=… output_path=…",
        "Computes embeddings of texts with an ONNX model, and writes them as files that semdedup reads.",
    ),
    CorpusParameters: Command(
        "semdedup-corpus",
        "list|verify|refit|drop corpus_path=… [generation=…]",
        "Looks after a corpus that runs of semdedup add to.",
    ),
    ForecastParameters: Command(
        "semdedup-plan",
        "input_path=… | rows=… dimension=… [workers=…]",
        "Says what a run of semdedup will take, before it runs.",
    ),
}


def print_summary(summary: Any) -> None:
    """Prints the result of a run, a `summary.Summary`."""
    from beam_semdedup.workflow.summary import reasons, remedy

    paths = summary.paths
    lines = [f"Read        {summary.rows_read:>14,} rows"]
    if summary.eps is not None:
        share = summary.num_duplicates / summary.rows_read
        lines += [
            f"Kept        {summary.rows_kept:>14,}",
            f"Duplicates  {summary.num_duplicates:>14,}  ({share:.2%} at eps={summary.eps})",
        ]
        if summary.recall:
            lines.append(f"Recall      {summary.recall}")
    lines.append(
        f"Rejected    {summary.rows_rejected:>14,}"
        + (f"  ({reasons(summary.rejected)}; see {paths['rejected']})" if summary.rows_rejected else "")
    )
    if summary.without_clusters:
        lines.append("Each row was compared with all references, without clusters")
    else:
        lines.append(f"Largest of {summary.n_clusters:,} clusters: {summary.largest_cluster:,} rows")
    lines.append("Stage      seconds   computed     reused     rows/s       MB/s    GFLOP/s")
    for name, stage in summary.stages.items():
        rates = (stage.rows_per_second, stage.megabytes_per_second, stage.gflops)
        shown = "".join(f"{rate:>11,.0f}" if stage.units_done else f"{'':>11}" for rate in rates)
        lines.append(f"{name:<9}{stage.seconds:>9.1f}{stage.units_done:>11,}{stage.units_reused:>11,}{shown}".rstrip())
    lines.append(f"Total: {summary.total_time:.1f} s, {summary.startup_time:.1f} s of them to start")
    if summary.repeated_ids.count:
        lines.append(f"Warning: {summary.repeated_ids}")
    if summary.generation is not None:
        corpus = summary.configuration["corpus_path"]
        lines.append(f"Added to the corpus {corpus} as generation {summary.generation}")
    there = [*(["report.html"] if "report" in paths else []), "summary.json"]
    there += [*([] if summary.eps is None else ["duplicates/"]), "semdedup.yaml"]
    lines.append(f"Results: {paths['output']} ({', '.join(there)})")
    if advice := remedy(summary):
        lines.append(advice)
    tell(*lines)
    if summary.references:
        _print_references(summary.references)
    if summary.removal:
        print_removal(summary.removal, paths.get("deduplicated") or paths["marked"])
        if summary.rows_rejected and "deduplicated" in paths:
            tell(f"It still holds {counted(summary.rows_rejected, 'rejected row')}")


def print_generations(found: Sequence[Any], output: str) -> None:
    """Prints what a watch found, some `generation.Finished`."""
    rows, duplicates = sum(g.rows for g in found), sum(g.duplicates for g in found)
    tell(
        f"Generations {len(found):>14,}",
        f"Read        {rows:>14,} rows",
        f"Duplicates  {duplicates:>14,}",
        f"Results: {output} (duplicates/generation=NNNN/)",
    )


def _print_references(references: Sequence[Any]) -> None:
    """Prints what was found of each file of `against`, a `summary.ReferenceFile`, of many of those with the most."""
    table = _table("Against", ">rows", ">rejected", ">resembled", ">removes")
    for file in sorted(references, key=lambda file: (-(file.resembled or 0), file.file))[:_MOST_FILES]:
        numbers = (file.rows, file.rejected, file.resembled, file.removes)
        table.add_row(printable(file.file), *("" if number is None else f"{number:,}" for number in numbers))
    wide().print(table)
    if len(references) > _MOST_FILES:
        tell(f"and {counted(len(references) - _MOST_FILES, 'other file')}, in summary.json")


def print_removal(result: Any, output: str) -> None:
    """Prints the result of a removal, a `removal.RemovalResult`, whose files are in `output`."""
    what, others = ("Marked", "others") if result.mode == "mark" else ("Removed", "kept")
    tell(
        f"{what} {counted(result.rows_removed, 'row')} ({counted(result.ids_removed, 'id')}), {others} "
        f"{result.rows_read - result.rows_removed:,}, in {output}; not found: "
        f"{counted(result.ids_not_found, 'listed id')}"
    )


def print_report(file: Any, size: int) -> None:
    """Prints where the report of a run is, and its size in bytes."""
    tell(f"Report: {file} ({in_bytes(size)}); open it in a browser")


def print_embedding(result: Any, output: str) -> None:
    """Prints the result of an embedding, an `embed.EmbeddingResult`, whose files are in `output`."""
    without = f", {result.nulls:,} without a text or image" if result.nulls else ""
    without += f", {counted(result.broken, 'image')} cannot be read" if result.broken else ""
    rate = result.rows / max(1e-9, result.seconds)
    tell(
        f"Embedded {counted(result.rows, 'row')}{without}, in {in_time(result.seconds)} ({rate:,.0f} a second): "
        f"{counted(len(result.files), 'file')} in {output}"
    )


def print_corpus(facts: Any) -> None:
    """Prints what is in a corpus, a `workflow.corpus.CorpusFacts`."""
    common = facts.common
    tell(
        f"{facts.rows:,} rows of {common.dimension} values in {counted(len(facts.generations), 'generation')}, in "
        f"{facts.place}",
        f"{common.n_clusters:,} clusters of {facts.rows / common.n_clusters:,.0f} rows; the most in "
        f"{counted(min(common.centroids_per_key, common.n_clusters), 'neighbouring cluster')}: {facts.largest:,}",
        f"n_probes={common.probes}, reach={common.reach:g}, ids are {common.id_type}",
    )
    if facts.reference_bytes:
        tell(f"Beside them {in_bytes(facts.reference_bytes)} of references, which a refit takes away")
    table = _table(">generation", ">rows", ">rejected", ">size", ">far rows", "added", "from")
    for g in facts.generations:
        added = time.strftime("%Y-%m-%d %H:%M", time.localtime(g.at))
        numbers = ("unfinished" if g.rows is None else f"{g.rows:,}", f"{g.rejected:,}", in_bytes(g.num_bytes))
        drift = "" if g.drift is None else f"{g.drift:.1%}"
        more = f" and {counted(g.files - 1, 'other file')}" if g.files > 1 else ""
        table.add_row(str(g.number), *numbers, drift, added, printable(f"{g.first_file}{more}"))
    wide().print(table)
    tell(
        "far rows: the share that is farther from their centroid than 95 % of the first generation; where it grows, "
        "semdedup-corpus refit clusters anew"
    )


def print_plan(report: Any) -> None:
    """Prints what a run will take, a `report.ForecastReport`."""
    _print_asked(report)
    if not report.table:
        return
    tell("\nOther sizes on the same machines, with the recommended n_clusters:")
    table = _table(
        ">rows", ">n_clusters", ">segments", ">rows each", ">worker", ">driver", ">predicted", "bottleneck", "breaks"
    )
    for f in report.table:
        numbers = [f"{f.data.rows:,}", f"{f.sizes.n_clusters:,}", f"{f.segments:,}", f"{f.segment_rows:,.0f}"]
        amounts = [in_bytes(f.worker_memory), in_bytes(f.driver_memory), in_time(f.seconds)]
        table.add_row(*numbers, *amounts, f.bottleneck, "; ".join(limit.what for limit in f.limits))
    wide().print(table)
    for what, advice in {limit.what: limit.advice for f in report.table for limit in f.limits}.items():
        tell(f"{what}: {advice}")


def _print_asked(report: Any) -> None:
    asked, machines, rates = report.asked, report.machines, report.rates
    data = asked.data
    store = f", {in_bytes(machines.storage_bandwidth)}/s of storage each" if machines.storage_bandwidth else ""
    tell(
        f"{data.rows:,} rows of {data.dimension} values, on {counted(machines.workers, 'worker')} with "
        f"{counted(machines.cores, 'core')} and {in_bytes(machines.memory)} of memory budget each, "
        f"{counted(machines.gpus, 'GPU')}{store}\n"
        f"Rates: {report.source}; assign {rates.assign_flops / 1e9:,.0f}, compare {rates.compare_flops / 1e9:,.0f} "
        f"GFLOP/s a worker with {counted(rates.cores, 'core')}\n"
    )
    lines = [*_clusters_told(report)]
    for number, whose in (
        (data.earlier.references, "against, which are assigned too"),
        (data.earlier.corpus, "a corpus, which are assigned"),
    ):
        if number:
            lines.append(("Earlier", f"{counted(number, 'row')} of {whose}"))
    lines += [
        (
            "Fit",
            f"on {counted(asked.sizes.sample_rows, 'row')}" if asked.sizes.sample_rows else "none: centroids are given",
        ),
        ("Assign", f"{counted(asked.units, 'unit')} of {min(asked.sizes.assign_rows, data.rows):,} rows"),
        (
            "Index",
            f"{counted(asked.segments, 'segment')} of {asked.segment_rows:,.0f} rows, {in_bytes(asked.segment_bytes)}",
        ),
        ("Compare", f"{counted(asked.comparisons, 'unit')} of {data.rows / asked.comparisons:,.0f} rows"),
        *_embedding_told(report),
        *_probes_told(report),
        ("Memory", f"{in_bytes(asked.worker_memory)} a worker, {in_bytes(asked.driver_memory)} in the driver"),
    ]
    tell(*(f"{name:<12}{text}" for name, text in lines), "")
    table = _table("Stage", ">TFLOP", ">read", ">written", ">predicted", "bottleneck")
    for stage in asked.stages:
        amounts = [f"{stage.flops / 1e12:,.2f}" if stage.flops else ""]
        amounts += [in_bytes(amount) if amount else "" for amount in (stage.bytes_read, stage.bytes_written)]
        table.add_row(stage.name, *amounts, in_time(stage.seconds), stage.bottleneck)
    table.add_row("total", "", "", "", in_time(asked.seconds), asked.bottleneck)
    wide().print(table)
    for limit in asked.limits:
        tell(f"Breaks: {limit.what}; {limit.advice}")


def _clusters_told(report: Any) -> list[tuple[str, str]]:
    """Says how many clusters there are, and how many are recommended."""
    asked, best = report.asked, report.recommended
    if not report.table:
        return [("n_clusters", "none: each row is compared with all of against")]
    lines = [
        ("n_clusters", f"{asked.sizes.n_clusters:,}; recommended: {best.sizes.n_clusters:,} ({in_time(best.seconds)})")
    ]
    if report.n_probes != "exact":
        told = "fewer would lose fewer pairs of similar rows at cluster boundaries, and leave more to compare"
        lines.append(("", told))
    return lines


def _embedding_told(report: Any) -> list[tuple[str, str]]:
    """Says what embedding the texts takes, where the input has no embeddings."""
    if report.texts_per_second is None:
        return []
    rows, workers = report.asked.data.rows, report.machines.workers
    seconds = rows / report.texts_per_second / workers
    each = f"{counted(rows, 'text')} at {report.texts_per_second:,.0f} a second, as some of them took on this machine"
    return [("Embed", f"{each}: {in_time(seconds)} on {counted(workers, 'worker')}, before the stages below")]


def _probes_told(report: Any) -> list[tuple[str, str]]:
    """Says what rows visit, and what that costs over comparing within clusters, or would."""
    asked, other = report.asked, report.other
    if other is None:
        return []
    within, across = (asked, other) if report.n_probes == 1 else (other, asked)
    name = "exact" if report.n_probes == 1 else report.n_probes
    visits = f"{across.visits:,.1f} a row ({report.probes}), {in_bytes(across.visits_bytes)} of them"
    times = f"{across.seconds / within.seconds:.1f} times as long as n_probes=1 ({in_time(within.seconds)})"
    if report.n_probes == 1:
        times = f"{across.seconds / within.seconds:.1f} times as long ({in_time(across.seconds)})"
    takes = f"n_probes={name} {'would take' if report.n_probes == 1 else 'takes'} {times}"
    return [
        ("Visits", f"{visits}; {counted(across.width, 'coordinate')} of each vector are compared first"),
        ("", f"{takes}; comparing alone {across.comparing / within.comparing:.1f} times"),
    ]


def _table(*columns: str) -> Any:
    """Returns a table without lines; `>` before the name of a column aligns it to the right."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left")
    return table


def print_help(schema: type) -> None:
    """Prints what a command is for and all of its parameters, from their declaration."""
    from rich.markup import escape
    from rich.table import Table

    console, command = wide(), _COMMANDS[schema]
    console.print(f"[bold]{command.name}[/] {escape(f'{command.usage} [name=value …]')}\n\n{command.what}\n")
    for heading in HEADINGS:
        fields = [f for f in declared(schema) if (GROUP if f.name in GROUPS else f.heading) == heading]
        rows = [row for f in fields for row in _help_rows(f)]
        if not rows:
            continue
        table = Table(
            title=heading, title_justify="left", title_style="bold", show_header=False, box=None, padding=(0, 1)
        )
        table.add_column(style="cyan", no_wrap=True)
        table.add_column()
        for name, text in rows:
            table.add_row(name, escape(text))
        console.print(table)
        console.print()
    console.print(
        "Several values, separated by commas, with -m: one run for each (a sweep). Exit codes: 0 done, 1 failed,\n"
        "2 bad input, 130 interrupted (Ctrl-C), 143 terminated (SIGTERM). After 130 and 143, and after 1 once\n"
        "its cause is gone, the same command goes on where it ended."
    )


def _help_rows(f: Declared) -> Iterator[tuple[str, str]]:
    """Yields a parameter and what it means; of a group, each choice with its settings."""
    if f.name not in GROUPS:
        yield f.name, _meaning(f)
        return
    for name, choice in GROUPS[f.name].items():
        yield f"{f.name}={name}", (choice.settings.__doc__ or "").splitlines()[0]
        for setting in declared(choice.settings):
            if setting.name != "name":
                yield f"  {f.name}.{setting.name}", _meaning(setting)


def _meaning(f: Declared) -> str:
    value = "required" if f.default is dataclasses.MISSING else f.default
    typed = value if isinstance(value, str) else json.dumps(value)
    return "; ".join(text for text in (" | ".join(f.choices), f.help) if text) + f" ({typed})"


def wide() -> Any:
    """Returns a rich console for tables: as wide as the terminal, or 160 characters where the output goes elsewhere."""
    from rich.console import Console

    return Console(soft_wrap=False, width=None if sys.stdout.isatty() else 160)


def say(message: str) -> None:
    """Writes a line on standard error."""
    print(printable(without_secrets(message)), file=sys.stderr)


def tell(*lines: str) -> None:
    """Writes lines of a result on standard output."""
    print(printable(without_secrets("\n".join(lines))))


def open_outputs() -> None:
    """Makes standard output and standard error able to hold any text, and the run independent of who reads them."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        usual = getattr(sys, name)
        if usual is not getattr(sys, f"__{name}__"):  # it is somebody else's already
            continue
        if usual is None:  # closed; a file that the run opens must not get its number
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
        raw = _Output(number, "wb", closefd=False)
        encoding = usual.encoding if usual else "utf-8"
        stream = io.TextIOWrapper(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=True)
        setattr(sys, name, stream)


def lost_output() -> OSError | None:
    """Returns why not all of standard output could be written; None where it could, or nobody wanted the rest of it."""
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    lost = raw.lost if isinstance(raw, _Output) else None
    return None if isinstance(lost, BrokenPipeError) else lost


class _Output(io.FileIO):
    """An output that cannot fail: the results of a run are in its files, and count whether or not it can be told.

    Attributes:
        lost: why it takes no more, such as a full disk, or a `head` that has seen enough.
    """

    lost: OSError | None = None

    def write(self, data: Any) -> int:
        """Writes what it can, and returns the number of bytes that are taken."""
        if self.lost is None:
            try:
                return super().write(data) or 0
            except OSError as error:
                self.lost = error
        return len(data)
