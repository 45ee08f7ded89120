import copy
import threading

import pytest

from tcm_lab._utils.locks import SharedLock

_DEADLINE_S = 300  # which only a lock that never opens reaches, however busy the machine is


def test_readers_are_together_and_who_is_alone_waits_for_all_of_them() -> None:
    lock, seen = SharedLock(), list[str]()
    inside, leave = threading.Barrier(3), threading.Event()

    def read() -> None:
        with lock.shared():
            inside.wait(_DEADLINE_S)  # which both readers and this test reach
            leave.wait(_DEADLINE_S)
            seen.append("read")

    def change() -> None:
        with lock.alone(), lock.alone(), lock.shared():
            seen.append("changed")

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    inside.wait(_DEADLINE_S)
    threads.append(threading.Thread(target=change))
    threads[-1].start()
    threads[-1].join(0.05)
    assert threads[-1].is_alive()
    with copy.deepcopy(lock).alone():  # a copy is another lock
        leave.set()
    for thread in threads:
        thread.join(_DEADLINE_S)
    assert seen == ["read", "read", "changed"]


def test_who_wants_to_be_alone_gets_its_turn_although_others_keep_coming() -> None:
    lock, seen = SharedLock(), list[str]()
    waits = threading.Event()

    def change() -> None:
        waits.set()
        with lock.alone():
            seen.append("changed")

    def read() -> None:
        with lock.shared():
            seen.append("read")

    threads = [threading.Thread(target=run) for run in (change, read)]
    with lock.shared():
        threads[0].start()
        waits.wait(_DEADLINE_S)
        threads[0].join(0.05)
        threads[1].start()
        threads[1].join(0.05)
        assert not seen
        with lock.shared():  # who reads already must not wait for who waits for it
            seen.append("read within")
        with pytest.raises(RuntimeError, match="must not ask to be alone"), lock.alone():
            pass
    for thread in threads:
        thread.join(_DEADLINE_S)
    assert seen == ["read within", "changed", "read"]
