"""Whether what a cluster holds is what we would install: pure, over documents.

A server adds defaults and metadata of its own, so theirs may say more than ours; what ours says, theirs must say.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def differences(ours: Any, theirs: Any, path: str = "") -> Iterator[str]:  # noqa: ANN401 - any JSON value
    """Yield the path of each value of ours that theirs lacks or has otherwise; lists must be equal in length."""
    if isinstance(ours, Mapping):
        if not isinstance(theirs, Mapping):
            if ours or theirs is not None:
                yield path
            return
        for key, value in ours.items():
            here = f"{path}.{key}" if path else str(key)
            if key in theirs:
                yield from differences(value, theirs[key], here)
            elif value not in ({}, [], None):
                yield here
    elif isinstance(ours, Sequence) and not isinstance(ours, str):
        if not isinstance(theirs, Sequence) or isinstance(theirs, str) or len(ours) != len(theirs):
            yield path
            return
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(one, other, f"{path}[{index}]")
    elif ours != theirs:
        yield path
