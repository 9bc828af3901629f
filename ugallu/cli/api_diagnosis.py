"""What `ugallu doctor` says of our kinds and admission policies: all there, and exactly as this release has them.

Each line that mends names the files of what is wrong and nothing else. An installation is seldom an overlay as it is
shipped, so a line that applied one whole would reset what a site has made its own.
"""

import re
import shlex
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from ugallu.api.meta import Kind, Resource
from ugallu.cli.diagnosis import Finding, few, unseen
from ugallu.cli.likeness import KIND_DEFAULTS, POLICY_DEFAULTS, differences
from ugallu.cluster.port import list_all
from ugallu.errors import UgalluError

if TYPE_CHECKING:
    from ugallu.cluster.kubernetes.client import KubernetesCluster

INSTALL: Final = "kubectl apply --server-side -k manifests/overlays/standard  # or another one: docs/install.md"
FOLDER: Final = "FOLDER"
"""What stands for the folder that somebody applied, where the cluster does not tell which."""
POLICY_LABEL: Final = "app.kubernetes.io/component=admission"
_TEXT: Final = r"""('([^'\\]|\\.)*'|"([^"\\]|\\.)*")"""
_LITERAL: Final = re.compile(rf"true|false|{_TEXT}|\[\s*({_TEXT}\s*(,\s*{_TEXT}\s*)*)?\]")
"""A value that says all of itself: a text, a list of texts, yes or no."""


class Definition(Resource, frozen=True, kw_only=True):
    """A CustomResourceDefinition as it stands on the server."""

    kind_info: ClassVar[Kind] = Kind(
        "CustomResourceDefinition", "customresourcedefinitions", group="apiextensions.k8s.io", version="v1"
    )
    spec: dict[str, Any] = {}
    status: dict[str, Any] = {}


class AdmissionPolicy(Resource, frozen=True, kw_only=True):
    """A ValidatingAdmissionPolicy as it stands on the server."""

    kind_info: ClassVar[Kind] = Kind(
        "ValidatingAdmissionPolicy", "validatingadmissionpolicies", group="admissionregistration.k8s.io", version="v1"
    )
    spec: dict[str, Any] = {}
    status: dict[str, Any] = {}


class AdmissionBinding(Resource, frozen=True, kw_only=True):
    """A ValidatingAdmissionPolicyBinding as it stands on the server."""

    kind_info: ClassVar[Kind] = Kind(
        "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings",
        group="admissionregistration.k8s.io",
        version="v1",
    )
    spec: dict[str, Any] = {}


class Compared(NamedTuple):
    """What became of a comparison by name; `other` has the first path that differs."""

    total: int
    missing: Sequence[str]
    other: Mapping[str, str]

    def finding(self, check: str, fix: str) -> Finding:
        """Return it as one check."""
        told = []
        if self.missing:
            told.append(f"{len(self.missing)} of {self.total} are missing: {few(self.missing)}")
        if self.other:
            named = [f"{name} ({path})" for name, path in self.other.items()]
            told.append(f"{len(named)} of {self.total} are not ours: {few(named)}")
        if told:
            return Finding(check, "fail", "; ".join(told), fix)
        return Finding(check, "ok", f"{self.total}, as this release has them")


async def examine(cluster: "KubernetesCluster", *, selectable: bool) -> AsyncIterator[Finding]:
    """Examine kinds and policies; `selectable`: whether the server knows selectable fields (since 1.31)."""
    try:
        definitions, _ = await list_all(cluster, Definition)
    except UgalluError as error:
        yield unseen("kinds", error, "list customresourcedefinitions")
    else:
        for one in of_kinds(definitions, selectable=selectable):
            yield one
    try:
        policies, _ = await list_all(cluster, AdmissionPolicy)
        bindings, _ = await list_all(cluster, AdmissionBinding)
    except UgalluError as error:
        yield unseen("policies", error, "list validatingadmissionpolicies")
    else:
        for one in of_policies(policies, bindings):
            yield one


def compare(ours: Mapping[str, Any], theirs: Mapping[str, Any], defaults: Mapping[str, Any]) -> Compared:
    """Compare specs by name; what only they have is not ours to judge."""
    missing = sorted(name for name in ours if name not in theirs)
    there = sorted(name for name in ours if name in theirs)
    found = {name: next(differences(ours[name], theirs[name], defaults), None) for name in there}
    return Compared(len(ours), missing, {name: path for name, path in found.items() if path is not None})


def of_kinds(definitions: Sequence[Definition], *, selectable: bool = True) -> Iterator[Finding]:
    """Yield what these definitions say of our kinds."""
    from ugallu.api.crd import crd
    from ugallu.api.kinds import KINDS

    ours = {
        document["metadata"]["name"]: _served(document["spec"], selectable=selectable) for document in map(crd, KINDS)
    }
    there = [item for item in definitions if item.metadata.name in ours]
    found = compare(ours, {item.metadata.name: item.spec for item in there}, KIND_DEFAULTS)
    yield found.finding("kinds", _mend_kinds(found))
    refused = {
        item.metadata.name: condition.get("message", condition["type"])
        for item in there
        for condition in item.status.get("conditions", ())
        if (condition["type"], condition["status"]) in (("Established", "False"), ("NonStructuralSchema", "True"))
    }
    if refused:
        told = "; ".join(f"{name}: {message}" for name, message in refused.items())
        yield Finding("kinds served", "fail", told, f"kubectl describe crd {' '.join(refused)}")


