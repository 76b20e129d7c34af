"""What a report says, as values that can be JSON: numbers, and rows and pairs by their places in lists."""

from __future__ import annotations

import dataclasses
import json
import logging
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from beam_semdedup.compute.ranking import hash_ids
from beam_semdedup.config.parameters import Parameters, ReportParameters
from beam_semdedup.errors import InputError
from beam_semdedup.fields import declared
from beam_semdedup.report.collect import ID_HASH, MOST_SOURCES, Collected, Sample, collect, hash_matches
from beam_semdedup.report.groups import Groups, find_groups
from beam_semdedup.report.results import FinishedRun, Results
from beam_semdedup.report.rows import Row, find_in_corpus, find_rows, sampled_distances
from beam_semdedup.report.scale import BANDS
from beam_semdedup.report.values import LONGEST_TEXT, texts
from beam_semdedup.storage import layout
from beam_semdedup.storage.columns import INPUT, MAX_SOURCE
from beam_semdedup.storage.damage import DamagedFile
from beam_semdedup.text import printable

_LOG = logging.getLogger(__name__)

_EPS = 0.05
_MOST_FIELDS, _SHOWN_SOURCES, _SHOWN_CLUSTERS = 12, 200, 10
_LONGEST_COMMAND = 4000


@dataclass(frozen=True)
class Pair:
    """A row and the one that it resembles, by the hashes of their ids.

    Attributes:
        place: of the first threshold at which the row is a duplicate, in the scale.
        band: that it was drawn in to be labelled; -1 where it was not.
    """

    row: int
    other: int
    score: float
    place: int
    band: int

    @property
    def key(self) -> str:
        """What labels call it."""
        return f"{self.row:016x}{self.other:016x}"


@dataclass(frozen=True)
class Content:
    """All that a report shows.

    Attributes:
        pairs: those that were drawn first, in the order in which they are to be labelled.
        rows: those that are shown, by the hashes of their ids.
        fields: the metadata fields of the rows.
        distances: cosine distances of some rows to their centroids; none where their segments are gone.
    """

    results: Results
    collected: Collected
    groups: Groups | None
    pairs: list[Pair]
    rows: dict[int, Row]
    fields: list[str]
    group_field: str | None
    image_field: str | None
    labels: dict[str, bool]
    distances: np.ndarray


def threshold(results: Results, p: ReportParameters) -> float:
    """Returns the eps that a report begins with; InputError where the scores do not serve it."""
    configuration = results.configuration
    end = configuration.scores_end
    eps = p.eps if p.eps is not None else configuration.eps
    if eps is None:
        eps = _EPS if end is None else min(_EPS, end)
    if end is not None and eps > end:
        raise InputError(f"eps={eps}: the scores of this run end at eps={end}: run it with reach={eps}")
    return eps


def count_rows(results: Results, p: ReportParameters, memory: int) -> Collected:
    """Reads all scores of a run, as a report begins.

    Raises:
        InputError: the parameters do not fit the run.
        DamagedFile: a file cannot be read.
    """
    return collect(results, threshold(results, p), p.group_field or results.configuration.group_field, memory)


def gather(results: Results, p: ReportParameters, collected: Collected, labels: dict[str, bool]) -> Content:
    """Reads what a report shows of a run besides.

    Raises:
        InputError: the parameters do not fit the run.
        DamagedFile: a file cannot be read.
    """
    configuration = results.configuration
    group_field, image_field = p.group_field or configuration.group_field, p.image_field or configuration.image_field
    if image_field not in (None, *configuration.metadata_fields):
        raise InputError(f"image_field={image_field}: not one of the run's metadata_fields")
    groups = find_groups(results, collected)
    pairs = _pairs(collected)
    fields = sorted(configuration.metadata_fields, key=lambda name: name != image_field)[:_MOST_FIELDS]
    wanted = [hash_ for pair in pairs for hash_ in (pair.row, pair.other)]
    if groups:
        wanted += [hash_ for group in groups.largest for hash_ in (group.root, *(m[0] for m in group.members))]
        wanted += [hash_ for worst in groups.chains.worst for hash_ in worst[:2]]
    others, sources = _of_other_files(collected)
    try:
        known = find_in_corpus(results, others, sources, fields, LONGEST_TEXT)
    except DamagedFile as error:  # it is not the run's own
        _LOG.warning("%s; rows of earlier batches are shown without their fields (semdedup-corpus verify)", error)
        known = {}
    rows = find_rows(results, wanted, fields, LONGEST_TEXT) | {
        hash_: dataclasses.replace(row, values=known[hash_].values) if hash_ in known else row
        for hash_, row in others.items()
    }
    try:
        distances = sampled_distances(results)
    except DamagedFile:  # the segments were deleted, which nothing else needs
        distances = np.empty(0)
    return Content(results, collected, groups, pairs, rows, fields, group_field, image_field, labels, distances)


