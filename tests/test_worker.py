"""The worker thread: order, results, errors, and no waiting for itself."""

from __future__ import annotations

import threading

import pytest

from lssgen.worker import Worker, in_worker, worker


def test_calls_run_in_order_in_one_thread():
    futures = [worker().submit(lambda k=k: (k, threading.current_thread().name)) for k in range(20)]
    assert [future.result() for future in futures] == [(k, "lssgen-worker") for k in range(20)]


def test_results_and_errors_come_back():
    assert in_worker(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        in_worker(lambda: 1 / 0)
    assert in_worker(lambda: 4) == 4


def test_a_call_from_inside_does_not_wait_for_itself():
    assert in_worker(lambda: in_worker(lambda: 5)) == 5


def test_a_forked_process_starts_its_own(monkeypatch):
    first = worker()
    assert worker() is first
    monkeypatch.setattr("lssgen.worker._worker", Worker())
    monkeypatch.setattr(worker(), "pid", -1)  # as a child sees the worker of its parent
    assert worker().pid != -1
    assert in_worker(lambda: 6) == 6
