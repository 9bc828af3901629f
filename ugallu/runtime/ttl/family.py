"""Who belongs together: an event, its responses, and the bundles of both; a run and its result.

A legal hold on one of them holds them all, and what is left of them in the store.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from ugallu.api.bundle import LABEL_EVENT_UID
from ugallu.api.meta import Resource
from ugallu.cluster.port import Cache, View
from ugallu.runtime.ttl.marks import RESULT_OF, Bundle, Event, Response, Result, Run
from ugallu.runtime.ttl.notes import FROZEN

_UID: Final = "ttl.uid"
_EVENT: Final = "ttl.event"
_FOR: Final = "ttl.for"
_RUN: Final = "ttl.run"
_BLOB: Final = "ttl.blob"


class Families:
    """Finds relatives in the cache; what it shows may lag a moment behind the cluster."""

    def __init__(self, cache: Cache) -> None:
        self._complete = False
        self.events: View[Event] = cache.view(Event)
        self.responses: View[Response] = cache.view(Response)
        self.bundles: View[Bundle] = cache.view(Bundle)
        self.events.index(_UID, lambda event: (event.metadata.uid,))
        self.responses.index(_UID, lambda response: (response.metadata.uid,))
        self.responses.index(_EVENT, lambda response: (response.spec.security_event_ref.uid,))
        self.bundles.index(_FOR, lambda bundle: (bundle.spec.attested_for.uid,))
        self.bundles.index(_EVENT, lambda bundle: (bundle.metadata.labels.get(LABEL_EVENT_UID, ""),))
        self.bundles.index(
            _BLOB, lambda bundle: () if bundle.status.worm_ref is None else (bundle.status.worm_ref.url,)
        )
        self._runs = {kind: cache.view(kind) for kind in RESULT_OF}
        self._results = {kind: cache.view(kind) for kind in RESULT_OF.values() if kind is not None}
        for view in self._results.values():
            view.index(_RUN, lambda result: ((result.metadata.namespace, result.spec.derived_from_run.name),))

    async def synced(self) -> None:
        """Wait until every relative there is has been seen: who is not there yet must not count as gone."""
        if not self._complete:
            for view in (self.events, self.responses, self.bundles, *self._runs.values(), *self._results.values()):
                await view.synced()
            self._complete = True

    def event(self, uid: str) -> Event | None:
        """Return the event with this uid."""
        return next(iter(self.events.by(_UID, uid)), None) if uid else None

    def response(self, uid: str) -> Response | None:
        """Return the response with this uid."""
        return next(iter(self.responses.by(_UID, uid)), None) if uid else None

    def bundles_of(self, uid: str) -> Iterable[Bundle]:
        """Return the bundles that attest what has this uid."""
        return self.bundles.by(_FOR, uid)

    def sharing(self, bundle: Bundle) -> Iterator[Bundle]:
        """Yield the other bundles whose evidence is the same: events that were sealed together."""
        if bundle.status.worm_ref is not None:
            for other in self.bundles.by(_BLOB, bundle.status.worm_ref.url):
                if other.metadata.uid != bundle.metadata.uid:
                    yield other

    def event_uid(self, member: Resource) -> str:
        """Return the uid of the event that a family is about."""
        if isinstance(member, Event):
            return member.metadata.uid
        if isinstance(member, Response):
            return member.spec.security_event_ref.uid
        if isinstance(member, Bundle):
            uid = member.spec.attested_for.uid
            response = self.response(uid)
            if response is not None:
                return response.spec.security_event_ref.uid
            # The label is all that is left once a response is gone.
            return member.metadata.labels.get(LABEL_EVENT_UID, "") or uid
        return ""

    def members(self, member: Resource) -> Iterator[Resource]:
        """Yield the whole family, the member itself included; each once."""
        if isinstance(member, Run | Result):
            yield from self._of_run(member)
            return
        event_uid = self.event_uid(member)
        seen: set[str] = set()
        for relative in self._of_event(event_uid, member):
            if relative.metadata.uid not in seen:
                seen.add(relative.metadata.uid)
                yield relative

    def held_by(self, member: Resource) -> str:
        """Return who of the family is under legal hold, as `Kind/name`; empty for nobody."""
        for relative in self.members(member):
            if relative.metadata.annotations.get(FROZEN) == "true":
                return f"{relative.kind_info.name}/{relative.metadata.name}"
        return ""

    def run_of(self, result: Result) -> Run | None:
        """Return the run that a result comes from."""
        for kind, made in RESULT_OF.items():
            if made is not None and isinstance(result, made):
                return self._runs[kind].get(result.spec.derived_from_run.name, result.metadata.namespace)
        return None

    def _of_event(self, uid: str, member: Resource) -> Iterator[Resource]:
        yield member
        if not uid:
            return
        event = self.event(uid)
        if event is not None:
            yield event
        yield from self.bundles.by(_FOR, uid)
        yield from self.bundles.by(_EVENT, uid)
        for response in self.responses.by(_EVENT, uid):
            yield response
            yield from self.bundles.by(_FOR, response.metadata.uid)

    def _of_run(self, member: Run | Result) -> Iterator[Resource]:
        run = self.run_of(member) if isinstance(member, Result) else member
        yield member
        if run is None:
            return
        if run is not member:
            yield run
        made = RESULT_OF[type(run)]
        if made is not None:
            key = (run.metadata.namespace, run.metadata.name)
            yield from (result for result in self._results[made].by(_RUN, key) if result is not member)
