"""Policies on settings that a mistake would make silently useless: 9, 10, 11 and 12."""

from typing import Final

from ugallu.api.policies.expressions import GUARDS, WRITES, duration, is_duration, ours, short, text, texts
from ugallu.api.policies.policy import Policy, Validation, Variable
from ugallu.api.policies.values import PolicyValues

_SPEC: Final = Variable("spec", "dyn(object).?spec.orValue({})")
_LABEL: Final = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_ACCOUNT: Final = f"^system:serviceaccount:{_LABEL}:[a-z0-9]([-a-z0-9.]{{0,251}}[a-z0-9])?$"
_PORT: Final = "(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3})"
_ENDPOINT: Final = rf"^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):{_PORT}$"

MAX_COMPARED: Final = 4_000_000
"""Decoys times the characters of their names: each is looked for in all, twice, and an API server spends a million
units on an expression, one for ten characters. Some 250 decoys with names of common length."""
MAX_IGNORED: Final = 256
MAX_IGNORED_GLOBS: Final = 32
MAX_ACCOUNTS: Final = 2048
MAX_ACCOUNT_TEXT: Final = 1 << 18

_DETECTORS: Final = ("exfiltration", "tunneling", "blocklist", "youngDomain", "anomalousPort")


def _singleton(values: PolicyValues) -> tuple[Variable, Validation]:
    return (
        Variable("singletonNames", texts(values.singleton_names)),
        Validation(
            "object.metadata.name in variables.singletonNames",
            f"metadata.name must be one of {', '.join(values.singleton_names)}: the operator reads no other",
        ),
    )


def webhook_auditor_config_spec(values: PolicyValues) -> Policy:
    """9: what is ignored is named, and what is trusted exists."""
    names, named = _singleton(values)
    return Policy(
        name="ugallu.webhook-auditor-config-spec",
        about="The one WebhookAuditorConfig ignores named configurations only, and trusts well-formed names.",
        rules=(ours(WRITES, "webhookauditorconfigs"),),
        conditions=GUARDS,
        variables=(names, _SPEC),
        validations=(
            named,
            Validation(
                "variables.spec.?riskThreshold.orValue(60) >= 0 && variables.spec.?riskThreshold.orValue(60) <= 100",
                "spec.riskThreshold must be 0 to 100",
            ),
            short("ignore", MAX_IGNORED),
            Validation(
                f"variables.spec.?ignore.orValue([]).all(i, size(i.?nameGlobs.orValue([])) <= {MAX_IGNORED_GLOBS})",
                f"spec.ignore[].nameGlobs: at most {MAX_IGNORED_GLOBS} entries",
            ),
            short("trustedSubjectDNs"),
            short("trustedCASources"),
            Validation(
                "variables.spec.?ignore.orValue([]).all(i, size(i.?nameGlobs.orValue([])) > 0"
                " && i.?nameGlobs.orValue([]).all(g, g.matches('[^*?]')))",
                "spec.ignore[].nameGlobs must not be empty, and no glob may be * alone: that ignores every webhook",
            ),
            Validation(
                "variables.spec.?trustedSubjectDNs.orValue([]).all(d, d.contains('='))",
                "spec.trustedSubjectDNs entries must be distinguished names, such as CN=name",
            ),
            Validation(
                "variables.spec.?trustedCASources.orValue([]).all(s,"
                f" s[?'namespace'].orValue('').matches('^{_LABEL}$'))",
                "spec.trustedCASources[].namespace must be the name of a namespace",
            ),
        ),
    )


