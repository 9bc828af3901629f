"""A slow, obvious reading of both rule languages, to compare the matcher with.

It works on parsed JSON and YAML and shares no code with the matcher: what a rule means is written down here a second
time, straight from the specification, with no thought for speed.
"""

# ruff: noqa: D102, D103, ANN401 - one line says what each helper does, and it is any JSON

import base64
import datetime as dt
import ipaddress
import json
import posixpath
import re
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote, unquote_plus

from cryptography import x509

Event = dict[str, Any]
Json = Any


# ------------------------------------------------------------------------------------------------------------- values


def text(value: Json) -> str:
    """Text of a JSON value that is not null."""
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def number(value: Json) -> float | None:
    """A number, or text that spells one."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return value
    if isinstance(value, str) and re.fullmatch(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?", value):
        return float(value)
    return None


def glob_bytes(pattern: bytes, subject: bytes) -> bool:
    """`*` any run, `?` one byte; by the table of all prefixes."""
    row = [True] + [False] * len(subject)
    for token in pattern:
        if token == ord("*"):
            new = []
            reached = False
            for before in row:
                reached = reached or before
                new.append(reached)
        else:
            new = [False] + [row[i] and (token == ord("?") or token == subject[i]) for i in range(len(subject))]
        row = new
    return row[-1]


def native_glob(pattern: str, value: Json, *, ignore_case: bool = False) -> bool:
    subject = text(value)
    if ignore_case:
        pattern, subject = pattern.casefold(), subject.casefold()
    return glob_bytes(pattern.encode(), subject.encode())


def in_networks(networks: list[str], value: Json) -> bool:
    try:
        address = ipaddress.ip_address(text(value))
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return any(address in ipaddress.ip_network(each, strict=False) for each in networks)


# ---------------------------------------------------------------------------------------------------- parts of an event


def texts(values: list[Json]) -> list[str]:
    return [value for value in values if isinstance(value, str)]


def caller(event: Event, name: str) -> dict[str, Any] | None:
    """A caller, without the parts that have a wrong type."""
    user = event.get(name)
    if not isinstance(user, dict):
        return None
    found: dict[str, Any] = {key: user[key] for key in ("username", "uid") if isinstance(user.get(key), str)}
    if isinstance(user.get("groups"), list):
        found["groups"] = texts(user["groups"])
    if isinstance(user.get("extra"), dict):
        found["extra"] = {key: texts(value) for key, value in user["extra"].items() if isinstance(value, list)}
    return found


def status(event: Event) -> dict[str, Any]:
    found = event.get("responseStatus")
    if not isinstance(found, dict):
        return {}
    code = found.get("code", 0)
    if isinstance(code, float) and code == int(code):
        code = int(code)
    if isinstance(code, bool) or not isinstance(code, int):
        code = 0
    told = {name: found[name] for name in ("status", "message", "reason") if isinstance(found.get(name), str)}
    return {**told, "code": code}


def annotations(event: Event) -> dict[str, str]:
    found = event.get("annotations")
    return {key: value for key, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}


def source_ips(event: Event) -> list[str]:
    found = event.get("sourceIPs")
    return texts(found) if isinstance(found, list) else []


def ref(event: Event) -> dict[str, str]:
    return event.get("objectRef") or {}


def truncated(event: Event) -> bool:
    """Bodies cut off by the API server: unknown, so nothing about them is true or false."""
    return (
        annotations(event).get("audit.k8s.io/truncated") == "true"
        and "requestObject" not in event
        and "responseObject" not in event
    )


def effective(event: Event) -> tuple[Json, bool]:
    """The object a request is about, and whether it is the whole object."""
    response = event.get("responseObject")
    if isinstance(response, dict) and response:
        kind = response.get("kind")
        is_list = isinstance(kind, str) and kind.endswith("List") and "items" in response
        if kind not in ("Status", "Table", "PartialObjectMetadata") and not is_list:
            return response, True
    if event.get("verb") in ("create", "update"):
        return event.get("requestObject"), True
    if event.get("verb") == "patch":
        return written(event), False
    return None, True


def written(event: Event) -> Json:
    """The body that was sent, a JSON Patch as what it writes."""
    body = event.get("requestObject")
    return patched(body) if event.get("verb") == "patch" and isinstance(body, list) else body


def patched(operations: list[Json]) -> Json:
    """Simple patches only: add and replace below objects; tests of arrays stand on their own."""
    result: dict[str, Any] = {}
    for operation in operations:
        if not isinstance(operation, dict) or operation.get("op") not in ("add", "replace", "remove"):
            continue
        path = operation.get("path")
        if not isinstance(path, str) or not path.startswith("/"):
            continue
        *way, last = [step.replace("~1", "/").replace("~0", "~") for step in path[1:].split("/")]
        here = result
        for step in way:
            if not isinstance(here.get(step), dict):
                here[step] = {}
            here = here[step]
        here[last] = None if operation["op"] == "remove" else operation.get("value")
    return result


POD_SPEC = {
    "pods": "$.spec",
    "replicationcontrollers": "$.spec.template.spec",
    "podtemplates": "$.template.spec",
    "deployments": "$.spec.template.spec",
    "statefulsets": "$.spec.template.spec",
    "daemonsets": "$.spec.template.spec",
    "replicasets": "$.spec.template.spec",
    "jobs": "$.spec.template.spec",
    "cronjobs": "$.spec.jobTemplate.spec.template.spec",
    "rollouts": "$.spec.template.spec",
    "services": "$.spec.template.spec",
    "configurations": "$.spec.template.spec",
    "revisions": "$.spec",
}
GROUPS = {
    "pods": [""],
    "replicationcontrollers": [""],
    "podtemplates": [""],
    "deployments": ["apps", "extensions"],
    "statefulsets": ["apps", "extensions"],
    "daemonsets": ["apps", "extensions"],
    "replicasets": ["apps", "extensions"],
    "jobs": ["batch"],
    "cronjobs": ["batch"],
    "rollouts": ["argoproj.io"],
    "services": ["serving.knative.dev"],
    "configurations": ["serving.knative.dev"],
    "revisions": ["serving.knative.dev"],
}


def pod(event: Event, body: Json) -> Json:
    resource = ref(event).get("resource", "")
    if ref(event).get("apiGroup", "") not in GROUPS.get(resource, []):
        return None
    found = native_path(POD_SPEC[resource], body)
    return found[0] if found else None


def containers(spec: Json) -> list[Json]:
    found: list[Json] = []
    for name in ("containers", "initContainers", "ephemeralContainers"):
        if isinstance(spec, dict) and isinstance(spec.get(name), list):
            found += spec[name]
    return found


def native_path(path: str, body: Json) -> list[Json]:
    """All values at a path, nulls left out."""
    values = [body]
    for dot, key, index in re.findall(r"\.([^.\[\]]+)|\['([^'\]]+)'\]|\[(\*|[0-9]+)\]", path):
        step = dot or key
        found: list[Json] = []
        for value in values:
            if index == "*" or dot == "*":
                if isinstance(value, list):
                    found += value
                elif isinstance(value, dict):
                    found += value.values()
            elif index:
                if isinstance(value, list) and int(index) < len(value):
                    found.append(value[int(index)])
            elif isinstance(value, dict) and step in value:
                found.append(value[step])
        values = found
    return [value for value in values if value is not None]


def aliased(event: Event, path: str, body: Json) -> list[Json]:
    if body is None:
        return []
    if path.startswith("$pod"):
        spec = pod(event, body)
        return [] if spec is None else native_path(path[4:], spec)
    if path.startswith("$ctr"):
        return native_path(path[4:], containers(pod(event, body)))
    if path.startswith("$csr"):
        return native_path(path[4:], asked_for(body))
    return native_path(path[1:], body)


def asked_for(body: Json) -> Json:
    """The subject of a certificate request, by the attributes' dotted numbers."""
    requests = native_path(".spec.request", body)
    if not requests or not isinstance(requests[0], str) or not requests[0]:
        return None
    try:
        found = x509.load_pem_x509_csr(base64.b64decode(requests[0])).subject
    except (ValueError, TypeError):
        return {"unreadable": True}
    parts = [(each.oid.dotted_string, str(each.value)) for each in found]
    named = [value for oid, value in parts if oid == "2.5.4.3"]
    return {"commonName": ["", *named][-1], "organizations": [value for oid, value in parts if oid == "2.5.4.10"]}


