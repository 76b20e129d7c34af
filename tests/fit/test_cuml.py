"""The cuML engine against the signature of cuML 26.10, and against cuML itself where it is installed."""

from __future__ import annotations

import inspect
import sys
import types
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from beam_semdedup.config.parameters import Parameters
from beam_semdedup.config.validation import resolve
from beam_semdedup.errors import InputError
from beam_semdedup.fit import cuml as cuml_fit


class KMeans:
    """The constructor of `cuml.cluster.KMeans` as cuML 26.10 documents it, and what a fit leaves."""

    def __init__(
        self,
        *,
        n_clusters=8,
        max_iter=300,
        tol=1e-4,
        verbose=False,
        random_state=None,
        init="scalable-k-means++",
        n_init="auto",
        oversampling_factor=2.0,
        max_samples_per_batch=32768,
        device_buffer_samples=0,
        init_size=0,
        output_type=None,
    ):
        self.n_clusters, self.device_buffer_samples = n_clusters, device_buffer_samples

    def fit(self, X, y=None, sample_weight=None):
        self.cluster_centers_ = X[: self.n_clusters]
        self.inertia_, self.n_iter_ = 1.5, 3
        return self


def parameters(**values: Any) -> Parameters:
    return resolve({"input_path": "/in", "output_path": "/out", "kmeans": "cuml", "n_clusters": 4, **values})


@pytest.fixture
def cuml(device, monkeypatch):
    cluster = types.ModuleType("cuml.cluster")
    cluster.KMeans = KMeans
    monkeypatch.setitem(sys.modules, "cuml", types.ModuleType("cuml"))
    monkeypatch.setitem(sys.modules, "cuml.cluster", cluster)
    monkeypatch.setattr(cuml_fit, "find_spec", lambda name: object())
    return device


ROWS = np.eye(9, 5, dtype=np.float32)


def test_a_fit_is_given_to_cuml_and_taken_from_it(cuml):
    found = cuml_fit.CumlEngine().fit(lambda: ROWS, None, parameters())
    np.testing.assert_array_equal(found.centroids, ROWS[:4])
    assert (found.inertia, found.iterations, found.rows) == (1.5, 3, 9)
    assert cuml.allocators == [cuml.get_default_memory_pool().malloc]  # in place of cuML's


def test_parameters_of_the_same_name_are_handed_on():
    given = cuml_fit.arguments(ROWS, None, parameters(tol=0.5, n_init=3, oversampling_factor=4, random_state=7), True)
    assert set(given) <= set(inspect.signature(KMeans).parameters)
    assert (given["tol"], given["n_init"], given["oversampling_factor"], given["random_state"]) == (0.5, 3, 4, 7)
    assert (given["init"], given["device_buffer_samples"], given["output_type"]) == ("k-means||", 0, "numpy")


def test_a_tol_that_cuml_refuses_is_as_small_as_it_takes():
    given = cuml_fit.arguments(ROWS, None, parameters(tol=0), True)
    assert 0 < np.float32(given["tol"]) < 1e-20


def test_initial_centroids_are_where_it_starts():
    given = cuml_fit.arguments(ROWS, ROWS[:4], parameters(n_init=3), True)
    np.testing.assert_array_equal(given["init"], ROWS[:4])
    assert given["n_init"] == 1


def test_rows_that_exceed_the_memory_stay_on_the_host(cuml):
    p = parameters()
    assert cuml_fit.arguments(ROWS, None, p, False)["device_buffer_samples"] == 9
    p.kmeans.device_buffer_samples = 5
    assert cuml_fit.arguments(ROWS, None, p, True)["device_buffer_samples"] == 5


def test_fewer_rows_than_clusters_are_refused(cuml):
    with pytest.raises(InputError, match="n_clusters=10 is more than the 9 usable rows"):
        cuml_fit.CumlEngine().fit(lambda: ROWS, None, parameters(n_clusters=10))


@pytest.mark.skipif(find_spec("cuml") is not None, reason="cuML is installed")
def test_without_cuml_the_message_says_what_to_do():
    with pytest.raises(InputError, match=r"kmeans=cuml: cuML is not installed: install beam-semdedup\[gpu\]"):
        cuml_fit.CumlEngine().fit(lambda: ROWS, None, parameters())


@pytest.mark.slow
def test_the_installed_cuml_has_the_signature_that_is_kept_here():
    cluster = pytest.importorskip("cuml.cluster", reason="cuML (6.5 GB) is not installed")
    assert inspect.signature(cluster.KMeans) == inspect.signature(KMeans)
