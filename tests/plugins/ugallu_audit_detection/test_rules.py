"""The life of a SigmaRule: compiled, tested, armed; a bad edit keeps the last good version; counts that survive."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from ugallu.api.meta import Condition
from ugallu.api.sigma import SigmaRule
from ugallu.cluster.port import Key
from ugallu.metrics import Metrics
from ugallu.settings import Settings
from ugallu.testing.audit import audit_event, audit_record
from ugallu.testing.clock import ManualClock, settled
from ugallu.testing.cluster import FaultyCluster, memory_cluster
from ugallu.testing.harness import running
from ugallu.testing.rules import sigma_rule
from ugallu_audit_detection.engine import Engine
from ugallu_audit_detection.lastgood import LastGood
from ugallu_audit_detection.operator import AuditDetection
from ugallu_audit_detection.rules import REFRESH, Rules
from ugallu_audit_detection.shares import MAX_REPLICAS
from ugallu_audit_detection.sigma.budget import Overruns
from ugallu_audit_detection.sigma.match import Matcher

if TYPE_CHECKING:
    from ugallu.cluster.embedded.cluster import EmbeddedCluster

EXPECTED = {"name": "expected", "owner": "o", "reason": "r", "match": {"userGlob": ["expected"]}}
BROKEN: dict[str, Any] = {"match": {"requestObjectGlob": [{"jsonPath": "$..deep.field", "patterns": ["*"]}]}}


class House:
    """A reconciler over a cluster in memory, driven by hand."""

    def __init__(self, directory: Path, beside: "House | None" = None, instance: str = "one") -> None:
        self.clock: ManualClock = beside.clock if beside else ManualClock()
        self.cluster: EmbeddedCluster = beside.cluster if beside else memory_cluster(self.clock, judging=False)
        self.calls = FaultyCluster(self.cluster, lambda _: None)
        self.metrics = Metrics()
        self.directory = directory / instance if beside else directory
        self.instance = instance
        self.restart()

    def restart(self) -> None:
        """A new process: memory is lost, cluster and disk are not."""
        self.engine = Engine(self.metrics)
        self.rules = Rules(
            self.engine,
            cluster=self.calls,
            clock=self.clock,
            metrics=self.metrics,
            last_good=LastGood(self.directory / "rules"),
            instance=self.instance,
        )

    async def put(self, rule: SigmaRule) -> SigmaRule:
        """Apply, reconcile, and return the rule as it is then."""
        await self.cluster.apply(rule, manager="test")
        return await self.turn(rule.metadata.name)

    async def turn(self, name: str = "pod-read") -> SigmaRule:
        """Reconcile once more."""
        await self.rules.reconcile(await self.cluster.get(SigmaRule, name))
        return await self.cluster.get(SigmaRule, name)

    def hits(self, **changes: Any) -> int:
        """How many findings an event gives."""
        return len(list(self.engine.inspect_batch([audit_record(**changes)])))

    @property
    def writes(self) -> int:
        """How often a status was written."""
        return sum(call.verb == "patch_status" for call in self.calls.calls)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def condition(rule: SigmaRule, kind: str) -> Condition | None:
    return next((one for one in rule.status.conditions if one.type == kind), None)


def said(rule: SigmaRule, kind: str) -> tuple[str, str] | None:
    one = condition(rule, kind)
    return (one.status, one.reason) if one else None


def case(name: str, expect: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "expect": expect, "event": audit_event(**changes)}


async def test_a_valid_rule_serves(house: House) -> None:
    """Compiled and armed, and it says so."""
    rule = await house.put(sigma_rule())
    assert said(rule, "Compiled") == ("True", "Compiled")
    assert said(rule, "Serving") == ("True", "Armed")
    assert said(rule, "Tested") == ("Unknown", "NoTests")
    assert rule.status.parse_error == ""
    assert house.hits() == 1
    assert house.metrics.value("ugallu_audit_rules", state="serving") == 1


async def test_a_bad_path_is_named(house: House) -> None:
    """parseError carries field and reason; the rule does not serve, and readiness says that none does."""
    rule = await house.put(sigma_rule(**BROKEN))
    assert said(rule, "Compiled") == ("False", "JSONPath")
    assert said(rule, "Serving") == ("False", "NotArmed")
    assert "$..deep.field" in rule.status.parse_error
    assert "requestObjectGlob" in rule.status.parse_error
    assert house.hits() == 0
    assert "no rule serves" in house.rules.ready()
    assert house.metrics.value("ugallu_audit_rule_compile_errors_total", rule="pod-read") == 1


async def test_a_bad_edit_keeps_the_last_good_version(house: House) -> None:
    """An attacker or a typo must not blind a rule; mending it brings the new version in."""
    await house.put(sigma_rule())
    rule = await house.put(sigma_rule(**BROKEN))
    assert said(rule, "Compiled") == ("False", "JSONPath")
    assert said(rule, "Serving") == ("True", "LastGoodVersion")
    assert house.hits() == 1
    assert house.rules.ready() == ""
    rule = await house.put(sigma_rule(match={"verb": ["delete"]}))
    assert said(rule, "Serving") == ("True", "Armed")
    assert rule.status.parse_error == ""
    assert (house.hits(), house.hits(verb="delete")) == (0, 1)


async def test_the_last_good_version_survives_a_restart(house: House) -> None:
    """The process that comes up with a broken rule serves what its predecessor served."""
    await house.put(sigma_rule())
    await house.put(sigma_rule(**BROKEN))
    house.restart()
    rule = await house.turn()
    assert said(rule, "Serving") == ("True", "LastGoodVersion")
    assert house.hits() == 1


async def test_a_damaged_file_of_a_last_good_version_is_no_version(house: House) -> None:
    """Half a file is not served."""
    await house.put(sigma_rule())
    await house.put(sigma_rule(**BROKEN))
    for file in (house.directory / "rules").iterdir():
        file.write_bytes(file.read_bytes()[:-20])
    house.restart()
    assert said(await house.turn(), "Serving") == ("False", "NotArmed")


async def test_a_full_disk_costs_no_rule(house: House) -> None:
    """Where the last good version cannot be kept, the rule serves all the same."""
    (house.directory / "rules").write_text("a file where the directory should be")
    assert said(await house.put(sigma_rule()), "Serving") == ("True", "Armed")


async def test_a_rule_arms_when_its_tests_pass(house: House) -> None:
    """Hits hit, misses miss."""
    tests = [case("a read", "hit"), case("a write", "miss", verb="create")]
    rule = await house.put(sigma_rule(tests=tests))
    assert said(rule, "Tested") == ("True", "Passed")
    assert house.hits() == 1


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (case("a write", "hit", verb="create"), "test 'a write' expects a hit and got a miss"),
        (case("a read", "miss"), "test 'a read' expects a miss and got a hit"),
        (case("a read", "maybe"), "expect must be hit or miss"),
        (case("a read", "hit", verb=7), "no audit event"),
    ],
)
async def test_a_rule_does_not_arm_while_a_test_fails(house: House, test: dict[str, Any], message: str) -> None:
    """The condition names the test and what it expected; an earlier version goes on."""
    rule = await house.put(sigma_rule(tests=[test]))
    assert said(rule, "Tested") == ("False", "TestFailed")
    assert message in (condition(rule, "Tested") or Condition(type="", status="", reason="")).message
    assert message in rule.status.parse_error
    assert said(rule, "Serving") == ("False", "NotArmed")
    assert house.hits() == 0
    await house.put(sigma_rule())
    rule = await house.put(sigma_rule(match={"verb": ["get", "list"]}, tests=[test]))
    assert said(rule, "Serving") == ("True", "LastGoodVersion")
    assert house.hits() == 1


async def test_tests_see_exceptions_and_stages(house: House) -> None:
    """A test asks what would be reported: an excepted event is a miss, as is a request only received."""
    exception = {"name": "n", "owner": "o", "reason": "r", "match": {"userGlob": ["backup"]}}
    tests = [
        case("excepted", "miss", user={"username": "backup"}),
        case("received", "miss", stage="RequestReceived"),
    ]
    rule = await house.put(sigma_rule(suppress={"exceptions": [exception]}, tests=tests))
    assert said(rule, "Tested") == ("True", "Passed")
    assert said(rule, "ExceptionWithoutExpiry") == ("True", "NoExpiry")


async def test_an_expired_exception_is_reported(house: House) -> None:
    """With its name and owner, for whoever has to renew it."""
    exception = {"name": "migration", "owner": "team-a", "reason": "r", "match": {"userGlob": ["m"]}}
    rule = sigma_rule(suppress={"exceptions": [{**exception, "expires": "2026-01-01T00:01:00Z"}]})
    assert condition(await house.put(rule), "ExceptionExpired") is None
    await house.clock.advance(90)
    found = condition(await house.turn(), "ExceptionExpired")
    assert found is not None
    assert "migration (owner team-a)" in found.message


async def test_a_disabled_rule_does_not_serve_though_it_compiles(house: House) -> None:
    """And not even its last good version, when what disables it is broken otherwise."""
    await house.put(sigma_rule())
    rule = await house.put(sigma_rule(enabled=False))
    assert said(rule, "Compiled") == ("True", "Compiled")
    assert said(rule, "Serving") == ("False", "Disabled")
    assert house.hits() == 0
    await house.put(sigma_rule())
    rule = await house.put(sigma_rule(enabled=False, **BROKEN))
    assert said(rule, "Serving") == ("False", "Disabled")
    assert house.hits() == 0
    assert house.rules.ready() == ""


async def test_a_deleted_rule_is_gone_from_everywhere(house: House) -> None:
    """Engine, gauge, disk."""
    await house.put(sigma_rule())
    await house.cluster.delete(SigmaRule, "pod-read")
    await house.rules.gone(Key("", "pod-read"))
    assert house.hits() == 0
    assert house.metrics.value("ugallu_audit_rules", state="serving") == 0
    assert list((house.directory / "rules").iterdir()) == []


@pytest.mark.parametrize(
    ("match", "kind"),
    [
        ({}, "MatchesEverything"),
        ({"verb": ["get"], "not": {"verb": ["get"]}}, "NeverMatches"),
        ({"objectGlob": [{"jsonPath": "$.spec", "patterns": []}]}, "NeverMatches"),
    ],
)
async def test_odd_rules_are_remarked(house: House, match: dict[str, Any], kind: str) -> None:
    """They compile, but hardly mean what they say; the remark goes with the cause."""
    assert said(await house.put(sigma_rule(match=match)), kind) is not None
    assert said(await house.put(sigma_rule()), kind) is None


async def test_a_rule_that_needs_bodies_says_when_none_come(house: House) -> None:
    """An hour of writes at Metadata: the audit policy is too thin. One body, and the remark is gone."""
    glob = [{"jsonPath": "$.spec.hostPID", "patterns": ["true"]}]
    await house.put(sigma_rule(match={"objectRef": {"resource": ["pods"]}, "requestObjectGlob": glob}))
    for stamp in ("2026-01-01T00:00:00Z", "2026-01-01T00:59:00Z"):
        house.hits(verb="create", stageTimestamp=stamp)
    assert said(await house.turn(), "NeedsLevel") is None
    house.hits(verb="create", stageTimestamp="2026-01-01T01:00:00Z")
    found = condition(await house.turn(), "NeedsLevel")
    assert found is not None
    assert "pods" in found.message
    assert "Request" in found.message
    house.hits(verb="create", requestObject={"kind": "Pod"}, stageTimestamp="2026-01-01T01:01:00Z")
    assert said(await house.turn(), "NeedsLevel") is None


async def test_a_rule_made_anew_is_another_rule(house: House) -> None:
    """Deleted and created between two looks: the version of the one is not the last good version of the other."""
    await house.put(sigma_rule())
    await house.cluster.delete(SigmaRule, "pod-read")
    rule = await house.put(sigma_rule(**BROKEN))
    assert said(rule, "Serving") == ("False", "NotArmed")
    assert house.hits() == 0
    house.restart()
    assert said(await house.turn(), "Serving") == ("False", "NotArmed")


async def test_rules_whose_long_names_begin_alike_keep_versions_of_their_own(house: House) -> None:
    """A name may be longer than what a file is called by."""
    one, two = "x" * 240 + "-1", "x" * 240 + "-2"
    await house.put(sigma_rule(one))
    await house.put(sigma_rule(two, match={"verb": ["list"]}))
    await house.cluster.apply(sigma_rule(one, **BROKEN), manager="test")
    house.restart()
    assert said(await house.turn(one), "Serving") == ("True", "LastGoodVersion")
    assert house.hits() == 1


async def test_a_slow_rule_is_remarked(house: House) -> None:
    """Its status says so, and what is held back from it; another version begins anew."""
    await house.put(sigma_rule())
    slow = house.engine.budget.overruns["pod-read"] = Overruns(events=9)
    assert condition(await house.turn(), "TooSlow") is None
    slow.events = 10
    assert said(await house.turn(), "TooSlow") == ("True", "OverBudget")
    assert house.hits() == 1
    slow.since, slow.weight, slow.passed = 1767225600.0, 4096, 7
    remark = condition(await house.turn(), "TooSlow")
    assert remark is not None
    assert remark.reason == "HeldBack"
    assert "until 2026-01-01T00:10:00Z it is not shown events of 4096 bytes and more, 7 so far" in remark.message
    assert condition(await house.put(sigma_rule(description="a quicker one")), "TooSlow") is None


async def test_counts_are_written_now_and_then(house: House) -> None:
    """At most once in thirty seconds, and not at all while nothing happens."""
    await house.put(sigma_rule())
    assert house.writes == 1
    for _ in range(5):
        house.hits()
        await house.turn()
    assert house.writes == 1
    await house.clock.advance(REFRESH)
    rule = await house.turn()
    assert rule.status.match_count == 5
    assert rule.status.last_matched_at == audit_record().seen_at.replace(microsecond=0)
    await house.clock.advance(REFRESH)
    await house.turn()
    assert house.writes == 2


async def test_a_restart_does_not_write_zeros(house: House) -> None:
    """The status is the base of what a new process counts."""
    await house.put(sigma_rule(rateLimit={"burst": 1, "sustainedPerSec": 1}))
    house.hits()
    house.hits()
    await house.clock.advance(REFRESH)
    await house.turn()
    house.restart()
    rule = await house.turn()
    assert (rule.status.match_count, rule.status.dropped_rate_limit) == (1, 1)
    house.hits()
    await house.clock.advance(REFRESH)
    assert (await house.turn()).status.match_count == 2


async def test_the_counts_of_replicas_add_up(house: House, tmp_path: Path) -> None:
    """Each writes its own share: whoever writes last, nothing of the others is lost, and the sums come right."""
    other = House(tmp_path, beside=house, instance="two")
    await house.put(sigma_rule(rateLimit={"burst": 2, "sustainedPerSec": 1}))
    await other.turn()
    for each, hits in ((house, 3), (other, 1)):
        for _ in range(hits):
            each.hits()
    await house.clock.advance(REFRESH)
    stale = await house.cluster.get(SigmaRule, "pod-read")
    await house.rules.reconcile(stale)
    await other.rules.reconcile(stale)
    await house.clock.advance(REFRESH)
    rule = await house.turn()
    assert {name: share.match_count for name, share in rule.status.replicas.items()} == {"one": 2, "two": 1}
    assert (rule.status.match_count, rule.status.dropped_rate_limit) == (3, 1)
    writes = house.writes, other.writes
    await house.clock.advance(REFRESH)
    await house.turn()
    await other.turn()
    assert (house.writes, other.writes) == writes, "what is right is not written again"
    other.restart()
    await other.turn()
    other.hits()
    await house.clock.advance(REFRESH)
    assert (await other.turn()).status.match_count == 4


async def test_counts_from_before_there_were_shares_are_kept(house: House, tmp_path: Path) -> None:
    """They belong to no replica, and two that find them add them once."""
    other = House(tmp_path, beside=house, instance="two")
    await house.put(sigma_rule())
    await house.cluster.patch_status(SigmaRule, "pod-read", {"matchCount": 40})
    found = await house.cluster.get(SigmaRule, "pod-read")
    for each in (house, other):
        await each.rules.reconcile(found)
        each.hits()
    await house.clock.advance(REFRESH)
    for each in (house, other, house):
        await each.rules.reconcile(found if each is other else await house.cluster.get(SigmaRule, "pod-read"))
    await house.clock.advance(REFRESH)
    assert (await house.turn()).status.match_count == 42


async def test_shares_of_replicas_that_are_gone_are_folded(house: House, tmp_path: Path) -> None:
    """A name that never comes back is no entry for ever; the sum stays. One that does come back counts on."""
    await house.put(sigma_rule())
    house.hits()
    kept = house.engine.snapshot()
    await house.clock.advance(REFRESH)
    rule = await house.turn()
    for number in range(MAX_REPLICAS + 3):
        each = House(tmp_path, beside=house, instance=f"pod-{number}")
        await each.turn()
        each.hits()
        await house.clock.advance(REFRESH)
        rule = await each.turn()
        assert rule.status.match_count == number + 2
    assert len(rule.status.replicas) == MAX_REPLICAS + 1
    assert "one" not in rule.status.replicas
    house.restart()
    house.engine.restore(kept)
    house.engine.tallies.of("pod-read").wrote = True
    await house.turn()
    house.hits()
    await house.clock.advance(REFRESH)
    assert (await house.turn()).status.match_count == rule.status.match_count + 1


async def test_a_process_that_stops_writes_its_last_counts(house: House) -> None:
    """What came since the last refresh is not left for nobody to write."""
    await house.put(sigma_rule())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(house.rules.run)
        await settled()
        house.hits()
        tasks.cancel_scope.cancel()
    assert (await house.cluster.get(SigmaRule, "pod-read")).status.match_count == 1


async def test_many_rules_are_indexed_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start with hundreds of rules builds one matcher, not hundreds."""

    built: list[int] = []

    def counting(rules: Any, **more: Any) -> Any:
        built.append(len(rules))
        return Matcher(rules, **more)

    monkeypatch.setattr("ugallu_audit_detection.engine.Matcher", counting)
    for index in range(50):
        await house.put(sigma_rule(f"rule-{index}"))
    assert house.hits() == 50
    house.hits()
    assert built == [50]


