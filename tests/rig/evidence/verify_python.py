"""Answers questions with sigstore-python: one JSON object a line on stdin, one on stdout for each.

Question: {bundle, root, identity, issuer}, files by path. Answer: {ok, error}. Runs in a virtual environment of its own.
"""

import json
import sys
from pathlib import Path

from sigstore.models import Bundle, TrustedRoot  # type: ignore[import-not-found, unused-ignore]
from sigstore.verify import Verifier, policy  # type: ignore[import-not-found, unused-ignore]


def verify(question: dict[str, str]) -> None:
    verifier = Verifier(trusted_root=TrustedRoot.from_file(question["root"]))
    bundle = Bundle.from_json(Path(question["bundle"]).read_text())
    verifier.verify_dsse(bundle, policy.Identity(identity=question["identity"], issuer=question["issuer"]))


def main() -> None:
    for line in sys.stdin:
        answer = {"ok": True, "error": ""}
        try:
            verify(json.loads(line))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a refusal
            answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)  # noqa: T201 - the protocol


main()
