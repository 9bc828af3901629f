"""TenantBoundary: whose namespaces these are, and who may cross into them."""

import datetime as dt
from typing import ClassVar

from ugallu.api.k8s import LabelSelector
from ugallu.api.meta import AGE, Column, Conditions, Config, Kind, Resource, Wire
from ugallu.api.scalars import Int32


class HostPathPolicy(Wire, frozen=True, kw_only=True):
    """Host paths that a tenant may mount."""

    allow: tuple[str, ...] = ()
    """Absolute path prefixes."""


class TenantBoundarySpec(Config, frozen=True, kw_only=True):
    """The namespaces of a tenant, and what may cross into them."""

    namespace_selector: LabelSelector
    """Namespaces of the tenant; empty matches none."""
    host_path_policy: HostPathPolicy | None = None
    """Host paths the tenant may mount."""
    service_account_allowlist: tuple[str, ...] = ()
    """Users allowed to cross into this tenant."""
    trusted_namespaces: tuple[str, ...] = ()
    """Namespaces allowed as policy ingress sources."""


class TenantBoundaryStatus(Wire, frozen=True, kw_only=True):
    """What the selector matched."""

    conditions: Conditions = ()
    """Standard conditions."""
    matched_namespaces: tuple[str, ...] = ()
    """Namespaces matched at the last reconcile."""
    matched_pods: Int32 = 0
    """Pods in those namespaces."""
    last_reconcile_at: dt.datetime | None = None
    """Last successful reconcile."""


class TenantBoundary(Resource, frozen=True, kw_only=True):
    """One tenant; its name is the name of the object."""

    kind_info: ClassVar[Kind] = Kind(
        "TenantBoundary",
        "tenantboundaries",
        short_names=("tb",),
        columns=(
            Column("MatchedNamespaces", ".status.matchedNamespaces"),
            Column("MatchedPods", ".status.matchedPods", "integer"),
            AGE,
        ),
    )
    spec: TenantBoundarySpec
    """What is wanted."""
    status: TenantBoundaryStatus = TenantBoundaryStatus()
    """What has become of it."""
