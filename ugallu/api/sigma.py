"""SigmaRule: when an audit event is a fact worth an event. The match grammar, its extensions, and upstream Sigma."""

import datetime as dt
import enum
from typing import Annotated, Any, ClassVar

import msgspec

from ugallu.api.catalog import EventClass, Severity
from ugallu.api.meta import AGE, Column, Conditions, Kind, Resource, Wire, always
from ugallu.api.scalars import Duration, Int64, listed_by


class GlobMatch(Wire, frozen=True, kw_only=True):
    """Values at a path: any of `patterns` (globs), `re` (RE2) or `cidr` hits, and every bound holds."""

    json_path: str
    """Restricted path into the request body."""
    patterns: tuple[str, ...] = msgspec.field(default_factory=always(()))
    """Value matches one glob; at most 8 stars each."""
    re: tuple[str, ...] = ()
    """Regular expressions (RE2), 512 characters at most; one is enough."""
    cidr: tuple[str, ...] = ()
    """Networks that hold the address; one is enough."""
    gt: float | None = None
    """The number is greater."""
    lt: float | None = None
    """The number is smaller."""
    ignore_case: bool = False
    """Letter case does not matter."""
    as_path: bool = False
    """The value is a path: it is compared without `//`, `/./`, `..` and a slash at its end."""


class SameElement(Wire, frozen=True, kw_only=True):
    """All conditions hold inside one element of the array at `path`; their paths start at the element."""

    path: str
    """Path of an array."""
    all: tuple[GlobMatch, ...]
    """Conditions on one element; their paths start there."""


class ObjectRefMatch(Wire, frozen=True, kw_only=True):
    """Conditions on the object reference; true only if the event has one."""

    api_group: tuple[str, ...] | None = None
    """One of these API groups."""
    api_version: tuple[str, ...] | None = None
    """One of these versions."""
    resource: tuple[str, ...] | None = None
    """One of these resources."""
    subresource: tuple[str, ...] | None = None
    """One of these subresources."""
    namespace: tuple[str, ...] | None = None
    """One of these namespaces, exact."""
    name_glob: tuple[str, ...] | None = None
    """Name matches one glob."""


class UserMatch(Wire, frozen=True, kw_only=True):
    """Conditions on a caller."""

    username_glob: tuple[str, ...] | None = None
    """User name matches one glob."""
    groups: tuple[str, ...] | None = None
    """Caller is in one of these groups."""
    not_username_glob: tuple[str, ...] | None = None
    """User name matches none of these globs."""
    uid: tuple[str, ...] | None = None
    """UID is one of these."""
    extra: dict[str, tuple[str, ...]] | None = None
    """For every key: one of its values matches a glob."""
    present: bool | None = None
    """Whether there must be such a caller at all."""


class Decision(enum.StrEnum):
    """What the authorizer said."""

    ALLOW = "allow"
    FORBID = "forbid"


class RightsMatch(Wire, frozen=True, kw_only=True):
    """Something that one rule of a role allows: of each list given, one value. `*` in the role allows everything."""

    verbs: tuple[str, ...] = ()
    """It allows one of these verbs."""
    api_groups: tuple[str, ...] = ()
    """In one of these API groups."""
    resources: tuple[str, ...] = ()
    """On one of these resources, as `pods` or `pods/exec`."""
    non_resource_urls: tuple[str, ...] = msgspec.field(default=(), name="nonResourceURLs")
    """On one of these URLs that are no resources."""
    cluster_wide: bool = False
    """Of a ServiceAccount: it holds them through a ClusterRoleBinding."""


class WhenUnknown(enum.StrEnum):
    """What a condition counts as when nobody knows whether it holds."""

    HOLDS = "holds"
    FAILS = "fails"


AUDIT_VERBS = ("create", "update", "patch", "delete", "get", "list", "watch", "deletecollection", "connect", "proxy")
Verb = Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(AUDIT_VERBS)})]
"""A verb. The schema closes the list; a rule in a file may also name those of requests for no object (`post`)."""


