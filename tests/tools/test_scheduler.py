"""The scheduler: single flight, lanes, deadlines, cancelling, batches, speculation, errors."""

import gc
import threading
import weakref
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelis_fast.tools_trt.pixels.tiers import TierStore
from pixelis_fast.tools_trt.scheduler import (
    Batch,
    DeadlineError,
    Priority,
    Scheduler,
    SchedulerConfig,
    Work,
)

KEYS = st.sampled_from("abcd")
PATIENCE_S = 60
"""A test that waits this long has failed; none waits on purpose."""


class Clock:
    """Time that moves when told to."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


class Bench:
    """A scheduler driven by hand, and what it ran."""

    def __init__(self, *, memo_bytes=1 << 20, **config):
        self.clock, self.ran = Clock(), []
        self.memo = TierStore(host_bytes=memo_bytes)
        config = SchedulerConfig(**{"workers": 0} | config)
        self.scheduler = Scheduler(self.memo, config, clock=self.clock)

    def work(self, name, *, key=None, error=None):
        def run():
            self.ran.append(name)
            if error is not None:
                raise error
            return f"{name} done"

        return Work("tool", run, key=key)

    def batched(self, name, *, group="g", fails=()):
        def run(items):
            self.ran.append(tuple(items))
            return [ValueError(item) if item in fails else f"{item} done" for item in items]

        def alone():
            [outcome] = run([name])
            if isinstance(outcome, ValueError):
                raise outcome
            return outcome

        return Work("tool", alone, key=name, batch=Batch(group, name, run))

    def submit(self, name, **options):
        return self.scheduler.submit(self.work(name, key=name), **options)

    def run_all(self):
        while self.scheduler.run_next():
            pass
        return self.ran

    @property
    def stats(self):
        return self.scheduler.stats()


def test_equal_calls_in_flight_compute_once():
    bench = Bench(memo_bytes=0)
    tickets = [bench.submit("a") for _ in range(3)]
    assert bench.run_all() == ["a"]
    assert [ticket.result() for ticket in tickets] == ["a done"] * 3
    assert [ticket.source for ticket in tickets] == ["ran", "joined", "joined"]
    bench.submit("a")
    assert bench.run_all() == ["a", "a"]


def test_a_call_joins_equal_work_that_runs_already():
    memo = TierStore(host_bytes=0)
    started, release, runs = threading.Event(), threading.Event(), []

    def run():
        runs.append(1)
        started.set()
        assert release.wait(PATIENCE_S)
        return "done"

    with Scheduler(memo) as scheduler:
        first = scheduler.submit(Work("tool", run, key="k"))
        assert started.wait(PATIENCE_S)
        second = scheduler.submit(Work("tool", run, key="k"))
        assert not second.cancel()
        release.set()
        assert first.result(PATIENCE_S) == second.result(PATIENCE_S) == "done"
    assert (len(runs), second.source) == (1, "joined")


def test_work_without_a_key_is_never_shared():
    bench = Bench()
    for _ in range(2):
        bench.scheduler.submit(bench.work("a"))
    assert bench.run_all() == ["a", "a"]


def test_a_kept_result_answers_at_once():
    bench = Bench()
    bench.submit("a")
    bench.run_all()
    ticket = bench.submit("a")
    assert (ticket.result(0), ticket.source) == ("a done", "memo")
    assert bench.run_all() == ["a"]
    assert bench.stats.tools["tool"].memo_hits == 1


def test_urgent_lanes_go_first():
    bench = Bench()
    for priority in reversed(Priority):
        bench.submit(priority.name, priority=priority)
    bench.submit("late guess", priority=Priority.DECODE, speculative=True)
    bench.submit("second", priority=Priority.DECODE)
    assert bench.run_all() == ["DECODE", "second", "ENCODE", "TRACK", "SPECULATIVE", "late guess"]


def test_the_nearer_deadline_goes_first_in_one_lane():
    bench = Bench()
    bench.submit("none")
    bench.submit("far", deadline_s=9)
    bench.submit("near", deadline_s=1)
    assert bench.run_all() == ["near", "far", "none"]


def test_joining_moves_work_up():
    bench = Bench()
    bench.submit("a", speculative=True)
    bench.submit("b", priority=Priority.TRACK)
    bench.submit("a", priority=Priority.DECODE)
    assert bench.run_all() == ["a", "b"]


def test_late_work_is_refused_before_it_starts():
    bench = Bench()
    late, kept = bench.submit("a", deadline_s=1.0), bench.submit("b", deadline_s=3.0)
    bench.clock.now_s = 2.0
    assert bench.run_all() == ["b"]
    with pytest.raises(DeadlineError, match="expected to start before its deadline, got"):
        late.result(0)
    assert kept.result(0) == "b done"
    assert bench.stats.tools["tool"].late == 1


def test_a_late_ticket_does_not_take_others_with_it():
    bench = Bench()
    late, patient = bench.submit("a", deadline_s=1.0), bench.submit("a")
    bench.clock.now_s = 2.0
    assert bench.run_all() == ["a"]
    assert isinstance(late.exception(0), DeadlineError)
    assert patient.result(0) == "a done"


@pytest.mark.parametrize("deadline_s", [-1.0, float("nan")])
def test_a_deadline_in_the_past_is_refused_by_name(deadline_s):
    with pytest.raises(ValueError, match="deadline_s: expected"):
        Bench().submit("a", deadline_s=deadline_s)


def test_cancelled_work_never_starts():
    bench = Bench()
    ticket, other = bench.submit("a"), bench.submit("b")
    assert ticket.cancel()
    assert bench.run_all() == ["b"]
    with pytest.raises(CancelledError):
        ticket.result(0)
    assert other.done()
    assert bench.stats.tools["tool"].cancelled == 1


def test_cancelling_one_of_two_leaves_the_other():
    bench = Bench()
    ticket, other = bench.submit("a"), bench.submit("a")
    assert ticket.cancel()
    assert bench.run_all() == ["a"]
    assert other.result(0) == "a done"


def test_a_call_after_a_cancelled_one_runs():
    bench = Bench()
    assert bench.submit("a").cancel()
    ticket = bench.submit("a")
    assert bench.run_all() == ["a"]
    assert ticket.result(0) == "a done"


def test_running_work_finishes_and_is_kept():
    memo, started, release = TierStore(host_bytes=1 << 20), threading.Event(), threading.Event()

    def run():
        started.set()
        assert release.wait(PATIENCE_S)
        return "done"

    with Scheduler(memo) as scheduler:
        ticket = scheduler.submit(Work("tool", run, key="k"))
        assert started.wait(PATIENCE_S)
        assert not ticket.cancel()
        release.set()
        assert ticket.result(PATIENCE_S) == "done"
        assert scheduler.submit(Work("tool", run, key="k")).source == "memo"


def test_an_error_reaches_every_owner_and_is_not_kept():
    bench = Bench()
    work = bench.work("a", key="a", error=KeyError("why"))
    tickets = [bench.scheduler.submit(work) for _ in range(2)]
    bench.run_all()
    assert [type(ticket.exception(0)) for ticket in tickets] == [KeyError] * 2
    bench.scheduler.submit(work)
    assert bench.run_all() == ["a", "a"]
    assert bench.stats.tools["tool"].failed == 2


def test_errors_do_not_end_the_worker():
    with Scheduler(TierStore(host_bytes=0)) as scheduler:
        broken = [scheduler.submit(Work("tool", lambda: 1 / 0)) for _ in range(3)]
        after = scheduler.submit(Work("tool", lambda: 42))
        assert after.result(PATIENCE_S) == 42
        assert {type(ticket.exception(PATIENCE_S)) for ticket in broken} == {ZeroDivisionError}
        assert scheduler.is_serving


def test_a_callback_may_submit():
    with Scheduler(TierStore(host_bytes=0)) as scheduler:
        answers = []

        def again(ticket):
            answers.append(scheduler.submit(Work("tool", lambda: ticket.result() + 1)))

        ticket = scheduler.submit(Work("tool", lambda: 1))
        ticket.add_done_callback(again)
        wait([ticket], timeout=PATIENCE_S)
        # The callback runs in the compute thread before this call's work.
        assert scheduler.submit(Work("tool", lambda: 0)).result(PATIENCE_S) == 0
        assert answers[0].result(PATIENCE_S) == 2


def test_calls_of_one_batch_key_run_together():
    bench = Bench(max_batch=3)
    for group, names in (("g", "abcd"), ("h", "x")):
        for name in names:
            bench.scheduler.submit(bench.batched(name, group=group))
    assert bench.run_all() == [("a", "b", "c"), ("d",), ("x",)]
    assert (bench.stats.batches, bench.stats.batched) == (1, 3)


def test_one_failure_in_a_batch_is_its_own():
    bench = Bench()
    tickets = [bench.scheduler.submit(bench.batched(name, fails="b")) for name in "abc"]
    bench.run_all()
    assert [ticket.exception(0) is None for ticket in tickets] == [True, False, True]
    assert bench.memo.get("a") == "a done"
    assert bench.memo.get("b") is None


def test_cancelled_and_late_calls_stay_out_of_a_batch():
    bench = Bench()
    tickets = [
        bench.scheduler.submit(bench.batched("a"), deadline_s=9),
        bench.scheduler.submit(bench.batched("b"), deadline_s=1),
        bench.scheduler.submit(bench.batched("c")),
        bench.scheduler.submit(bench.batched("d")),
    ]
    tickets[2].cancel()
    bench.clock.now_s = 2.0
    assert bench.run_all() == [("a", "d")]
    assert isinstance(tickets[1].exception(0), DeadlineError)


def test_no_guess_rides_in_a_batch_of_calls():
    bench = Bench()
    for name in "abcd":
        bench.scheduler.submit(bench.batched(name), speculative=name in "bd")
    assert bench.run_all() == [("a", "c"), ("b", "d")]


def test_the_window_opens_for_a_crowd_and_closes_for_other_work():
    """A second thread has called lately, so the first call waits for its next one."""
    bench = Bench(workers=1, window_s=0.002)
    desk = bench.scheduler._desk
    other = threading.Thread(target=lambda: bench.submit("warm"))
    other.start()
    other.join()
    bench.submit("warm").result(PATIENCE_S)
    waits = []
    real_wait = desk._changed.wait

    def counted(timeout=None):
        if timeout is not None:
            waits.append(timeout)
            bench.clock.now_s += timeout
        return real_wait(0 if timeout is not None else PATIENCE_S)

    desk._changed.wait = counted
    assert bench.scheduler.submit(bench.batched("a")).result(PATIENCE_S) == "a done"
    assert waits == [0.002]
    bench.clock.now_s += 1.0
    assert bench.scheduler.submit(bench.batched("b")).result(PATIENCE_S) == "b done"
    assert waits == [0.002], "a lone caller is not kept waiting"
    bench.scheduler.close()


def test_speculation_is_useful_when_asked_for_later():
    bench = Bench()
    for name in "abc":
        bench.submit(name, speculative=True)
    bench.run_all()
    bench.submit("a", speculative=True)
    assert (bench.stats.speculated, bench.stats.useful) == (3, 0)
    bench.submit("a")
    bench.submit("a")
    assert (bench.stats.useful, bench.stats.wasted) == (1, 2)


def test_a_guess_that_is_asked_for_before_it_runs_is_no_speculation():
    bench = Bench()
    bench.submit("a", speculative=True)
    bench.submit("a")
    bench.run_all()
    assert (bench.stats.speculated, bench.stats.useful) == (0, 0)


def test_spans_and_percentiles():
    bench = Bench()
    ticket = bench.scheduler.submit(Work("slow", lambda: setattr(bench.clock, "now_s", 3.5)))
    bench.clock.now_s = 2.0
    bench.run_all()
    assert ticket.spans == {"queue": 2000.0, "run": 1500.0}
    assert bench.stats.tools["slow"].p99_ms == 3500.0


def test_close_cancels_what_waits():
    bench = Bench()
    ticket = bench.submit("a")
    bench.scheduler.close()
    assert ticket.cancelled()
    with pytest.raises(RuntimeError, match="expected an open one"):
        bench.submit("b")


def test_a_forgotten_scheduler_ends_its_thread_and_frees_its_work():
    class Large:
        pass

    scheduler = Scheduler(TierStore(host_bytes=0))
    large = Large()
    scheduler.submit(Work("tool", lambda large=large: None)).result(PATIENCE_S)
    thread, held = scheduler._threads[0], weakref.ref(large)
    del scheduler, large
    gc.collect()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert held() is None


@pytest.mark.parametrize("wrong", [{"workers": -1}, {"window_s": 0.1}, {"max_batch": 0}])
def test_settings_are_checked(wrong):
    with pytest.raises(ValueError, match="expected"):
        SchedulerConfig(**wrong)


OPERATIONS = st.one_of(
    st.tuples(
        st.just("submit"),
        KEYS,
        st.sampled_from(Priority),
        st.sampled_from([None, 0.5, 2.0]),
        st.booleans(),
    ),
    st.tuples(st.just("cancel"), st.integers(0, 30)),
    st.tuples(st.just("run")),
    st.tuples(st.just("wait"), st.sampled_from([0.4, 1.0])),
)


@given(operations=st.lists(OPERATIONS, max_size=40), memo_bytes=st.sampled_from([0, 1 << 20]))
def test_any_interleaving_answers_every_call_once(operations, memo_bytes):
    bench = Bench(memo_bytes=memo_bytes)
    tickets = []
    for name, *arguments in operations:
        if name == "submit":
            key, priority, deadline_s, speculative = arguments
            options = {"priority": priority, "deadline_s": deadline_s, "speculative": speculative}
            batched = bench.batched(key, group=key in "ab")
            tickets.append((key, bench.scheduler.submit(batched, **options)))
        elif name == "cancel" and tickets:
            tickets[arguments[0] % len(tickets)][1].cancel()
        elif name == "run":
            bench.scheduler.run_next()
        elif name == "wait":
            bench.clock.now_s += arguments[0]
    bench.run_all()
    assert all(ticket.done() for _, ticket in tickets)
    kinds = {"answered": 0, "late": 0, "cancelled": 0}
    for key, ticket in tickets:
        if ticket.cancelled():
            kinds["cancelled"] += 1
        elif ticket.exception() is not None:
            assert isinstance(ticket.exception(), DeadlineError)
            kinds["late"] += 1
        else:
            assert ticket.result() == f"{key} done"
            kinds["answered"] += 1
    ran = [item for group in bench.ran for item in group]
    if memo_bytes:
        assert len(ran) == len(set(ran))
    if tickets:
        counted = bench.stats.tools["tool"]
        assert (counted.late, counted.cancelled) == (kinds["late"], kinds["cancelled"])
        assert counted.ran == len(ran)
        assert counted.calls == len(tickets)
    assert bench.stats.waiting == 0


def test_many_threads_get_their_own_answers():
    runs, wrong = [], []

    def work(n):
        return Work("tool", lambda: runs.append(n) or n * n, key=n)

    with Scheduler(TierStore(host_bytes=1 << 20), SchedulerConfig(workers=2)) as scheduler:

        def call(seed):
            for n in range(200):
                number = (n * 7 + seed) % 50
                if scheduler.submit(work(number)).result(PATIENCE_S) != number * number:
                    wrong.append(number)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(call, range(4)))
        assert not wrong
        assert sorted(runs) == list(range(50))
        assert scheduler.stats().tools["tool"].calls == 800
