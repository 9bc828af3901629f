"""Cases of 9 to 12: settings of webhook-auditor and dns-detect, tenants, decoys."""

from collections.abc import Callable
from typing import Any, Final

from ugallu.api.dns import DNSDetectConfig
from ugallu.api.honeypot import HoneypotConfig
from ugallu.api.meta import Kind
from ugallu.api.tenant import TenantBoundary
from ugallu.api.webhook_auditor import WebhookAuditorConfig
from ugallu.testing.contracts.policies.case import Case, Document, changed

_DEFAULT: Final = {"metadata": {"name": "default"}}
_WEBHOOKS: Final[Document] = _DEFAULT | {"spec": {"riskThreshold": 60}}
_DNS: Final[Document] = _DEFAULT | {
    "spec": {
        "source": {"primary": "coredns_plugin", "plugin": {"grpcEndpoint": "coredns.kube-system.svc:8443"}},
        "detectors": {
            "exfiltration": {"enabled": True},
            "tunneling": {"enabled": True},
            "blocklist": {"enabled": True},
            "youngDomain": {"enabled": True},
            "anomalousPort": {"enabled": True},
        },
    }
}
_TENANT: Final[Document] = {"spec": {"namespaceSelector": {"matchLabels": {"tenant": "a"}}}}
_DECOY: Final[Document] = {"kind": "Secret", "name": "db-root", "namespace": "shop"}
_HONEYPOT: Final[Document] = {"spec": {"decoys": [_DECOY]}}


def _edited(base: Document, path: str, value: object) -> Document:
    return changed(base, path if path.startswith("metadata") else f"spec.{path}", value)


def _legacy(policy: str, kind: Kind, broken: Document) -> tuple[Case, ...]:
    """An object from before the policy: what is not its spec may change, and its spec may only become right."""
    broken = {key: value for key, value in broken.items() if key != "metadata"}
    held = changed(broken, "metadata.finalizers", ["ugallu.io/hold"])
    common: dict[str, Any] = {"policy": policy, "kind": kind}
    return (
        Case(
            says="what was stored before is labelled",
            old=broken,
            new=changed(broken, "metadata.labels.a", "b"),
            **common,
        ),
        Case(says="what was stored before is let go", old=held, new=broken, **common),
    )


def _up_to(case: Callable[..., Case], path: str, entry: object, most: int = 1024) -> tuple[Case, ...]:
    """The longest list, and one that is longer."""
    return (
        case(f"{most} in {path}", path, [entry] * most),
        case(f"{most + 1} in {path}", path, [entry] * (most + 1), f"at most {most} entries"),
    )


def _webhooks() -> list[Case]:
    policy, kind = "webhook-auditor-config-spec", WebhookAuditorConfig.kind_info

    def case(says: str, path: str, value: object, refused: str = "", **more: Any) -> Case:  # noqa: ANN401 - of Case
        return Case(policy=policy, says=says, kind=kind, new=_edited(_WEBHOOKS, path, value), refused=refused, **more)

    return [
        case("settings", "riskThreshold", 100),
        case("a listed name", "metadata.name", "second"),
        case("another name", "metadata.name", "mine", "metadata.name"),
        case("a threshold below 0", "riskThreshold", -1, "riskThreshold", by_schema=True),
        case("a threshold above 100", "riskThreshold", 101, "riskThreshold", by_schema=True),
        case("ignored by name", "ignore", [{"nameGlobs": ["ugallu.*", "cert-manager-*"]}]),
        case("ignored without a name", "ignore", [{"nameGlobs": []}], "nameGlobs"),
        case("everything ignored", "ignore", [{"nameGlobs": ["a", "*"]}], "nameGlobs"),
        case("everything ignored by two stars", "ignore", [{"nameGlobs": ["**"]}], "nameGlobs"),
        case("an empty glob", "ignore", [{"nameGlobs": [""]}], "nameGlobs"),
        case("a distinguished name", "trustedSubjectDNs", ["CN=ca,O=us"]),
        case("a name that is none", "trustedSubjectDNs", ["ca"], "trustedSubjectDNs"),
        case("an empty name", "trustedSubjectDNs", [""], "trustedSubjectDNs"),
        case("a namespace", "trustedCASources", [{"namespace": "cert-manager"}]),
        case("a namespace that is none", "trustedCASources", [{"namespace": "a/b"}], "trustedCASources"),
        case("an empty namespace", "trustedCASources", [{"namespace": ""}], "trustedCASources"),
        case("as much ignored as can be", "ignore", [{"nameGlobs": ["a*" * 80] * 32}] * 256),
        case("257 ignored", "ignore", [{"nameGlobs": ["a"]}] * 257, "at most 256 entries"),
        case("33 ignored names", "ignore", [{"nameGlobs": ["a"] * 33}], "at most 32 entries"),
        *_up_to(case, "trustedSubjectDNs", "CN=" + "a" * 100),
        *_up_to(case, "trustedCASources", {"namespace": "a" * 63}),
        *_legacy(policy, kind, changed(_WEBHOOKS, "spec.trustedSubjectDNs", ["ca"])),
        Case(policy=policy, says="nothing said", kind=kind, new=_DEFAULT),
    ]