def tidied(path: str) -> str:
    """A path without empty steps and steps back."""
    plain = posixpath.normpath(path)
    return "/" + plain.lstrip("/") if path.startswith("/") else "" if plain == "." else plain


def parameters(uri: str) -> list[tuple[str, str]]:
    """The query, without the pairs that Go passes over."""
    pairs = [pair for pair in uri.partition("?")[2].split("&") if pair and ";" not in pair]
    sound = [pair for pair in pairs if not re.search("%(?![0-9A-Fa-f][0-9A-Fa-f])", pair)]
    return [(unquote_plus(pair.split("=", 1)[0]), unquote_plus("".join(pair.split("=", 1)[1:]))) for pair in sound]


# ------------------------------------------------------------------------------------------------------ native grammar


def native_matches(match: dict[str, Any], event: Event, before: Sequence[Event] = ()) -> bool:
    """Whether an event, after those before it, matches the `match` of a SigmaRule."""
    if leaf(match, event, before) is not True:
        return False
    if match.get("anyOf") and not any(leaf(each, event, before) is True for each in match["anyOf"]):
        return False
    unwanted = list(match.get("noneOf", []))
    if "not" in match:
        unwanted.append(match["not"])
    return all(leaf(each, event, before) is False for each in unwanted)


def leaf(leaf_: dict[str, Any], event: Event, before: Sequence[Event] = ()) -> bool | None:
    """True, false, or None: unknown, because the bodies were cut off or nobody knows what stood there."""
    conditions = list(leaf_conditions(leaf_, event))
    counts_as = {"holds": True, "fails": False}.get(leaf_.get("whenUnknown", ""))
    conditions += [counts_as if told is None else told for told in context_conditions(leaf_, event, before)]
    if False in conditions:
        return False
    return None if None in conditions else True


