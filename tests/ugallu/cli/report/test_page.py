"""The report: everything on one page, nothing loaded, hostile audit data inert."""

import datetime as dt
import re
from html.parser import HTMLParser

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ugallu.api.bundle import (
    AttestationBundle,
    AttestationBundleSpec,
    AttestationBundleStatus,
    BundlePhase,
    InclusionProof,
    RekorEntry,
    SignatureInfo,
    SigningMode,
)
from ugallu.api.catalog import EventClass, Severity
from ugallu.api.event import ClusterIdentity, SecurityEvent, SecurityEventSpec, SourceRef
from ugallu.api.meta import Metadata, ObjectReference
from ugallu.api.subject import Subject
from ugallu.cli.report import Check, Entry, Story, render

AT = dt.datetime(2026, 11, 25, 1, 3, 9, tzinfo=dt.UTC)


def event(
    name: str = "se-1", *, text: str = "x", seconds: float = 0, technique: str = "", **signals: str
) -> SecurityEvent:
    return SecurityEvent(
        metadata=Metadata(name=name),
        spec=SecurityEventSpec(
            class_=EventClass.DETECTION,
            type="ExecIntoPod",
            severity=Severity.HIGH,
            cluster_identity=ClusterIdentity(cluster_name="local"),
            source=SourceRef(kind="ugallu-audit-detection", name="ugallu-audit-detection"),
            subject=Subject(kind="Pod", name=text, namespace="payments"),
            detected_at=AT + dt.timedelta(seconds=seconds),
            signals={"rule": "exec-by-workload", "attack.technique": technique, **signals},
        ),
    )


def sealed() -> AttestationBundle:
    return AttestationBundle(
        spec=AttestationBundleSpec(attested_for=ObjectReference(name="se-1")),
        status=AttestationBundleStatus(
            phase=BundlePhase.SEALED,
            statement_digest="sha256:" + "ab" * 32,
            signature=SignatureInfo(mode=SigningMode.LOCAL_P256, key_id="key-1"),
            rekor_entry=RekorEntry(log_index=3, uuid="aa", inclusion_proof=InclusionProof(tree_size=40, log_index=3)),
        ),
    )


def story(*entries: Entry, **more: object) -> Story:
    return Story(title="An incident", inputs=["audit.jsonl"], made_at=AT, version="1", entries=entries, **more)  # type: ignore[arg-type]


class Outline(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.names: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.links += [
            value or "" for name, value in attrs if name in ("href", "src", "srcset", "action", "xlink:href")
        ]
        assert not [name for name, _ in attrs if name.startswith("on")]


def outline(page: str) -> Outline:
    read = Outline()
    read.feed(page)
    read.close()
    return read


def test_page_loads_nothing_and_runs_nothing() -> None:
    """No script, no link that leaves the page, and a policy that forbids both should one slip in."""
    page = render(story(Entry(event(), sealed(), [Check("signature", ok=True)])))
    seen = outline(page)
    assert not {"script", "link", "img", "iframe", "object", "form"} & set(seen.names)
    assert all(link.startswith("#") for link in seen.links)
    assert "default-src &#x27;none&#x27;" in page
    assert not re.search(r"url\(|@import", page)


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(min_size=1))
def test_hostile_data_adds_no_element(text: str) -> None:
    """Whatever names, users and signals hold, the page has the same elements as with a harmless text."""

    def page(value: str) -> list[str]:
        entry = Entry(event(text=value, user=value, verb=value), about=value)
        return outline(render(story(entry))).names

    assert page(text) == page("harmless")


def test_page_tells_what_was_proven() -> None:
    """Digest, log index, key and each check stand by the event."""
    page = render(
        story(Entry(event(), sealed(), [Check("signature over the Statement", ok=True)]), ledger={"parsed": 10277})
    )
    for text in ("sha256:" + "ab" * 32, "3 of 40", "local-p256, key key-1", "signature over the Statement", "10,277"):
        assert text in page


def test_failed_check_is_not_called_verified() -> None:
    """One check that does not hold takes the word verified away."""
    page = render(story(Entry(event(), sealed(), [Check("signature", ok=True), Check("subject digest", ok=False)])))
    assert "does not verify" in page
    assert "✓ verified" not in page
    assert "1 did not hold" in page


def test_unsealed_event_claims_no_proof() -> None:
    """Without a bundle the page says that the event is not sealed."""
    page = render(story(Entry(event())))
    assert "not sealed" in page
    assert "verified" not in page.replace("does not verify", "")


def test_techniques_come_from_signals_else_from_the_rule() -> None:
    """The technique is named in full, whether the event or only its rule carries it."""
    page = render(story(Entry(event(technique="T1609")), Entry(event("se-2"), tags=["attack.t1611"])))
    assert "Container Administration Command" in page
    assert "Escape to Host" in page


def test_nothing_found_is_said() -> None:
    """An empty story is a page too."""
    assert "Nothing was found" in render(story())


def test_same_story_same_bytes() -> None:
    """Rendering depends on nothing but the story."""
    entries = [Entry(event(f"se-{n}", seconds=n)) for n in range(5)]
    assert render(story(*entries)) == render(story(*reversed(entries)))


def test_service_accounts_read_as_objects() -> None:
    """A workload's long user name is written like the subjects beside it."""
    entry = Entry(event(user="system:serviceaccount:payments:report-builder", impersonated="root"))
    assert entry.actor == "ServiceAccount payments/report-builder as root"


def closing(name: str, first: SecurityEvent) -> SecurityEvent:
    spec = msgspec.structs.replace(
        first.spec,
        parents=(ObjectReference(name=first.metadata.name),),
        signals={"occurrences": "2"},
    )
    return SecurityEvent(metadata=Metadata(name=name), spec=spec)


def test_closing_event_has_the_rule_and_actor_of_its_first() -> None:
    """An event about events says who did it, and is not taken for one more of them."""
    first = event("se-1", user="eve")
    entry = Entry(closing("se-2", first), origin=first)
    assert (entry.rule, entry.actor) == ("exec-by-workload", "eve")
    assert len(story(Entry(first), entry).groups) == 2


def test_page_says_by_whom_the_gravest_first() -> None:
    """Actors stand in the order of their gravest deeds; an event about events is no deed."""
    first = event("se-1", user="eve")
    low = msgspec.structs.replace(event("se-3", user="adam").spec, severity=Severity.LOW)
    told = story(
        Entry(SecurityEvent(metadata=Metadata(name="se-3"), spec=low)),
        Entry(first),
        Entry(closing("se-2", first), origin=first),
    )
    assert [(actor, len(deeds)) for actor, deeds in told.actors] == [("eve", 1), ("adam", 1)]
    page = render(told)
    assert page.index("<th>eve</th>") < page.index("<th>adam</th>")
