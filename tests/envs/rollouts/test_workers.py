"""Processes that do jobs: order, errors, and an end in every case."""

import itertools
import os
import time
from functools import partial
from multiprocessing import active_children

import pytest

from diffplan.envs.rollouts.workers import in_order, worker_pool
from diffplan.errors import DiffplanError


def test_outcomes_come_as_they_are_ready_or_in_order() -> None:
    with worker_pool(2, "") as pool:
        list(pool.as_done([partial(pow, 2, 1)] * 2))  # both have begun
        slow_first = [partial(time.sleep, 2), partial(pow, 2, 3), partial(pow, 2, 4)]
        assert list(pool.as_done(slow_first)) == [(1, 8), (2, 16), (0, None)]
        slow_first[0] = partial(time.sleep, 0.1)
        assert list(pool.in_order(slow_first)) == [None, 8, 16]
        # of jobs without end, one of which is still done when the next ones come
        endless = pool.in_order(
            partial(pow, 2, n) if n < 3 else partial(time.sleep, 0.3) for n in itertools.count()
        )
        assert list(itertools.islice(endless, 3)) == [1, 2, 4]
        assert list(pool.in_order(partial(pow, 3, n) for n in range(5))) == [1, 3, 9, 27, 81]
        assert list(pool.in_order([])) == []
    assert not active_children()


def test_an_error_comes_with_where_it_was_raised_and_ends_all() -> None:
    with pytest.raises(ValueError, match="invalid literal") as error, worker_pool(2, "") as pool:
        list(pool.as_done([partial(time.sleep, 60), partial(int, "x")]))
    assert "_done" in str(error.value.__cause__)  # a traceback of the other process
    assert not active_children()
    job = partial(exec, "class Lost(Exception): ...\nraise Lost('keys')")  # of a class of its own
    with pytest.raises(RuntimeError, match=r"^Lost: keys$"):
        list(in_order([job, job], 2, ""))
    assert not active_children()


def test_a_process_that_ends_is_one_line() -> None:
    with pytest.raises(DiffplanError, match=r"one of the 2 processes .*; give fewer"):
        list(in_order([partial(os._exit, 0), partial(time.sleep, 60)], 2, "give fewer"))
    assert not active_children()


def test_a_single_worker_is_this_process() -> None:
    assert list(in_order([os.getpid] * 2, 1, "")) == [os.getpid()] * 2
    assert list(in_order([os.getpid], 8, "")) == [os.getpid()]