def leaf_conditions(leaf_: dict[str, Any], event: Event) -> Any:
    object_ref = ref(event)
    yield among(leaf_.get("verb"), event.get("verb", ""))
    yield among(leaf_.get("stage"), event.get("stage", ""))
    yield among(leaf_.get("level"), event.get("level", ""))
    yield among(leaf_.get("subresource"), object_ref.get("subresource", ""))
    if "objectRef" in leaf_:
        wanted = leaf_["objectRef"]
        yield event.get("objectRef") is not None
        for name in ("apiGroup", "apiVersion", "resource", "subresource", "namespace"):
            yield among(wanted.get(name), object_ref.get(name, ""))
        yield like(wanted.get("nameGlob"), [object_ref.get("name", "")])
    for name, field in (("nameGlob", "name"), ("namespaceGlob", "namespace")):
        if leaf_.get(name):
            yield event.get("objectRef") is not None and like(leaf_[name], [object_ref.get(field, "")])
    yield like(leaf_.get("userGlob"), [(caller(event, "user") or {}).get("username", "")])
    for name in ("user", "impersonatedUser"):
        if name in leaf_:
            yield from caller_conditions(leaf_[name], caller(event, name), impersonated=name == "impersonatedUser")
    answer = status(event)
    if leaf_.get("responseCode"):
        yield any(code_fits(code, answer.get("code", 0)) for code in leaf_["responseCode"])
    yield among(leaf_.get("responseReason"), answer.get("reason", ""))
    yield like(leaf_.get("responseMessageGlob"), [answer.get("message", "")])
    if "decision" in leaf_:
        decided = annotations(event).get("authorization.k8s.io/decision")
        code = answer.get("code", 0)
        if decided not in ("allow", "forbid"):
            decided = None if not code else "forbid" if code == 403 else "allow"
        yield decided == leaf_["decision"]
    uri = event.get("requestURI", "")
    yield like(leaf_.get("requestURIGlob"), [uri, unquote(uri), unquote_plus(uri)])
    if leaf_.get("requestPathRe"):
        yield any(re.search(each, tidied(unquote(uri.partition("?")[0]))) for each in leaf_["requestPathRe"])
    for key, patterns in leaf_.get("query", {}).items():
        values = [value for name, value in parameters(uri) if name == key][:1]
        yield bool(values) and (not patterns or like(patterns, values))
    yield like(leaf_.get("userAgentGlob"), [event.get("userAgent", "")])
    if leaf_.get("sourceIPs"):
        hops = source_ips(event)
        hops = hops if leaf_.get("sourceIPScope") == "any" else hops[-1:]
        yield any(in_networks(leaf_["sourceIPs"], hop) for hop in hops)
    if leaf_.get("annotations"):
        yield any(
            native_glob(key, name) and (not patterns or like(patterns, [value]))
            for key, patterns in leaf_["annotations"].items()
            for name, value in annotations(event).items()
        )
    if "dryRun" in leaf_:
        yield dry_run(event) == leaf_["dryRun"]
    if "bodyKnown" in leaf_:
        yield ("requestObject" in event or "responseObject" in event) == leaf_["bodyKnown"]
    object_, whole = effective(event)
    unknown = truncated(event)
    for name, body in (
        ("requestObjectGlob", event.get("requestObject")),
        ("responseObjectGlob", event.get("responseObject")),
        ("objectGlob", object_),
    ):
        for entry in leaf_.get(name, []):
            path, asked = entry["jsonPath"], body
            if name == "requestObjectGlob" and re.match(r"\$(pod|ctr|\.[^*]|\[')", path):
                asked = written(event)
            yield None if unknown else any(glob_match(entry, value) for value in aliased(event, path, asked))
    for path in leaf_.get("fieldAbsent", []):
        if unknown:
            yield None
        elif object_ is None or aliased(event, path, object_):
            yield False
        else:
            yield whole or has_null(event, path, object_)
    for same in leaf_.get("sameElement", []):
        elements: list[Json] = []
        for value in aliased(event, same["path"], object_):
            elements += value if isinstance(value, list) else [value]
        yield (
            None
            if unknown
            else any(
                all(
                    any(glob_match(entry, v) for v in native_path(entry["jsonPath"][1:], element))
                    for entry in same["all"]
                )
                for element in elements
            )
        )


# ---------------------------------------------------------------------------------------------- what surrounds an event

RBAC = "rbac.authorization.k8s.io"
EVERYTHING = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}, {"nonResourceURLs": ["*"], "verbs": ["*"]}]


def context_conditions(leaf_: dict[str, Any], event: Event, before: Sequence[Event]) -> Any:
    for entry in leaf_.get("previous", []):
        yield False if creates(event) else stood(before, place(event), entry["jsonPath"], hits(entry))
    if leaf_.get("changed"):
        yield any_of([changes(event, before, path) for path in leaf_["changed"]])
    for entry in leaf_.get("targetPod", []):
        yield target_pod(event, before, entry)
    if leaf_.get("roleGrants"):
        yield any_of([role_grants(event, before, wanted) for wanted in leaf_["roleGrants"]])
    if leaf_.get("serviceAccountGrants"):
        yield any_of([account_grants(event, before, wanted) for wanted in leaf_["serviceAccountGrants"]])


def any_of(answers: list[bool | None]) -> bool | None:
    return True if True in answers else None if None in answers else False


def hits(entry: dict[str, Any]) -> Callable[[list[Json]], bool]:
    return lambda values: any(glob_match(entry, value) for value in values)


def creates(event: Event) -> bool:
    if ref(event).get("subresource"):
        return False
    return event.get("verb") == "create" or (
        event.get("verb") in ("update", "patch") and status(event).get("code") == 201
    )


