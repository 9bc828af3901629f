"""SIGTERM and SIGINT: the first asks for an orderly end, the second ends the process at once."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import anyio

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stopping() -> Iterator[anyio.Event]:
    """Yield an event that the first signal sets; a second one leaves with 128 + its number.

    The second works while the loop is stuck, because the handler itself leaves: everything that was acknowledged is
    in the journal, so an abrupt end loses nothing. Main thread only; the old handlers come back at the end.
    """
    stop = anyio.Event()
    loop = asyncio.get_running_loop()
    asked = False

    def handle(number: int, _: FrameType | None) -> None:
        nonlocal asked
        if asked:
            os._exit(128 + number)
        asked = True
        # A handler runs between two bytecodes of anything; only this call may be made from there.
        loop.call_soon_threadsafe(stop.set)

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, old in before.items():
            signal.signal(number, old)
