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
from beam_semdedup.config.groups import RayKMeansConfig
from beam_semdedup.config.validation import resolve
from beam_semdedup.errors import InputError, RunError
from beam_semdedup.fit import lloyd as fitting
from beam_semdedup.fit import model as kmeans
from beam_semdedup.plan.job import Job
from beam_semdedup.plan.planning import locate, make_plan
from beam_semdedup.stages.fit import fit_centroids, read_sample

ray = pytest.importorskip("ray")
from beam_semdedup.fit import ray as ray_fit  # noqa: E402
from beam_semdedup.runners.ray import cluster as ray_cluster  # noqa: E402
from beam_semdedup.storage.folder import Folder  # noqa: E402

DEMO = str(Path(__file__).resolve().parents[2] / "examples" / "data")


@pytest.fixture(autouse=True)
def nothing_is_left(local_ray: None) -> Iterator[None]:
    yield
    end = time.monotonic() + 30
    while processes() or ray.available_resources().get("CPU") != 2:
        assert time.monotonic() < end, f"left: {processes()} and {ray.available_resources()}"
        time.sleep(0.1)


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmeans, "_LOADED", {})


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


def parameters(actors: int, **values: Any) -> Parameters:
    return Parameters(
        input_path=["/nowhere"], output_path="/nowhere", kmeans=RayKMeansConfig(num_actors=actors), **values
    )


def blobs(seed: int) -> np.ndarray:
    return strategies.blobs(seed, 3000, 16, 20, 1 / 3)


def shares(rows: np.ndarray) -> Callable[..., np.ndarray]:
    return lambda part=0, parts=1: np.array_split(rows, parts)[part]


def fit_job(out: Path, **values: Any) -> tuple[Job, kmeans.FittedKMeans, dict[str, Any]]:
    job = make_plan(locate(resolve({"input_path": DEMO, "output_path": str(out), "n_clusters": 50, **values}))).job
    fitted = fit_centroids(job)
    return job, fitted, json.loads((Path(job.kmeans.url) / "model.json").read_text())


@pytest.mark.parametrize("init", ["given", "k-means||", "random"])
def test_one_actor_computes_what_this_process_computes(init):
    rows = blobs(0)
    start = rows[:20] if init == "given" else None
    p = parameters(1, n_clusters=20, init="x.npy" if init == "given" else init)
    remote = ray_fit.RayEngine().fit(shares(rows), start, p)
    local = fitting.LocalEngine().fit(shares(rows), start, p)
    np.testing.assert_allclose(remote.centroids, local.centroids, atol=1e-6)
    assert (remote.iterations, remote.rows) == (local.iterations, local.rows)


def test_several_actors_find_what_one_finds_from_the_same_start():
    rows = blobs(1)
    one, two = (
        ray_fit.RayEngine().fit(shares(rows), rows[:20], parameters(n, n_clusters=20, min_moved=0)) for n in (1, 2)
    )
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
    ["approach", "third step", *(pytest.param(name, marks=pytest.mark.slow) for name in ("size", "draw", "step"))],
)
def test_the_share_of_a_killed_actor_is_given_to_another(monkeypatch, operation):
    rows, run, steps = blobs(2), ray_fit._Actors.run, []
    p = parameters(2, n_clusters=20)
    undisturbed = ray_fit.RayEngine().fit(shares(rows), None, p)

    def disturbed(actors: Any, name: str, *arguments: Any) -> list[Any]:
        steps.append(name)
        if name == operation.split()[-1] and steps.count(name) == (3 if "third" in operation else 1):
            ray.get([actor.node.remote() for actor in actors._actors])
            os.kill(processes()[0].pid, signal.SIGKILL)
        return run(actors, name, *arguments)

    monkeypatch.setattr(ray_fit._Actors, "run", disturbed)
    fit = ray_fit.RayEngine().fit(shares(rows), None, p)
    np.testing.assert_allclose(fit.centroids, undisturbed.centroids, atol=1e-6)
    assert fit.iterations == undisturbed.iterations


