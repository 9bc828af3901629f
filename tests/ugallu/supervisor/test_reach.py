"""From settings to a cluster: what the user's shell gives to programs that a kubeconfig names."""

import json
from pathlib import Path

import pytest
import yaml

from ugallu.settings import load
from ugallu.supervisor.reach import access


async def test_a_login_program_finds_what_it_finds_in_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plug-ins of clouds are found in PATH and read HOME or a profile; our own settings are none of their business."""
    (tmp_path / "bin").mkdir()
    login = tmp_path / "bin" / "cloud-login"
    answer = {
        "kind": "ExecCredential",
        "apiVersion": "client.authentication.k8s.io/v1",
        "status": {"token": "$PROFILE"},
    }
    login.write_text(f'#!/bin/sh\n[ -z "$UGALLU_STATE" ] && cat <<end\n{json.dumps(answer)}\nend\n')
    login.chmod(0o700)
    entry = {"apiVersion": "client.authentication.k8s.io/v1", "command": "cloud-login", "interactiveMode": "Never"}
    document = {
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1"}}],
        "users": [{"name": "u", "user": {"exec": entry}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }
    (tmp_path / "config").write_text(yaml.safe_dump(document))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setenv("PROFILE", "of-mine")
    monkeypatch.setenv("UGALLU_STATE", "/nowhere")
    reached = access(load({"kubernetes": {"kubeconfig": str(tmp_path / "config")}}))
    assert (await reached.identity()).token.reveal() == "of-mine"
    await reached.close()