def dns_detect_config_spec(values: PolicyValues) -> Policy:
    """10: every source that is chosen can be reached, and every detector can fire."""
    names, named = _singleton(values)
    mode = "[variables.primary, variables.fallback]"
    some = " || ".join(f"variables.detectors.?{name}.?enabled.orValue(true)" for name in _DETECTORS)
    entropy = "variables.exfiltration.?minEntropy.orValue('4.0')"
    rate = "variables.detectors.?tunneling.?ratelimitPerPod.orValue('1m')"
    young = "variables.detectors.?youngDomain"
    return Policy(
        name="ugallu.dns-detect-config-spec",
        about="The one DNSDetectConfig names sources that can be reached and detectors that can fire.",
        rules=(ours(WRITES, "dnsdetectconfigs"),),
        conditions=GUARDS,
        variables=(
            names,
            _SPEC,
            Variable("source", "variables.spec.?source.orValue({})"),
            Variable("primary", "has(object.spec) ? variables.source.?primary.orValue('coredns_plugin') : ''"),
            Variable("fallback", "variables.source.?fallback.orValue('')"),
            Variable("detectors", "variables.spec.?detectors.orValue({})"),
            Variable("exfiltration", "variables.detectors.?exfiltration.orValue({})"),
            Variable("window", "variables.exfiltration.?windowSize.orValue(64)"),
            Variable("triggers", "variables.exfiltration.?consecutiveTriggers.orValue(3)"),
        ),
        validations=(
            named,
            Validation(
                f"!('coredns_plugin' in {mode}) ||"
                f" variables.source.?plugin.?grpcEndpoint.orValue('').matches({text(_ENDPOINT)})",
                "spec.source.plugin.grpcEndpoint must be host:port where coredns_plugin is a source",
            ),
            Validation(
                f"!('tetragon_kprobe' in {mode}) ||"
                f" variables.source.?bridge.?grpcEndpoint.orValue('').matches({text(_ENDPOINT)})",
                "spec.source.bridge.grpcEndpoint must be host:port where tetragon_kprobe is a source",
            ),
            Validation(
                "variables.fallback == '' || variables.fallback != variables.primary",
                "spec.source.fallback must differ from primary",
            ),
            Validation(some, "spec.detectors: at least one must be enabled"),
            Validation(
                "variables.exfiltration.?minLabelLen.orValue(60) >= 1"
                " && variables.exfiltration.?minLabelLen.orValue(60) <= 63",
                "spec.detectors.exfiltration.minLabelLen must be 1 to 63",
            ),
            Validation(
                f"{entropy}.matches('^[0-9]{{1,2}}([.][0-9]{{1,9}})?$')"
                f" && double({entropy}) > 0.0 && double({entropy}) <= 8.0",
                "spec.detectors.exfiltration.minEntropy must be a decimal above 0 and at most 8",
            ),
            Validation(
                "variables.triggers >= 1 && variables.triggers <= variables.window && variables.window <= 4096",
                "spec.detectors.exfiltration: 1 <= consecutiveTriggers <= windowSize <= 4096",
            ),
            Validation(
                f"{is_duration(rate)} && {duration(rate)} <= duration('24h')",
                "spec.detectors.tunneling.ratelimitPerPod must be a duration from 0s to 24h",
            ),
            short("detectors.?blocklist.?configMaps"),
            Validation(
                "variables.detectors.?blocklist.?configMaps.orValue([]).all(c,"
                " c[?'namespace'].orValue('') != '' && c.?name.orValue('') != '')",
                "spec.detectors.blocklist.configMaps[] need name and namespace",
            ),
            Validation(
                f"{young}.?thresholdDays.orValue(30) >= 1 && {young}.?thresholdDays.orValue(30) <= 3650",
                "spec.detectors.youngDomain.thresholdDays must be 1 to 3650",
            ),
            Validation(
                f"{young}.?rdapEndpoint.orValue('https://rdap.org/').matches('^https://[^/]')",
                "spec.detectors.youngDomain.rdapEndpoint must be an https URL",
            ),
            Validation(
                f"{young}.?rateLimit.orValue('100/h').matches('^[1-9][0-9]*/[smhd]$')",
                "spec.detectors.youngDomain.rateLimit must be count/unit, such as 100/h (units s m h d)",
            ),
        ),
    )


_FULL: Final = f"size(variables.accounts) > {MAX_ACCOUNTS} || size(variables.accounts.join('')) > {MAX_ACCOUNT_TEXT}"


