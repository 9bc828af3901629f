"""The native match grammar: a `SigmaMatch` becomes an expression.

An absent or empty list asks nothing; within a list any one hits; all fields of a leaf must. Missing texts are empty
texts, as in the original implementation, so `subresource: [""]` also means a request without any object.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from ugallu.sdk import Decision, GlobMatch, ObjectRefMatch, SameElement, SigmaMatch, SigmaMatchLeaf, UserMatch
from ugallu_audit_detection.sigma import fields, surroundings
from ugallu_audit_detection.sigma.errors import Reason, RuleError, shown
from ugallu_audit_detection.sigma.expr import (
    AsPath,
    Atom,
    Both,
    Check,
    Either,
    Expr,
    Field,
    Given,
    Networks,
    Not,
    Numbers,
    Part,
    Regexes,
    Test,
    Texts,
    ValueTest,
    all_of,
    any_of,
    value_test,
)
from ugallu_audit_detection.sigma.objects import containers
from ugallu_audit_detection.sigma.path import Path, json_path, walk
from ugallu_audit_detection.sigma.pattern import any_pattern, any_regex, exactly, glob, network
from ugallu_audit_detection.sigma.view import RecordView

VERBS = frozenset(
    [
        "create",
        "update",
        "patch",
        "delete",
        "get",
        "list",
        "watch",
        "deletecollection",
        "connect",
        "proxy",
        "post",
        "put",
        "head",
        "options",
    ]
)
"""Verbs of objects, then those that only requests without an object have (`get`, `delete` and `patch` are both)."""
STAGES = frozenset(("RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"))
LEVELS = frozenset(("None", "Metadata", "Request", "RequestResponse"))
MAX_LIST = 256
MAX_LEAVES = 64


def match_expr(match: SigmaMatch) -> Expr:
    """Return the expression of a whole match. Raises `RuleError` that names the field."""
    parts = list(_leaf(match, "match"))
    if match.any_of is not None and len(match.any_of) > 0:
        _bounded(match.any_of, "match.anyOf", MAX_LEAVES)
        parts.append(any_of(leaf_expr(leaf, f"match.anyOf[{i}]") for i, leaf in enumerate(match.any_of)))
    if match.not_ is not None:
        parts.append(Not(leaf_expr(match.not_, "match.not")))
    if match.none_of is not None:
        _bounded(match.none_of, "match.noneOf", MAX_LEAVES)
        parts.extend(Not(leaf_expr(leaf, f"match.noneOf[{i}]")) for i, leaf in enumerate(match.none_of))
    return all_of(parts)


def leaf_expr(leaf: SigmaMatchLeaf, where: str) -> Expr:
    """Return the expression of one leaf; `{}` is always true. Raises `RuleError` that names the field."""
    return all_of(_leaf(leaf, where))


def _leaf(leaf: SigmaMatchLeaf, where: str) -> Iterator[Expr]:
    yield from _exact(fields.VERB, leaf.verb, f"{where}.verb", VERBS)
    yield from _exact(fields.STAGE, leaf.stage, f"{where}.stage", STAGES)
    yield from _exact(fields.SUBRESOURCE, leaf.subresource, f"{where}.subresource")
    yield from _exact(fields.LEVEL, leaf.level, f"{where}.level", LEVELS)
    if leaf.object_ref is not None:
        yield fields.HAS_OBJECT
        yield from _object_ref(leaf.object_ref, f"{where}.objectRef")
    if leaf.name_glob:
        yield fields.HAS_OBJECT
        yield from _globs(fields.NAME, leaf.name_glob, f"{where}.nameGlob")
    if leaf.namespace_glob:
        yield fields.HAS_OBJECT
        yield from _globs(fields.NAMESPACE, leaf.namespace_glob, f"{where}.namespaceGlob")
    yield from _globs(fields.USERNAME, leaf.user_glob, f"{where}.userGlob")
    if leaf.user is not None:
        yield from _caller(leaf.user, f"{where}.user", impersonated=False)
    if leaf.impersonated_user is not None:
        yield from _caller(leaf.impersonated_user, f"{where}.impersonatedUser", impersonated=True)
    yield from _response(leaf, where)
    yield from _globs(fields.DECODED_URI, leaf.request_uri_glob, f"{where}.requestURIGlob")
    if leaf.request_path_re:
        _bounded(leaf.request_path_re, f"{where}.requestPathRe")
        any_regex(leaf.request_path_re, flags="", where=f"{where}.requestPathRe")
        yield Atom(fields.PATH, Regexes(leaf.request_path_re))
    for key, patterns in (leaf.query or {}).items():
        if patterns:
            yield from _globs(fields.parameter(key), patterns, f"{where}.query[{shown(key)}]")
        else:
            yield Atom(fields.parameter(key), Given())
    yield from _globs(fields.USER_AGENT, leaf.user_agent_glob, f"{where}.userAgentGlob")
    yield from _sources(leaf, where)
    if leaf.annotations:
        yield any_of(
            _annotation(key, patterns, f"{where}.annotations[{shown(key)}]")
            for key, patterns in leaf.annotations.items()
        )
    if leaf.dry_run is not None:
        yield fields.DRY_RUN if leaf.dry_run else Not(fields.DRY_RUN)
    if leaf.body_known is not None:
        yield fields.BODY_KNOWN if leaf.body_known else Not(fields.BODY_KNOWN)
    for name, part, entries in (
        ("requestObjectGlob", Part.REQUEST, leaf.request_object_glob),
        ("responseObjectGlob", Part.RESPONSE, leaf.response_object_glob),
        ("objectGlob", Part.EFFECTIVE, leaf.object_glob),
    ):
        _bounded(entries, f"{where}.{name}")
        for i, entry in enumerate(entries or ()):
            here = f"{where}.{name}[{i}]"
            yield Atom(
                fields.body_path(part, json_path(entry.json_path, where=f"{here}.jsonPath")), glob_test(entry, here)
            )
    _bounded(leaf.field_absent, f"{where}.fieldAbsent")
    for i, text in enumerate(leaf.field_absent or ()):
        yield _absent(json_path(text, where=f"{where}.fieldAbsent[{i}]"))
    _bounded(leaf.same_element, f"{where}.sameElement", MAX_LEAVES)
    for i, same in enumerate(leaf.same_element or ()):
        yield _same_element(same, f"{where}.sameElement[{i}]")
    _bounded(leaf.previous, f"{where}.previous", MAX_LEAVES)
    _bounded(leaf.changed, f"{where}.changed", MAX_LEAVES)
    _bounded(leaf.target_pod, f"{where}.targetPod", MAX_LEAVES)
    yield from surroundings.checks(leaf, where, glob_test)


def _object_ref(ref: ObjectRefMatch, where: str) -> Iterator[Expr]:
    yield from _exact(fields.API_GROUP, ref.api_group, f"{where}.apiGroup")
    yield from _exact(fields.API_VERSION, ref.api_version, f"{where}.apiVersion")
    yield from _exact(fields.RESOURCE, ref.resource, f"{where}.resource")
    yield from _exact(fields.SUBRESOURCE, ref.subresource, f"{where}.subresource")
    yield from _exact(fields.NAMESPACE, ref.namespace, f"{where}.namespace")
    yield from _globs(fields.NAME, ref.name_glob, f"{where}.nameGlob")


def _caller(user: UserMatch, where: str, *, impersonated: bool) -> Iterator[Expr]:
    present = fields.HAS_IMPERSONATED if impersonated else fields.HAS_USER
    if user.present is False:
        yield Not(present)
    elif user.present or impersonated:
        yield present
    name = fields.IMPERSONATED_NAME if impersonated else fields.USERNAME
    yield from _globs(name, user.username_glob, f"{where}.usernameGlob")
    for unwanted in _globs(name, user.not_username_glob, f"{where}.notUsernameGlob"):
        yield Not(unwanted)
    yield from _exact(fields.IMPERSONATED_UID if impersonated else fields.USER_UID, user.uid, f"{where}.uid")
    yield from _exact(fields.IMPERSONATED_GROUPS if impersonated else fields.GROUPS, user.groups, f"{where}.groups")
    for key, patterns in (user.extra or {}).items():
        extra = fields.impersonated_extra(key) if impersonated else fields.user_extra(key)
        if patterns:
            yield from _globs(extra, patterns, f"{where}.extra[{shown(key)}]")
        else:
            yield Atom(extra, Given())


def _response(leaf: SigmaMatchLeaf, where: str) -> Iterator[Expr]:
    _bounded(leaf.response_code, f"{where}.responseCode")
    if leaf.response_code:
        yield Atom(
            fields.CODE,
            Either(tuple(_code(code, f"{where}.responseCode[{i}]") for i, code in enumerate(leaf.response_code))),
        )
    yield from _exact(fields.REASON, leaf.response_reason, f"{where}.responseReason")
    yield from _globs(fields.MESSAGE, leaf.response_message_glob, f"{where}.responseMessageGlob")
    if leaf.decision is not None:
        yield Atom(fields.DECISION_MADE, Texts((exactly(Decision(leaf.decision).value),)))


def _code(text: str, where: str) -> Numbers:
    if re.fullmatch(r"[1-9]\d\d", text, re.ASCII):
        return Numbers(equals=int(text))
    if re.fullmatch(r"[1-9]xx", text, re.ASCII | re.IGNORECASE):
        return Numbers(ge=int(text[0]) * 100, lt=int(text[0]) * 100 + 100)
    if re.fullmatch(r"[1-9]\d\d-[1-9]\d\d", text, re.ASCII) and text[:3] <= text[4:]:
        return Numbers(ge=int(text[:3]), le=int(text[4:]))
    raise RuleError(
        Reason.COMPILE_ERROR, f"{shown(text)} is no response code", where=where, fix="write 403, 4xx or 400-499"
    )


def _sources(leaf: SigmaMatchLeaf, where: str) -> Iterator[Expr]:
    if leaf.source_ip_scope not in ("", "last", "any"):
        raise RuleError(
            Reason.COMPILE_ERROR,
            f"{shown(leaf.source_ip_scope)} is no scope",
            where=f"{where}.sourceIPScope",
            fix="write any, or leave it out for the last hop, the only one a client cannot forge",
        )
    _bounded(leaf.source_ips, f"{where}.sourceIPs")
    if leaf.source_ips:
        networks = tuple(network(text, where=f"{where}.sourceIPs[{i}]") for i, text in enumerate(leaf.source_ips))
        yield Atom(fields.ALL_HOPS if leaf.source_ip_scope == "any" else fields.LAST_HOP, Networks(networks))


def _annotation(key: str, patterns: Sequence[str], where: str) -> Expr:
    test: Test = Given()
    if patterns:
        _bounded(patterns, where)
        test = Texts(tuple(glob(pattern, where=f"{where}[{i}]") for i, pattern in enumerate(patterns)))
    if "*" not in key and "?" not in key:
        return Atom(fields.annotation(key), test)
    wanted = any_pattern((glob(key, where=where),))
    hit = test.on_text() if isinstance(test, Texts) else value_test(test)
    head = re.split(r"[*?]", key, maxsplit=1)[0]

    def holds(view: RecordView) -> bool:
        for name, value in view.annotations.items():  # noqa: SIM110 - asked of every event, and a loop is twice as fast
            if name.startswith(head) and wanted(name) and hit(value):
                return True
        return False

    return Check(f"an annotation like {key} {test}", Part.ANNOTATIONS, holds)


def glob_test(entry: GlobMatch, where: str) -> Test:
    """Return the test of a `GlobMatch`: any pattern, expression or network hits, and the bounds hold."""
    _bounded(entry.patterns, f"{where}.patterns")
    _bounded(entry.re, f"{where}.re")
    _bounded(entry.cidr, f"{where}.cidr")
    hits: list[Test] = []
    bounded = entry.gt is not None or entry.lt is not None
    if entry.patterns or not (entry.re or entry.cidr or bounded):
        globs = tuple(glob(pattern, where=f"{where}.patterns[{i}]") for i, pattern in enumerate(entry.patterns))
        hits.append(Texts(globs, entry.ignore_case))
    if entry.re:
        flags = "i" if entry.ignore_case else ""
        any_regex(entry.re, flags=flags, where=f"{where}.re")
        hits.append(Regexes(entry.re, flags))
    if entry.cidr:
        hits.append(Networks(tuple(network(text, where=f"{where}.cidr[{i}]") for i, text in enumerate(entry.cidr))))
    tests: list[Test] = []
    if hits:
        tests.append(hits[0] if len(hits) == 1 else Either(tuple(hits)))
    if bounded:
        tests.append(Numbers(gt=entry.gt, lt=entry.lt))
    test = tests[0] if len(tests) == 1 else Both(tuple(tests))
    return AsPath(test) if entry.as_path else test


def _absent(path: Path) -> Expr:
    """No value that is not null. Of a patch, which knows only what it changes, the null must be in the patch."""
    field = fields.body_path(Part.EFFECTIVE, path)
    nulled = _explicit_null(path)

    def holds(view: RecordView) -> bool:
        body, whole = view.effective
        if body is None or field.read(view):
            return False
        return whole or nulled(view)

    return Check(f"object {path.text} is absent", Part.EFFECTIVE, holds)


def _explicit_null(path: Path) -> ValueTest:
    """Return whether the path, or a way to it, is null in the effective object."""
    if path.root == "$":
        heads = [walk(path.steps[:i]) for i in range(len(path.steps))]
        steps = path.steps

        def nulled(view: RecordView) -> bool:
            body = view.effective[0]
            return any(
                isinstance(holder, dict) and step in holder and holder[step] is None
                for head, step in zip(heads, steps, strict=True)
                for holder in head(body)
            )

        return nulled
    inner = Path("$", path.steps, path.text)
    heads = [walk(inner.steps[:i]) for i in range(len(inner.steps))]

    def nulled_below(view: RecordView) -> bool:
        pod = view.effective_pod
        holders = [pod] if path.root == "$pod" else containers(pod) if path.root == "$ctr" else []
        return any(
            isinstance(holder, dict) and step in holder and holder[step] is None
            for root in holders
            for head, step in zip(heads, inner.steps, strict=True)
            for holder in head(root)
        )

    return nulled_below


def _same_element(same: SameElement, where: str) -> Expr:
    path = json_path(same.path, where=f"{where}.path")
    if not same.all:
        raise RuleError(
            Reason.COMPILE_ERROR, "asks nothing of the element", where=f"{where}.all", fix="list the conditions"
        )
    _bounded(same.all, f"{where}.all")
    conditions = []
    sentences = []
    for i, entry in enumerate(same.all):
        here = f"{where}.all[{i}]"
        inner = json_path(entry.json_path, where=f"{here}.jsonPath", aliases=False)
        test = glob_test(entry, here)
        conditions.append((walk(inner.steps), value_test(test)))
        sentences.append(f"{inner.text} {test}")
    field = fields.body_path(Part.EFFECTIVE, path)

    def fits(element: Any) -> bool:  # noqa: ANN401 - any JSON
        return all(any(hit(value) for value in look(element)) for look, hit in conditions)

    def holds(view: RecordView) -> bool:
        return any(any(map(fits, value)) if isinstance(value, list) else fits(value) for value in field.read(view))

    return Check(f"one element of object {path.text} has: {', and '.join(sentences)}", Part.EFFECTIVE, holds)


def _exact(
    field: Field, values: Sequence[str] | None, where: str, allowed: frozenset[str] | None = None
) -> Iterator[Expr]:
    if not values:
        return
    _bounded(values, where)
    for i, value in enumerate(values):
        if allowed is not None and value not in allowed:
            raise RuleError(
                Reason.COMPILE_ERROR,
                f"{shown(value)} is not possible here",
                where=f"{where}[{i}]",
                fix=f"one of {', '.join(sorted(allowed))}",
            )
    yield Atom(field, Texts(tuple(exactly(value) for value in dict.fromkeys(values))))


def _globs(field: Field, patterns: Sequence[str] | None, where: str) -> Iterator[Expr]:
    if not patterns:
        return
    _bounded(patterns, where)
    yield Atom(field, Texts(tuple(glob(text, where=f"{where}[{i}]") for i, text in enumerate(dict.fromkeys(patterns)))))


def _bounded(values: Sequence[object] | None, where: str, limit: int = MAX_LIST) -> None:
    if values is not None and len(values) > limit:
        raise RuleError(
            Reason.COMPILE_ERROR, f"{len(values)} entries", where=where, fix=f"at most {limit}: split the rule"
        )