class SigmaMatchLeaf(Wire, frozen=True, kw_only=True):
    """All given fields hold; within a list any one; an absent or empty list asks nothing."""

    verb: tuple[Verb, ...] | None = None
    """Audit verb is one of these."""
    object_ref: ObjectRefMatch | None = None
    """Conditions on the object reference."""
    user: UserMatch | None = None
    """Conditions on the caller."""
    subresource: tuple[str, ...] | None = None
    """Object subresource is one of these."""
    request_object_glob: tuple[GlobMatch, ...] | None = None
    """All pairs must hold on the request body."""
    stage: tuple[str, ...] | None = None
    """Audit stage is one of these."""
    level: tuple[str, ...] | None = None
    """Audit level is one of these."""
    user_glob: tuple[str, ...] | None = None
    """Same as user.usernameGlob."""
    name_glob: tuple[str, ...] | None = None
    """Same as objectRef.nameGlob."""
    namespace_glob: tuple[str, ...] | None = None
    """Namespace matches one glob."""
    impersonated_user: UserMatch | None = None
    """Conditions on whom the caller acted as."""
    response_code: tuple[str, ...] | None = None
    """Codes: `403`, `2xx` or `400-499`."""
    response_reason: tuple[str, ...] | None = None
    """Reason of the refusal is one of these."""
    response_message_glob: tuple[str, ...] | None = None
    """Message of the refusal matches one glob."""
    decision: Decision | None = None
    """What the authorizer said; by the code where it said nothing."""
    request_uri_glob: tuple[str, ...] | None = msgspec.field(default=None, name="requestURIGlob")
    """URI, raw or decoded, matches one glob."""
    request_path_re: tuple[str, ...] | None = None
    """Regular expressions (RE2) on the path of the URI, decoded and without `//`, `/./` and `..`; one is enough."""
    query: dict[str, tuple[str, ...]] | None = None
    """For every key: such a parameter of the URI is given, and its first value matches one glob, if there are any."""
    user_agent_glob: tuple[str, ...] | None = None
    """User agent matches one glob."""
    source_ips: tuple[str, ...] | None = None
    """Networks that hold the last hop."""
    source_ip_scope: str = ""
    """`any`: every hop counts, not only the last."""
    annotations: dict[str, tuple[str, ...]] | None = None
    """For every key glob: the value of such an audit annotation matches one glob."""
    response_object_glob: tuple[GlobMatch, ...] | None = None
    """All pairs must hold on the response body."""
    object_glob: tuple[GlobMatch, ...] | None = None
    """All pairs must hold on the object as it is after the request."""
    field_absent: tuple[str, ...] | None = None
    """Paths with no value in the object."""
    same_element: tuple[SameElement, ...] | None = None
    """Conditions that one element of an array meets together."""
    dry_run: bool | None = None
    """Whether the request was a dry run."""
    body_known: bool | None = None
    """Whether the event has a body: none has at level Metadata, nor where the API server cut it off."""
    previous: tuple[GlobMatch, ...] | None = None
    """All pairs must hold on the object as it was before the request."""
    changed: tuple[str, ...] | None = None
    """Paths; the request changes what stands at one of them."""
    target_pod: tuple[GlobMatch, ...] | None = None
    """All pairs must hold on the Pod that the request names (exec, attach, port-forward and others)."""
    role_grants: tuple[RightsMatch, ...] | None = None
    """The role that is written, or that the binding refers to, grants one of these."""
    service_account_grants: tuple[RightsMatch, ...] | None = None
    """The ServiceAccount at stake (named, of the Pod, of the token Secret) holds one of these."""
    when_unknown: WhenUnknown | None = None
    """What `previous` to `serviceAccountGrants` count as where they are unknown; absent: the rule does not raise."""


class SigmaMatch(SigmaMatchLeaf, frozen=True, kw_only=True):
    """One inline leaf, and at least one of `any_of`, and not `not_`, and none of `none_of`. `{}` is every event."""

    any_of: tuple[SigmaMatchLeaf, ...] | None = None
    """At least one leaf must match."""
    not_: SigmaMatchLeaf | None = None
    """Leaf that must not match."""
    none_of: tuple[SigmaMatchLeaf, ...] | None = None
    """Leaves of which none may match."""


class SigmaEmit(Wire, frozen=True, kw_only=True):
    """The event that a match becomes; `signals` may hold `${...}` placeholders."""

    security_event_type: str
    """Catalog type to emit."""
    severity: Severity
    """Severity to emit."""
    class_: EventClass = EventClass.DETECTION
    """Class to emit."""
    signals: dict[str, str] = {}
    """Extra signals; ${verb}, ${user.username}, ${objectRef.*} expand."""


class SigmaRateLimit(Wire, frozen=True, kw_only=True):
    """Token bucket of one rule, in matches and matches a second; zero or less means the default."""

    burst: int = 50
    """Bucket size."""
    sustained_per_sec: int = 5
    """Refill per second."""


class RuleException(Wire, frozen=True, kw_only=True):
    """A match that is expected: who answers for it, why, and until when (absent: for ever, which is reported)."""

    name: str
    """Name of the exception."""
    owner: str
    """Who answers for it."""
    reason: str
    """Why it is expected."""
    match: SigmaMatchLeaf
    """What is expected."""
    expires: dt.datetime | None = None
    """Until when; absent: for ever, which is reported."""
    include_critical: bool = False
    """Whether it hides critical findings too; else it never does."""


