"""Subjects of audit events: kind by group and resource, snapshots from bodies, names when the reference has none."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.api import k8s
from ugallu.api.meta import encode
from ugallu.api.subject import Subject
from ugallu.testing.audit import audit_record
from ugallu_audit_detection.body import MAX_ITEMS
from ugallu_audit_detection.seen import Seen
from ugallu_audit_detection.snapshots import BUILDERS
from ugallu_audit_detection.subjects import KINDS, MAX_SUBJECT_BYTES, subject_of


def subject(**changes: Any) -> Subject:
    return subject_of(Seen(audit_record(**changes)))


def created(kind: str, resource: str, group: str = "", name: str = "x", **body: Any) -> Subject:
    api = f"{group}/v1" if group else "v1"
    full = {"kind": kind, "apiVersion": api, "metadata": {"name": name, "uid": "u-1"}, **body}
    return subject(
        verb="create",
        level="RequestResponse",
        objectRef={"resource": resource, "apiGroup": group, "apiVersion": "v1", "name": name, "namespace": "shop"},
        requestObject=full,
        responseObject=full,
    )


def test_a_metadata_event_knows_the_name_and_says_that_it_knows_no_more() -> None:
    """Without a body there is no snapshot, and the subject says so."""
    got = subject()
    assert (got.api_version, got.kind, got.namespace, got.name) == ("v1", "Pod", "shop", "web-0")
    assert got.unresolved
    assert got.pod is None


def test_the_group_is_part_of_the_key() -> None:
    """A custom resource called `secrets` is no Secret."""
    ref = {"resource": "secrets", "apiGroup": "vault.example.com", "apiVersion": "v1", "name": "a", "namespace": "shop"}
    got = subject(objectRef=ref)
    assert got.kind == "External"
    assert got.api_version == "vault.example.com/v1"
    assert got.external is not None
    assert got.external.identity == "secrets.vault.example.com/shop/a"
    assert not got.unresolved


def test_an_event_without_its_group_still_names_a_built_in_kind() -> None:
    """Trimmed recordings leave the group out; the core group has no deployments of its own."""
    assert subject(objectRef={"resource": "deployments", "name": "a"}).kind == "Deployment"


@pytest.mark.parametrize(("group", "resource"), sorted(KINDS))
def test_every_kind_has_a_builder_and_a_discriminator(group: str, resource: str) -> None:
    """What the resource map names can be filled."""
    kind = KINDS[group, resource]
    assert kind in BUILDERS
    assert kind in Subject.DISCRIMINATORS
    assert subject(objectRef={"resource": resource, "apiGroup": group, "name": "x"}).kind == kind


def test_a_request_outside_the_api_is_an_endpoint() -> None:
    """A URL is its own identity, without its query, decoded."""
    got = subject(objectRef=None, requestURI="/api%2f?token=abc", verb="get")
    assert (got.kind, got.name) == ("External", "/api/")
    assert got.external is not None
    assert (got.external.kind, got.external.source) == ("ExternalEndpoint", "audit")


def test_a_created_object_is_named_by_what_was_stored() -> None:
    """generateName leaves the reference empty: the response knows the name, and the uid."""
    ref = {"resource": "pods", "namespace": "shop", "apiVersion": "v1"}
    stored = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "web-7d9-x2x", "uid": "u-7"}, "spec": {}}
    got = subject(verb="create", objectRef=ref, requestObject={"kind": "Pod"}, responseObject=stored)
    assert (got.name, got.uid, got.unresolved) == ("web-7d9-x2x", "u-7", False)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"requestObject": {"kind": "Pod", "metadata": {"generateName": "web-"}}}, "web-*"),
        ({"requestURI": "/api/v1/namespaces/shop/pods?limit=500"}, "pods"),
        ({"requestURI": ""}, "pods"),
    ],
)
def test_names_fall_back_step_by_step(changes: dict[str, Any], name: str) -> None:
    """generateName with a star, else the last segment of the URI, else the resource."""
    assert subject(objectRef={"resource": "pods", "namespace": "shop"}, **changes).name == name


def test_a_namespace_is_not_inside_itself() -> None:
    """Audit repeats the name of a namespace as its namespace; the subject is cluster-scoped."""
    got = subject(objectRef={"resource": "namespaces", "name": "shop", "namespace": "shop"})
    assert (got.kind, got.namespace) == ("Namespace", "")


def test_a_secret_keeps_names_and_sizes_only() -> None:
    """The event about a Secret holds no byte of it."""
    got = created(
        "Secret",
        "secrets",
        type="Opaque",
        data={"password": "aHVudGVyMg==", "user": "Ym9i"},
        stringData={"plain": "hunter3"},
    )
    assert got.secret is not None
    assert got.secret.data_keys == ("password", "plain", "user")
    assert got.secret.size_bytes == len("hunter2") + len("bob") + len("hunter3")
    wire = encode(got)
    assert b"aHVudGVyMg" not in wire
    assert b"hunter" not in wire


def test_a_pod_keeps_variable_names_and_no_values() -> None:
    """What decides isolation stays, values of variables do not."""
    got = created(
        "Pod",
        "pods",
        spec={
            "hostPID": True,
            "serviceAccountName": "web",
            "containers": [
                {
                    "name": "c",
                    "image": "r/i@sha256:00",
                    "env": [{"name": "TOKEN", "value": "hunter2"}],
                    "securityContext": {"privileged": True, "capabilities": {"add": ["SYS_ADMIN"]}},
                }
            ],
            "volumes": [
                {"name": "root", "hostPath": {"path": "/", "type": "Directory"}},
                {"name": "e", "emptyDir": {}},
            ],
        },
    )
    assert got.pod is not None
    assert got.pod.host_pid
    assert got.pod.containers[0].env_names == ("TOKEN",)
    assert got.pod.containers[0].image_digest == "sha256:00"
    assert got.pod.containers[0].security_context is not None
    assert got.pod.containers[0].security_context.privileged
    assert [(v.type, v.host_path) for v in got.pod.volumes] == [("hostPath", "/"), ("emptyDir", "")]
    assert b"hunter2" not in encode(got)


def test_commands_and_urls_are_scrubbed() -> None:
    """A hook, a probe or a webhook's address may carry a credential."""
    hook = {"exec": {"command": ["sh", "-c", "curl --token=hunter2 https://a:hunter2@b/"]}}
    probe = {"httpGet": {"path": "/?api_key=hunter2"}}
    pod = created("Pod", "pods", spec={"containers": [{"lifecycle": {"preStop": hook}, "livenessProbe": probe}]})
    webhook = created(
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
        "admissionregistration.k8s.io",
        webhooks=[{"name": "w", "clientConfig": {"url": "https://u:hunter2@a/?token=hunter2"}}],
    )
    assert pod.pod is not None
    assert b"hunter2" not in encode(pod) + encode(webhook)


