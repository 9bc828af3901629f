"""structlog set-up: one line an event, JSON for machines, plain columns for a terminal, always to stderr."""

import logging
import sys
from typing import Any, TextIO

import msgspec
import structlog

from ugallu.settings import LogSettings

Logger = structlog.typing.FilteringBoundLogger


def _json(_: Any, __: str, event: structlog.typing.EventDict) -> bytes:  # noqa: ANN401 - structlog's shape
    return msgspec.json.encode(event, enc_hook=str)


def logger(settings: LogSettings, stream: TextIO | None = None) -> Logger:
    """Return the root logger for these settings; bind names with `.bind(operator=...)`."""
    out = sys.stderr if stream is None else stream
    level = logging.getLevelNamesMapping().get(settings.level.upper(), logging.INFO)
    json = settings.format == "json" or (settings.format == "auto" and not out.isatty())
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    if json:
        factory: Any = structlog.BytesLoggerFactory(getattr(out, "buffer", None))
        processors.append(_json)
    else:
        factory = structlog.PrintLoggerFactory(out)
        processors.append(structlog.dev.ConsoleRenderer(colors=out.isatty()))
    wrapped: Logger = structlog.wrap_logger(
        factory(),
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )
    return wrapped
