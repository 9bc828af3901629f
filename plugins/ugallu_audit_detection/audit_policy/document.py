"""`AuditPolicy`: which requests an API server audits, at which level, in which stages; what it decides on one of them.

Source: `audit.k8s.io/v1` Policy and `k8s.io/apiserver/pkg/audit/policy/checker.go` of Kubernetes 1.34. The first rule
that matches decides; without one a request is not audited. Users are those who called, whomever they act as.
"""

from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec

from ugallu.sdk import AuditRecord, AuditUser, PermanentError, user_of
from ugallu_audit_detection.files import documents

API: Final = "audit.k8s.io/v1"
Level = Literal["None", "Metadata", "Request", "RequestResponse"]
LEVELS: Final[tuple[Level, ...]] = ("None", "Metadata", "Request", "RequestResponse")
Stage = Literal["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"]
MAX_RULES: Final = 5000


class GroupResources(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """Resources of one API group; `*`, `pods/*` and `*/status` stand for many, none at all for every one."""

    group: str = ""
    resources: tuple[str, ...] = ()
    resource_names: tuple[str, ...] = ()


class PolicyRule(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """Requests, and what is written of them. Empty lists ask nothing."""

    level: Level
    users: tuple[str, ...] = ()
    user_groups: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ()
    resources: tuple[GroupResources, ...] = ()
    namespaces: tuple[str, ...] = ()
    non_resource_urls: tuple[str, ...] = msgspec.field(default=(), name="nonResourceURLs")
    omit_stages: tuple[Stage, ...] = ()
    omit_managed_fields: bool | None = None


class AuditPolicy(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """A policy file."""

    api_version: str = API
    kind: str = "Policy"
    metadata: dict[str, Any] = {}
    omit_stages: tuple[Stage, ...] = ()
    omit_managed_fields: bool = False
    rules: tuple[PolicyRule, ...] = ()


class Request(NamedTuple):
    """A request as a policy sees it. `resource` is empty for a URL that is none of an object."""

    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""
    user: str = ""
    groups: tuple[str, ...] = ()


class Decision(NamedTuple):
    """What is written of a request: `rule` is the place in the policy, -1 where none matches."""

    level: Level
    omitted: frozenset[str]
    rule: int = -1

    def shows(self, stage: str) -> bool:
        """Whether an event of this stage is written."""
        return self.level != "None" and stage not in self.omitted


def load(path: Path) -> AuditPolicy:
    """Read a policy file. Raises `PermanentError` with the file and the field that is wrong."""
    found = [document for document, _ in documents(path)]
    if len(found) != 1:
        raise PermanentError(f"{len(found)} documents instead of one policy", where=str(path))
    return read(found[0], where=str(path))


def read(document: object, *, where: str) -> AuditPolicy:
    """Return the policy in a parsed document; raises `PermanentError` as the API server would refuse it."""
    try:
        policy = msgspec.convert(document, AuditPolicy)
    except msgspec.ValidationError as error:
        raise PermanentError(f"no audit policy: {error}", where=where) from error
    missing = [name for name in ("apiVersion", "kind") if not isinstance(document, dict) or name not in document]
    if missing:
        raise PermanentError(f"no {' and no '.join(missing)}", where=where, fix=f"apiVersion: {API}, kind: Policy")
    if (policy.api_version, policy.kind) != (API, "Policy"):
        raise PermanentError(f"{policy.api_version} {policy.kind} is no {API} Policy", where=where)
    if not policy.rules:
        raise PermanentError("a policy without rules, which no API server starts with", where=where, fix="add rules")
    if len(policy.rules) > MAX_RULES:
        raise PermanentError(f"{len(policy.rules)} rules", where=where, fix=f"at most {MAX_RULES}")
    for number, rule in enumerate(policy.rules):
        if (rule.resources or rule.namespaces) and rule.non_resource_urls:
            raise PermanentError(
                "asks for objects and for other URLs", where=f"{where}: rules[{number}]", fix="write two rules"
            )
    return policy


def request_of(record: AuditRecord) -> Request:
    """Return the request that an audit event is about."""
    user, ref = user_of(record.user) or AuditUser(), record.object_ref
    about = (ref.api_group, ref.resource, ref.subresource, ref.namespace, ref.name) if ref else ("", "", "", "", "")
    return Request(record.verb, *about, record.request_uri.partition("?")[0], user.username, user.groups)


def decide(policy: AuditPolicy, request: Request) -> Decision:
    """Return what an API server writes of a request."""
    for number, rule in enumerate(policy.rules):
        if _asks_for_caller(rule, request) and asks_for(rule, request):
            return decision(policy, number)
    return Decision("None", frozenset(policy.omit_stages))


def decision(policy: AuditPolicy, number: int) -> Decision:
    """Return what the rule at this place says."""
    rule = policy.rules[number]
    return Decision(rule.level, frozenset((*policy.omit_stages, *rule.omit_stages)), number)


def _asks_for_caller(rule: PolicyRule, request: Request) -> bool:
    if rule.users and request.user not in rule.users:
        return False
    return not rule.user_groups or any(group in rule.user_groups for group in request.groups)


def asks_for(rule: PolicyRule, request: Request) -> bool:
    """Whether a rule is about such a request, whoever makes it."""
    if rule.verbs and request.verb not in rule.verbs:
        return False
    if rule.namespaces or rule.resources:
        return bool(request.resource) and _resource(rule, request)
    if rule.non_resource_urls:
        return not request.resource and any(_path(pattern, request.path) for pattern in rule.non_resource_urls)
    return True


def _resource(rule: PolicyRule, request: Request) -> bool:
    if rule.namespaces and request.namespace not in rule.namespaces:
        return False
    return not rule.resources or any(_in(entry, request) for entry in rule.resources)


def _in(entry: GroupResources, request: Request) -> bool:
    if entry.group != request.group:
        return False
    if not entry.resources:
        return True
    if entry.resource_names and request.name not in entry.resource_names:
        return False
    return any(_named(wanted, request.resource, request.subresource) for wanted in entry.resources)


def _named(wanted: str, resource: str, subresource: str) -> bool:
    whole = f"{resource}/{subresource}" if subresource else resource
    if wanted in ("*", whole):
        return True
    if wanted.startswith("*/"):
        return bool(subresource) and wanted[2:] == subresource
    return wanted.endswith("/*") and wanted[:-2] == resource


def _path(pattern: str, path: str) -> bool:
    return path.startswith(pattern[:-1]) if pattern.endswith("*") else path == pattern


def conditional(rule: PolicyRule) -> bool:
    """Whether a rule looks at who calls, at namespaces or at names: it holds for some requests of a sort only."""
    names = any(entry.resource_names for entry in rule.resources)
    return bool(rule.users or rule.user_groups or rule.namespaces or names)


def rank(level: str) -> int:
    """Return how much a level shows; levels can be compared by it."""
    return LEVELS.index(level) if level in LEVELS else 0


def level_named(name: str) -> Level:
    """Return the level of this name; what is none shows nothing."""
    return LEVELS[rank(name)]
