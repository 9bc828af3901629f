"""`Rules`: keeps the engine's rules as the SigmaRules of the cluster say, and their status as the engine says.

A version that does not compile, or fails one of its own tests, never serves; the last one that did goes on serving.
Correlations and filters are tested beside the rules that they mean, whenever those come and change.
"""

import datetime as dt
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import anyio
import msgspec

from ugallu.sdk import (
    ANY,
    LABEL_EXPERIMENTAL,
    MAX_SHARES,
    After,
    Clock,
    Cluster,
    Condition,
    ExceptionStatus,
    Key,
    Metrics,
    NotFoundError,
    Preconditions,
    ReplicaShare,
    SigmaRule,
    SigmaRuleSpec,
    SigmaRuleStatus,
    UgalluError,
    utc_seconds,
)
from ugallu_audit_detection import conditions
from ugallu_audit_detection.arming import Armed, arm, failure
from ugallu_audit_detection.correlation.status import with_links
from ugallu_audit_detection.engine import Engine
from ugallu_audit_detection.inventory import Inventory
from ugallu_audit_detection.lastgood import LastGood
from ugallu_audit_detection.shares import EARLIER, Sums, folded, shares, sums
from ugallu_audit_detection.shares import written as as_patch
from ugallu_audit_detection.sigma.errors import RuleError
from ugallu_audit_detection.sigma.names import is_linked

REFRESH = 30.0
"""Seconds between two writes of one rule's counts."""
LAST_WRITES = 5.0
"""Seconds that the counts of a stopping process may take to be written."""


@dataclass(slots=True)
class Known:
    """What came of one version of a rule."""

    version: tuple[str, int, str]
    spec: SigmaRuleSpec
    armed: Armed | None = None
    """The version, if it compiles."""
    error: RuleError | None = None
    wrong: str = ""
    """The test that fails."""
    last_good: bool = False
    """An earlier version serves in its place."""
    kept: bool = False
    """It is the good one on disk: a correlation or filter that has served."""
    idle: bool = False
    """It is a correlation or filter that does not serve, for want of rules or for a test that fails beside them."""
    state: str = ""
    written: tuple[object, ...] = ()
    """Conditions and error as last written, without the times of transitions."""
    share: ReplicaShare | None = None
    """Our share of the counts as last written by this process."""
    counted_at: float = field(default=float("-inf"))

    @property
    def good(self) -> bool:
        """Whether this version may serve."""
        return self.armed is not None and not self.wrong