def _dns() -> list[Case]:
    policy, kind = "dns-detect-config-spec", DNSDetectConfig.kind_info

    def case(says: str, path: str, value: object, refused: str = "", **more: Any) -> Case:  # noqa: ANN401 - of Case
        return Case(policy=policy, says=says, kind=kind, new=_edited(_DNS, path, value), refused=refused, **more)

    bridge = {"primary": "tetragon_kprobe", "bridge": {"grpcEndpoint": "bridge:50051"}}
    both = {"primary": "coredns_plugin", "plugin": {"grpcEndpoint": "[fd00::1]:8443"}, "fallback": "tetragon_kprobe"}
    off = {name: {"enabled": False} for name in _DNS["spec"]["detectors"]}
    exfiltration = "detectors.exfiltration."
    return [
        case("settings", "detectors.youngDomain.thresholdDays", 7),
        Case(policy=policy, says="nothing said", kind=kind, new=_DEFAULT),
        case("a listed name", "metadata.name", "second"),
        case("another name", "metadata.name", "mine", "metadata.name"),
        case("the bridge as source", "source", bridge),
        case("both sources", "source", both | {"bridge": {"grpcEndpoint": "bridge:50051"}}),
        case("the plug-in without an endpoint", "source", {"primary": "coredns_plugin"}, "source.plugin.grpcEndpoint"),
        case("no source chosen", "source", {}, "source.plugin.grpcEndpoint"),
        case("an endpoint without a port", "source.plugin.grpcEndpoint", "coredns", "source.plugin.grpcEndpoint"),
        case("an endpoint with too high a port", "source.plugin.grpcEndpoint", "a:65536", "source.plugin.grpcEndpoint"),
        case("an endpoint that is a URL", "source.plugin.grpcEndpoint", "https://a:1", "source.plugin.grpcEndpoint"),
        case("the bridge without an endpoint", "source", {"primary": "tetragon_kprobe"}, "source.bridge.grpcEndpoint"),
        case("a fallback without an endpoint", "source", both, "source.bridge.grpcEndpoint"),
        case("a fallback to the same", "source", bridge | {"fallback": "tetragon_kprobe"}, "fallback must differ"),
        case("every detector off", "detectors", off, "at least one must be enabled"),
        case("one detector on", "detectors", off | {"anomalousPort": {"enabled": True}}),
        case("the longest label", f"{exfiltration}minLabelLen", 63),
        case("a label of nothing", f"{exfiltration}minLabelLen", 0, "minLabelLen"),
        case("a label longer than any", f"{exfiltration}minLabelLen", 64, "minLabelLen"),
        case("the highest entropy", f"{exfiltration}minEntropy", "8.0"),
        case("more than the highest entropy", f"{exfiltration}minEntropy", "8.1", "minEntropy"),
        case("no entropy", f"{exfiltration}minEntropy", "0.0", "minEntropy"),
        case("an entropy in words", f"{exfiltration}minEntropy", "high", "minEntropy"),
        case("an entropy with an exponent", f"{exfiltration}minEntropy", "1e0", "minEntropy"),
        case("the largest window", f"{exfiltration}windowSize", 4096),
        case("too large a window", f"{exfiltration}windowSize", 4097, "windowSize"),
        case("more triggers than fit", f"{exfiltration}consecutiveTriggers", 65, "windowSize"),
        case("no trigger", f"{exfiltration}consecutiveTriggers", 0, "windowSize"),
        case("no limit of rate", "detectors.tunneling.ratelimitPerPod", "0s"),
        case("a day", "detectors.tunneling.ratelimitPerPod", "24h"),
        case("more than a day", "detectors.tunneling.ratelimitPerPod", "25h", "ratelimitPerPod"),
        case("a limit in words", "detectors.tunneling.ratelimitPerPod", "often", "ratelimitPerPod"),
        case("a blocklist", "detectors.blocklist.configMaps", [{"name": "a", "namespace": "b"}]),
        case("a blocklist without a name", "detectors.blocklist.configMaps", [{"name": "", "namespace": "b"}],
             "configMaps"),
        case("a blocklist without a namespace", "detectors.blocklist.configMaps", [{"name": "a", "namespace": ""}],
             "configMaps"),
        *_up_to(case, "detectors.blocklist.configMaps", {"name": "a", "namespace": "b"}),
        case("ten years", "detectors.youngDomain.thresholdDays", 3650),
        case("no day", "detectors.youngDomain.thresholdDays", 0, "thresholdDays"),
        case("more than ten years", "detectors.youngDomain.thresholdDays", 3651, "thresholdDays"),
        case("RDAP in the clear", "detectors.youngDomain.rdapEndpoint", "http://rdap.org/", "rdapEndpoint"),
        case("RDAP nowhere", "detectors.youngDomain.rdapEndpoint", "https://", "rdapEndpoint"),
        case("a rate", "detectors.youngDomain.rateLimit", "10/s"),
        case("a rate of nothing", "detectors.youngDomain.rateLimit", "0/s", "rateLimit"),
        case("a rate without a unit", "detectors.youngDomain.rateLimit", "10", "rateLimit"),
        case("a rate of weeks", "detectors.youngDomain.rateLimit", "10/w", "rateLimit"),
        *_legacy(policy, kind, changed(_DNS, "spec.detectors.youngDomain.rateLimit", "10")),
    ]  # fmt: skip


