"""The job of `semdedup-plan`: parameters in, forecasts out; nothing is run, but rates are measured where asked."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from beam_semdedup.compute.threads import cores
from beam_semdedup.config.parameters import ForecastParameters, Parameters
from beam_semdedup.config.places import naming_places
from beam_semdedup.embed.speed import load, texts_per_second
from beam_semdedup.errors import InputError
from beam_semdedup.forecast.calibration import calibrate
from beam_semdedup.forecast.model import Data, Earlier, Forecast, Machines, forecast, recommend
from beam_semdedup.forecast.rates import load_rates, save_rates
from beam_semdedup.forecast.spread import measure
from beam_semdedup.inputs import dataset
from beam_semdedup.inputs.dataset import Columns, InputFacts
from beam_semdedup.inputs.listing import filetype_of, list_files, list_ids
from beam_semdedup.inputs.registry import format_named
from beam_semdedup.plan.checks import check_dimension
from beam_semdedup.plan.corpus import Corpus
from beam_semdedup.plan.probes import Spread, choose_clusters, of_nearest, of_texts
from beam_semdedup.plan.rates import REFERENCE, Rates
from beam_semdedup.plan.sizes import default_clusters
from beam_semdedup.runners.registry import make_runner
from beam_semdedup.runners.resources import memory_per_worker
from beam_semdedup.storage.folder import Folder

_LOG = logging.getLogger(__name__)
SIZES = (10**6, 10**7, 10**8, 10**9, 10**10)
"""The numbers of rows in the table."""
_MORE_CLUSTERS = 4  # than the usual number may be recommended


@dataclass(frozen=True)
class ForecastReport:
    """What was asked for, what is recommended for it, and what is recommended for other sizes on the same machines.

    `other` is the same run with n_probes=exact where that is 1, and with 1 where it is not; None where no eps is given.
    `probes` says where what is known of visits is from; null where nothing visits. `texts_per_second` are those that a
    worker embeds, as measured on this machine; null where the input has embeddings.
    """

    n_probes: int | Literal["exact"]
    machines: Machines
    rates: Rates
    source: str
    asked: Forecast
    recommended: Forecast
    other: Forecast | None
    probes: str
    table: tuple[Forecast, ...]
    texts_per_second: float | None


def report(p: ForecastParameters) -> ForecastReport:
    """Makes the forecasts that the parameters ask for.

    Raises:
        InputError: the input cannot be read, a column is missing, more clusters than rows; what `resolve` raises too.
    """
    encoder = load(p) if p.model else None
    data = input_data(p, encoder.dimension if encoder else None)
    earlier = data.earlier
    if p.n_clusters and p.n_clusters > data.rows + earlier.corpus:
        raise InputError(f"n_clusters={p.n_clusters} is more than the {data.rows} rows; give fewer or null")
    if earlier.corpus:
        p = dataclasses.replace(p, fit_iterations=0, n_clusters=earlier.n_clusters or p.n_clusters)
    machines = Machines(
        workers=p.workers,
        cores=p.cores or max(1, cores() // p.workers),
        memory=memory_per_worker(make_runner(p.run(None)), p.workers, p.memory_budget),
        gpus=p.gpus,
        fit_workers=p.fit_workers,
        storage_bandwidth=p.storage_bandwidth,
    )
    rates, source = _rates(p, data.dimension, machines.cores)
    speed = texts_per_second(p, encoder, data.input) if encoder and data.input else None
    if without_clusters(p, data):
        asked = forecast(dataclasses.replace(p, fit_iterations=0), data, 1, machines, rates)
        return ForecastReport(p.n_probes, machines, rates, source, asked, asked, None, "", (), speed)
    spread, probes = _spread(p, data)
    asked_spread, other_spread = (None, spread) if p.n_probes == 1 else (spread, None)
    recommended = recommend(p, data, machines, rates, asked_spread)
    asked = forecast(p, data, p.n_clusters, machines, rates, asked_spread) if p.n_clusters else recommended
    return ForecastReport(
        p.n_probes,
        machines,
        rates,
        source,
        asked,
        recommended,
        forecast(p, data, asked.sizes.n_clusters, machines, rates, other_spread) if spread else None,
        probes,
        tuple(recommend(p, data.of_size(rows), machines, rates, asked_spread) for rows in SIZES),
        speed,
    )


def without_clusters(p: ForecastParameters, data: Data) -> bool:
    """Says whether references are so few that each row is compared with all of them, and nothing is fitted."""
    if p.within or p.corpus_path or p.corpus_rows or not data.earlier.references:
        return False
    reach = p.matching_reach if p.n_probes != 1 else 0.0
    clusters = p.n_clusters or choose_clusters(p, data.rows, data.dimension, p.n_probes, reach)
    return data.earlier.references <= clusters


def _spread(p: ForecastParameters, data: Data) -> tuple[Spread | None, str]:
    """Returns what rows visit with n_probes, with `exact` where that is 1, and where it is known from."""
    if p.n_probes == 1 and p.eps is None:
        return None, ""
    if data.input is not None and p.model is None:
        most = max(p.n_clusters or 0, _MORE_CLUSTERS * default_clusters(data.rows))
        with naming_places(p, InputError):
            found = measure(p, data.input, min(most, data.rows))
        if found is not None:
            return found, "from a sample of the rows"
    texts = of_texts(p.matching_reach, data.dimension)
    exact = p.n_probes == 1 or p.n_probes == "exact"
    return texts if exact else of_nearest(texts, int(p.n_probes)), "as 63,541 real texts, assumed"


def input_data(p: ForecastParameters, dimension: int | None = None) -> Data:
    """Returns the rows to plan for: those that are given, or those of the input, whose footers are read.

    And the rows that they are compared with besides: a corpus says itself what it has, of `against` footers are read.

    Args:
        dimension: of the embeddings, where the input has texts in their place.
    """
    if p.input_path is None:
        assert p.rows is not None
        assert p.dimension is not None
        data = Data(p.rows, p.dimension, p.carried_bytes, 4 * p.dimension + p.carried_bytes)
    else:
        carried = [name for name in p.metadata_fields if name != p.id_column]
        facts, stored = _inspect(p, p.run(None), carried, dimension, "input_path")
        data = Data(facts.num_rows, facts.dimension, facts.row_bytes(carried), stored, facts)
    return dataclasses.replace(data, earlier=_earlier(p, data.dimension))


def _inspect(
    p: ForecastParameters, run: Parameters, carried: Sequence[str], dimension: int | None, name: str
) -> tuple[InputFacts, int]:
    """Returns what is known of the files that the parameter `name` gives, and the bytes of a row in them."""
    with naming_places(p, InputError):
        files = list_files(run, name=name)
        kind = format_named(run.input_filetype or filetype_of(files))
        ids = list_ids(run, files)
        columns = Columns(run.id_column, run.embedding_field, carried, dimension, ids, run.text_field)
        facts = dataset.inspect(files, kind, columns, name)
    return facts, sum(f.size for f in files) // facts.num_rows


def _earlier(p: ForecastParameters, dimension: int) -> Earlier:
    found = Earlier(p.against_rows, p.corpus_rows, 4 * dimension)
    if p.against is not None:
        asked = dimension if p.model else None
        facts, stored = _inspect(p, p.run(None).of_references(None), [], asked, "against")
        check_dimension(dimension, "the input", facts.dimension, "against")
        found = dataclasses.replace(found, references=facts.num_rows, stored_bytes=stored)
    return _with_corpus(p, dimension, found) if p.corpus_path is not None else found


def _with_corpus(p: ForecastParameters, dimension: int, earlier: Earlier) -> Earlier:
    """Adds the rows of a corpus, if a run has begun it."""
    with naming_places(p, InputError):
        corpus = Corpus.at(Folder.at(str(p.corpus_path), p.corpus_options))
        common = corpus.common()
        manifests = [manifest for number in corpus.numbers() if (manifest := corpus.finished(number))]
    if common is None:
        return earlier
    check_dimension(dimension, "the input", common.dimension, "corpus_path")
    if p.n_probes != common.n_probes:
        raise InputError(f"corpus_path={p.corpus_path}: its rows are compared with n_probes={common.n_probes}: give it")
    if p.n_clusters not in (None, common.n_clusters):
        raise InputError(f"corpus_path={p.corpus_path} has {common.n_clusters} clusters: leave n_clusters out")
    return dataclasses.replace(
        earlier,
        corpus=sum(manifest.counts.num_rows - manifest.rejected for manifest in manifests),
        files=sum(len(manifest.files) for manifest in manifests),
        n_clusters=common.n_clusters,
        centroids_per_key=common.centroids_per_key,
    )


def _rates(p: ForecastParameters, dimension: int, number_of_cores: int) -> tuple[Rates, str]:
    """Returns the rates, and where they are from."""
    if p.calibrate:
        _LOG.info("Measuring how fast this machine is, in about half a minute")
        measured = calibrate(dimension, number_of_cores)
        if p.calibration is not None:
            save_rates(measured, p.calibration)
        return measured, "measured on this machine now"
    if p.calibration is not None:
        return load_rates(p.calibration), f"from {p.calibration}"
    return REFERENCE, "of two cores of a cloud machine (calibrate=true measures this one)"