class Rules:
    """The reconciler."""

    watches = SigmaRule
    at_once = 64
    """A start writes the status of every rule; together they share the disk's syncs."""

    def __init__(
        self,
        engine: Engine,
        *,
        cluster: Cluster,
        clock: Clock,
        metrics: Metrics,
        last_good: LastGood,
        instance: str = "embedded",
        inventory: Inventory | None = None,
    ) -> None:
        self._engine = engine
        self._instance = instance
        self._inventory = engine.context.inventory = inventory
        self._cluster = cluster
        self._clock = clock
        self._metrics = metrics
        self._last_good = last_good
        self._known: dict[str, Known] = {}
        self._states: Counter[str] = Counter()

    async def reconcile(self, rule: SigmaRule) -> After:
        """Compile a version that is new, and write what there is to say about it."""
        name = rule.metadata.name
        version = (rule.metadata.uid, rule.metadata.generation, rule.metadata.labels.get(LABEL_EXPERIMENTAL, ""))
        known = self._known.get(name)
        replicas = rule.status.replicas
        self._engine.tallies.of(name).adopt(
            rule.metadata.uid,
            replicas.get(self._instance),
            folded=EARLIER in replicas and self._instance not in replicas and (known is None or known.share is None),
        )
        if known is None or known.version != version:
            known = self._take(rule, version)
        self._settle(rule, known)
        self._relink()
        await self._write(rule, known, now=False)
        return After(REFRESH)

    async def gone(self, key: Key) -> None:
        """Stop serving the rule and forget all about it."""
        known = self._known.pop(key.name, None)
        if known is not None:
            self._count(known.state, "")
        self._engine.forget(key.name)
        self._last_good.forget(key.name)

    def ready(self) -> str:
        """Return what keeps detection from working: rules that exist, none of which serves."""
        if self._known and not self._engine.rules and any(known.spec.enabled for known in self._known.values()):
            broken = sum(not known.good for known in self._known.values())
            return f"no rule serves: {broken} of {len(self._known)} have errors, see `kubectl get sigmarules -o yaml`"
        return ""

    def _take(self, rule: SigmaRule, version: tuple[str, int, str]) -> Known:
        name, before = rule.metadata.name, self._known.get(rule.metadata.name)
        known = Known(version, rule.spec, state=before.state if before else "")
        if before is not None and before.version[0] != rule.metadata.uid:
            # Deleted and made anew between two looks: what the other one said is no last good version of this one.
            self._engine.disarm(name)
            self._engine.exceptions.forget(name)
            self._last_good.forget(name)
        try:
            known.armed = arm(name, rule.spec, rule.metadata.labels)
            known.wrong = failure(known.armed)
            if not known.wrong and self._engine.serving(name) is not None:
                known.wrong = self._engine.correlator.refuses(known.armed) or ""
        except RuleError as error:
            known.error = error
            self._metrics.count("ugallu_audit_rule_compile_errors_total", rule=name)
        if not rule.spec.enabled:
            self._engine.disarm(name)
        elif known.good and known.armed is not None:
            self._arm(known.armed)
            if not is_linked(rule.spec.sigma):
                self._last_good.keep(name, rule.spec)
        else:
            known.last_good = self._fall_back(rule)
        self._known[name] = known
        self._recount(known)
        return known

    def _settle(self, rule: SigmaRule, known: Known) -> None:
        """Judge a correlation or filter anew: one that passes serves and is kept, else the last good one serves."""
        name, armed = rule.metadata.name, known.armed
        if armed is None or known.error is not None or not known.spec.enabled or not is_linked(armed.spec.sigma):
            return
        wrong = self._engine.correlator.refuses(armed)
        serves = self._engine.serving(name) is armed
        if wrong == "":
            if not serves:
                self._arm(armed)
                known.wrong, known.last_good = "", False
            if not known.kept:
                self._last_good.keep(name, known.spec)
                known.kept = True
        elif wrong and serves and self._last_good.of(name) not in (None, known.spec):
            # It came before the rules that it means; what served before the last stop still lies on disk.
            self._engine.disarm(name)
            known.wrong, known.last_good = wrong, self._fall_back(rule)
            before = self._engine.serving(name)
            if before is None or self._engine.correlator.refuses(before):
                self._arm(armed)
                known.wrong, known.last_good = "", False
        known.idle = self._idle(name)
        self._recount(known)

    def _relink(self) -> None:
        """See who serves now: this rule may be the one that a correlation was waiting for."""
        for name, known in self._known.items():
            if known.idle and not self._idle(name):
                known.idle = False
                self._recount(known)

    def _idle(self, name: str) -> bool:
        links = self._engine.correlator.links
        return name in links.troubles and name not in links.bases

    def _recount(self, known: Known) -> None:
        state = _state(known)
        self._count(known.state, state)
        known.state = state

    def _fall_back(self, rule: SigmaRule) -> bool:
        """Let the last good version serve; tell whether there is one."""
        name = rule.metadata.name
        if self._engine.serving(name) is not None:
            return True
        spec = self._last_good.of(name)
        if spec is None:
            return False
        try:
            armed = arm(name, spec, rule.metadata.labels)
        except RuleError:  # it served under an earlier release of ours
            return False
        self._arm(armed)
        return True

    def _arm(self, armed: Armed) -> None:
        if self._inventory is not None:
            self._inventory.want(asked for rule in armed.asking for asked in rule.asks)
        self._engine.arm(armed)

    def _count(self, before: str, after: str) -> None:
        for state, step in ((before, -1), (after, 1)):
            if state and before != after:
                self._states[state] += step
                self._metrics.gauge("ugallu_audit_rules", self._states[state], state=state)

    async def _write(self, rule: SigmaRule, known: Known, *, now: bool) -> None:
        """Patch the status where it says something else; counts alone at most once in a while, unless `now`."""
        name, status = rule.metadata.name, rule.status
        said = self._said(known)
        error = str(known.error or known.wrong)
        written = (tuple(msgspec.structs.astuple(_timeless(one)) for one in said), error)
        if not known.written:
            known.written = (
                tuple(msgspec.structs.astuple(_timeless(one)) for one in status.conditions),
                status.parse_error,
            )
        own = self._share(name)
        all_shares = shares(status, self._instance, own)
        total = sums(all_shares)
        news = (own != ReplicaShare() and own != (known.share or status.replicas.get(self._instance))) or (
            (total.matched, total.limited) != (status.match_count, status.dropped_rate_limit)
        )
        due = now or self._clock.monotonic() - known.counted_at >= REFRESH
        if written == known.written and not (news and due):
            return
        old = {one.type: one for one in status.conditions}
        full = [self._stamped(one, old.get(one.type), known) for one in said]
        patch: dict[str, Any] = {"conditions": msgspec.to_builtins(full), "parseError": error or None}
        when = ANY
        if news:
            changes: dict[str, ReplicaShare | None] = {self._instance: own}
            if EARLIER in all_shares and EARLIER not in status.replicas:
                changes[EARLIER] = all_shares[EARLIER]
            fold = folded(all_shares, self._instance) if self._instance not in status.replicas else {}
            if fold:
                changes |= fold
                when = Preconditions(resource_version=rule.metadata.resource_version)
            patch |= {
                "matchCount": total.matched,
                "droppedRateLimit": total.limited,
                "lastMatchedAt": msgspec.to_builtins(total.last),
                "replicas": {name: as_patch(share, status.replicas.get(name)) for name, share in changes.items()},
                "exceptions": msgspec.to_builtins(self._hidden(name, status, total)),
            }
        await self._cluster.patch_status(SigmaRule, name, patch, when=when)
        known.written, known.counted_at = written, self._clock.monotonic()
        if news:
            known.share = own
            self._engine.tallies.of(name).wrote = True

    def _share(self, name: str) -> ReplicaShare:
        matched, limited, last = self._engine.tallies.of(name).share()
        hidden = {each: kept.hidden for each, kept in self._engine.exceptions.of(name).items() if kept.hidden}
        return ReplicaShare(match_count=matched, dropped_rate_limit=limited, last_matched_at=last, hidden=hidden)

    def _hidden(self, name: str, status: SigmaRuleStatus, total: Sums) -> list[ExceptionStatus]:
        """What exceptions have hidden from all replicas; of the last events ours, unless another saw a later one."""
        before = {one.name: one for one in status.exceptions}
        found = []
        for each, count in total.hidden.items():
            one = before.get(each, ExceptionStatus(name=each))
            own = self._engine.exceptions.of(name).get(each)
            last = own.last_at if own is not None else None
            if own is not None and last is not None and (one.last_hidden_at is None or last >= one.last_hidden_at):
                one = ExceptionStatus(
                    name=each, last_hidden_at=last, last_audit_id=own.audit_id, last_subject=own.subject
                )
            found.append(msgspec.structs.replace(one, hidden=count))
        found.sort(key=lambda one: one.last_hidden_at.timestamp() if one.last_hidden_at else 0.0, reverse=True)
        return sorted(found[:MAX_SHARES], key=lambda one: one.name)

    def _stamped(self, said: Condition, old: Condition | None, known: Known) -> Condition:
        since = old.last_transition_time if old and old.status == said.status else utc_seconds(self._clock.now())
        return msgspec.structs.replace(said, last_transition_time=since, observed_generation=known.version[1])

    def _said(self, known: Known) -> list[Condition]:
        serving = conditions.serving(known.spec, good=known.good, last_good=known.last_good)
        said = [
            conditions.compiled(known.error, serving.message or "serving"),
            conditions.tested(known.armed, known.wrong),
            serving,
        ]
        if known.armed is not None:
            said += conditions.remarks(
                known.armed,
                self._engine.levels,
                self._clock.now(),
                slow=self._engine.budget.slow(known.armed.name),
                hidden=self._engine.exceptions.of(known.armed.name),
                event_time=self._engine.pulse.event_time,
                unseen=self._engine.sightings.unknown(known.armed.name),
            )
        return with_links(said, known.armed, self._engine.correlator, self._clock.now().timestamp())

    # The last counts of a process that stops

    name = "rule counts"

    async def run(self) -> None:
        """Do nothing until cancelled; then write the counts that no refresh will write any more."""
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.move_on_after(LAST_WRITES, shield=True):
                async with anyio.create_task_group() as writes:
                    for name, known in self._known.items():
                        if self._share(name) != (known.share or ReplicaShare()):
                            writes.start_soon(self._write_last, name, known)

    async def _write_last(self, name: str, known: Known) -> None:
        try:
            await self._write(await self._cluster.get(SigmaRule, name), known, now=True)
        except NotFoundError:
            pass
        except UgalluError:
            # Nobody is left to try again; checkpoints hold the counts, and the next process writes them.
            return


def _timeless(condition: Condition) -> Condition:
    return msgspec.structs.replace(
        condition, last_transition_time=dt.datetime(1970, 1, 1, tzinfo=dt.UTC), observed_generation=0
    )


def _state(known: Known) -> str:
    if not known.spec.enabled:
        return "disabled"
    if known.good:
        return "broken" if known.idle else "serving"
    return "last-good" if known.last_good else "broken"