def _pairs(collected: Collected) -> list[Pair]:
    """Returns the pairs of all samples, each once."""
    found: dict[tuple[int, int], Pair] = {}
    for sample, is_drawn in ((collected.bands, True), (collected.near, False), (collected.steps, False)):
        for ids, scores, bands in _columns(sample):
            places = collected.scale.places(scores)
            for row, other, score, place, band in zip(*ids, scores.tolist(), places.tolist(), bands, strict=True):
                found.setdefault((row, other), Pair(row, other, score, place, band if is_drawn else -1))
    return list(found.values())


def _of_other_files(collected: Collected) -> tuple[dict[int, Row], set[str]]:
    """Returns the rows of other files that pairs are with, of which the id and the file are known, and these files."""
    found, sources = dict[int, Row](), set[str]()
    for sample in (collected.bands, collected.near, collected.steps):
        if sample.rows is not None and MAX_SOURCE in sample.rows.column_names:
            columns = hash_matches(sample.rows).tolist(), *map(sample.rows.column, ("max_id", MAX_SOURCE))
            names = zip(columns[0], texts(columns[1], LONGEST_TEXT), columns[2].to_pylist(), strict=True)
            others = [(hash_, id_, source) for hash_, id_, source in names if source not in (None, INPUT)]
            found |= {hash_: Row(f"{id_} ({source[:LONGEST_TEXT]})", -1, ()) for hash_, id_, source in others}
            sources |= {source for _, _, source in others}
    return found, sources


def _columns(sample: Sample) -> Iterable[tuple[tuple[list[int], list[int]], np.ndarray, list[int]]]:
    if sample.rows is None:
        return
    ids, others = hash_ids(sample.rows.column("id"), ID_HASH).tolist(), hash_matches(sample.rows).tolist()
    scores = sample.rows.column("cosine_sim_score").to_numpy().astype(np.float64)
    yield (ids, others), scores, sample.strata.tolist()


def as_json(run: FinishedRun, content: Content, longest: int, every: int) -> dict[str, Any]:
    """Returns the content, and what the summary says of the run, as the page's script reads it.

    Args:
        longest: characters of a text.
        every: of how many pairs of a band, or of the others, one is shown.
    """
    results, collected, groups = content.results, content.collected, content.groups
    scale = collected.scale
    places: dict[int, int] = {}
    rows: list[list[str | None]] = []

    def place(hash_: int) -> int:
        """Returns where a row stands among those that are shown; -1 where it was not found again."""
        if hash_ not in content.rows:
            return -1
        if hash_ not in places:
            places[hash_] = len(rows)
            row = content.rows[hash_]
            rows.append([_cut(text, longest) for text in (row.id, *row.values)])
        return places[hash_]

    pairs = [
        [pair.key, place(pair.row), place(pair.other), pair.score, pair.place, pair.band]
        for pair in content.pairs[::every]
        if pair.row in content.rows and pair.other in content.rows
    ]
    shown_groups = groups and {
        "count": groups.count,
        "sizes": [[size, times] for size, times in _in_powers(groups.sizes).items()],
        "largest": [
            {
                "root": place(group.root),
                "size": group.size,
                "members": [[place(row), score, steps] for row, score, steps in group.members],
            }
            for group in groups.largest
        ],
        "chains": {
            **{name: getattr(groups.chains, name) for name in ("count", "measured", "below", "why_not")},
            "similarities": _histogram(np.array(groups.chains.similarities), 40),
            "worst": [[place(a), place(b), score, steps] for a, b, score, steps in groups.chains.worst],
        },
    }
    configuration = results.configuration
    return {
        "run": _facts(run),
        "eps": collected.eps,
        "runEps": configuration.eps,
        "reach": configuration.scores_end,
        "isScreened": configuration.precision == "screened",
        "probes": configuration.n_probes,
        "scale": {
            "values": scale.values.tolist(),
            "found": np.diff(collected.found, prepend=0).tolist(),
            "end": scale.end,
            "edges": scale.edges(BANDS).tolist(),
        },
        "scored": results.num_rows,
        "fields": content.fields,
        "fieldsLeftOut": len(configuration.metadata_fields) - len(content.fields),
        "image": content.fields.index(content.image_field) + 1 if content.image_field else 0,
        "rows": rows,
        "pairs": pairs,
        "groups": shown_groups,
        "mostRemoved": None if groups else collected.removed.most,
        "removed": collected.removed.count,
        "sources": _sources(content),
        "clusters": _clusters(collected),
        "distances": _histogram(content.distances, 40),
        "labels": content.labels,
    }