def _tenants() -> list[Case]:
    policy, kind = "tenant-boundary-spec", TenantBoundary.kind_info

    def case(says: str, path: str, value: object, refused: str = "") -> Case:
        return Case(policy=policy, says=says, kind=kind, new=_edited(_TENANT, path, value), refused=refused)

    account = "system:serviceaccount:"
    accounts = "serviceAccountAllowlist"
    return [
        case("a tenant", "trustedNamespaces", ["ingress"]),
        case("by expressions", "namespaceSelector", {"matchExpressions": [{"key": "a", "operator": "Exists"}]}),
        case("no namespaces", "namespaceSelector", {}, "namespaceSelector must set"),
        case("empty labels", "namespaceSelector", {"matchLabels": {}}, "namespaceSelector must set"),
        case("a path", "hostPathPolicy", {"allow": ["/var/log"]}),
        case("a relative path", "hostPathPolicy", {"allow": ["/var", "log"]}, "must be absolute"),
        case("an empty path", "hostPathPolicy", {"allow": [""]}, "must be absolute"),
        case("a path upwards", "hostPathPolicy", {"allow": ["/var/../etc"]}, "hostPathPolicy.allow"),
        *_up_to(case, "hostPathPolicy.allow", "/" + "a" * 100),
        case("an account", accounts, [f"{account}shop:web"]),
        case("a user", accounts, ["alice"], 'start with "system:serviceaccount:"'),
        case("an account without a name", accounts, [f"{account}shop"], accounts),
        case("an account with an empty name", accounts, [f"{account}shop:"], accounts),
        case("2048 accounts", accounts, [f"{account}{'n' * 50}:{'a' * 50}-{n}" for n in range(2048)]),
        case("2049 accounts", accounts, [f"{account}n:a-{n}" for n in range(2049)], "at most 2048 entries"),
        case("longer accounts than can be read", accounts, [f"{account}n:{'a' * 200}"] * 1400, "at most 2048 entries"),
        case("an account with more", accounts, [f"{account}shop:web:x"], accounts),
        *_legacy(policy, kind, changed(_TENANT, "spec.namespaceSelector", {})),
    ]


def _decoy(number: int) -> Document:
    """A decoy with names of common length, 56 characters to compare."""
    return {**_DECOY, "name": f"database-root-password-{number:03d}", "namespace": f"team-payments-eu-{number:03d}"}


def _honeypots() -> list[Case]:
    policy, kind = "honeypot-config-spec", HoneypotConfig.kind_info

    def case(says: str, path: str, value: object, refused: str = "", **more: Any) -> Case:  # noqa: ANN401 - of Case
        return Case(policy=policy, says=says, kind=kind, new=_edited(_HONEYPOT, path, value), refused=refused, **more)

    many = [{**_DECOY, "name": f"db-{number}"} for number in range(300)]
    return [
        case("a decoy", "emitOnRead", False),
        case("no decoy", "decoys", [], "decoys must declare at least one"),
        Case(policy=policy, says="nothing said", kind=kind, new={}, refused="decoys must declare at least one"),
        case("another kind", "decoys", [{**_DECOY, "kind": "Pod"}], "kind", by_schema=True),
        case("no name", "decoys", [{**_DECOY, "name": ""}], "name and namespace"),
        case("no namespace", "decoys", [{**_DECOY, "namespace": ""}], "name and namespace"),
        case("an account of the same name", "decoys", [_DECOY, {**_DECOY, "kind": "ServiceAccount"}]),
        case("the same elsewhere", "decoys", [_DECOY, {**_DECOY, "namespace": "bank"}]),
        case("the same twice", "decoys", [_DECOY, _DECOY], "unique"),
        case("three hundred decoys", "decoys", many),
        case("as many as can be told apart", "decoys", [_decoy(number) for number in range(267)]),
        case("more than can be told apart", "decoys", [_decoy(number) for number in range(268)], "too many"),
        case("the same twice among three hundred", "decoys", [*many, many[7]], "unique"),
        *_up_to(case, "allowlistedActors", "system:serviceaccount:backup:velero"),
        case("an actor", "allowlistedActors", ["system:serviceaccount:backup:velero"]),
        case("an actor that is a user", "allowlistedActors", ["alice"], "allowlistedActors"),
        *_legacy(policy, kind, changed(_HONEYPOT, "spec.decoys", [])),
    ]


CONFIG_CASES: Final[tuple[Case, ...]] = (*_webhooks(), *_dns(), *_tenants(), *_honeypots())