def of_policies(policies: Sequence[AdmissionPolicy], bindings: Sequence[AdmissionBinding]) -> Iterator[Finding]:
    """Yield what these say of our policies: their logic, their bindings, and the values that a cluster gave them."""
    from ugallu.api import policies as shipped

    pairs = [policy.documents() for policy in shipped.policies()]
    ours = {policy["metadata"]["name"]: policy["spec"] for policy, _ in pairs}
    theirs = {item.metadata.name: item.spec for item in policies if item.metadata.name in ours}
    found = compare(_logics(ours), _logics(theirs), POLICY_DEFAULTS)
    yield found.finding("policies", _mend_policies(found, ours, theirs))
    bound = {binding["metadata"]["name"]: binding["spec"] for _, binding in pairs}
    found = compare(bound, {item.metadata.name: item.spec for item in bindings}, POLICY_DEFAULTS)
    yield found.finding("policy bindings", _mend_policies(found, ours, theirs))
    if theirs:
        yield _of_values(ours, theirs)
    for item in policies:
        warnings = item.status.get("typeChecking", {}).get("expressionWarnings", ())
        if item.metadata.name in ours and warnings:
            told = f"{item.metadata.name}: {warnings[0].get('warning', '')}".splitlines()[0]
            yield Finding("policies checked", "warn", told, "upgrade ugallu: this server reads an expression otherwise")


def _served(spec: Mapping[str, Any], *, selectable: bool) -> Mapping[str, Any]:
    """Return a definition's spec as a server keeps it."""
    if selectable:
        return spec
    versions = [{key: part for key, part in one.items() if key != "selectableFields"} for one in spec["versions"]]
    return {**spec, "versions": versions}


# Values: which accounts a policy lets through is the cluster's own choice


def _logics(specs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the specs without the expressions that are a cluster's to choose."""
    from ugallu.manifests.policies import VALUES

    def chosen(variable: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**variable, "expression": ""} if variable.get("name") in VALUES else variable

    return {
        name: {**spec, "variables": [chosen(one) for one in spec["variables"]]} if "variables" in spec else spec
        for name, spec in specs.items()
    }


def _values(specs: Iterable[Mapping[str, Any]]) -> dict[str, set[str]]:
    """Return the expressions that each value has."""
    from ugallu.manifests.policies import VALUES

    found: dict[str, set[str]] = {}
    for spec in specs:
        for variable in spec.get("variables", ()):
            if variable.get("name") in VALUES:
                found.setdefault(variable["name"], set()).add(variable.get("expression", ""))
    return found


def _of_values(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Finding:
    """A value that is computed may let everybody through; one that differs from policy to policy was half reset."""
    default, found = _values(ours.values()), _values(theirs.values())
    check, page = "policy values", "docs/policies.md, Values"
    computed = [
        f"{name}: {one}" for name, given in found.items() for one in sorted(given) if not _LITERAL.fullmatch(one)
    ]
    if computed:
        return Finding(
            check, "fail", f"computed, so they may be anything: {few(computed)}", f"name users one by one: {page}"
        )
    torn = [f"{name}: {' and '.join(sorted(given))}" for name, given in found.items() if len(given) > 1]
    if torn:
        return Finding(check, "fail", f"not the same in each policy: {few(torn)}", f"the same in each of them: {page}")
    if (overlay := _overlay(found)) != FOLDER:
        return Finding(check, "ok", f"those of {overlay}")
    own = [f"{name} {one}" for name, given in found.items() for one in given - default[name]]
    return Finding(
        check, "ok", f"other than standard's: {', '.join(own)}" if own else "those of standard, as far as seen"
    )


# What mends it


def _mend_kinds(found: Compared) -> str:
    if len(found.missing) == found.total:
        return INSTALL
    return _by_file(
        "crds", [name.partition(".")[0] for name in found.missing], [name.partition(".")[0] for name in found.other]
    )


def _mend_policies(found: Compared, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """The files of this release have the values of standard; where those are not the cluster's, an overlay has them."""
    wrong = [*found.missing, *found.other]
    if not theirs:
        return _by_overlay(FOLDER, missing=bool(found.missing), other=bool(found.other))
    standard = _values(ours[name] for name in wrong)
    there = _values(theirs.values())
    if all(there.get(name) == given for name, given in standard.items()):
        missing, other = ([name.partition(".")[2] for name in names] for names in (found.missing, found.other))
        return _by_file("policies", missing, other)
    return _by_overlay(_overlay(there), missing=bool(found.missing), other=bool(found.other))


def _by_file(folder: str, missing: Sequence[str], other: Sequence[str]) -> str:
    lines = []
    if missing:
        lines.append(f"kubectl apply --server-side {_files(folder, missing)}")
    if other:
        # Applying leaves alone what somebody else added.
        lines.append(f"kubectl replace {_files(folder, other)}")
    return " && ".join(lines)


def _files(folder: str, names: Sequence[str]) -> str:
    return " ".join(f"-f manifests/{folder}/{name}.yaml" for name in names)


def _by_overlay(folder: str, *, missing: bool, other: bool) -> str:
    """Return lines that take the policies, and nothing else, from an overlay."""
    built = f"kubectl kustomize {shlex.quote(folder)}"
    lines = []
    if missing:
        lines.append(f"{built} | kubectl apply --server-side --force-conflicts -l {POLICY_LABEL} -f -")
    if other:
        lines.append(f"{built} | kubectl create --dry-run=client -o yaml -l {POLICY_LABEL} -f - | kubectl replace -f -")
    told = f"  # {FOLDER}: what you applied" if folder == FOLDER else ""
    return " && ".join(lines) + told


def _overlay(values: Mapping[str, set[str]]) -> str:
    """Return the overlay that has exactly these values, if it is one of ours."""
    from ugallu.api import policies as shipped
    from ugallu.manifests.tree import OVERLAYS, values_of

    for overlay in OVERLAYS:
        if _values(policy.documents()[0]["spec"] for policy in shipped.policies(values_of(overlay))) == values:
            return f"manifests/overlays/{overlay}"
    return FOLDER
