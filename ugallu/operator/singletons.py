"""Which object an operator takes its config from, where several of a kind may stand: `default`, else the lowest name.

Whoever writes a config under another name means it, so it is followed; that it is not called as it should be is said on
it, and so it is on one that another one keeps from being read.
"""

import datetime as dt
from collections.abc import Iterable
from typing import Final, TypeVar

from ugallu.api.meta import Condition, Resource, utc_seconds

CONFIG_NAME: Final = "default"
"""The object that an operator takes its config from."""
NOT_DEFAULT: Final = "NotDefault"

R = TypeVar("R", bound=Resource)


def chosen(found: Iterable[R]) -> R | None:
    """Return the one of these objects of one namespace that counts, None where there is none."""
    return min(found, key=lambda each: (each.metadata.name != CONFIG_NAME, each.metadata.name), default=None)


def not_default(found: Resource, used: Resource, now: dt.datetime) -> Condition:
    """Return what an object that is not called `default` is told, when `used` is the one that counts."""
    kind = type(found).kind_info.name
    if found.metadata.name == used.metadata.name:
        message = f"used, as there is no {kind} called {CONFIG_NAME} here: call it so, another one may take its place"
    else:
        message = f"not read: {kind}/{used.metadata.name} is; remove this one"
    return Condition(
        type="Ready",
        status="False",
        reason=NOT_DEFAULT,
        message=message,
        last_transition_time=utc_seconds(now),
        observed_generation=found.metadata.generation,
    )
