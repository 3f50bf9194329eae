"""Process 0 decides, and every process learns the same; whoever is lost is named in time."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from kgpt.errors import RunError
from kgpt.launch import joined_group, watchdog
from kgpt.launch.joined_group import DecidedError, JoinedGroup
from kgpt.launch.process_group import ProcessGroup
from kgpt.launch.watchdog import TIMEOUT_S, Watchdog
from kgpt.runs.group_run import GroupRun
from kgpt.runs.run import Run
from tests.launch.stores import MemoryStore


def members(size, store=None):
    store = store or MemoryStore()
    return [JoinedGroup(ProcessGroup("a:1", size, rank), store) for rank in range(size)]


def in_all(group, function):
    """What `function` returns, or raises, in the thread of each process."""
    with ThreadPoolExecutor(len(group)) as pool:
        futures = [pool.submit(function, member) for member in group]
        return [future.exception() or future.result() for future in futures]


def test_what_process_0_makes_all_get_in_order():
    group = members(3)
    made = []

    def work(member):
        return [member.broadcast(lambda n=n: made.append(n) or n * n) for n in range(5)]

    assert in_all(group, work) == [[0, 1, 4, 9, 16]] * 3
    assert made == [0, 1, 2, 3, 4]


def test_an_error_of_process_0_is_every_process_s():
    def refuse():
        raise RunError("The run exists already.")

    own, *others = in_all(members(3), lambda member: member.broadcast(refuse))
    assert isinstance(own, RunError)
    assert [(type(e), str(e), e.exit_code) for e in others] == [(DecidedError, str(own), 1)] * 2


def test_broadcasts_do_not_fill_the_store(monkeypatch):
    monkeypatch.setattr(joined_group, "KEPT_BROADCASTS", 5)
    store = MemoryStore()
    (primary,) = members(1, store)
    for n in range(50):
        primary.broadcast(lambda n=n: n)
    assert len(store.values) == 5


@pytest.mark.parametrize("receiver", [0, 2])
def test_a_command_and_a_signal_reach_all_in_the_same_step(receiver, tmp_path):
    """A signal that one process receives, and a file in control/, become everybody's at once."""
    group = members(3)
    runs = [GroupRun(tmp_path / "run", member) for member in group]
    Run(tmp_path / "run").path.joinpath("control").mkdir(parents=True)
    (tmp_path / "run/control/checkpoint").write_text("{}")

    step_ended = threading.Barrier(3)  # as the collectives of a step

    def work(run):
        mine = "SIGTERM" if run.group.group.process_id == receiver else None
        seen = []
        for _ in range(3):
            seen.append(run.poll(mine))
            step_ended.wait(10)
        return seen

    with ThreadPoolExecutor(3) as pool:
        first, *others = pool.map(work, runs)
    assert all(other == first for other in others)
    assert first[0][0] == [("checkpoint", {})]
    assert [signal for _, signal in first][-1] == "SIGTERM"


def test_only_process_0_writes_the_run(tmp_path):
    runs = [GroupRun(tmp_path / "run", member) for member in members(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda run: run.claim(resume=False), runs))
    for run in reversed(runs):
        run.append("metrics", {"step": 1})
        run.write_config("train: {}")
        run.write_status(run.status().model_copy(update={"step": run.is_writer + 4}))
        run.set_pointer("latest", 3 + run.is_writer)
    assert runs[1].metrics() == [{"step": 1}]
    assert runs[1].status().step == 5
    assert [run.is_writer for run in runs] == [True, False]
    with ThreadPoolExecutor(2) as pool:
        again = [pool.submit(run.claim, resume=False) for run in runs]
    assert {str(future.exception()).partition(";")[0] for future in again} == {
        "The run run exists already"
    }


def watchdogs(size, store, clock):
    return [
        Watchdog(store, ProcessGroup("a:1", size, rank), print, lambda: clock[0])
        for rank in range(size)
    ]


def test_a_silent_process_is_named_in_all_others_and_one_that_left_is_not():
    store, clock = MemoryStore(), [0.0]
    dogs = watchdogs(4, store, clock)
    for second in range(5):
        clock[0] = second
        assert [dog.lost() for dog in dogs] == [None] * 4
    dogs[1].stop()  # it has ended well
    silent_since = clock[0]
    heard = [None, None]
    while not all(heard):
        clock[0] += 1
        heard = [dogs[rank].lost() for rank in (0, 3)]  # 2 is silent
    assert all(text.startswith("Process 2 of 4 is lost") for text in heard)
    assert TIMEOUT_S < clock[0] - silent_since <= TIMEOUT_S + 2


def test_a_lost_coordinator_is_named():
    store, clock = MemoryStore(), [0.0]
    _, other = watchdogs(2, store, clock)
    assert other.lost() is None
    clock[0] = TIMEOUT_S + 1  # the store lives on, but process 0 does nothing
    assert "Process 0 of 2 is lost" in other.lost()
    store.down = True
    assert other.lost() == "Process 0 does not answer."


def test_a_process_that_fails_says_so(monkeypatch):
    monkeypatch.setattr(watchdog, "INTERVAL_S", 0.01)
    store, heard = MemoryStore(), threading.Event()
    failing, other = members(2, store)
    failing.watch(lambda sentence: None)
    other.watch(lambda sentence: heard.set() if "Process 0 failed: no disk" in sentence else None)
    failing.fail(RunError("no disk"))
    assert heard.wait(10)


def test_an_error_of_a_step_is_explained_by_the_process_that_is_lost(monkeypatch):
    monkeypatch.setattr(watchdog, "INTERVAL_S", 0.01)
    monkeypatch.setattr(watchdog, "TIMEOUT_S", 0.1)
    ended = []
    primary, _ = members(2)
    primary.watch(ended.append)
    explained = primary.lost_process(ValueError("Gloo all-reduce failed"))
    assert str(explained).startswith("Process 1 of 2 is lost") and not ended