async def test_our_own_status_writes_compile_nothing_again(house: House) -> None:
    """A status is no new version."""
    await house.put(sigma_rule())
    before = house.engine.serving("pod-read")
    await house.turn()
    assert house.engine.serving("pod-read") is before


async def test_transition_times_stay_while_the_status_does(house: House) -> None:
    """`kubectl` shows since when; another message does not move it."""
    await house.put(sigma_rule(**BROKEN))
    await house.clock.advance(100)
    rule = await house.put(sigma_rule(match={"objectRef": {"nameGlob": ["*a*b*c*d*e*f*g*h*i*"]}}))
    found = condition(rule, "Compiled")
    assert found is not None
    assert found.reason == "GlobBudget"
    assert found.last_transition_time == ManualClock().now()
    assert found.observed_generation == rule.metadata.generation


async def test_two_processes_on_one_cluster_add_up() -> None:
    """Each sees other events; what both counted stands in the rule, whichever of them stops last."""
    cluster = memory_cluster()
    await cluster.apply(sigma_rule(suppress={"exceptions": [EXPECTED]}), manager="test")
    async with (
        running(AuditDetection, cluster=cluster, settings=Settings(instance="one")) as one,
        running(AuditDetection, cluster=cluster, settings=Settings(instance="two")) as two,
    ):
        await one.publish(*(audit_record(user={"username": name}) for name in ("ann", "ben", "expected")))
        await two.publish(*(audit_record(user={"username": name}) for name in ("cyd", "expected", "expected")))
        await one.settle()
        await two.settle()
    status = (await cluster.get(SigmaRule, "pod-read")).status
    assert status.match_count == 3
    assert {name: share.match_count for name, share in status.replicas.items()} == {"one": 2, "two": 1}
    assert [(each.name, each.hidden) for each in status.exceptions] == [("expected", 3)]
