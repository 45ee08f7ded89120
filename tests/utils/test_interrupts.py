"""A Ctrl-C that has to wait: it comes after the block, once, to whoever it was for."""

from __future__ import annotations

import signal
import threading

import pytest

from tcm_lab._utils.interrupts import hold_interrupts


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def test_it_comes_when_the_block_has_ended() -> None:
    before, done = signal.getsignal(signal.SIGINT), []

    def block() -> None:
        with hold_interrupts() as waiting:
            assert not waiting.is_set()
            interrupt()
            assert waiting.is_set()
            done.append("whole")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == ["whole"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_one_acts_at_once() -> None:
    @hold_interrupts()
    def block() -> None:
        interrupt()
        interrupt()
        pytest.fail("was not interrupted")

    with pytest.raises(KeyboardInterrupt):
        block()


def test_a_block_that_fails_does_not_swallow_it() -> None:
    @hold_interrupts()
    def block() -> None:
        interrupt()
        raise ValueError("of the block")

    with pytest.raises(KeyboardInterrupt) as caught:
        block()
    assert isinstance(caught.value.__context__, ValueError)


def test_a_block_that_answers_it_itself_is_interrupted_once() -> None:
    def block() -> None:
        with hold_interrupts() as waiting:
            interrupt()
            if waiting.is_set():
                raise KeyboardInterrupt

    with hold_interrupts() as outer:
        with pytest.raises(KeyboardInterrupt):
            block()
        assert not outer.is_set()


def test_within_a_block_that_holds_it_too_it_waits_for_that_one() -> None:
    seen = []

    def block() -> None:
        with hold_interrupts() as outer:
            with hold_interrupts():
                interrupt()
            seen.append(outer.is_set())

    with pytest.raises(KeyboardInterrupt):
        block()
    assert seen == [True]


def test_who_ignores_it_goes_on_ignoring_it() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with hold_interrupts():
            interrupt()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_are_never_interrupted_and_hold_nothing() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def look() -> None:
        with hold_interrupts() as waiting:
            seen.append((signal.getsignal(signal.SIGINT) is before, waiting.is_set()))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [(True, False)]
