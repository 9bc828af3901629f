"""Pruning inside of lists and maps that carry a mark (list type, bound): as an API server prunes them."""

import json

from ugallu.api.event import SecurityEvent
from ugallu.api.kinds import KINDS
from ugallu.api.meta import encode
from ugallu.cluster.embedded.admission import Admission
from ugallu.testing.invented import filled


def test_unknown_fields_vanish_inside_of_marked_lists() -> None:
    """A condition, and a term of an affinity, keep what their types know."""
    body = json.loads(encode(filled(SecurityEvent).with_metadata(name="x")))
    whole = json.loads(json.dumps(body))
    body["status"]["conditions"][0]["colour"] = "red"
    terms = "preferredDuringSchedulingIgnoredDuringExecution"
    body["spec"]["subject"]["pod"]["affinity"]["nodeAffinity"][terms][0]["colour"] = "red"
    pruned = Admission(KINDS).prune(SecurityEvent, body)
    assert (pruned["spec"], pruned["status"]) == (whole["spec"], whole["status"])