def tenant_boundary_spec() -> Policy:
    """11: a tenant has namespaces, and what it may reach is said so that it means something."""
    return Policy(
        name="ugallu.tenant-boundary-spec",
        about="A boundary selects namespaces, allows absolute host paths, and names ServiceAccounts in full.",
        rules=(ours(WRITES, "tenantboundaries"),),
        conditions=GUARDS,
        variables=(
            _SPEC,
            Variable("paths", "variables.spec.?hostPathPolicy.?allow.orValue([])"),
            Variable("accounts", "variables.spec.?serviceAccountAllowlist.orValue([])"),
        ),
        validations=(
            Validation(
                "size(variables.spec.?namespaceSelector.?matchLabels.orValue({})) > 0"
                " || size(variables.spec.?namespaceSelector.?matchExpressions.orValue([])) > 0",
                "spec.namespaceSelector must set matchLabels or matchExpressions",
            ),
            short("hostPathPolicy.?allow"),
            Validation(
                "variables.paths.all(p, p.startsWith('/'))",
                'spec.hostPathPolicy.allow: every path must be absolute (start with "/")',
            ),
            Validation(
                "variables.paths.all(p, !p.contains('..'))", 'spec.hostPathPolicy.allow: no path may contain ".."'
            ),
            Validation(
                "variables.accounts.all(a, a.startsWith('system:serviceaccount:'))",
                'spec.serviceAccountAllowlist: every entry must start with "system:serviceaccount:"',
            ),
            Validation(
                f"{_FULL} || variables.accounts.all(a, !a.startsWith('system:serviceaccount:')"
                f" || a.matches({text(_ACCOUNT)}))",
                "spec.serviceAccountAllowlist: entries are system:serviceaccount:<namespace>:<name>",
            ),
            Validation(
                f"!({_FULL})",
                f"spec.serviceAccountAllowlist: at most {MAX_ACCOUNTS} entries of {MAX_ACCOUNT_TEXT} characters in all",
            ),
        ),
    )


def honeypot_config_spec() -> Policy:
    """12: there are decoys, each one object of its own."""
    return Policy(
        name="ugallu.honeypot-config-spec",
        about="A honeypot declares decoys of possible kinds with full and unique names, and names its excepted actors.",
        rules=(ours(WRITES, "honeypotconfigs"),),
        conditions=GUARDS,
        variables=(
            _SPEC,
            Variable("decoys", "variables.spec.?decoys.orValue([])"),
            Variable(
                "keys",
                "variables.decoys.map(d, '|' + d.?kind.orValue('') + '/' + d[?'namespace'].orValue('')"
                " + '/' + d.?name.orValue('') + '|')",
            ),
            Variable("all", "variables.keys.join('')"),
        ),
        validations=(
            Validation("size(variables.decoys) > 0", "spec.decoys must declare at least one decoy"),
            Validation(
                "variables.decoys.all(d, d.?kind.orValue('') in ['Secret', 'ServiceAccount'])",
                "spec.decoys[].kind must be one of Secret, ServiceAccount",
            ),
            Validation(
                "variables.decoys.all(d, d.?name.orValue('') != '' && d[?'namespace'].orValue('') != '')",
                "spec.decoys[]: name and namespace must not be empty",
            ),
            Validation(
                f"size(variables.decoys) * size(variables.all) <= {MAX_COMPARED}",
                "spec.decoys: too many, or too long names, to tell them apart; spread them over several configs",
            ),
            Validation(
                # Comparing every pair would spend the budget on a hundred decoys.
                f"size(variables.decoys) * size(variables.all) > {MAX_COMPARED}"
                " || variables.keys.all(k, variables.all.indexOf(k) == variables.all.lastIndexOf(k))",
                "spec.decoys[]: kind, namespace and name must be unique within the config",
            ),
            short("allowlistedActors"),
            Validation(
                "variables.spec.?allowlistedActors.orValue([]).all(a, a.startsWith('system:serviceaccount:'))",
                'spec.allowlistedActors: every entry must start with "system:serviceaccount:"',
            ),
        ),
    )