def test_a_share_that_kills_every_actor_fails_the_fit():
    def deadly(part: int = 0, parts: int = 1) -> np.ndarray:
        if part == 1:
            os._exit(7)
        return np.eye(3, dtype=np.float32)

    with pytest.raises(RunError, match=r"the fit lost actor 2 of 2 on [\d.]+, after 3 that were replaced: .*died"):
        ray_fit.RayEngine().fit(deadly, None, parameters(2, n_clusters=2))


def test_what_goes_wrong_in_an_actor_is_raised_as_it_is():
    def refused(part: int = 0, parts: int = 1) -> np.ndarray:
        raise InputError("this file is no file")

    with pytest.raises(InputError, match=r"^this file is no file$"):
        ray_fit.RayEngine().fit(refused, None, parameters(2, n_clusters=2))


def test_more_actors_than_the_cluster_has_room_for_are_refused():
    with pytest.raises(RunError, match="3 actors with 1 CPU each"):
        ray_fit.RayEngine().fit(shares(blobs(0)), None, parameters(3, n_clusters=2, ray_timeout=2))


def test_more_actors_than_rows_are_no_harm():
    p = parameters(2, n_clusters=1)
    assert ray_fit.RayEngine().fit(shares(blobs(0)[:1]), None, p).rows == 1


# The fitted model in the object store


def load_elsewhere(fitted: kmeans.FittedKMeans) -> np.ndarray:
    """The model as a worker process of the cluster loads it, once."""

    def load() -> np.ndarray:
        first, *others = (fitted.centroids({}) for _ in range(3))
        assert all(centroids is first for centroids in others)
        return first

    return ray.get(ray.remote(max_calls=1)(load).remote())


def stored_model(directory: Path) -> tuple[kmeans.FittedKMeans, np.ndarray]:
    fitted = kmeans.fit_or_load(
        Folder(str(directory)), lambda: blobs(0), 16, Parameters(input_path=["/n"], output_path="/n", n_clusters=5)
    )
    return fitted, np.load(directory / "centroids.npy")


def wait_for(shared: kmeans.FittedKMeans) -> None:
    ray.get(ray.get_actor(shared.actor, namespace=ray_cluster.NAMESPACE).centroids.remote())


def test_processes_of_the_cluster_take_a_published_model_from_the_object_store(tmp_path):
    fitted, expected = stored_model(tmp_path / "m")
    with ray_fit.published(fitted, {}) as shared:
        assert fitted.content_hash in shared.actor
        wait_for(shared)
        (tmp_path / "m" / "centroids.npy").rename(tmp_path / "away.npy")
        np.testing.assert_array_equal(load_elsewhere(shared), expected)
        np.testing.assert_array_equal(shared.centroids({}), expected)
        assert not shared.centroids({}).flags.writeable  # it is shared


def test_two_runs_publish_the_same_model_at_the_same_time(tmp_path):
    fitted, expected = stored_model(tmp_path / "m")
    with ray_fit.published(fitted, {}) as first, ray_fit.published(fitted, {}) as second:
        assert first.actor != second.actor
        for shared in (first, second):
            wait_for(shared)
        (tmp_path / "m" / "centroids.npy").unlink()
        for shared in (first, second):
            np.testing.assert_array_equal(load_elsewhere(shared), expected)


def test_where_the_actor_is_gone_the_model_comes_from_storage(tmp_path, caplog):
    fitted, expected = stored_model(tmp_path / "m")
    with ray_fit.published(fitted, {}) as shared:
        wait_for(shared)
        [holder] = processes()
        os.kill(holder.pid, signal.SIGKILL)
        np.testing.assert_array_equal(load_elsewhere(shared), expected)
    for _ in range(3):
        np.testing.assert_array_equal(shared.centroids({}), expected)
    [line] = [r.getMessage() for r in caplog.records if "read from storage" in r.getMessage()]
    assert line.startswith("The centroids are read from storage, as Ray no longer has them: ")


def test_an_unpublished_model_comes_from_storage(tmp_path):
    fitted, expected = stored_model(tmp_path / "m")
    np.testing.assert_array_equal(load_elsewhere(fitted), expected)


def test_the_module_is_imported_only_where_ray_fits():
    import subprocess
    import sys

    code = "import beam_semdedup.fit.model, beam_semdedup.fit.lloyd, sys; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