def _facts(run: FinishedRun) -> dict[str, Any]:
    shown = ("rows_read", "rows_rejected", "rejected", "n_clusters", "largest_cluster", "dimension", "runner")
    more = ("total_time", "recall", "references", "versions", "repeated_ids")
    facts = {name: getattr(run, name) for name in (*shown, *more)}
    stages = {name: stage.get("seconds") for name, stage in run.stages.items() if isinstance(stage, Mapping)}
    return {**facts, "stages": stages, "command": command(run.configuration), "results": _results_key(run)}


def _results_key(run: FinishedRun) -> str:
    return run.paths.get(layout.PAIRWISE, "").rpartition("/")[2]


def command(configuration: Mapping[str, Any]) -> str:
    """Returns the command of a run: the parameters that are not as they are by default."""
    given = ["semdedup"]
    for parameter in declared(Parameters):
        value = configuration.get(parameter.name)
        default = parameter.default
        if dataclasses.is_dataclass(default) and isinstance(value, Mapping):
            settings = dataclasses.asdict(default)  # type: ignore[arg-type]
            if value.get("name") != settings["name"]:
                given.append(f"{parameter.name}={value.get('name')}")
            others = {k: v for k, v in value.items() if k != "name" and v not in (None, settings.get(k))}
            given += [shlex.quote(f"{parameter.name}.{name}={_typed(inner)}") for name, inner in others.items()]
        elif parameter.name in configuration and value != default and value not in (None, {}):
            only = value[0] if parameter.name == "input_path" and isinstance(value, list) and len(value) == 1 else value
            given.append(shlex.quote(f"{parameter.name}={_typed(only)}"))
    return printable(_cut(" ".join(given), _LONGEST_COMMAND) or "")


def _typed(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _sources(content: Content) -> dict[str, Any]:
    """Returns the sources that lose most at the run's eps, by their rows and by their share, and the largest ones."""
    collected = content.collected
    at = int(np.searchsorted(collected.scale.source_places, collected.scale.place(collected.eps), side="right")) - 1
    known = {name: counts.tolist() for name, counts in collected.sources.items()}

    def lost(name: str) -> int:
        return int(known[name][at + 1])

    orders = [lost, lambda name: lost(name) / known[name][0], lambda name: known[name][0]]
    chosen: dict[str, None] = {}
    for order in orders:
        chosen |= dict.fromkeys(sorted(known, key=order, reverse=True)[:_SHOWN_SOURCES])
    return {
        "field": content.group_field,
        "places": collected.scale.source_places.tolist(),
        "count": len(known),
        "isCut": collected.left_out,
        "most": MOST_SOURCES,
        "rows": [[name, *known[name]] for name in chosen],
    }


def _clusters(collected: Collected) -> dict[str, Any]:
    sizes, removed = collected.clusters.T
    order = np.argsort(-sizes, kind="stable")[:_SHOWN_CLUSTERS]
    counted = dict(zip(*(values.tolist() for values in np.unique(sizes, return_counts=True)), strict=True))
    return {
        "largest": [[c, int(sizes[c]), int(removed[c])] for c in order.tolist() if sizes[c]],
        "sizes": [[size, times] for size, times in _in_powers(counted).items()],
        "empty": int((sizes == 0).sum()),
    }


def _in_powers(counts: Mapping[int, int]) -> dict[int, int]:
    """Returns counts of sizes by the power of two that each size reaches."""
    found: dict[int, int] = {}
    for size, times in sorted(counts.items()):
        if size:
            power = 1 << (size.bit_length() - 1)
            found[power] = found.get(power, 0) + times
    return found


def _histogram(values: np.ndarray, number: int) -> dict[str, Any] | None:
    if not len(values):
        return None
    counts, edges = np.histogram(values, number)
    return {"counts": counts.tolist(), "low": float(edges[0]), "high": float(edges[-1]), "number": len(values)}


def _cut(text: str | None, longest: int) -> str | None:
    return text if text is None or len(text) <= longest else f"{text[:longest]}…"
