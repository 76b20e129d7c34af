"""The fit in real actors of a Ray on this machine."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import strategies

from beam_semdedup import Parameters
from beam_semdedup.config.validation import resolve
from beam_semdedup.errors import InputError, RunError
from beam_semdedup.fit.base import Fit
from beam_semdedup.fit.lloyd import Run, fit_shards
from beam_semdedup.fit.local import LocalEngine
from beam_semdedup.fit.model import FittedKMeans, fit_or_load
from beam_semdedup.fit.published import find_published
from beam_semdedup.fit.ray.engine import RayEngine
from beam_semdedup.fit.ray.settings import RayKMeansConfig
from beam_semdedup.plan.job import Job
from beam_semdedup.plan.locate import locate
from beam_semdedup.plan.planning import make_plan
from beam_semdedup.stages.fit import fit_centroids, read_sample
from beam_semdedup.storage.folder import Folder

ray = pytest.importorskip("ray")
from beam_semdedup.fit.ray.actors import shards_in_actors  # noqa: E402

DEMO = str(Path(__file__).resolve().parents[2] / "examples" / "data")


@pytest.fixture(autouse=True)
def nothing_is_left(local_ray: None) -> Iterator[None]:
    yield
    end = time.monotonic() + 30
    while processes() or ray.available_resources().get("CPU") != 2:
        assert time.monotonic() < end, f"left: {processes()} and {ray.available_resources()}"
        time.sleep(0.1)


def processes() -> list[psutil.Process]:
    """The actors of this module that live."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith(("ray::_ShardActor", "ray::_Holder")):
                found.append(process)
        except psutil.Error:
            continue
    return found


def actors(number: int) -> list[psutil.Process]:
    """So many actors of this module, as soon as they live."""
    end = time.monotonic() + 60
    while len(processes()) < number:
        assert time.monotonic() < end, f"only {processes()} live"
        time.sleep(0.05)
    return processes()


def parameters(actors: int, **values: Any) -> Parameters:
    return Parameters(
        input_path=["/nowhere"], output_path="/nowhere", kmeans=RayKMeansConfig(num_actors=actors), **values
    )


def blobs(seed: int) -> np.ndarray:
    return strategies.blobs(seed, 3000, 16, 20, 1 / 3)


def shares(rows: np.ndarray) -> Callable[..., np.ndarray]:
    return lambda part=0, parts=1: np.array_split(rows, parts)[part]


def fit(sample: Callable[..., np.ndarray], p: Parameters, initial: np.ndarray | None = None) -> Fit:
    return RayEngine(p).fit(sample, initial, p)


def fit_job(out: Path, **values: Any) -> tuple[Job, FittedKMeans, dict[str, Any]]:
    job = make_plan(locate(resolve({"input_path": DEMO, "output_path": str(out), "n_clusters": 50, **values}))).job
    fitted = fit_centroids(job)
    return job, fitted, json.loads((Path(job.kmeans.url) / "model.json").read_text())


@pytest.mark.parametrize("init", ["given", "k-means||", "random"])
def test_one_actor_computes_what_this_process_computes(init):
    rows = blobs(0)
    start = rows[:20] if init == "given" else None
    p = parameters(1, n_clusters=20, init="x.npy" if init == "given" else init)
    remote = fit(shares(rows), p, start)
    local = LocalEngine(p).fit(shares(rows), start, p)
    np.testing.assert_allclose(remote.centroids, local.centroids, atol=1e-6)
    assert (remote.iterations, remote.rows) == (local.iterations, local.rows)


def test_several_actors_find_what_one_finds_from_the_same_start():
    rows = blobs(1)
    one, two = (fit(shares(rows), parameters(n, n_clusters=20, min_moved=0), rows[:20]) for n in (1, 2))
    np.testing.assert_allclose(two.centroids, one.centroids, atol=1e-5)
    assert two.inertia == pytest.approx(one.inertia, rel=1e-6)


def test_actors_read_their_shares_and_fit_as_well_as_this_process(tmp_path):
    job, local, model = fit_job(tmp_path / "local")
    whole = read_sample(job)
    for parts in (1, 2, 3, 7):
        read = [read_sample(job, part, parts) for part in range(parts)]
        np.testing.assert_array_equal(np.concatenate(read), whole)
        assert max(map(len, read)) - min(map(len, read)) <= 1
    _, remote, other = fit_job(tmp_path / "ray", kmeans={"name": "ray", "num_actors": 2})
    assert remote.content_hash != local.content_hash
    assert (other["engine"], other["rows"]) == ("ray", model["rows"])
    assert other["inertia"] == pytest.approx(model["inertia"], rel=0.03)  # from other initial centroids


