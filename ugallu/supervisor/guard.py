"""The one place that catches every exception: what a plug-in does wrong ends here, counted, and harms nobody else."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from ugallu.api.observation import Finding, Observation
from ugallu.operator.contract import BatchDetector, Detector


class Swept(NamedTuple):
    """What one detector said about some observations: (index, finding), and (index, error) where it failed."""

    found: list[tuple[int, Finding]]
    failed: list[tuple[int, Exception]]


async def attempt(act: Callable[[], Awaitable[Any]]) -> Exception | None:
    """Run to the end; return the error instead of raising it. A cancellation passes."""
    try:
        await act()
    except Exception as error:  # noqa: BLE001 - the guard
        return error
    return None


def attempt_now(act: Callable[[], Any]) -> Exception | None:
    """As `attempt`, for a synchronous call."""
    try:
        act()
    except Exception as error:  # noqa: BLE001 - the guard
        return error
    return None


def whole(detector: BatchDetector[Any], seen: Sequence[Any]) -> list[tuple[int, Finding]] | None:
    """Inspect by the fast road; None when it failed somewhere, and nobody knows where."""
    try:
        return list(detector.inspect_batch(seen))
    except Exception:  # noqa: BLE001 - the guard; the slow road finds the culprit and reports it
        return None


def one_by_one(detector: Detector[Any], seen: Sequence[Any]) -> Swept:
    """Inspect each in turn; an error costs the detector this one observation."""
    found: list[tuple[int, Finding]] = []
    failed: list[tuple[int, Exception]] = []
    inspect, index, rest = detector.inspect, 0, enumerate(seen)
    while True:
        try:
            # `rest` remembers where an error struck, so the loop is entered again only after one.
            for index, observation in rest:
                for finding in inspect(observation):
                    found.append((index, finding))  # noqa: PERF401 - those before an error count
        except Exception as error:  # noqa: BLE001 - the guard
            failed.append((index, error))
        else:
            return Swept(found, failed)


def completed(found: Iterable[tuple[int, Finding]], seen: Sequence[Observation], cluster_id: str) -> Swept:
    """Fill time and correlation from the observation where the detector left them empty."""
    full: list[tuple[int, Finding]] = []
    failed: list[tuple[int, Exception]] = []
    for index, finding in found:
        try:
            if finding.detected_at is None or not finding.correlation:
                observation = seen[index]
                full.append(
                    (
                        index,
                        msgspec.structs.replace(
                            finding,
                            detected_at=finding.detected_at or observation.seen_at,
                            correlation=finding.correlation or observation.correlation(cluster_id),
                        ),
                    )
                )
            else:
                full.append((index, finding))
        except Exception as error:  # noqa: BLE001 - the guard; a plug-in may bring its own observations
            failed.append((index, error))
    return Swept(full, failed)
