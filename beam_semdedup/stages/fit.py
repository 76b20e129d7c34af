"""The fit of the centroids on a sample of the input."""

from __future__ import annotations

import functools

import numpy as np

from beam_semdedup.fit import model as kmeans
from beam_semdedup.fit.model import FittedKMeans
from beam_semdedup.inputs import dataset as inputs
from beam_semdedup.plan.job import Job
from beam_semdedup.plan.planning import load_units
from beam_semdedup.storage import files as storage
from beam_semdedup.storage.layout import PLAN


def fit_centroids(job: Job) -> FittedKMeans:
    """Fits the centroids of the run, or finds them fitted."""
    sample = functools.partial(read_sample, job)
    return kmeans.fit_or_load(job.kmeans_dir, sample, job.dimension, job.parameters)


def read_sample(job: Job, part: int = 0, parts: int = 1) -> np.ndarray:
    """The rows to fit on, or one of several shares of them; see `inputs.sample`."""
    stored = storage.read_json(storage.join(job.kmeans_dir, PLAN), job.cache_options)
    p = job.parameters
    column = inputs.VectorColumn(
        p.input_filetype,
        job.input_schema.field(p.embedding_field),
        job.dimension,
        not p.assume_normalized,
        job.read_options,
    )
    return inputs.sample(load_units(stored), column, job.sample_rows, p.random_state, part, parts)