@pytest.mark.parametrize(
    "operation",
    ["third step", *(pytest.param(name, marks=pytest.mark.slow) for name in ("approach", "size", "draw", "step"))],
)
def test_the_share_of_a_killed_actor_is_given_to_another(operation):
    rows, p = blobs(2), parameters(2, n_clusters=20)
    undisturbed = fit(shares(rows), p)

    def disturbed(run: Run) -> Run:
        steps = []

        def call(name: str, *arguments: Any) -> list[Any]:
            steps.append(name)
            if name == operation.split()[-1] and steps.count(name) == (3 if "third" in operation else 1):
                os.kill(actors(2)[0].pid, signal.SIGKILL)
            return run(name, *arguments)

        return call

    with shards_in_actors(shares(rows), p.max_samples_per_batch, p.kmeans, p.ray_timeout) as run:
        found = fit_shards(disturbed(run), None, p)
    np.testing.assert_allclose(found.centroids, undisturbed.centroids, atol=1e-6)
    assert found.iterations == undisturbed.iterations


@pytest.mark.slow
def test_a_share_that_kills_every_actor_fails_the_fit():
    def deadly(part: int = 0, parts: int = 1) -> np.ndarray:
        if part == 1:
            os._exit(7)
        return np.eye(3, dtype=np.float32)

    with pytest.raises(RunError, match=r"the fit lost actor 2 of 2 on [\d.]+, after 3 that were replaced: .*died"):
        fit(deadly, parameters(2, n_clusters=2))


def test_what_goes_wrong_in_an_actor_is_raised_as_it_is():
    def refused(part: int = 0, parts: int = 1) -> np.ndarray:
        raise InputError("this file is no file")

    with pytest.raises(InputError, match=r"^this file is no file$"):
        fit(refused, parameters(2, n_clusters=2))


def test_more_actors_than_the_cluster_has_room_for_are_refused():
    with pytest.raises(RunError, match="3 actors with 1 CPU each"):
        fit(shares(blobs(0)), parameters(3, n_clusters=2, ray_timeout=2))


@pytest.mark.slow
def test_more_actors_than_rows_are_no_harm():
    assert fit(shares(blobs(0)[:1]), parameters(2, n_clusters=1)).rows == 1


# The fitted model in the object store


def load_elsewhere(fitted: FittedKMeans) -> np.ndarray:
    """The model as a worker process of the cluster loads it, once."""

    def load() -> np.ndarray:
        first, *others = (fitted.centroids({}) for _ in range(3))
        assert all(centroids is first for centroids in others)
        return first

    return ray.get(ray.remote(max_calls=1)(load).remote())


def stored_model(directory: Path, seed: int) -> tuple[FittedKMeans, np.ndarray]:
    """A model, of its own in each test, as a process keeps the one that it loaded last."""
    p = Parameters(input_path=["/n"], output_path="/n", n_clusters=5)
    fitted = fit_or_load(Folder(str(directory)), None, LocalEngine(p), lambda: blobs(seed), 16, p)
    return fitted, np.load(directory / "centroids.npy")


def wait_for(shared: FittedKMeans) -> None:
    assert find_published(shared.actor) is not None


def test_processes_of_the_cluster_take_a_published_model_from_the_object_store(tmp_path):
    fitted, expected = stored_model(tmp_path / "m", 1)
    with fitted.published({}) as shared:
        assert fitted.content_hash in shared.actor
        wait_for(shared)
        (tmp_path / "m" / "centroids.npy").rename(tmp_path / "away.npy")
        np.testing.assert_array_equal(load_elsewhere(shared), expected)
        np.testing.assert_array_equal(shared.centroids({}), expected)
        assert not shared.centroids({}).flags.writeable  # it is shared


@pytest.mark.slow
def test_two_runs_publish_the_same_model_at_the_same_time(tmp_path):
    fitted, expected = stored_model(tmp_path / "m", 2)
    with fitted.published({}) as first, fitted.published({}) as second:
        assert first.actor != second.actor
        for shared in (first, second):
            wait_for(shared)
        (tmp_path / "m" / "centroids.npy").unlink()
        for shared in (first, second):
            np.testing.assert_array_equal(load_elsewhere(shared), expected)


@pytest.mark.slow
def test_where_the_actor_is_gone_the_model_comes_from_storage(tmp_path, caplog):
    fitted, expected = stored_model(tmp_path / "m", 3)
    with fitted.published({}) as shared:
        wait_for(shared)
        [holder] = processes()
        os.kill(holder.pid, signal.SIGKILL)
        np.testing.assert_array_equal(load_elsewhere(shared), expected)
    for _ in range(3):
        np.testing.assert_array_equal(shared.centroids({}), expected)
    [line] = [r.getMessage() for r in caplog.records if "read from storage" in r.getMessage()]
    assert line.startswith("The centroids are read from storage, as Ray no longer has them: ")


def test_an_unpublished_model_comes_from_storage(tmp_path):
    fitted, expected = stored_model(tmp_path / "m", 4)
    np.testing.assert_array_equal(load_elsewhere(fitted), expected)
