"""Every kind of the API group, in the order of the documentation: what is generated walks this list."""

from typing import Final

from ugallu.api.bundle import AttestationBundle
from ugallu.api.detection import AuditDetectionConfig
from ugallu.api.event import SecurityEvent
from ugallu.api.meta import Resource
from ugallu.api.sigma import SigmaRule

KINDS: Final[tuple[type[Resource], ...]] = (SecurityEvent, AttestationBundle, SigmaRule, AuditDetectionConfig)
