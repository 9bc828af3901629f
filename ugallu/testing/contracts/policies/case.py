"""A case of the battery, the values that it presumes, and how a test says one in a line."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from ugallu.api.forensics import ForensicsConfig
from ugallu.api.meta import Kind
from ugallu.api.policies import PolicyValues

Document = dict[str, Any]

ALICE: Final = "alice"
"""Acknowledges events."""
BOB: Final = "bob"
"""Acknowledges incidents, by the policy's own list."""
DORA: Final = "dora"
"""Acknowledges incidents, by the list of the ForensicsConfig."""
CAROL: Final = "carol"
"""Ends retention early."""
MALLORY: Final = "mallory"
"""Is on no list."""
BRIDGE: Final = "system:serviceaccount:elsewhere:bridge"
"""Emits for others."""
TTL: Final = "system:serviceaccount:ugallu-system:ugallu-ttl"
ATTESTOR: Final = "system:serviceaccount:ugallu-system:ugallu-attestor"
FORENSICS: Final = "system:serviceaccount:ugallu-system-privileged:ugallu-forensics"
DETECT: Final = "system:serviceaccount:ugallu-system:ugallu-audit-detection"
DETECT_ON_NODES: Final = "system:serviceaccount:ugallu-system-privileged:ugallu-audit-detection"
COLLECTOR: Final = "system:serviceaccount:kube-system:generic-garbage-collector"

VALUES: Final = PolicyValues(
    ack_authorized=(ALICE,),
    forensics_ack_authorized=(BOB,),
    emitters=(BRIDGE,),
    ttl_override_authorized=(CAROL,),
    singleton_names=("default", "second"),
    delete_protection=True,
)


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One write and the verdict on it. Documents lack `apiVersion` and `kind`; without a name they get the case's."""

    policy: str
    """The policy that decides, without `ugallu.`."""
    says: str
    """The rule in words, unique within the policy."""
    kind: Kind
    user: str = MALLORY
    old: Document | None = None
    """What is stored already; None: this is a create."""
    new: Document | None = None
    """What shall be stored; None: this is a delete."""
    subresource: str = ""
    refused: str = ""
    """Part of what the writer is told, in any letter case; empty: accepted."""
    by_schema: bool = False
    """Whether a schema may refuse it before the policy is asked."""

    @property
    def verb(self) -> str:
        """Return create, update or delete."""
        return "create" if self.old is None else "delete" if self.new is None else "update"

    @property
    def name(self) -> str:
        """Return the name of the object."""
        metadata = (self.new or self.old or {}).get("metadata", {})
        words = "".join(c if c.isalnum() and c.isascii() else "-" for c in f"{self.policy}-{self.says}".lower())
        made_up: str = metadata.get("name") or "-".join(filter(None, words.split("-")))[:120].strip("-")
        return made_up

    @property
    def before(self) -> Document | None:
        """Return what is stored, complete."""
        return None if self.old is None else self._complete(self.old)

    @property
    def after(self) -> Document | None:
        """Return what shall be stored, complete."""
        return None if self.new is None else self._complete(self.new)

    def _complete(self, document: Document) -> Document:
        metadata = {**document.get("metadata", {}), "name": self.name}
        if self.kind.namespaced:
            metadata["namespace"] = "default"
        head = {"apiVersion": self.kind.api_version, "kind": self.kind.name, "metadata": metadata}
        return head | {key: value for key, value in document.items() if key != "metadata"}

    def __str__(self) -> str:
        return f"{self.policy}: {self.says}"


BEFORE: Final[tuple[tuple[Kind, Document], ...]] = (
    (
        ForensicsConfig.kind_info,
        {
            "apiVersion": ForensicsConfig.kind_info.api_version,
            "kind": "ForensicsConfig",
            "metadata": {"name": "default"},
            "spec": {
                "trigger": {"requireAttested": True},
                "snapshot": {"filesystemSnapshot": True},
                "cleanup": {"acknowledgeAuthorizedSAs": [DORA]},
            },
        },
    ),
)
"""Objects that cases presume."""


def changed(document: Document, path: str, value: object) -> Document:
    """Return a copy with the value at a dotted path, where `~1` stands for a dot in a key; `...` removes it."""
    here, _, below = path.partition(".")
    key = here.replace("~1", ".")
    copy = dict(document)
    if below:
        copy[key] = changed(copy.get(key, {}), below, value)
    elif value is ...:
        copy.pop(key, None)
    else:
        copy[key] = value
    return copy


def merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> Document:
    """Return the JSON merge patch (RFC 7396) from one document to the other."""
    patch: Document = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            if inner := merge_patch(before, value):
                patch[key] = inner
        elif key not in old or before != value:
            patch[key] = value
    return patch