class Suppress(Wire, frozen=True, kw_only=True):
    """What a rule keeps silent about: repeats within `window` (a duration) by the given keys, and exceptions."""

    dedupe_by: tuple[str, ...] = ()
    """Keys that make two matches the same."""
    window: Duration = ""
    """How long a repeat stays silent."""
    exceptions: tuple[RuleException, ...] = ()
    """Matches that are expected."""


class RuleTest(Wire, frozen=True, kw_only=True):
    """An audit event and what the rule must say to it: `hit` or `miss`."""

    name: str
    """Name of the test."""
    expect: str
    """`hit` or `miss`."""
    event: dict[str, Any]
    """The audit event, as the API server writes it."""
    before: tuple[dict[str, Any], ...] = ()
    """Audit events that came before it, for rules that ask what stood there."""


class SigmaRuleSpec(Wire, frozen=True, kw_only=True):
    """One rule: either `match` or an upstream rule in `sigma`. While one of `tests` fails the rule does not arm."""

    enabled: bool = msgspec.field(default_factory=always(True))
    """Evaluate this rule."""
    description: Annotated[str, msgspec.Meta(max_length=1024)] = ""
    """Free text summary."""
    match: SigmaMatch = msgspec.field(default_factory=always(SigmaMatch()))
    """Predicate on one audit event."""
    emit: SigmaEmit
    """Event to create on match."""
    rate_limit: SigmaRateLimit | None = None
    """Token bucket of this rule."""
    references: tuple[str, ...] = ()
    """Source URLs or ids."""
    tags: tuple[str, ...] = ()
    """Free grouping labels."""
    sigma: str = ""
    """An upstream Sigma rule, unchanged; instead of `match`."""
    suppress: Suppress | None = None
    """What the rule keeps silent about."""
    tests: tuple[RuleTest, ...] = ()
    """Events and what the rule must say to them; while one fails the rule does not arm."""


class ReplicaShare(Wire, frozen=True, kw_only=True):
    """What one replica has counted of a rule. The sums are in the status itself."""

    match_count: Int64 = 0
    """Its matches."""
    last_matched_at: dt.datetime | None = None
    """Its last match."""
    dropped_rate_limit: Int64 = 0
    """Its matches dropped by the bucket."""
    hidden: dict[str, Int64] = {}
    """Matches that exceptions hid from it, by exception."""


class ExceptionStatus(Wire, frozen=True, kw_only=True):
    """What an exception has hidden."""

    name: str
    """Name of the exception, or of the filter that this rule is."""
    hidden: Int64 = 0
    """Lifetime matches hidden, over all replicas."""
    last_hidden_at: dt.datetime | None = None
    """When the last event was that it hid."""
    last_audit_id: str = msgspec.field(default="", name="lastAuditID")
    """Audit id of that event."""
    last_subject: str = ""
    """What that event was about, as kind, namespace/name and caller; redacted."""


MAX_SHARES = 64


class SigmaRuleStatus(Wire, frozen=True, kw_only=True):
    """Whether the rule serves, and what it has seen in its life."""

    conditions: Conditions = ()
    """Type Compiled."""
    match_count: Int64 = 0
    """Lifetime matches, best effort."""
    last_matched_at: dt.datetime | None = None
    """Last match."""
    dropped_rate_limit: Int64 = 0
    """Matches dropped by the bucket."""
    parse_error: str = ""
    """Compile error; rule disabled while set."""
    replicas: Annotated[dict[str, ReplicaShare], msgspec.Meta(max_length=MAX_SHARES)] = {}
    """What each replica counted, by its name; `earlier` holds those that are gone."""
    exceptions: Annotated[tuple[ExceptionStatus, ...], listed_by("name")] = ()
    """What exceptions have hidden; the 64 that hid something last."""


class SigmaRule(Resource, frozen=True, kw_only=True):
    """A detection rule on audit events."""

    kind_info: ClassVar[Kind] = Kind(
        "SigmaRule",
        "sigmarules",
        short_names=("sigmarule",),
        selectable=("spec.emit.securityEventType", "spec.emit.severity", "spec.enabled"),
        columns=(
            Column("Type", ".spec.emit.securityEventType"),
            Column("Severity", ".spec.emit.severity"),
            Column("Enabled", ".spec.enabled", "boolean"),
            Column("Hits", ".status.matchCount", "integer"),
            Column("LastMatch", ".status.lastMatchedAt", "date"),
            AGE,
        ),
    )
    spec: SigmaRuleSpec
    """The rule."""
    status: SigmaRuleStatus = SigmaRuleStatus()
    """Whether the rule serves, and what it has seen."""
