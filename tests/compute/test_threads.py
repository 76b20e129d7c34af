import threading

import pytest
import threadpoolctl

from beam_semdedup.compute import threads


def test_cores_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda pid: {3, 5, 7}, raising=False)
    assert threads.cores() == 3


def test_as_many_threads_compute_as_the_environment_says_or_else_one_a_core(monkeypatch):
    monkeypatch.setattr(threads, "cores", lambda: 3)
    for said, expected in ((None, 3), ("2", 2), ("0", 1), ("4,3", 3)):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if said is not None:
            monkeypatch.setenv("OMP_NUM_THREADS", said)
        assert threads.threads() == expected


@pytest.mark.parametrize("number", ["1", "3"])
def test_results_come_in_order_and_threads_do_not_multiply(monkeypatch, number):
    def outer(i):
        return i, threading.current_thread(), threads.in_threads(lambda j: (j, threading.current_thread()), range(5))

    monkeypatch.setenv("OMP_NUM_THREADS", number)
    results = threads.in_threads(outer, iter(range(50)))
    assert [i for i, _, _ in results] == list(range(50))
    assert len({thread for _, thread, _ in results}) <= int(number)
    assert all([j for j, _ in inner] == list(range(5)) for _, _, inner in results)
    assert all(thread is own for _, own, inner in results for _, thread in inner)


def test_a_single_item_is_computed_in_the_thread_that_asks_and_alone(monkeypatch):
    def outer(i):
        return i, threads.in_threads(lambda j: threading.current_thread(), range(5)), threading.current_thread()

    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    here = threading.current_thread()
    assert threads.in_threads(outer, iter([7])) == [(7, [here] * 5, here)]
    assert threads.in_threads(outer, []) == []
    assert here not in threads.in_threads(lambda i: threading.current_thread(), range(5))  # as before


def test_few_items_are_taken_ahead_of_the_computation(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    taken, done = 0, 0

    def items():
        nonlocal taken
        for i in range(30):
            taken += 1
            assert taken - done <= 6
            yield i

    def compute(i):
        nonlocal done
        done += 1

    threads.in_threads(compute, items())
    assert (taken, done) == (30, 30)


@pytest.mark.parametrize("number", ["1", "2"])
def test_the_first_failure_is_raised_and_the_rest_is_not_computed(monkeypatch, number):
    def compute(i):
        computed.append(i)
        if i == 3:
            raise ValueError("three")

    monkeypatch.setenv("OMP_NUM_THREADS", number)
    computed = []
    with pytest.raises(ValueError, match="three"):
        threads.in_threads(compute, range(1000))
    assert len(computed) < 20


def test_blas_has_one_thread_within_and_afterwards_what_it_had(monkeypatch):
    def blas_threads(_):
        return {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"}

    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with threadpoolctl.threadpool_limits(2):
        assert threads.in_threads(lambda i: threads.in_threads(blas_threads, [i])[0], range(4)) == [{1}] * 4
        assert blas_threads(0) == {2}
