"""Structs of one kind, read as one: each reader gets what a decoder of its own would have given it."""

import enum
from typing import Annotated, Any, ClassVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.api.meta import Kind, Metadata, Resource, Wire, encode
from ugallu.cluster.union import covers, projection, unite

POD = Kind("Pod", "pods", group="", version="v1", namespaced=True)


class Named(Wire, frozen=True, kw_only=True):
    """A container's name."""

    name: str = ""


class Pictured(Wire, frozen=True, kw_only=True):
    """A container's image."""

    image: str = "none"
    ports: tuple[int, ...] = ()


class Insisting(Wire, frozen=True, kw_only=True):
    """A container that must have an image."""

    image: str


class PlacedSpec(Wire, frozen=True, kw_only=True):
    """Where it runs."""

    node_name: str = ""
    host_network: bool = False
    containers: tuple[Named, ...] = ()
    by_zone: dict[str, Named] = {}


class PicturedSpec(Wire, frozen=True, kw_only=True):
    """What runs; another default for the host's network."""

    host_network: bool = True
    containers: tuple[Pictured, ...] = ()
    by_zone: dict[str, Pictured] | None = None


class InsistingSpec(Wire, frozen=True, kw_only=True):
    """What must be said."""

    host_network: bool
    containers: tuple[Insisting, ...] = ()


class Placed(Resource, frozen=True, kw_only=True):
    """A Pod, as somebody reads it who asks where."""

    kind_info: ClassVar[Kind] = POD
    spec: PlacedSpec = PlacedSpec()

    @property
    def node(self) -> str:
        """Where it runs."""
        return self.spec.node_name


class Imaged(Resource, frozen=True, kw_only=True):
    """A Pod, as somebody reads it who asks what."""

    kind_info: ClassVar[Kind] = POD
    spec: PicturedSpec = PicturedSpec(host_network=False)


class Strict(Resource, frozen=True, kw_only=True):
    """A Pod that must have a spec."""

    kind_info: ClassVar[Kind] = POD
    spec: InsistingSpec


class Bare(Resource, frozen=True, kw_only=True):
    """A Pod's metadata."""

    kind_info: ClassVar[Kind] = POD


READERS: tuple[type[Resource], ...] = (Placed, Imaged, Strict, Bare)

containers = st.lists(
    st.fixed_dictionaries(
        {}, optional={"name": st.text(max_size=3), "image": st.text(max_size=3), "ports": st.just([1])}
    ),
    max_size=3,
)
specs = st.fixed_dictionaries(
    {},
    optional={
        "nodeName": st.text(max_size=3),
        "hostNetwork": st.booleans(),
        "containers": containers,
        "byZone": st.none()
        | st.dictionaries(st.sampled_from("ab"), st.fixed_dictionaries({}, optional={"name": st.just("n")})),
        "other": st.integers(),
    },
)
documents = st.fixed_dictionaries({"metadata": st.just({"name": "p", "uid": "u"})}, optional={"spec": specs})


def decoded(kind: type[Resource], body: bytes) -> Resource | None:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError:
        return None


def united(*kinds: type[Resource]) -> type[Resource]:
    made = unite(kinds)
    assert made is not None
    return made


@settings(max_examples=200, deadline=None)
@given(documents, st.permutations(READERS), st.integers(1, 4))
def test_a_reader_gets_what_its_own_decoder_would_have_made(
    document: dict[str, Any], readers: list[type[Resource]], count: int
) -> None:
    """Whoever reads along, in whatever order they came: same values, same defaults, same refusals."""
    body = msgspec.json.encode(document)
    together = united(*readers[:count])
    whole = decoded(together, body)
    for kind in readers[:count]:
        own = decoded(kind, body)
        shown = None if whole is None else projection(together, kind)(whole)
        if whole is not None:
            assert shown == own
            assert type(shown) is type(own)
        else:
            # It is wrong inside what somebody reads.
            assert any(decoded(each, body) is None for each in readers[:count])


def test_what_is_handed_out_is_the_readers_own() -> None:
    """Properties, references, copies and encoding are those of the class that was asked for."""
    body = b'{"metadata":{"name":"p","namespace":"n","uid":"u"},"spec":{"nodeName":"one","containers":[{"image":"i"}]}}'
    together = united(Placed, Imaged)
    pod = projection(together, Placed)(msgspec.json.decode(body, type=together))
    assert isinstance(pod, Placed)
    assert pod.node == "one"
    assert pod.ref.kind == "Pod"
    assert pod.with_metadata(name="q").metadata.name == "q"
    assert msgspec.structs.replace(pod, spec=PlacedSpec(node_name="two")).node == "two"
    assert encode(pod) == encode(msgspec.json.decode(body, type=Placed))


def test_nobody_is_blinded_by_what_another_insists_on() -> None:
    """An object without a field that one reader must have is there for all the others."""
    together = united(Strict, Bare, Imaged)
    whole = msgspec.json.decode(b'{"metadata":{"name":"p"}}', type=together)
    assert projection(together, Strict)(whole) is None
    assert projection(together, Bare)(whole) == Bare(metadata=Metadata(name="p"))
    assert projection(together, Imaged)(whole) == Imaged(metadata=Metadata(name="p"))


def test_a_struct_that_has_everything_is_the_union() -> None:
    """Then nothing is made up and nothing projected: who reads all is handed what was decoded."""
    assert unite((Bare, Placed)) is Placed
    assert unite((Placed, Bare)) is Placed
    assert unite((Imaged,)) is Imaged
    whole = Placed()
    assert projection(Placed, Placed)(whole) is whole


def test_another_default_is_no_cover() -> None:
    """An absent field looks different through the two: the one cannot stand in for the other."""
    assert covers(Placed, Bare)
    assert not covers(Placed, Imaged)
    assert not covers(Strict, Imaged)


class Phase(enum.StrEnum):
    """A field as a word of few."""

    UP = "up"


class Worded(Resource, frozen=True, kw_only=True):
    """Reads a word."""

    kind_info: ClassVar[Kind] = POD
    phase: str = ""


class Enumerated(Resource, frozen=True, kw_only=True):
    """Reads one of few words."""

    kind_info: ClassVar[Kind] = POD
    phase: Phase | None = None


class Bounded(Resource, frozen=True, kw_only=True):
    """Reads a short word."""

    kind_info: ClassVar[Kind] = POD
    phase: Annotated[str, msgspec.Meta(max_length=3)] = ""


class Closed(Resource, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Refuses what it does not know."""

    kind_info: ClassVar[Kind] = POD


class Short(Resource, frozen=True, kw_only=True):
    """Reads an even shorter word."""

    kind_info: ClassVar[Kind] = POD
    phase: Annotated[str, msgspec.Meta(max_length=2)] = ""


def test_the_narrower_bound_counts_for_all() -> None:
    """A reader that is content with anything shares with one that is not; what that one refuses is shown to neither."""
    together = united(Worded, Bounded)
    assert decoded(together, b'{"phase":"long"}') is None
    assert projection(together, Worded)(msgspec.json.decode(b'{"phase":"up"}', type=together)) == Worded(phase="up")
    assert unite((Short, Bounded)) is None


@pytest.mark.parametrize("other", [Enumerated, Closed])
def test_structs_that_differ_about_a_field_are_not_united(other: type[Resource]) -> None:
    """What one accepts the other refuses: read as one, somebody would be lied to."""
    assert unite((Worded, other)) is None
