"""What an upstream document is and is called, told without pySigma: few rules of a cluster are upstream ones."""

import re
from functools import lru_cache
from typing import Any

from ugallu_audit_detection.sigma.errors import RuleError

_LINKED = re.compile(r"""(?m)^["']?(correlation|filter)["']?\s*:|["'](correlation|filter)["']\s*:""")


def is_linked(text: str) -> bool:
    """Whether this is a correlation or a filter, which serves through other rules and never by itself."""
    return kind_of(text) != "rule"


@lru_cache(maxsize=4096)
def kind_of(text: str) -> str:
    """Return `rule`, `correlation` or `filter`; a rule is also what cannot be read or is native."""
    if _LINKED.search(text):
        loaded = _documents(text)
        for kind in ("correlation", "filter"):
            if loaded and all(kind in document for document in loaded):
                return kind
    return "rule"


def names_of(text: str) -> tuple[str, ...]:
    """Return the id and the name that a document has upstream, by which correlations and filters may call it."""
    loaded = _documents(text)
    own = [document for document in loaded if "filter" not in document] or loaded
    found = (str(document.get(key) or "") for document in own[:1] for key in ("id", "name"))
    return tuple(name for name in found if name)


def _documents(text: str) -> list[dict[str, Any]]:
    from ugallu_audit_detection.sigma.parse import documents

    try:
        return documents(text, where="")
    except RuleError:
        return []
