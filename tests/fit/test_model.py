import io
import json
import threading

import numpy as np
import pytest
from strategies import blobs, inertia, unit_rows

from beam_semdedup.config.parameters import Parameters
from beam_semdedup.errors import InputError
from beam_semdedup.fit import model
from beam_semdedup.fit.local import LocalEngine
from beam_semdedup.storage.folder import File, Folder


def parameters(**values):
    return Parameters(input_path=["/nowhere"], output_path="/nowhere", **values)


def fit_or_load(place, sample, init=None, **values):
    """The model in a directory, of rows of 8 values."""
    p = parameters(**values)
    return model.fit_or_load(Folder(str(place)), init and File(str(init), {}), LocalEngine(p), sample, 8, p)


def test_a_model_is_fitted_once_and_found_afterwards(tmp_path):
    asked = []

    def sample():
        asked.append(None)
        return blobs(0)

    first = fit_or_load(tmp_path / "m", sample, n_clusters=3)
    stored = (tmp_path / "m" / "centroids.npy").read_bytes()
    assert fit_or_load(tmp_path / "m", sample, n_clusters=3) == first
    assert len(asked) == 1
    assert (tmp_path / "m" / "centroids.npy").read_bytes() == stored
    assert first.content_hash == model.content_hash(stored)
    np.testing.assert_array_equal(first.centroids({}), np.load(io.BytesIO(stored)))
    info = json.loads((tmp_path / "m" / "model.json").read_text())
    assert (info["engine"], info["rows"]) == ("local", 600)
    assert info["inertia"] == pytest.approx(inertia(blobs(0), first.centroids({})), rel=1e-3)


