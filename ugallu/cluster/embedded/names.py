"""What Kubernetes accepts as a name, a label or a finalizer, and how it makes names up.

The rules are those of `k8s.io/apimachinery/pkg/api/validation` and `.../util/validation`.
"""

import functools
import re
import secrets
from collections.abc import Iterator
from typing import Final

from ugallu.cluster.embedded.document import Document

_LABEL: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN: Final = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_DNS_LABEL: Final = re.compile(_LABEL)
_QUALIFIED: Final = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_ANNOTATION_BYTES: Final = 256 * 1024

# Letters and digits that make no words and are not mistaken for one another (apimachinery/pkg/util/rand).
_SUFFIX_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"
_SUFFIX_LENGTH: Final = 5
_GENERATED_LENGTH: Final = 63


def is_subdomain(name: str) -> bool:
    """Tell whether this is an RFC 1123 subdomain: the name of an object."""
    return len(name) <= 253 and _SUBDOMAIN.fullmatch(name) is not None


def is_namespace(name: str) -> bool:
    """Tell whether this is an RFC 1123 label: the name of a namespace."""
    return len(name) <= 63 and _DNS_LABEL.fullmatch(name) is not None


@functools.lru_cache(maxsize=1024)
def is_qualified(key: str) -> bool:
    """Tell whether this is a label or annotation key: `[prefix/]name`."""
    prefix, slash, name = key.rpartition("/")
    if slash and not is_subdomain(prefix):
        return False
    return len(name) <= 63 and _QUALIFIED.fullmatch(name) is not None


def is_label_value(value: str) -> bool:
    """Tell whether this is a label's value; empty is."""
    return value == "" or (len(value) <= 63 and _QUALIFIED.fullmatch(value) is not None)


def generated(prefix: str) -> str:
    """Return the prefix with a random suffix, cut so that the whole has 63 characters at most."""
    suffix = "".join(secrets.choice(_SUFFIX_ALPHABET) for _ in range(_SUFFIX_LENGTH))
    return prefix[: _GENERATED_LENGTH - _SUFFIX_LENGTH] + suffix


def faults(metadata: Document) -> Iterator[str]:
    """Yield what is wrong with metadata that has the right types, each as `path: what`."""
    if not is_subdomain(metadata.get("name", "")):
        yield f"metadata.name: {metadata.get('name', '')!r} is no lower case RFC 1123 subdomain"
    for key, value in metadata.get("labels", {}).items():
        if not is_qualified(key):
            yield f"metadata.labels: {key!r} is no label key"
        if not is_label_value(value):
            yield f"metadata.labels[{key}]: {value!r} is no label value"
    annotations: dict[str, str] = metadata.get("annotations", {})
    for key in annotations:
        if not is_qualified(key.lower()):
            yield f"metadata.annotations: {key!r} is no annotation key"
    if sum(len(key) + len(value.encode()) for key, value in annotations.items()) > _ANNOTATION_BYTES:
        yield f"metadata.annotations: more than {_ANNOTATION_BYTES} bytes in all"
    for finalizer in metadata.get("finalizers", ()):
        if not is_qualified(finalizer):
            yield f"metadata.finalizers: {finalizer!r} is no qualified name"
    owners = metadata.get("ownerReferences", ())
    for index, owner in enumerate(owners):
        missing = [field for field in ("apiVersion", "kind", "name", "uid") if not owner.get(field)]
        if missing:
            yield f"metadata.ownerReferences[{index}].{missing[0]}: must not be empty"
    if sum(owner.get("controller", False) for owner in owners) > 1:
        yield "metadata.ownerReferences: only one owner can be the controller"
