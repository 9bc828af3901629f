"""Log lines: one JSON object each for machines, readable for people, always on the given stream."""

import io
from typing import Literal

import msgspec
import pytest

from ugallu.logs import logger
from ugallu.settings import LogSettings, Secret


def lines(stream: io.TextIOWrapper) -> list[dict[str, object]]:
    stream.flush()
    raw = stream.buffer
    assert isinstance(raw, io.BytesIO)
    return [msgspec.json.decode(line) for line in raw.getvalue().splitlines()]


def stream() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)


def test_every_line_is_one_json_object() -> None:
    """Level, time, bound names, values of any kind; an exception keeps its traceback in one line."""
    out = stream()
    log = logger(LogSettings(format="json"), out).bind(operator="audit-detection")
    log.info("source starts", path=io, next=3)
    log.error("broke", exc_info=ZeroDivisionError("by zero"))
    first, second = lines(out)
    assert (first["event"], first["level"], first["operator"], first["next"]) == (
        "source starts",
        "info",
        "audit-detection",
        3,
    )
    assert str(first["timestamp"]).endswith("Z")
    assert "ZeroDivisionError: by zero" in str(second["exception"])


def test_the_level_holds_back_what_is_below_it() -> None:
    """`--log-level warning` silences the rest."""
    out = stream()
    log = logger(LogSettings(level="warning", format="json"), out)
    log.info("no")
    log.warning("yes")
    assert [line["event"] for line in lines(out)] == ["yes"]


def test_auto_is_json_where_nobody_watches() -> None:
    """A pipe gets JSON."""
    out = stream()
    logger(LogSettings(), out).info("x")
    assert lines(out)[0]["event"] == "x"


@pytest.mark.parametrize("kind", ["json", "console"])
def test_no_secret_reaches_a_line(kind: Literal["json", "console"]) -> None:
    """A Secret that is logged by mistake stays one."""
    out = stream()
    logger(LogSettings(format=kind), out).info("token", token=Secret("hunter2"))
    out.flush()
    raw = out.buffer
    assert isinstance(raw, io.BytesIO)
    assert b"hunter2" not in raw.getvalue()
    assert b"token" in raw.getvalue()
