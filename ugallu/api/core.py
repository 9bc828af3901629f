"""The few fields that we read or write of Kubernetes' own kinds; decoding drops the rest."""

import datetime as dt
from typing import ClassVar

from ugallu.api.meta import Kind, Resource, Wire


class LeaseSpec(Wire, frozen=True, kw_only=True):
    """Who leads. `renew_time` is by the holder's clock: no one else may compare it with theirs."""

    holder_identity: str = ""
    lease_duration_seconds: int = 0
    acquire_time: dt.datetime | None = None
    renew_time: dt.datetime | None = None
    lease_transitions: int = 0


class Lease(Resource, frozen=True, kw_only=True):
    """`coordination.k8s.io/v1` Lease."""

    kind_info: ClassVar[Kind] = Kind("Lease", "leases", group="coordination.k8s.io", version="v1", namespaced=True)
    spec: LeaseSpec = LeaseSpec()


def micro_time(moment: dt.datetime) -> dt.datetime:
    """Return the moment as a MicroTime (`acquireTime`, `renewTime`) can carry it.

    Kubernetes wants exactly six digits behind the second; msgspec writes them only when they are not all zero.
    """
    utc = moment.astimezone(dt.UTC)
    return utc.replace(microsecond=utc.microsecond or 1)
