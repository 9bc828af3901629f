"""SigmaRule: when an audit event is a fact worth an event. The match grammar, its extensions, and upstream Sigma."""

import datetime as dt
import enum
from typing import ClassVar

import msgspec

from ugallu.api.catalog import EventClass, Severity
from ugallu.api.meta import Condition, Kind, Resource, Wire, always


class GlobMatch(Wire, frozen=True, kw_only=True):
    """Values at a path: any of `patterns` (globs), `re` (RE2) or `cidr` hits, and every bound holds."""

    json_path: str
    patterns: tuple[str, ...] = msgspec.field(default_factory=always(()))
    re: tuple[str, ...] = ()
    cidr: tuple[str, ...] = ()
    gt: float | None = None
    lt: float | None = None
    ignore_case: bool = False


class SameElement(Wire, frozen=True, kw_only=True):
    """All conditions hold inside one element of the array at `path`; their paths start at the element."""

    path: str
    all: tuple[GlobMatch, ...]


class ObjectRefMatch(Wire, frozen=True, kw_only=True):
    """Conditions on the object reference; true only if the event has one."""

    api_group: tuple[str, ...] | None = None
    api_version: tuple[str, ...] | None = None
    resource: tuple[str, ...] | None = None
    subresource: tuple[str, ...] | None = None
    namespace: tuple[str, ...] | None = None
    name_glob: tuple[str, ...] | None = None


class UserMatch(Wire, frozen=True, kw_only=True):
    """Conditions on a caller."""

    username_glob: tuple[str, ...] | None = None
    groups: tuple[str, ...] | None = None
    not_username_glob: tuple[str, ...] | None = None
    uid: tuple[str, ...] | None = None
    extra: dict[str, tuple[str, ...]] | None = None
    present: bool | None = None


class Decision(enum.StrEnum):
    """What the authorizer said."""

    ALLOW = "allow"
    FORBID = "forbid"


class SigmaMatchLeaf(Wire, frozen=True, kw_only=True):
    """All given fields hold; within a list any one; an absent or empty list asks nothing."""

    verb: tuple[str, ...] | None = None
    object_ref: ObjectRefMatch | None = None
    user: UserMatch | None = None
    subresource: tuple[str, ...] | None = None
    request_object_glob: tuple[GlobMatch, ...] | None = None
    stage: tuple[str, ...] | None = None
    level: tuple[str, ...] | None = None
    user_glob: tuple[str, ...] | None = None
    name_glob: tuple[str, ...] | None = None
    namespace_glob: tuple[str, ...] | None = None
    impersonated_user: UserMatch | None = None
    response_code: tuple[str, ...] | None = None
    response_reason: tuple[str, ...] | None = None
    response_message_glob: tuple[str, ...] | None = None
    decision: Decision | None = None
    request_uri_glob: tuple[str, ...] | None = msgspec.field(default=None, name="requestURIGlob")
    user_agent_glob: tuple[str, ...] | None = None
    source_ips: tuple[str, ...] | None = None
    source_ip_scope: str = ""
    annotations: dict[str, tuple[str, ...]] | None = None
    response_object_glob: tuple[GlobMatch, ...] | None = None
    object_glob: tuple[GlobMatch, ...] | None = None
    field_absent: tuple[str, ...] | None = None
    same_element: tuple[SameElement, ...] | None = None
    dry_run: bool | None = None


class SigmaMatch(SigmaMatchLeaf, frozen=True, kw_only=True):
    """One inline leaf, and at least one of `any_of`, and not `not_`, and none of `none_of`. `{}` is every event."""

    any_of: tuple[SigmaMatchLeaf, ...] | None = None
    not_: SigmaMatchLeaf | None = None
    none_of: tuple[SigmaMatchLeaf, ...] | None = None


class SigmaEmit(Wire, frozen=True, kw_only=True):
    """The event that a match becomes; `signals` may hold `${...}` placeholders."""

    security_event_type: str
    severity: Severity
    class_: EventClass = EventClass.DETECTION
    signals: dict[str, str] = {}


class SigmaRateLimit(Wire, frozen=True, kw_only=True):
    """Token bucket of one rule, in matches and matches a second; zero or less means the default."""

    burst: int = 50
    sustained_per_sec: int = 5


class RuleException(Wire, frozen=True, kw_only=True):
    """A match that is expected: who answers for it, why, and until when (absent: for ever, which is reported)."""

    name: str
    owner: str
    reason: str
    match: SigmaMatchLeaf
    expires: dt.datetime | None = None


class Suppress(Wire, frozen=True, kw_only=True):
    """What a rule keeps silent about: repeats within `window` (a duration) by the given keys, and exceptions."""

    dedupe_by: tuple[str, ...] = ()
    window: str = ""
    exceptions: tuple[RuleException, ...] = ()


class RuleTest(Wire, frozen=True, kw_only=True):
    """An audit event and what the rule must say to it: `hit` or `miss`."""

    name: str
    expect: str
    event: dict[str, object]


class SigmaRuleSpec(Wire, frozen=True, kw_only=True):
    """One rule: either `match` or an upstream rule in `sigma`. While one of `tests` fails the rule does not arm."""

    enabled: bool = msgspec.field(default_factory=always(True))
    description: str = ""
    match: SigmaMatch = msgspec.field(default_factory=always(SigmaMatch()))
    emit: SigmaEmit
    rate_limit: SigmaRateLimit | None = None
    references: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    sigma: str = ""
    suppress: Suppress | None = None
    tests: tuple[RuleTest, ...] = ()


class SigmaRuleStatus(Wire, frozen=True, kw_only=True):
    """Whether the rule serves, and what it has seen in its life."""

    conditions: tuple[Condition, ...] = ()
    match_count: int = 0
    last_matched_at: dt.datetime | None = None
    dropped_rate_limit: int = 0
    parse_error: str = ""


class SigmaRule(Resource, frozen=True, kw_only=True):
    """A detection rule on audit events."""

    kind_info: ClassVar[Kind] = Kind("SigmaRule", "sigmarules", short_names=("sigmarule",))
    spec: SigmaRuleSpec
    status: SigmaRuleStatus = SigmaRuleStatus()
