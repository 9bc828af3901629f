"""What one list or watch asks for: a kind, a namespace, selectors."""

import msgspec

from ugallu.api.meta import Kind
from ugallu.cluster.embedded.admission import check_namespace
from ugallu.cluster.embedded.document import parse, type_key, value_at
from ugallu.cluster.embedded.selectors import parse_fields, parse_labels
from ugallu.cluster.embedded.store import Version

_NAME, _NAMESPACE = "metadata.name", "metadata.namespace"


class _Labelled(msgspec.Struct, gc=False):
    labels: dict[str, str] = {}


class _Head(msgspec.Struct, gc=False):
    metadata: _Labelled


_head = msgspec.json.Decoder(_Head).decode


class Scope:
    """Tells which versions a reader asked for. Raises `InvalidError` for selectors that make no sense."""

    def __init__(self, kind: Kind, namespace: str, labels: str, fields: str) -> None:
        if namespace:
            check_namespace(kind, namespace, kind.plural)
        self.kind = type_key(kind)
        self.namespace = namespace
        self._labels = parse_labels(labels)
        self._fields = parse_fields(fields, (_NAME, _NAMESPACE, *kind.selectable))
        self.name = self._fields.exact(_NAME) or ""
        self._paths = tuple(
            requirement.key for requirement in self._fields.requirements if requirement.key not in (_NAME, _NAMESPACE)
        )

    @property
    def filters(self) -> bool:
        """Whether some objects of kind and namespace may be out of scope."""
        return bool(self._labels or self._fields)

    @property
    def by_content(self) -> bool:
        """Whether an object can come into or leave the scope by a change of its own."""
        return bool(self._labels or self._paths)

    def holds(self, version: Version) -> bool:
        """Tell whether a version is in scope."""
        if self.namespace and version.namespace != self.namespace:
            return False
        if self._fields and not self._fields.matches(self._values(version)):
            return False
        return not self._labels or self._labels.matches(_head(version.body).metadata.labels)

    def _values(self, version: Version) -> dict[str, str]:
        values = {_NAME: version.name, _NAMESPACE: version.namespace}
        if self._paths:
            document = parse(version.body)
            values |= {path: value_at(document, path) for path in self._paths}
        return values
