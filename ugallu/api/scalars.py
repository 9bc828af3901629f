"""What a type of Python does not say of a value on the wire: how wide an integer is, what a text means, what a list is.

The schema says the rest with these: `extra_json_schema` goes into it as it stands, and a text held to a list of values
is shown as an enum. Decoding holds to the bounds that an API server enforces, no others: what it has stored, we read.
"""

from typing import Annotated, Final

from msgspec import Meta

from ugallu.api.duration import nanoseconds_of

QUANTITY: Final = (
    r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
)
"""The pattern that Kubernetes puts on quantities."""

Int32 = Annotated[int, Meta(extra_json_schema={"format": "int32"})]
"""A number that other clients keep in 32 bits. An API server takes larger ones and negative ones all the same, so who
uses the value clamps it."""
Int64 = Annotated[int, Meta(extra_json_schema={"format": "int64"})]
INT32_MAX: Final = 2**31 - 1
INT64_MAX: Final = 2**63 - 1

Off = Annotated[bool, Meta(extra_json_schema={"default": False})]
"""A switch whose default the schema names although it is the zero value."""
Name = Annotated[str, Meta(extra_json_schema={"default": ""})]
"""A name that the schema fills in as empty."""

Duration = Annotated[str, Meta(extra={"read": nanoseconds_of})]
"""A Go duration such as `1h30m`, empty for the default. The schema has a plain string, so an object with a bad one can
be stored and is decoded; strict decoding refuses it."""
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


def clamped(value: int, most: int, least: int = 0) -> int:
    """Return the value, or the nearer end of the range it is outside of."""
    return max(least, min(value, most))
