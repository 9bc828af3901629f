"""Settings: flags over variables over defaults, one reader of the environment, no secret in sight."""

import dataclasses

import pytest

from ugallu.errors import PermanentError
from ugallu.settings import Secret, Settings, load


def test_flags_win_over_variables_and_variables_over_defaults() -> None:
    """The nearest word counts."""
    env = {"UGALLU_CLUSTER_ID": "from-env", "UGALLU_STATE": "/env", "UGALLU_AUDIT_FILES": "/a,/b"}
    settings = load({"state": "/flag", "audit": {"follow": False}}, env)
    assert settings.state == "/flag"
    assert settings.cluster_id == "from-env"
    assert settings.audit.files == ("/a", "/b")
    assert settings.audit.follow is False
    assert settings.emit.objects_per_hour == 20_000


def test_a_flag_that_was_not_given_is_no_word() -> None:
    """argparse's None leaves the variable or the default in force."""
    assert load({"state": None, "cluster_id": None}, {"UGALLU_STATE": "/env"}).state == "/env"


def test_variables_reach_nested_fields_with_their_types() -> None:
    """Numbers, booleans and lists are read from text."""
    env = {
        "UGALLU_EMIT_OBJECTS_PER_HOUR": "7",
        "UGALLU_EMIT_FOLD_WINDOW_SECONDS": "1.5",
        "UGALLU_AUDIT_FROM_START": "true",
        "UGALLU_ENABLE": "attestor,audit-detection",
    }
    settings = load({}, env)
    assert settings.emit.objects_per_hour == 7
    assert settings.emit.fold_window_seconds == 1.5
    assert settings.audit.from_start is True
    assert settings.enable == ("attestor", "audit-detection")


@pytest.mark.parametrize(
    ("overrides", "env", "named"),
    [
        ({}, {"UGALLU_EMIT_OBJECTS_PER_HOUR": "many"}, r"emit.objects_per_hour \(UGALLU_EMIT_OBJECTS_PER_HOUR\): Exp"),
        ({"emit": {"objects_per_hour": "-1"}}, {}, "objects_per_hour"),
        ({"emit": {"fold_window_seconds": "-0.1"}}, {}, "fold_window_seconds"),
        ({"emit": {"fold_window_seconds": "nan"}}, {}, "fold_window_seconds"),
        ({"emit": {"reserved_share": "1.1"}}, {}, "reserved_share"),
        ({"emit": {"journal_bytes": "1"}}, {}, "journal_bytes"),
        ({"audit": {"max_line_bytes": "0"}}, {}, "max_line_bytes"),
        ({"grace_seconds": "-1"}, {}, "grace_seconds"),
        ({"log": {"level": "loud"}}, {}, "log.level"),
        ({}, {"UGALLU_LOG_FORMAT": "xml"}, "UGALLU_LOG_FORMAT"),
        ({"sate": "/x"}, {}, "sate"),
        ({"audit": {"fils": ["x"]}}, {}, "fils"),
    ],
)
def test_what_does_not_fit_is_named(overrides: dict[str, object], env: dict[str, str], named: str) -> None:
    """A wrong value or an unknown name is an error that says which."""
    with pytest.raises(PermanentError, match=named):
        load(overrides, env)


def test_settings_do_not_change() -> None:
    """Built once, handed down, never touched again."""
    settings = load({}, {})
    with pytest.raises(AttributeError):
        settings.state = "/elsewhere"  # type: ignore[misc]


def test_a_missing_state_directory_says_which_flag() -> None:
    """Whoever needs a directory and got none is told how to give one."""
    with pytest.raises(PermanentError, match="--state DIR"):
        _ = Settings().state_dir


def test_a_secret_shows_itself_to_nobody() -> None:
    """Not in repr, not in text, not inside another value's repr."""

    @dataclasses.dataclass
    class Holder:
        token: Secret[str]

    secret = Secret("hunter2")
    assert "hunter2" not in f"{secret} {secret!r} {Holder(secret)} {[secret]}"
    assert secret.reveal() == "hunter2"


@pytest.mark.parametrize(
    ("flags", "env", "kubernetes"),
    [
        ({}, {}, False),
        ({"kubernetes": {"kubeconfig": "/k"}}, {}, True),
        ({}, {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}, True),
        ({"cluster": "embedded"}, {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, False),
        ({}, {"KUBECONFIG": "/home/k"}, False),
    ],
)
def test_which_cluster_is_meant(flags: dict[str, object], env: dict[str, str], kubernetes: bool) -> None:
    """A kubeconfig that is named, or a Pod's environment; a kubeconfig that merely lies around is nobody's word."""
    assert load(flags, env).on_kubernetes is kubernetes


def test_a_pods_environment_names_the_server() -> None:
    """As Kubernetes gives it, IPv6 in brackets; a flag wins."""
    env = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}
    assert load({}, env).kubernetes.server == "[fd00::1]:6443"
    assert load({"kubernetes": {"server": "api:1"}}, env).kubernetes.server == "api:1"
