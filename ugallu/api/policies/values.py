"""What an installation decides about the policies: who may do what is guarded."""

from typing import Final

import msgspec

SYSTEM: Final = "ugallu-system"
PRIVILEGED: Final = "ugallu-system-privileged"


def account(namespace: str, name: str) -> str:
    """Return the user name of a ServiceAccount."""
    return f"system:serviceaccount:{namespace}:{name}"


class PolicyValues(msgspec.Struct, frozen=True, kw_only=True):
    """Users are full user names; a ServiceAccount is `system:serviceaccount:<namespace>:<name>`.

    In a policy each value is a variable of the name given behind it, so that one line of a patch changes it.
    """

    ack_authorized: tuple[str, ...] = ()
    """`ackAuthorizedSAs`: may acknowledge events. Empty: nobody."""
    ttl_namespace: str = SYSTEM
    """`ttlControllerNamespace`: where the account lives that archives and deletes."""
    ttl_name: str = "ugallu-ttl"
    """`ttlControllerSAName`: how it is called."""
    frozen_label_authorized: tuple[str, ...] = (account(PRIVILEGED, "ugallu-forensics"),)
    """`frozenLabelAuthorizedSAs`: the forensics account, which alone freezes Pods and writes Forensic events."""
    forensics_ack_authorized: tuple[str, ...] = ()
    """`forensicsAckAuthorizedSAs`: may acknowledge incidents, with those whom the ForensicsConfig lists."""
    attestor: str = account(SYSTEM, "ugallu-attestor")
    """`attestorSA`: alone creates AttestationBundles."""
    emitters: tuple[str, ...] = ()
    """`emitterSAs`: may name any component as an event's source."""
    ttl_override_authorized: tuple[str, ...] = ()
    """`ttlOverrideAuthorizedSAs`: may end an object's retention early."""
    singleton_names: tuple[str, ...] = ("default",)
    """`singletonNames`: names that a config of which there is one may have."""
    delete_protection: bool = False
    """`deleteProtection`: only the ttl account deletes events, responses and bundles."""
