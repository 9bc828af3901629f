"""What a type of Python does not say of a value on the wire: how wide an integer is, what a text means, what a list is.

The schema says the rest with these: `extra_json_schema` goes into it as it stands, bounds that are those of a format
are left out there, and a text held to a list of values is shown as an enum. Decoding holds to the bounds as well, so
what the embedded cluster takes, an API server takes too.
"""

from typing import Annotated, Final

from msgspec import Meta

RANGES: Final = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1)}
"""What an integer of each format can be."""
QUANTITY: Final = (
    r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
)
"""The pattern that Kubernetes puts on quantities."""

Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1, extra_json_schema={"format": "int32"})]
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1, extra_json_schema={"format": "int64"})]

Off = Annotated[bool, Meta(extra_json_schema={"default": False})]
"""A switch whose default the schema names although it is the zero value."""
Name = Annotated[str, Meta(extra_json_schema={"default": ""})]
"""A name that the schema fills in as empty."""

Duration = str
"""A Go duration such as `1h30m`, empty for the default; `ugallu.api.duration` reads it. The schema has a plain string,
so an object with a bad one can be stored: who uses the field reports it."""
Quantity = Annotated[str, Meta(pattern=QUANTITY)] | int
"""A Kubernetes quantity such as `2Gi`; `ugallu.api.quantity` reads it."""

ATOMIC: Final = Meta(extra_json_schema={"x-kubernetes-list-type": "atomic"})
"""A list that server-side apply replaces as a whole."""
Texts = Annotated[tuple[str, ...], ATOMIC]


def listed_by(key: str) -> Meta:
    """Return the mark of a list whose elements are told apart by one of their fields."""
    return Meta(extra_json_schema={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]})


def one_of(*values: str) -> Meta:
    """Return the bound of a text that must be one of these, where code handles it as plain text."""
    return Meta(pattern=f"^(?:{'|'.join(values)})$", extra_json_schema={"enum": list(values)})
