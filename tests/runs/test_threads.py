"""Threads share work without changing results, and BLAS gets its own threads back."""

import json
import platform
import subprocess
import sys
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
    for system in (threads.sys.platform, "darwin"):
        monkeypatch.setattr(threads.sys, "platform", system)
        threads.keep_pages.cache_clear()
        threads.keep_pages()
    threads.keep_pages.cache_clear()


ROUNDS = """if True:
    import json, resource
    from concurrent.futures import ThreadPoolExecutor
    import numpy as np
    from tinyddpm.runs import threads
    threads.keep_pages()

    def work(_):
        return sum(kept[0] for kept in [np.ones(1 << 21, np.float32) for _ in range(15)])

    def faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        list(pool.map(work, range(2)))
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    with ThreadPoolExecutor(2) as pool:
        print(json.dumps([faults() for _ in range(8)]))"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be asked")
def test_threads_keep_their_pages():
    """Two threads allocate and free 126 MB each: new pages come once, not in every round."""
    done = subprocess.run([sys.executable, "-c", ROUNDS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, *later = json.loads(done.stdout)
    assert first > 10_000 and sum(later) < first / 4, (first, later)


def test_blas_is_restored_however_many_threads_go_in_and_out():
    """Of six threads each leaves when the next one is inside: the last out was not first in."""
    control = threads.openblas()
    if control is None or threads.cores() == 1:
        pytest.skip("nothing limits BLAS here")
    get, set_ = control
    before, counts, inside = get(), [], [threading.Event() for _ in range(7)]

    def visit(i):
        inside[i].wait(20)
        with threads.workers(2):
            inside[i + 1].set()
            if i < 5:
                inside[i + 2].wait(20)
            counts.append(get())

    try:
        set_(2)
        visitors = [threading.Thread(target=visit, args=(i,)) for i in range(6)]
        for each in visitors:
            each.start()
        inside[0].set()
        for each in visitors:
            each.join(20)
        assert counts == [1] * 6 and get() == 2
    finally:
        set_(before)


def test_items_are_taken_as_they_are_needed_and_an_error_stops_them():
    """A million chunks are not queued at once: one that fails ends it near the front."""
    if not threads_possible():
        pytest.skip("one thread takes its items one by one")
    taken = []

    def items():
        for i in range(10**6):
            taken.append(i)
            yield i

    with pytest.raises(ZeroDivisionError), threads.workers(2) as share:
        share(lambda i: 1 / (i - 3), items())
    assert len(taken) < 20
