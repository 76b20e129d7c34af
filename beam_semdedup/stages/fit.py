"""The fit of the centroids on a sample of the input."""

from __future__ import annotations

import functools

import numpy as np

from beam_semdedup.errors import RunError, naming_unit
from beam_semdedup.fit import model
from beam_semdedup.fit.model import FittedKMeans
from beam_semdedup.fit.registry import make_engine
from beam_semdedup.inputs.listing import list_files
from beam_semdedup.inputs.sample import VectorColumn, sample
from beam_semdedup.plan.job import Job, init_file
from beam_semdedup.plan.stored import KMeansPlan
from beam_semdedup.storage.layout import PLAN
from beam_semdedup.text import hidden_in


def fit_centroids(job: Job) -> FittedKMeans:
    """Fits the centroids of the run, or finds them fitted."""
    p, rows = job.parameters, functools.partial(read_sample, job)
    with naming_unit("the fit"):
        if job.without_clusters:
            return model.one_for_all(job.model, job.sizes.dimension)
        return model.fit_or_load(job.model, init_file(p), make_engine(p), rows, job.sizes.dimension, p)


def read_sample(job: Job, part: int = 0, parts: int = 1) -> np.ndarray:
    """Reads the rows to fit on, or one of several shares of them; see `inputs.sample`."""
    plan = KMeansPlan.read(job.kmeans.file(PLAN))
    if plan is None:
        raise RunError(f"{job.kmeans.file(PLAN)} is gone, though the run wrote it; run again")
    p = job.parameters
    urls = plan.files
    if hidden_in(urls, PLAN):
        urls = tuple(file.url for file in list_files(p))
        if not plan.is_of(urls):
            raise RuntimeError("input files changed during the run; run again")
    column = VectorColumn(
        job.input_format,
        job.input_schema.field(p.embedding_field),
        job.sizes.dimension,
        not p.assume_normalized,
        p.read_options,
        job.vectors,
    )
    units = [rows for unit in plan.assign_units(urls) for rows in unit.parts]
    return sample(units, column, job.sizes.sample_rows, p.random_state, part, parts)
