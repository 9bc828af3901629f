"""From what a finding is about to the subject that its event keeps: looked up where possible, never invented.

Admission wants the discriminator of the subject's kind or `unresolved`; whatever happens here, one of them is there.
"""

from collections.abc import Sequence

import anyio
import msgspec

from ugallu.api import snapshots as snap
from ugallu.api.subject import Clue, ExternalKind, Subject
from ugallu.clock import Clock
from ugallu.emit.limits import clean, one_discriminator
from ugallu.emit.port import Hydrator
from ugallu.errors import UgalluError
from ugallu.metrics import Metrics

RESOLVER_ERROR = "resolver_error"
HYDRATE_SECONDS = 0.2


def known(about: Subject | Clue) -> bool:
    """Whether anything at all says what this is about."""
    if isinstance(about, Clue):
        return bool(about.name or about.uid or about.key)
    return bool(about.kind or about.name or about.uid)


def bare(clue: Clue) -> Subject:
    """Return the subject of a clue that nobody looked up."""
    return Subject(kind=clue.kind, name=clue.name or clue.key, namespace=clue.namespace, uid=clue.uid, unresolved=True)


def finish(subject: Subject) -> Subject:
    """Return a subject that admission takes: a name, a known kind, one discriminator or `unresolved`.

    A list, a watch, a `generateName` and a request for no object have no name; these are named after their namespace,
    or `<cluster>`. A kind outside the API's list is something external at an endpoint of its name.
    """
    name = subject.name or _fallback(subject)
    api_version, namespace, uid = subject.api_version, subject.namespace, subject.uid
    texts = {"name": clean(name), "namespace": clean(namespace), "uid": clean(uid), "api_version": clean(api_version)}
    changes = {field: text for field, text in texts.items() if text != getattr(subject, field)}
    if changes:
        subject = msgspec.structs.replace(subject, **changes)
    if subject.kind not in Subject.DISCRIMINATORS:
        path = "/".join(part for part in (clean(subject.kind), subject.namespace, subject.name) if part)
        subject = msgspec.structs.replace(
            subject,
            kind="External",
            external=snap.ExternalSubject(kind=ExternalKind.ENDPOINT.value, identity=path),
        )
    return one_discriminator(subject)


def _fallback(subject: Subject) -> str:
    if subject.external is not None and subject.external.identity:
        return subject.external.identity
    if subject.uid:
        return subject.uid
    if subject.owner_references:
        return f"{subject.owner_references[0].name}-*"
    return f"<{subject.namespace}>" if subject.namespace else "<cluster>"


class Hydration:
    """Looks clues up for one emitter, at most `seconds` for all clues of one submission."""

    def __init__(self, hydrator: Hydrator, clock: Clock, metrics: Metrics, seconds: float = HYDRATE_SECONDS) -> None:
        self._hydrator = hydrator
        self._clock = clock
        self._metrics = metrics
        self._seconds = seconds

    async def look_up(self, clues: Sequence[Clue]) -> dict[Clue, tuple[Subject, str]]:
        """Return a subject for every clue, and why it is bare, empty when it is not."""
        found: dict[Clue, tuple[Subject, str]] = {}
        with anyio.move_on_after(self._seconds):
            for clue in dict.fromkeys(clues):
                started = self._clock.monotonic()
                found[clue] = await self._one(clue)
                outcome = self._outcome(*found[clue])
                took = self._clock.monotonic() - started
                self._metrics.observe(
                    "ugallu_emitter_enrich_latency_seconds", took, enrich_via=clue.via, outcome=outcome
                )
        for clue in clues:
            if clue not in found:
                self._metrics.observe(
                    "ugallu_emitter_enrich_latency_seconds", self._seconds, enrich_via=clue.via, outcome="error"
                )
                found[clue] = (_partial(clue), f"no answer within {self._seconds:g} s")
        return found

    async def _one(self, clue: Clue) -> tuple[Subject, str]:
        try:
            subject = await self._hydrator.hydrate(clue)
        except (UgalluError, OSError) as error:
            return _partial(clue), str(error)
        return (bare(clue) if subject is None else subject), ""

    @staticmethod
    def _outcome(subject: Subject, error: str) -> str:
        if error:
            return "error"
        if subject.unresolved:
            return "unresolved"
        if subject.tombstone:
            return "tombstone"
        return "partial" if subject.partial else "hit"


def _partial(clue: Clue) -> Subject:
    return msgspec.structs.replace(bare(clue), partial=True)