def test_of_two_attempts_at_the_same_time_the_first_to_store_wins_for_both(tmp_path):
    both_found_nothing = threading.Barrier(2)
    results = {}

    def attempt(seed):
        def sample():
            both_found_nothing.wait(60)
            return blobs(seed)

        results[seed] = fit_or_load(tmp_path / "m", sample, n_clusters=3)

    threads = [threading.Thread(target=attempt, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[1] == results[2]
    stored = (tmp_path / "m" / "centroids.npy").read_bytes()
    assert results[1].content_hash == model.content_hash(stored)
    alone = [fit_or_load(tmp_path / f"alone{s}", lambda s=s: blobs(s), n_clusters=3) for s in (1, 2)]
    assert alone[0] != alone[1]
    assert stored in [(tmp_path / f"alone{s}" / "centroids.npy").read_bytes() for s in (1, 2)]


def test_an_attempt_that_comes_last_takes_what_stands_there(tmp_path):
    def overtaken():
        results.append(fit_or_load(tmp_path / "m", lambda: blobs(1), n_clusters=3))
        return blobs(2)

    results = []
    results.append(fit_or_load(tmp_path / "m", overtaken, n_clusters=3))
    assert results[0] == results[1]


def test_replaced_centroids_are_noticed(tmp_path):
    fitted = fit_or_load(tmp_path / "m", lambda: blobs(7), n_clusters=3)
    path = tmp_path / "m" / "centroids.npy"
    np.save(path, np.load(path) * 2)
    with pytest.raises(RuntimeError, match=r"m/centroids\.npy was replaced"):
        fitted.centroids({})


def test_the_centroids_are_loaded_once_a_process(tmp_path, monkeypatch):
    fitted = fit_or_load(tmp_path / "m", lambda: blobs(8), n_clusters=3)
    reads = []
    read_bytes = File.read_bytes
    monkeypatch.setattr(File, "read_bytes", lambda *a: reads.append(a) or read_bytes(*a))
    results = [fitted.centroids({}) for _ in range(3)]
    thread = threading.Thread(target=lambda: results.append(model.FittedKMeans(*vars(fitted).values()).centroids({})))
    thread.start()
    thread.join()
    assert len(reads) == 1
    assert len(results) == 4
    assert all(result is results[0] for result in results)


def test_a_sample_with_fewer_rows_than_clusters_is_refused(tmp_path):
    with pytest.raises(InputError, match="n_clusters=5 is more than the 4 usable rows"):
        fit_or_load(tmp_path / "m", lambda: unit_rows(0, 4, 8), n_clusters=5)
    assert not (tmp_path / "m").exists()


def test_given_centroids_without_iterations_need_no_sample(tmp_path):
    initial = unit_rows(0, 3, 8).astype(np.float64)
    np.save(tmp_path / "init.npy", initial)
    fitted = fit_or_load(
        tmp_path / "m", lambda: pytest.fail("sampled"), tmp_path / "init.npy", n_clusters=3, max_iter=0
    )
    np.testing.assert_array_equal(fitted.centroids({}), initial.astype(np.float32))
    assert json.loads((tmp_path / "m" / "model.json").read_text())["inertia"] is None


def test_given_centroids_are_where_a_stored_fit_starts(tmp_path):
    sample = blobs(0)
    initial = sample[:10]
    np.save(tmp_path / "init.npy", initial)
    fitted = fit_or_load(tmp_path / "m", lambda: sample, tmp_path / "init.npy", n_clusters=10)
    p = parameters(n_clusters=10)
    expected = LocalEngine(p).fit(lambda: sample, initial, p)
    np.testing.assert_array_equal(fitted.centroids({}), expected.centroids)


def declaring(shape: tuple[int, ...]) -> bytes:
    """An .npy file of 192 bytes of values whose header says that it has this shape."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"shape": shape, "fortran_order": False, "descr": "<f4"})
    return stream.getvalue() + bytes(192)


def test_damaged_centroids_are_fitted_again(tmp_path, caplog):
    first = fit_or_load(tmp_path / "m", lambda: blobs(7), n_clusters=3)
    file = tmp_path / "m" / "centroids.npy"
    content = file.read_bytes()
    for damage in (b"", content[:-4], content[:-4] + b"\0\0\0\0", declaring((3, 10**12)), model.to_npy(np.eye(3))):
        file.write_bytes(damage)
        assert fit_or_load(tmp_path / "m", lambda: blobs(7), n_clusters=3) == first
        assert f"{file} is damaged" in caplog.text
        caplog.clear()
        assert json.loads((tmp_path / "m" / "model.json").read_text())["centroids"] == first.content_hash


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 7), np.float32), "centroids of dimension 7, the embeddings have 8"),
        (np.zeros((4, 8), np.float32), "4 centroids, n_clusters=3"),
        (np.zeros(8, np.float32), r"expected finite floats of shape \(k, d\), found float32 \(8,\)"),
        (np.zeros((3, 8), np.int64), "found int64"),
        (np.full((3, 8), np.nan), "expected finite floats"),
        (np.array([[{}] * 8] * 3), "not an .npy array"),
        (np.full((3, 8), 1e200), r"values beyond float32, up to 1e\+200"),
        (declaring((10**13, 8)), "not an .npy array: 192 bytes of values, where its header says 320,000,000,000,000"),
        (declaring((3, 9)), "not an .npy array: 192 bytes of values"),
        (declaring((3, 8)).replace(b"(3, 8)", b"(3, 8("), "not an .npy array: its header is damaged"),
        (declaring((3, 8)).replace(b"(3, 8)", b"(3, '8"), "not an .npy array: its header is damaged"),
        (b"no array", "not an .npy array"),
        (b"", "not an .npy array"),
        (None, "cannot be read"),
    ],
    ids=[
        "dimension",
        "number",
        "shape",
        "integers",
        "nan",
        "objects",
        "large",
        "absurd",
        "more",
        "header",
        "header cut",
        "text",
        "empty",
        "absent",
    ],
)
def test_unusable_given_centroids_are_named(tmp_path, array, message):
    path = tmp_path / "init.npy"
    if isinstance(array, bytes):
        path.write_bytes(array)
    elif array is not None:
        np.save(path, array)
    with pytest.raises(InputError, match=message) as raised:
        model.load_init(File(str(path), {}), 3, 8)
    assert f"init={path}" in str(raised.value)


def test_given_centroids_are_checked_as_far_as_shapes_are_known(tmp_path):
    np.save(tmp_path / "init.npy", np.asfortranarray(np.ones((4, 7))))
    loaded = model.load_init(File(str(tmp_path / "init.npy"), {}), None, None)
    assert (loaded.shape, loaded.dtype, loaded.flags.c_contiguous) == ((4, 7), np.float32, True)