def test_a_binding_says_who_gets_what() -> None:
    """Role and subjects of a binding are the facts that matter."""
    got = created(
        "ClusterRoleBinding",
        "clusterrolebindings",
        "rbac.authorization.k8s.io",
        roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        subjects=[{"kind": "ServiceAccount", "name": "web", "namespace": "shop"}],
    )
    assert got.role_binding is not None
    assert got.role_binding.role_ref.name == "cluster-admin"
    assert got.role_binding.subjects[0].namespace == "shop"
    assert got.resolved


def test_a_webhook_keeps_the_digest_of_its_ca() -> None:
    """The CA bundle is hashed, never kept."""
    got = created(
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        "admissionregistration.k8s.io",
        webhooks=[{"name": "w", "failurePolicy": "Ignore", "clientConfig": {"url": "https://a", "caBundle": "QUJD"}}],
    )
    assert got.webhook_config is not None
    client = got.webhook_config.webhooks[0].client_config
    assert client.ca_bundle_sha256 == "b5d4045c3f466fa91fe2cc6abe79232a1a57cdf104f7a26e716e0a1e2789df78"
    assert b"QUJD" not in encode(got)


def test_a_patch_tells_a_part() -> None:
    """A merge patch holds only what it changes, and a patch without the role tells nothing of a binding."""
    ref = {"resource": "namespaces", "name": "shop"}
    labels = {"pod-security.kubernetes.io/enforce": "privileged"}
    got = subject(verb="patch", objectRef=ref, requestObject={"metadata": {"labels": labels}})
    assert got.partial
    assert got.namespace_data is not None
    assert got.namespace_data.psa_level is not None
    assert got.namespace_data.psa_level.enforce == "privileged"
    ref = {"resource": "rolebindings", "apiGroup": "rbac.authorization.k8s.io", "name": "a", "namespace": "shop"}
    got = subject(verb="patch", objectRef=ref, requestObject={"subjects": []})
    assert got.unresolved
    assert got.role_binding is None


def test_a_json_patch_is_a_list_and_still_tells() -> None:
    """A JSON Patch body is an array; the event is not lost, and what it sets is known."""
    ref = {"resource": "namespaces", "name": "shop"}
    operation = {"op": "replace", "path": "/metadata/labels/pod-security.kubernetes.io~1enforce", "value": "privileged"}
    got = subject(verb="patch", objectRef=ref, requestObject=[operation])
    assert got.namespace_data is not None
    assert got.namespace_data.psa_level is not None
    assert got.namespace_data.psa_level.enforce == "privileged"
    assert got.partial


def test_the_body_of_a_subresource_is_not_the_object() -> None:
    """An exec carries PodExecOptions, a token request a TokenRequest: neither is a snapshot of what they are about."""
    ref = {"resource": "serviceaccounts", "name": "web", "namespace": "shop", "subresource": "token"}
    body = {"kind": "TokenRequest", "spec": {}, "status": {"token": "eyJhbGciOi"}}
    got = subject(verb="create", objectRef=ref, requestObject=body, responseObject=body)
    assert (got.kind, got.name, got.unresolved) == ("ServiceAccount", "web", True)


