"""The cuML engine against the signature of cuML 26.10, and against cuML itself where it is installed."""

from __future__ import annotations

import inspect
import sys
import types
from importlib.machinery import ModuleSpec
from typing import Any, ClassVar

import numpy as np
import pytest

from beam_semdedup.config.validation import resolve
from beam_semdedup.errors import InputError
from beam_semdedup.fit.base import Fit
from beam_semdedup.fit.cuml import CumlEngine


class KMeans:
    """The constructor of `cuml.cluster.KMeans` as cuML 26.10 documents it, and what a fit leaves."""

    given: ClassVar[dict[str, Any]]

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
        self.n_clusters = n_clusters
        KMeans.given = {name: value for name, value in locals().items() if name != "self"}

    def fit(self, X, y=None, sample_weight=None):
        self.cluster_centers_ = X[: self.n_clusters]
        self.inertia_, self.n_iter_ = 1.5, 3
        return self


ROWS = np.eye(9, 5, dtype=np.float32)


def fit(initial: np.ndarray | None = None, buffer: int | None = None, **values: Any) -> Fit:
    kmeans = {"name": "cuml", "device_buffer_samples": buffer}
    p = resolve({"input_path": "/in", "output_path": "/out", "kmeans": kmeans, "n_clusters": 4, **values})
    return CumlEngine(p).fit(lambda: ROWS, initial, p)


@pytest.fixture
def cuml(device, monkeypatch):
    cluster = types.ModuleType("cuml.cluster")
    cluster.KMeans = KMeans
    package = types.ModuleType("cuml")
    package.__spec__ = ModuleSpec("cuml", None)
    monkeypatch.setitem(sys.modules, "cuml", package)
    monkeypatch.setitem(sys.modules, "cuml.cluster", cluster)
    return device


def test_a_fit_is_given_to_cuml_and_taken_from_it(cuml):
    found = fit()
    np.testing.assert_array_equal(found.centroids, ROWS[:4])
    assert (found.inertia, found.iterations, found.rows) == (1.5, 3, 9)
    assert cuml.allocators == [cuml.get_default_memory_pool().malloc]  # in place of cuML's


def test_parameters_of_the_same_name_are_handed_on(cuml):
    fit(tol=0.5, n_init=3, oversampling_factor=4, random_state=7)
    given = KMeans.given
    assert (given["tol"], given["n_init"], given["oversampling_factor"], given["random_state"]) == (0.5, 3, 4, 7)
    assert (given["init"], given["device_buffer_samples"], given["output_type"]) == ("k-means||", 0, "numpy")


def test_a_tol_that_cuml_refuses_is_as_small_as_it_takes(cuml):
    fit(tol=0)
    assert 0 < np.float32(KMeans.given["tol"]) < 1e-20


def test_initial_centroids_are_where_it_starts(cuml):
    fit(ROWS[:4], n_init=3)
    np.testing.assert_array_equal(KMeans.given["init"], ROWS[:4])
    assert KMeans.given["n_init"] == 1


def test_rows_that_exceed_the_memory_stay_on_the_host(cuml):
    fit(buffer=5)
    assert KMeans.given["device_buffer_samples"] == 5
    cuml.limit = ROWS.nbytes
    fit()
    assert KMeans.given["device_buffer_samples"] == 9


def test_fewer_rows_than_clusters_are_refused(cuml):
    with pytest.raises(InputError, match="n_clusters=10 is more than the 9 usable rows"):
        fit(n_clusters=10)


def test_without_cuml_the_message_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuml", None)
    with pytest.raises(InputError, match=r"kmeans=cuml: cuML is not installed: install beam-semdedup\[gpu\]"):
        fit()


@pytest.mark.slow
def test_the_installed_cuml_has_the_signature_that_is_kept_here():
    cluster = pytest.importorskip("cuml.cluster", reason="cuML (6.5 GB) is not installed")
    assert inspect.signature(cluster.KMeans) == inspect.signature(KMeans)