def place(event: Event) -> tuple[str, str, str, str]:
    """Where the object of a request is; of a create without a name, where it says that it was made."""
    found = ref(event)
    group, plural, namespace = (found.get(key, "") for key in ("apiGroup", "resource", "namespace"))
    return group, plural, namespace, found.get("name", "") or named(effective(event)[0])


def named(body: Json) -> str:
    metadata = body.get("metadata") if isinstance(body, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else ""


def writes(event: Event) -> bool:
    """Whether it leaves something behind that is worth reading."""
    return (
        event.get("verb") in ("create", "update", "patch", "delete", "deletecollection")
        and ref(event).get("subresource", "") in ("", "ephemeralcontainers")
        and event.get("stage", "") in ("ResponseComplete", "")
        and status(event).get("code", 0) < 400
        and not dry_run(event)
    )


def whole_list(event: Event, body: Json, key: str) -> bool:
    """Lists of RBAC are replaced by every patch but a JSON Patch."""
    return isinstance(body, dict) and key in body and not isinstance(event.get("requestObject"), list)


def stood(
    before: Sequence[Event],
    where: tuple[str, str, str, str],
    path: str,
    asked: Callable[[list[Json]], Any],
) -> Any:
    """What a question about an object was last answered; None: unknown."""
    known = None
    for event in before:
        if not writes(event) or event["verb"] == "deletecollection" or place(event) != where:
            continue
        body, whole = effective(event)
        other = ref(event).get("subresource") and not (isinstance(body, dict) and body.get("kind") == "Pod")
        if event["verb"] == "delete" or body is None or other:
            known = None
        elif whole or (where[1] in ("roles", "clusterroles") and whole_list(event, body, "rules")):
            known = asked(aliased(event, path, body))
        elif touches(event, path, body):
            known = True if asked(aliased(event, path, body)) is True else None
    return known


def touches(event: Event, path: str, body: Json) -> bool:
    """Whether a partial object says anything at a path."""
    resource, group = ref(event).get("resource", ""), ref(event).get("apiGroup", "")
    if path.startswith(("$pod", "$ctr")):
        if group not in GROUPS.get(resource, []):
            return False
        spec = POD_SPEC[resource]
        if path.startswith("$pod"):
            return says(steps_of(spec + path[4:]), body)
        lists = ("containers", "initContainers", "ephemeralContainers")
        return any(says(steps_of(f"{spec}.{each}{path[4:]}"), body) for each in lists)
    return says(steps_of(path), body)


def steps_of(path: str) -> list[str | int]:
    """Names as text, indexes as numbers; -1 is every one."""
    found = re.findall(r"\.([^.\[\]]+)|\['([^'\]]+)'\]|\[(\*|[0-9]+)\]", path)
    return [-1 if index == "*" or dot == "*" else int(index) if index else dot or key for dot, key, index in found]


def says(steps: list[str | int], node: Json) -> bool:
    if not steps or not isinstance(node, dict | list):
        return True
    step, rest = steps[0], steps[1:]
    if isinstance(node, list):
        return any(says(rest, item) for item in node) if step == -1 else True
    if any(key.startswith("$") for key in node):
        return True
    if step == -1:
        return any(says(rest, item) for item in node.values())
    return isinstance(step, str) and step in node and says(rest, node[step])


def changes(event: Event, before: Sequence[Event], path: str) -> bool | None:
    body, whole = effective(event)
    if truncated(event) or body is None:
        return None
    now = [text(value) for value in aliased(event, path, body)]
    if creates(event):
        return bool(now)
    if not whole and not touches(event, path, body):
        return False
    was = stood(before, place(event), path, lambda values: [text(value) for value in values])
    return None if was is None else was != now


def pod_shown(event: Event) -> tuple[Json, bool]:
    body, whole = effective(event)
    if ref(event).get("subresource") and not (isinstance(body, dict) and body.get("kind") == "Pod"):
        return None, True
    return body, whole


def target_pod(event: Event, before: Sequence[Event], entry: dict[str, Any]) -> bool | None:
    if (ref(event).get("apiGroup", ""), ref(event).get("resource")) != ("", "pods"):
        return False
    body, whole = pod_shown(event)
    shown = body is not None and hits(entry)(aliased(event, entry["jsonPath"], body))
    if shown or (body is not None and whole):
        return bool(shown)
    answer: bool | None = stood(before, place(event), entry["jsonPath"], hits(entry))
    return answer


def role_grants(event: Event, before: Sequence[Event], wanted: dict[str, Any]) -> bool | None:
    group, plural, namespace, _ = place(event)
    if group != RBAC or ref(event).get("subresource"):
        return False
    body, whole = effective(event)
    if plural in ("roles", "clusterroles"):
        if body is not None and (whole or touches(event, "$.rules", body)):
            granted = grants(aliased(event, "$.rules", body), wanted)
            return granted or (None if not whole and isinstance(event.get("requestObject"), list) else False)
        kind = "Role" if plural == "roles" else "ClusterRole"
        return role_stood(before, (kind, ref(event).get("name", ""), namespace), wanted)
    if plural not in ("rolebindings", "clusterrolebindings"):
        return False
    role = role_ref(body, namespace)
    if role is None and not whole:
        role = (bindings(before).get((plural, namespace, ref(event).get("name", ""))) or (None, None))[0]
    return None if role is None else role_stood(before, role, wanted)


def role_ref(body: Json, namespace: str) -> tuple[str, str, str] | None:
    found = body.get("roleRef") if isinstance(body, dict) else None
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        return None
    if found.get("kind") == "Role":
        return "Role", found["name"], namespace
    return "ClusterRole", found["name"], ""


def role_stood(before: Sequence[Event], role: tuple[str, str, str], wanted: dict[str, Any]) -> bool | None:
    kind, name, namespace = role
    if kind == "ClusterRole" and name == "cluster-admin":
        return grants([EVERYTHING], wanted)
    where = (RBAC, "roles" if kind == "Role" else "clusterroles", namespace, name)
    answer: bool | None = stood(before, where, "$.rules", lambda values: grants(values, wanted))
    return answer


def grants(values: list[Json], wanted: dict[str, Any]) -> bool:
    for rules in values:
        for rule in rules if isinstance(rules, list) else []:
            if not isinstance(rule, dict):
                continue
            if "*" in wanted.get("resources", []) and rule.get("resourceNames"):
                continue
            if all(
                allows(key, rule.get(key), wanted[key])
                for key in ("verbs", "apiGroups", "resources", "nonResourceURLs")
                if wanted.get(key)
            ):
                return True
    return False


def allows(key: str, given: Json, wanted: list[str]) -> bool:
    for one in given if isinstance(given, list) else []:
        for each in wanted if isinstance(one, str) else []:
            if one in ("*", each):
                return True
            if key == "resources" and one.startswith("*/") and each.endswith(one[1:]):
                return True
            if key == "nonResourceURLs" and one.endswith("*") and each.startswith(one[:-1]):
                return True
    return False


def bindings(before: Sequence[Event]) -> dict[tuple[str, str, str], tuple[tuple[str, str, str], list[str] | None]]:
    """To whom bindings gave which role."""
    known: dict[tuple[str, str, str], tuple[tuple[str, str, str], list[str] | None]] = {}
    for event in before:
        group, plural, namespace, name = place(event)
        if not writes(event) or group != RBAC or plural not in ("rolebindings", "clusterrolebindings"):
            continue
        if event["verb"] == "deletecollection":
            known = {key: one for key, one in known.items() if key[0] != plural or namespace not in ("", key[1])}
            continue
        old = known.pop((plural, namespace, name), None)
        body, whole = effective(event)
        role = role_ref(body, namespace) or (old[0] if old and not whole else None)
        if event["verb"] == "delete" or role is None or not name:
            continue
        told = subjects(body, namespace)
        if not whole and not (isinstance(body, dict) and "subjects" in body):
            told = old[1] if old else None
        elif not whole and isinstance(event.get("requestObject"), list):
            told = None if not old or old[1] is None or told is None else old[1] + told
        known[plural, namespace, name] = role, told
    return known


def subjects(body: Json, namespace: str) -> list[str] | None:
    found = []
    listed = body.get("subjects") if isinstance(body, dict) else None
    if not isinstance(listed, list):
        return []
    for one in listed:
        name = one.get("name") if isinstance(one, dict) else None
        if not isinstance(name, str) or not name:
            continue
        if one.get("kind") == "ServiceAccount":
            own = one.get("namespace")
            found.append(f"user system:serviceaccount:{own if isinstance(own, str) and own else namespace}:{name}")
        else:
            found.append(f"{'group' if one.get('kind') == 'Group' else 'user'} {name}")
    return found


def account_grants(event: Event, before: Sequence[Event], wanted: dict[str, Any]) -> bool | None:
    account = account_at_stake(event, before)
    if not isinstance(account, tuple):
        return account
    namespace, name = account
    means = {
        f"user system:serviceaccount:{namespace}:{name}",
        "group system:serviceaccounts",
        f"group system:serviceaccounts:{namespace}",
        "group system:authenticated",
    }
    for (plural, _, _), (role, given) in bindings(before).items():
        if wanted.get("clusterWide") and plural != "clusterrolebindings":
            continue
        if means & set(given or []) and role_stood(before, role, wanted) is True:
            return True
    return None


def account_at_stake(event: Event, before: Sequence[Event]) -> tuple[str, str] | bool | None:
    group, plural, namespace, name = place(event)
    body, whole = effective(event)
    if (group, plural) == ("", "serviceaccounts"):
        return (namespace, name) if name else None
    if group in GROUPS.get(plural, []):
        path = "$pod.serviceAccountName"
        shown, whole = pod_shown(event)
        if shown is not None and (whole or touches(event, path, shown)):
            return namespace, runs_as(aliased(event, path, shown))
        if plural != "pods":
            return None
        account = stood(before, place(event), path, runs_as)
        return (namespace, account) if isinstance(account, str) else None
    if (group, plural) == ("", "secrets"):
        found = native_path(".metadata.annotations['kubernetes.io/service-account.name']", body)
        if found and isinstance(found[0], str):
            return namespace, found[0]
        return None if body is None or not whole else False
    return False


def runs_as(values: list[Json]) -> str:
    return next((value for value in values if isinstance(value, str) and value), "default")


def has_null(event: Event, path: str, body: Json) -> bool:
    """Whether some step of the path is null in a partial object."""
    if path.startswith("$pod"):
        roots, rest = [pod(event, body)], path[4:]
    elif path.startswith("$ctr"):
        roots, rest = [containers(pod(event, body))], path[4:]
    else:
        roots, rest = [body], path[1:]
    steps = re.findall(r"\.[^.\[\]]+|\[[^\]]*\]", rest)
    for i, step in enumerate(steps):
        name = step[1:] if step.startswith(".") else step[2:-2] if step.startswith("['") else None
        if name is None or name == "*":
            continue
        for root in roots:
            for holder in native_path("".join(steps[:i]), root):
                if isinstance(holder, dict) and name in holder and holder[name] is None:
                    return True
    return False


def among(wanted: list[str] | None, value: str) -> bool:
    return not wanted or value in wanted


def like(patterns: list[str] | None, values: list[str]) -> bool:
    return not patterns or any(native_glob(pattern, value) for pattern in patterns for value in values)


def caller_conditions(wanted: dict[str, Any], found: dict[str, Any] | None, *, impersonated: bool) -> Any:
    present = found is not None and (impersonated or found.get("username", "") != "")
    if "present" in wanted:
        yield present == wanted["present"]
    if impersonated and wanted.get("present") is not False:
        yield present
    user = found or {}
    yield like(wanted.get("usernameGlob"), [user.get("username", "")])
    if wanted.get("notUsernameGlob"):
        yield not like(wanted["notUsernameGlob"], [user.get("username", "")])
    yield among(wanted.get("uid"), user.get("uid", ""))
    if wanted.get("groups"):
        yield any(group in wanted["groups"] for group in user.get("groups", []))
    for key, patterns in wanted.get("extra", {}).items():
        values = user.get("extra", {}).get(key, [])
        yield any(like(patterns, [value]) for value in values)


def code_fits(wanted: str, code: int) -> bool:
    if "-" in wanted:
        low, high = wanted.split("-")
        return int(low) <= code <= int(high)
    if wanted.lower().endswith("xx"):
        return code // 100 == int(wanted[0])
    return code == int(wanted)


def dry_run(event: Event) -> bool:
    if event.get("verb") in ("delete", "deletecollection"):
        body = event.get("requestObject")
        if body is not None:
            asked = body.get("dryRun") if isinstance(body, dict) else None
            return isinstance(asked, list) and "All" in asked
        if event.get("level") not in ("Request", "RequestResponse") or truncated(event):
            return False
    query = event.get("requestURI", "").partition("?")[2]
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if unquote_plus(name) == "dryRun" and unquote_plus(value) == "All":
            return True
    return False


def glob_match(entry: dict[str, Any], value: Json) -> bool:
    value = tidied(text(value)) if entry.get("asPath") else value
    ignore = entry.get("ignoreCase", False)
    ways = [native_glob(pattern, value, ignore_case=ignore) for pattern in entry.get("patterns", [])]
    ways += [re.search(each, text(value), re.IGNORECASE if ignore else 0) is not None for each in entry.get("re", [])]
    ways += [in_networks([each], value) for each in entry.get("cidr", [])]
    bounds = []
    n = number(value)
    if "gt" in entry:
        bounds.append(n is not None and n > entry["gt"])
    if "lt" in entry:
        bounds.append(n is not None and n < entry["lt"])
    if not any(entry.get(key) for key in ("patterns", "re", "cidr")) and bounds:
        return all(bounds)
    return any(ways) and all(bounds)


# ------------------------------------------------------------------------------------------------------- upstream Sigma


def sigma_matches(rule: dict[str, Any], event: Event) -> bool:
    """Whether an event matches a Sigma rule, given as parsed YAML."""
    detection = rule["detection"]
    conditions = detection["condition"]
    conditions = conditions if isinstance(conditions, list) else [conditions]
    searches = {name: search for name, search in detection.items() if name != "condition"}
    return any(Condition(each, searches, event).value() is True for each in conditions)


def negated(value: bool | None) -> bool | None:
    return None if value is None else not value


def both(values: list[bool | None]) -> bool | None:
    return False if False in values else None if None in values else True


def some(values: list[bool | None]) -> bool | None:
    return True if True in values else None if None in values else False


class Condition:
    """A condition by recursive descent: `or` binds weakest, then `and`, then `not`."""

    def __init__(self, condition: str, searches: dict[str, Any], event: Event) -> None:
        self.tokens = re.findall(r"\(|\)|[^\s()]+", condition)
        self.searches = searches
        self.event = event

    def value(self) -> bool | None:
        return self.either()

    def peek(self) -> str:
        return self.tokens[0] if self.tokens else ""

    def either(self) -> bool | None:
        values = [self.also()]
        while self.peek().lower() == "or":
            self.tokens.pop(0)
            values.append(self.also())
        return some(values)

    def also(self) -> bool | None:
        values = [self.single()]
        while self.peek().lower() == "and":
            self.tokens.pop(0)
            values.append(self.single())
        return both(values)

    def single(self) -> bool | None:
        token = self.tokens.pop(0)
        if token.lower() == "not":
            return negated(self.single())
        if token == "(":  # noqa: S105
            value = self.either()
            self.tokens.pop(0)
            return value
        if token in ("1", "any", "all") and self.peek() == "of":
            self.tokens.pop(0)
            pattern = self.tokens.pop(0)
            names = [
                name
                for name in self.searches
                if not name.startswith("_") and (pattern == "them" or re.fullmatch(pattern.replace("*", ".*"), name))
            ]
            values = [search(self.searches[name], self.event) for name in names]
            return both(values) if token == "all" else some(values)  # noqa: S105
        return search(self.searches[token], self.event)


def search(definition: Json, event: Event) -> bool | None:
    """One search identifier: a map is AND, a list is OR, values by themselves are keywords."""
    if isinstance(definition, dict):
        return both([item(key, value, event) for key, value in definition.items()])
    if isinstance(definition, list) and any(isinstance(each, dict | list) for each in definition):
        return some([search(each, event) for each in definition])
    return item("", definition, event)


def item(key: str, values: Json, event: Event) -> bool | None:
    field, *modifiers = key.split("|")
    listed = values if isinstance(values, list) else [values]
    if not listed:
        listed = [None]
    results = [one_value(field, modifiers, value, event) for value in listed]
    result = both(results) if "all" in modifiers else some(results)
    return negated(result) if "neq" in modifiers else result


def one_value(field: str, modifiers: list[str], value: Json, event: Event) -> bool | None:
    if field == "":
        if truncated(event):
            hit = keyword(modifiers, value, event)
            return True if hit else None
        return keyword(modifiers, value, event)
    unknown = truncated(event) and field.split(".", 1)[0] in (
        "requestObject", "responseObject", "hostPath", "capabilities", "privileged", "image", "hostNetwork", "hostPID",
        "hostIPC",
    )  # fmt: skip
    if "exists" in modifiers:
        there = bool(field_values(field, event, whole=True))
        return None if unknown else there == value
    found = field_values(field, event)
    if "fieldref" in modifiers:
        others = [text(other).casefold() for other in field_values(value, event)]
        how = "startswith" if "startswith" in modifiers else "endswith" if "endswith" in modifiers else "__eq__"
        hit = any(getattr(text(mine).casefold(), how)(other) for mine in found for other in others)
        return None if unknown and not hit else hit
    if value is None or (value == "" and not modifiers and envelope_text(field)):
        return None if unknown else not found
    hit = any(value_hits(field, modifiers, value, each) for each in found)
    if field == "responseStatus.code" and isinstance(value, str) and value.upper() in ("ALLOW", "DENY"):
        noted = annotations(event).get("authorization.k8s.io/decision", "")
        return noted.casefold() == ("allow" if value.upper() == "ALLOW" else "forbid")
    return None if unknown and not hit else hit


def compare(left: float, sign: str, right: float) -> bool:
    if sign == "<":
        return left < right
    if sign == "<=":
        return left <= right
    return left > right if sign == ">" else left >= right


def envelope_text(field: str) -> bool:
    """Whether the API server writes the field as one text, and leaves it out when empty: absent is '' there."""
    return field in (
        "verb",
        "stage",
        "level",
        "requestURI",
        "userAgent",
        "auditID",
        "requestReceivedTimestamp",
        "stageTimestamp",
        "apiGroup",
        "resource",
        "subresource",
        "namespace",
        "name",
        "user.username",
        "user.uid",
        "impersonatedUser.username",
        "impersonatedUser.uid",
        "responseStatus.status",
        "responseStatus.reason",
        "responseStatus.message",
    ) or field.startswith("objectRef.")


def value_hits(field: str, modifiers: list[str], wanted: Json, found: Json) -> bool:
    parts = [name for name in modifiers if name in ("minute", "hour", "day", "week", "month", "year")]
    if parts:
        try:
            moment = dt.datetime.fromisoformat(text(found)).astimezone(dt.UTC)
        except ValueError:
            return False
        found = moment.isocalendar().week if parts[0] == "week" else getattr(moment, parts[0])
    n = number(found)
    for name in ("gte", "gt", "lte", "lt"):
        if name in modifiers:
            bounds = {"gte": ">=", "gt": ">", "lte": "<=", "lt": "<"}
            return n is not None and compare(n, bounds[name], wanted)
    if "re" in modifiers:
        flags = 0
        for name, flag in (("i", re.IGNORECASE), ("m", re.MULTILINE), ("s", re.DOTALL)):
            if name in modifiers:
                flags |= flag
        return re.search(wanted, text(found), flags) is not None
    if "cidr" in modifiers:
        return in_networks([wanted], found)
    if isinstance(wanted, bool):
        return text(found).casefold() == text(wanted)
    if isinstance(wanted, int | float):
        return number(found) == wanted
    if field == "verb" and wanted.casefold() == "replace" and not modifiers:
        wanted = "update"
    return any(sigma_text(modifiers, each, text(found)) for each in expanded(modifiers, wanted))


def expanded(modifiers: list[str], wanted: str) -> list[str]:
    """The values that encoding modifiers stand for."""
    if "windash" in modifiers:
        return [re.sub(r"\B[-/]\b", dash, wanted) for dash in ("-", "/", "–", "—", "―")]  # noqa: RUF001
    if "base64" in modifiers:
        return [base64.b64encode(wanted.encode()).decode()]
    if "base64offset" in modifiers:
        found = []
        for offset in range(3):
            encoded = base64.b64encode(b" " * offset + wanted.encode()).decode()
            end = (None, -3, -2)[(len(wanted.encode()) + offset) % 3]
            found.append(encoded[(0, 2, 3)[offset] : end])
        return found
    return [wanted]


def sigma_text(modifiers: list[str], wanted: str, found: str) -> bool:
    """A Sigma string: `*` and `?` are wildcards, a backslash takes their meaning away."""
    pattern = ""
    i = 0
    while i < len(wanted):
        char = wanted[i]
        if char == "\\" and i + 1 < len(wanted) and wanted[i + 1] in "*?\\":
            char, i = wanted[i + 1], i + 1
            pattern += re.escape(char if "cased" in modifiers else char.casefold())
        elif char in "*?":
            pattern += ".*" if char == "*" else "."
        else:
            pattern += re.escape(char if "cased" in modifiers else char.casefold())
        i += 1
    if "contains" in modifiers or "endswith" in modifiers:
        pattern = ".*" + pattern
    if "contains" in modifiers or "startswith" in modifiers:
        pattern += ".*"
    return re.fullmatch(pattern, found if "cased" in modifiers else found.casefold(), re.DOTALL) is not None


def keyword(modifiers: list[str], wanted: Json, event: Event) -> bool:
    found: list[str] = []
    pending: list[Json] = [
        event.get(name)
        for name in (
            "verb", "stage", "level", "auditID", "requestURI", "userAgent", "user", "impersonatedUser", "sourceIPs",
            "responseStatus", "requestObject", "responseObject", "annotations", "authenticationMetadata",
            "requestReceivedTimestamp", "stageTimestamp",
        )
    ]  # fmt: skip
    names = ("resource", "namespace", "name", "uid", "apiGroup", "apiVersion", "resourceVersion", "subresource")
    pending += [ref(event).get(name) for name in names]
    while pending:
        value = pending.pop()
        if isinstance(value, str) and value:
            found.append(value)
        elif isinstance(value, list):
            pending += value
        elif isinstance(value, dict):
            pending += value.values()
    if "re" in modifiers:
        return any(value_hits("", modifiers, wanted, each) for each in found)
    return any(sigma_text([*modifiers, "contains"], text(wanted), each) for each in found)


def field_values(field: str, event: Event, *, whole: bool = False) -> list[Json]:
    """The values of a Sigma field, empty texts of the envelope left out."""
    bare = ("apiGroup", "resource", "subresource", "namespace", "name")
    if field in bare:
        field = f"objectRef.{field}"
    if field in ("verb", "stage", "level", "requestURI", "userAgent", "auditID", "requestReceivedTimestamp",
                 "stageTimestamp"):  # fmt: skip
        return [event[field]] if event.get(field) else []
    if field == "objectRef":
        return [event["objectRef"]] if event.get("objectRef") is not None else []
    if field.startswith("objectRef."):
        value = ref(event).get(field.removeprefix("objectRef."), "")
        return [value] if value else []
    for name in ("user", "impersonatedUser"):
        if field == name or field.startswith(f"{name}."):
            user = caller(event, name)
            if user is None:
                return []
            rest = field[len(name) + 1 :]
            if rest == "":
                return [user]
            if rest in ("username", "uid"):
                return [user[rest]] if user.get(rest) else []
            if rest == "groups":
                return list(user.get("groups", []))
            return list(user.get("extra", {}).get(key_of(rest, "extra"), []))
    if field == "responseStatus":
        return [status(event)] if status(event) else []
    if field.startswith("responseStatus."):
        answer = status(event).get(field.removeprefix("responseStatus."))
        return [answer] if answer else []
    if field == "sourceIPs":
        return source_ips(event)[-1:]
    if field == "sourceIPs[]":
        return source_ips(event)
    if field.startswith(("annotations.", "annotations[")):
        key = key_of(field, "annotations")
        return [annotations(event)[key]] if key in annotations(event) else []
    body, _ = effective(event)
    if field in ("hostNetwork", "hostPID", "hostIPC"):
        return aliased(event, f"$pod.{field}", body)
    if field == "hostPath":
        return aliased(event, "$pod.volumes[*].hostPath", body)
    if field == "capabilities":
        return aliased(event, f"$ctr[*].securityContext.capabilities.add{'' if whole else '[*]'}", body)
    if field == "privileged":
        return aliased(event, "$ctr[*].securityContext.privileged", body)
    if field == "image":
        return aliased(event, "$ctr[*].image", body)
    for name in ("requestObject", "responseObject", "authenticationMetadata"):
        if field == name or field.startswith((f"{name}.", f"{name}[")):
            segments = [
                quoted or plain for quoted, plain in re.findall(r"\['([^']+)'\]|([^.\[\]]+)", field[len(name) :])
            ]
            return dotted_values(segments, event.get(name), whole=whole)
    return []


def key_of(field: str, prefix: str) -> str:
    rest = field[len(prefix) :]
    return rest[2:-2] if rest.startswith("['") else rest[1:]


def dotted_values(segments: list[str], value: Json, *, whole: bool) -> list[Json]:
    if isinstance(value, list) and (segments or not whole):
        return [found for each in value for found in dotted_values(segments, each, whole=whole)]
    if not segments:
        return [] if value is None else [value]
    if isinstance(value, dict):
        for end in range(len(segments), 0, -1):
            key = ".".join(segments[:end])
            if key in value:
                return dotted_values(segments[end:], value[key], whole=whole)
    return []