def test_long_lists_are_cut_and_said_to_be() -> None:
    """A body of thousands of entries becomes a bounded, partial snapshot."""
    rule = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
    got = created("ClusterRole", "clusterroles", "rbac.authorization.k8s.io", rules=[rule] * 1000)
    assert got.role is not None
    assert len(got.role.rules) == MAX_ITEMS
    assert got.partial


def test_a_snapshot_that_is_too_large_is_left_out() -> None:
    """The subject stays, bounded, whatever was sent."""
    container = {"name": "c" * 1000, "image": "i" * 1000, "env": [{"name": "N" * 1000}] * 64}
    got = created("Pod", "pods", spec={"containers": [container] * 64})
    assert got.unresolved
    assert got.partial
    assert len(encode(got)) < MAX_SUBJECT_BYTES


def test_snapshots_hold_what_canonical_json_can_carry() -> None:
    """Floats, huge integers and odd keys become text, so that a signature over the event means one thing."""
    got = created(
        "Pod",
        "pods",
        spec={"containers": [{"name": "c", "resources": {"limits": {"cpu": 0.5, "größe": 2**60}}}], "priority": 2**60},
    )
    assert got.pod is not None
    assert got.pod.priority is None
    assert got.pod.containers[0].resources == k8s.ResourceRequirements(
        limits={"cpu": "0.5", "gr\\xf6\\xdfe": str(2**60)}
    )


def test_a_part_of_another_shape_is_left_out_and_said_to_be() -> None:
    """A denied request may hold anything; what a server would refuse or prune must not cost the event or its digest."""
    container = {
        "name": "c",
        "securityContext": {"privileged": True, "capabilities": {"add": "ALL"}},
        "resources": {"limits": {"cpu": "a lot"}, "claims": [{"name": "n", "colour": "red"}]},
        "ports": [{"containerPort": 2**31}],
    }
    affinity = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"no": "topologyKey"}]}}
    spec = {
        "containers": [container, {"name": "d", "resources": {"requests": {"cpu": 1, "gpu": "2"}, "extra": 1}}],
        "overhead": {"cpu": "very", "memory": "1Mi"},
        "affinity": affinity,
        "priority": 2**40,
    }
    got = created("Pod", "pods", spec=spec)
    assert got.pod is not None
    assert got.partial
    first, second = got.pod.containers
    assert first.security_context is not None
    assert first.security_context.privileged
    assert first.security_context.capabilities is None
    assert first.resources is None
    assert second.resources == k8s.ResourceRequirements(requests={"cpu": 1, "gpu": "2"})
    assert got.pod.affinity is not None
    assert got.pod.affinity.pod_affinity is None
    assert got.pod.overhead == {"memory": "1Mi"}
    assert (got.pod.priority, first.ports[0].container_port) == (None, 0)


def test_an_aggregated_role_keeps_its_selector() -> None:
    """The labels by which a ClusterRole collects others are what makes it dangerous."""
    rule = {"clusterRoleSelectors": [{"matchLabels": {"rbac.example.com/all": "true"}}]}
    got = created("ClusterRole", "clusterroles", "rbac.authorization.k8s.io", aggregationRule=rule)
    assert got.role is not None
    assert got.role.aggregation_label == k8s.LabelSelector(match_labels={"rbac.example.com/all": "true"})


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
names = st.sampled_from(
    [
        "metadata",
        "spec",
        "template",
        "status",
        "labels",
        "containers",
        "volumes",
        "rules",
        "roleRef",
        "subjects",
        "webhooks",
        "clientConfig",
        "names",
        "data",
        "kind",
        "name",
        "uid",
        "ownerReferences",
        "jobTemplate",
        "hostPath",
        "securityContext",
        "env",
    ]
)
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=5), max_leaves=25
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(KINDS)), trees, st.sampled_from(["create", "patch", "update", "delete"]), st.booleans())
def test_no_body_breaks_a_subject(key: tuple[str, str], tree: Any, verb: str, kinded: bool) -> None:
    """Whatever a client sends, there is a subject that encodes, and exactly one discriminator or none."""
    kind = KINDS[key]
    body = {**tree, "kind": kind} if kinded and isinstance(tree, dict) else tree
    ref = {"resource": key[1], "apiGroup": key[0], "apiVersion": "v1", "name": "x"}
    got = subject(verb=verb, objectRef=ref, requestObject=body, responseObject=tree)
    again = msgspec.json.decode(encode(got), type=Subject)
    filled = {name for name in set(Subject.DISCRIMINATORS.values()) if getattr(again, name) is not None}
    assert filled == (set() if got.unresolved else {Subject.DISCRIMINATORS[kind]})
