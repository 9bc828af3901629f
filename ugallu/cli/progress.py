"""Progress of long work: one line on stderr, redrawn in place, and only where a person is watching."""

import sys
from typing import Final, NamedTuple, TextIO

WIDTH: Final = 24
REDRAW_SECONDS: Final = 0.1
PARTS: Final = " ▏▎▍▌▋▊▉█"


class Progress(NamedTuple):
    """How far the work has come. Totals of 0 are unknown; `elapsed` is in seconds."""

    doing: str
    done: int
    total: int
    elapsed: float
    items: int = 0
    unit: str = ""
    note: str = ""


def line(progress: Progress, columns: int = 80, *, plain: bool = False) -> str:
    """Return one line of at most `columns` characters: bar, percent, rate, note, time left.

    Time left comes from the mean speed so far; it is not shown before a second has passed, when it would be a guess.
    `plain` keeps to ASCII.
    """
    doing, done, total, elapsed, items, unit, note = progress
    rate = f"{items / elapsed:,.0f} {unit}/s" if elapsed >= 0.5 and items else ""
    words = [rate, note]
    if total > 0:
        share = min(done / total, 1.0)
        left = elapsed * (1 - share) / share if share > 0 and elapsed >= 1 else None
        words = [f"{_bar(share, plain=plain)} {share * 100:3.0f} %", *words, f"{clock(left)} left" if left else ""]
    elif done:
        words = [size(done), *words]
    text = f"{doing}  " + "  ".join(word for word in words if word)
    return text if len(text) <= columns else text[: max(columns - 1, 0)] + ("." if plain else "…")


def clock(seconds: float) -> str:
    """Return `0:07`, `12:30`, `1:02:03`: rounded up, so that the end never comes late."""
    whole = int(-(-seconds // 1))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(count: float) -> str:
    """Return bytes as a person writes them: `812 B`, `4.1 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def _bar(share: float, *, plain: bool) -> str:
    if plain:
        return "[" + ("#" * round(share * WIDTH)).ljust(WIDTH, ".") + "]"
    eighths = round(share * WIDTH * 8)
    bar = "█" * (eighths // 8) + (PARTS[eighths % 8] if eighths % 8 else "")
    return f"▕{bar.ljust(WIDTH)}▏"


class Meter:
    """Draws progress on a terminal, nothing anywhere else."""

    def __init__(self, stream: TextIO | None = None, *, columns: int = 0) -> None:
        self._stream = sys.stderr if stream is None else stream
        self.live = self._stream.isatty()
        self._columns = columns
        self._plain = "utf" not in (self._stream.encoding or "").lower()
        self._drawn_at = -1.0
        self._drawn = False

    def show(self, progress: Progress) -> None:
        """Redraw, at most ten times a second; the first and the complete line are always drawn."""
        complete = 0 < progress.total <= progress.done
        if not self.live or (0 <= progress.elapsed - self._drawn_at < REDRAW_SECONDS and not complete):
            return
        self._drawn_at = progress.elapsed
        self._drawn = True
        self._stream.write(f"\r\x1b[2K{line(progress, self._width() - 1, plain=self._plain)}")
        self._stream.flush()

    def clear(self) -> None:
        """Take the line away, so that what is printed next stands alone."""
        if self._drawn:
            self._stream.write("\r\x1b[2K")
            self._stream.flush()
            self._drawn = False

    def _width(self) -> int:
        import shutil

        return self._columns or shutil.get_terminal_size().columns
