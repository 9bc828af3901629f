"""The default pack: that every rule of it holds together, says what a person must know, and proves itself."""

import re
from collections import defaultdict
from typing import Any

import pytest
import yaml

from ugallu.sdk import CATALOGUE, EventClass, SigmaRule
from ugallu_audit_detection import pack
from ugallu_audit_detection.arming import arm, failure
from ugallu_audit_detection.engine import Engine
from ugallu_audit_detection.sigma.names import is_linked

RULES = list(pack.rules())
SHIPPED = {
    "KubernetesAPICall", "WatchSubscription", "ProxyAccess", "WildcardRBACBinding", "ClusterAdminGranted",
    "PrivilegedPodChange", "HostPathMount", "HostNetworkPod", "HostPIDPod", "HostIPCPod", "CapAddDangerous",
    "RunAsRootContainer", "ServiceAccountTokenAutomount", "SecretMountedAsEnv", "ImagePullPolicyAlways",
    "LatestImageTag", "UnsignedImage", "ExecIntoPod", "PortForwardOpened", "ServiceAccountTokenRequest",
    "AnonymousAccess", "ImpersonationUsed", "PrivilegeEscalationAttempt", "WebhookSideEffectsUnknown",
    "FailOpenWebhook", "CRDOverwrite", "APIServiceInsecure", "LongLivedSecretToken", "NamespacePSAWeakened",
    "LateralMovementSuspected", "RBACEscalationChain", "IncidentBurst",
}  # fmt: skip
"""Every type that a rule of the pack must speak of."""
OFF = {"ugallu-kubernetes-api-call", "ugallu-image-pull-policy-always"}
PARTS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z][a-z]+|[A-Z]+")


def kebab(name: str) -> str:
    return "-".join(PARTS.findall(name)).lower()


def each(rule: SigmaRule) -> str:
    return rule.metadata.name


@pytest.mark.parametrize("rule", RULES, ids=each)
def test_a_rule_arms_and_passes_its_own_tests(rule: SigmaRule) -> None:
    """Every rule compiles, can match, and says to its own events what it promises."""
    armed = arm(rule.metadata.name, rule.spec, rule.metadata.labels)
    if not is_linked(rule.spec.sigma):
        assert failure(armed) == ""
        assert not armed.compiled.never_matches
    assert not armed.compiled.unknown_fields
    assert {test.expect for test in rule.spec.tests} == {"hit", "miss"}


@pytest.mark.parametrize("rule", RULES, ids=each)
def test_a_rule_says_what_a_person_must_know(rule: SigmaRule) -> None:
    """Each has a name of its type, a sentence, a technique, a reference, and what may go wrong with it."""
    spec, data = rule.spec, rule.metadata
    assert data.name.startswith(f"ugallu-{kebab(spec.emit.security_event_type)}")
    assert data.labels["ugallu.io/rule-pack"] == "default"
    assert data.labels["ugallu.io/rule-pack-version"] == pack.VERSION
    for said in (spec.description, *(data.annotations[key] for key in pack.KNOWLEDGE)):
        assert said.strip().endswith(".")
    assert all(re.fullmatch(r"attack\.t\d{4}(\.\d{3})?", tag) for tag in spec.tags)
    assert spec.tags
    assert spec.references
    assert all(reference.startswith("https://") for reference in spec.references)


def test_correlations_find_their_rules_and_pass_their_tests() -> None:
    """In an engine with the whole pack every correlation serves, and what is only counted says so."""
    engine = Engine()
    for rule in RULES:
        engine.arm(arm(rule.metadata.name, rule.spec, rule.metadata.labels))
    links = engine.correlator.links
    assert links.troubles == {}
    assert set(links.order) == {rule.metadata.name for rule in RULES if is_linked(rule.spec.sigma)}
    counted = {rule.metadata.name for rule in RULES if "nly counted" in rule.spec.description}
    assert set(links.silent) == counted


def test_every_type_of_the_pack_is_spoken_of() -> None:
    """The 29 types each have a rule, and what is off says so."""
    assert {rule.spec.emit.security_event_type for rule in RULES} >= SHIPPED
    assert {rule.metadata.name for rule in RULES if not rule.spec.enabled} == OFF


def test_a_plain_record_is_audit_unless_it_means_harm() -> None:
    """Types of anomalies are anomalies; others are audit where they record, and detections where they accuse."""
    for rule in RULES:
        emit = rule.spec.emit
        known = CATALOGUE[emit.security_event_type]
        if known.event_class is EventClass.AUDIT:
            assert emit.class_ in (EventClass.AUDIT, EventClass.DETECTION)
        else:
            assert emit.class_ is known.event_class


def test_words_mean_the_same_in_every_file() -> None:
    """What several files call by one name (controllers, deployers, refused) is one thing."""
    meanings: defaultdict[str, list[tuple[str, Any]]] = defaultdict(list)
    for path in sorted(pack.FOLDER.glob("*.yaml")):
        for name, meaning in yaml.safe_load(path.read_text()).get("definitions", {}).items():
            meanings[name].append((path.name, _bare(meaning)))
    shared = {name: found for name, found in meanings.items() if len(found) > 1}
    assert {"refused", "pretended", "deployers", "controllers", "done"} <= shared.keys()
    for name, found in shared.items():
        assert len({repr(meaning) for _, meaning in found}) == 1, (name, found)


def _bare(meaning: Any) -> Any:
    """A leaf of one field, or the field: what it lists, in order."""
    while isinstance(meaning, dict) and len(meaning) == 1:
        meaning = next(iter(meaning.values()))
    return sorted(meaning, key=repr) if isinstance(meaning, list) else meaning
