"""Threads share work without changing results, and BLAS gets its own threads back."""

import threading

import pytest

from tinyddpm.runs import threads


def test_results_come_in_order_from_several_threads():
    seen = set()
    barrier = threading.Barrier(2, timeout=20)

    def work(i):
        seen.add(threading.get_ident())
        if threads_possible():
            barrier.wait()  # passes only if two items are under way at once
        return i * i

    with threads.workers(2) as share:
        assert share(work, range(6)) == [0, 1, 4, 9, 16, 25]
    assert len(seen) == (2 if threads_possible() else 1)


def threads_possible():
    return threads.cores() > 1 and threads.blas_can_be_limited()


def test_blas_keeps_to_one_thread_inside_and_is_restored():
    control = threads.openblas()
    if control is None:
        pytest.skip("NumPy's BLAS here is not the wheel's OpenBLAS")
    get, set_ = control
    before = get()
    try:
        set_(2)
        with threads.workers(2):
            assert get() == (1 if threads.cores() > 1 else 2)
        assert get() == 2
        with pytest.raises(ZeroDivisionError), threads.workers(2) as share:
            share(lambda i: 1 / i, [0])
        assert get() == 2
    finally:
        set_(before)


def test_without_control_over_blas_the_items_run_one_after_another(monkeypatch):
    monkeypatch.setattr(threads, "openblas", lambda: None)
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    with threads.workers(2) as share:
        assert share(lambda i: threading.get_ident(), range(2)) == [threading.get_ident()] * 2


def test_one_part_needs_no_thread():
    with threads.workers(1) as share:
        assert share(lambda i: threading.get_ident(), range(2)) == [threading.get_ident()] * 2


def test_keeping_pages_is_harmless_anywhere(monkeypatch):
    for platform in (threads.sys.platform, "darwin"):
        monkeypatch.setattr(threads.sys, "platform", platform)
        threads.keep_pages.cache_clear()
        threads.keep_pages()
    threads.keep_pages.cache_clear()
