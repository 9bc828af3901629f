"""The pages of docs/ that are made from the code, by the name of their file. Pure texts."""

from collections.abc import Iterable
from typing import Any

from ugallu.api.reference import reference
from ugallu.manifests import policies
from ugallu.manifests.monitoring import page as monitoring
from ugallu.operator.contract import Operator


def pages(operators: Iterable[type[Operator[Any]]] = ()) -> dict[str, str]:
    """Return every page by its path in docs/: ours, and those that operators bring along."""
    ours = {"api.md": reference(), "monitoring.md": monitoring.page(), "policies.md": policies.page()}
    return {**ours, **{path: text for operator in operators for path, text in operator.pages().items()}}
