"""What the admission policies accept and refuse, as data: an API server and the embedded cluster agree on each."""

from ugallu.testing.contracts.policies.case import BEFORE, VALUES, Case, Document, merge_patch
from ugallu.testing.contracts.policies.configs import CONFIG_CASES
from ugallu.testing.contracts.policies.events import EVENT_CASES
from ugallu.testing.contracts.policies.evidence import EVIDENCE_CASES
from ugallu.testing.contracts.policies.pods import POD_CASES
from ugallu.testing.contracts.policies.rules import RULE_CASES
from ugallu.testing.contracts.policies.runs import RUN_CASES

CASES: tuple[Case, ...] = (
    *EVIDENCE_CASES,
    *EVENT_CASES,
    *RULE_CASES,
    *POD_CASES,
    *CONFIG_CASES,
    *RUN_CASES,
)

__all__ = ["BEFORE", "CASES", "VALUES", "Case", "Document", "merge_patch"]
