"""Whether what a cluster holds is what we would install: pure, over documents.

What ours does not say may switch off what ours says (a condition that is never true, a selector that nothing matches, a
field that turns pruning off), so both must say the same. Only what a server writes by itself counts as not said.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

KIND_DEFAULTS: Final[Mapping[str, Any]] = {"conversion": {"strategy": "None"}}
"""What a server writes into a CustomResourceDefinition, by key (apiextensions/v1 `SetDefaults_*`)."""
POLICY_DEFAULTS: Final[Mapping[str, Any]] = {
    "matchPolicy": "Equivalent",
    "namespaceSelector": {},
    "objectSelector": {},
    "scope": "*",
}
"""What a server writes into an admission policy and its binding, by key (admissionregistration/v1 `SetDefaults_*`)."""


def differences(ours: Any, theirs: Any, defaults: Mapping[str, Any], path: str = "") -> Iterator[str]:  # noqa: ANN401 - any JSON value
    """Yield the path of each value that only one of them has, or that they have otherwise."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for key in dict.fromkeys((*ours, *theirs)):
            default = defaults.get(key)
            here = f"{path}.{key}" if path else str(key)
            yield from differences(ours.get(key, default), theirs.get(key, default), defaults, here)
    elif _is_list(ours) and _is_list(theirs) and len(ours) == len(theirs):
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(one, other, defaults, f"{path}[{index}]")
    elif ours != theirs:
        yield path


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
