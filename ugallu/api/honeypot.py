"""HoneypotConfig: decoys, and who may touch them."""

import datetime as dt
import enum
from typing import ClassVar

from msgspec import field

from ugallu.api.meta import AGE, Column, Conditions, Config, Kind, Resource, Wire, always


class DecoyKind(enum.StrEnum):
    """What a decoy can be."""

    SECRET = "Secret"  # noqa: S105 - a kind
    SERVICE_ACCOUNT = "ServiceAccount"


class HoneypotDecoy(Wire, frozen=True, kw_only=True):
    """An object that nobody has a reason to touch."""

    kind: DecoyKind
    """Decoy kind."""
    name: str
    """Decoy object name."""
    namespace: str
    """Decoy namespace."""
    data: dict[str, str] = {}
    """Secret payload (fake values); ignored otherwise."""


class HoneypotConfigSpec(Config, frozen=True, kw_only=True):
    """Which decoys to plant, and who may touch them."""

    decoys: tuple[HoneypotDecoy, ...] = ()
    """Decoys to create; admission wants one at least."""
    emit_on_read: bool = field(default_factory=always(True, required=False))
    """Fire on get, list, watch too."""
    allowlisted_actors: tuple[str, ...] = ()
    """ServiceAccount users that never fire."""


class DeployedDecoy(Wire, frozen=True, kw_only=True):
    """A decoy that is in the cluster."""

    kind: str
    """Decoy kind."""
    namespace: str
    """Decoy namespace."""
    name: str
    """Decoy name."""
    uid: str
    """Live object UID."""


class HoneypotConfigStatus(Wire, frozen=True, kw_only=True):
    """Which decoys are in the cluster."""

    conditions: Conditions = ()
    """Standard conditions."""
    deployed_decoys: tuple[DeployedDecoy, ...] = ()
    """Decoys present in the cluster."""
    last_reconcile_at: dt.datetime | None = None
    """Last successful reconcile."""


class HoneypotConfig(Resource, frozen=True, kw_only=True):
    """A set of decoys."""

    kind_info: ClassVar[Kind] = Kind(
        "HoneypotConfig",
        "honeypotconfigs",
        short_names=("hpcfg",),
        columns=(Column("Decoys", ".status.deployedDecoys[*]", "integer"), AGE),
    )
    spec: HoneypotConfigSpec = HoneypotConfigSpec()
    """What is wanted."""
    status: HoneypotConfigStatus = HoneypotConfigStatus()
    """What has become of it."""
