"""The entry of the command line: what is imported when, exit statuses, one line for an error."""

import argparse
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from ugallu.cli import main as cli
from ugallu.cluster.port import NotFoundError
from ugallu.errors import PermanentError, RefusedError, TransientError
from ugallu.evidence.ports import IntegrityError

HEAVY = ("msgspec", "aiohttp", "structlog", "cryptography", "yaml", "sigma", "sqlite3", "anyio", "asyncio", "re2")


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def command_that(act: Callable[[argparse.Namespace], int]) -> Callable[[object], None]:
    def register(commands: object, _: str = "") -> None:
        assert isinstance(commands, argparse._SubParsersAction)
        commands.add_parser("version").set_defaults(run=act)

    return register


def raising(error: BaseException) -> Callable[[argparse.Namespace], int]:
    def act(_: argparse.Namespace) -> int:
        raise error

    return act


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """`ugallu --help` names each command and the exit statuses, and exits 0."""
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in [*cli.COMMANDS, "rules"]:
        assert f"    {name}" in text
    assert "1 the thing checked does not hold" in text


def test_help_imports_nothing_heavy() -> None:
    """Help loads neither an event loop nor a library of ours beyond the errors."""
    loaded = run_python("""
        import sys
        from ugallu.cli.main import main
        import io, contextlib
        with contextlib.redirect_stdout(io.StringIO()):
            assert main(["--help"]) == 0
        print("\\n".join(sys.modules))
    """).splitlines()
    assert not set(HEAVY) & set(loaded)


def test_a_command_loads_only_its_own_module() -> None:
    """`ugallu version` imports no other subcommand and no plug-in."""
    loaded = run_python("""
        import sys
        from ugallu.cli.main import main
        assert main(["version"]) == 0
        print("\\n".join(sys.modules))
    """).splitlines()
    assert "ugallu.cli.version" in loaded
    assert not {"ugallu.cli.demo", "ugallu.cli.run", "ugallu.cli.verify", "ugallu_audit_detection"} & set(loaded)


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command has a help page of its own."""
    assert cli.main([name, "--help"]) == 0
    assert f"usage: ugallu {name}" in capsys.readouterr().out


def test_unknown_command_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    """A mistyped command exits 2 and names the one that was meant."""
    assert cli.main(["replai"]) == 2
    assert "did you mean `replay`?" in capsys.readouterr().err


def test_no_command_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a command the usage is shown and the status is 2."""
    assert cli.main([]) == 2
    assert "usage: ugallu" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (PermanentError("bad", where="x.yaml:3", fix="mend it"), 2),
        (TransientError("away"), 3),
        (RefusedError("no rights"), 3),
        (NotFoundError("no such event"), 1),
        (IntegrityError("digest differs"), 1),
        (FileNotFoundError(2, "No such file or directory", "/nope"), 2),
        (IsADirectoryError(21, "Is a directory", "/tmp"), 2),
        (FileExistsError(17, "File exists", "/tmp"), 2),
        (NotADirectoryError(20, "Not a directory", "/etc/passwd"), 2),
        (PermissionError(13, "Permission denied", "/root/x"), 3),
        (caused(PermanentError("in use by pid 1", where="state"), BlockingIOError(11, "busy")), 3),
        (caused(PermanentError("cannot be opened", where="state"), PermissionError(13, "no")), 3),
        (caused(PermanentError("cannot be opened", where="state"), FileExistsError(17, "no")), 2),
        (ValueError("bug"), 70),
        (ExceptionGroup("tasks", [PermanentError("one"), KeyError("bug")]), 70),
        (ExceptionGroup("tasks", [PermanentError("one"), ExceptionGroup("inner", [TransientError("two")])]), 3),
        (KeyboardInterrupt(), 130),
        (BaseExceptionGroup("tasks", [KeyboardInterrupt()]), 130),
    ],
)
def test_errors_become_one_line_and_a_status(
    error: BaseException, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every error on purpose ends in its exit status and lines on stderr without a traceback."""
    monkeypatch.setattr(cli, "_register", command_that(raising(error)))
    assert cli.main(["version"]) == status
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    assert all(line.startswith("ugallu: ") for line in said.err.splitlines())


def test_error_says_what_where_and_fix(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The line carries place, fault and remedy."""
    error = PermanentError("unknown field spec.foo", where="a.yaml", fix="check the spelling")
    monkeypatch.setattr(cli, "_register", command_that(raising(error)))
    cli.main(["version"])
    assert capsys.readouterr().err == "ugallu: a.yaml: unknown field spec.foo (check the spelling)\n"


def test_error_commands_no_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What hostile input put into a message is shown, not obeyed."""
    monkeypatch.setattr(cli, "_register", command_that(raising(PermanentError("unknown field \x1b]0;owned\x07"))))
    cli.main(["version"])
    assert capsys.readouterr().err == "ugallu: unknown field \\u001b]0;owned\\u0007\n"


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """With --debug, before or behind the command, the error itself comes out."""
    monkeypatch.setattr(cli, "_register", command_that(raising(PermanentError("bad"))))
    for arguments in (["--debug", "version"], ["version", "--debug"]):
        with pytest.raises(PermanentError):
            cli.main(arguments)


def test_a_bug_is_called_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An error nobody foresaw says where it came up and that it is ours; --debug shows the traceback."""

    def act(_: argparse.Namespace) -> int:
        return cli.parser_for(None)  # type: ignore[arg-type,return-value]  # fails in there

    monkeypatch.setattr(cli, "_register", command_that(act))
    assert cli.main(["version"]) == 70
    told = capsys.readouterr().err
    assert told.startswith("ugallu: ugallu.cli.main:")
    assert "unexpected TypeError" in told
    assert "--debug" in told
    with pytest.raises(TypeError):
        cli.main(["version", "--debug"])


@pytest.mark.parametrize("redirect", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams_are_no_fault_of_ours(redirect: str, tmp_path: Path) -> None:
    """Started with a stream closed, nothing breaks, and no file takes the stream's number."""
    command = f'"{sys.executable}" -m ugallu operators {redirect}; echo $?'
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "0", done.stderr
    assert done.stderr == ""


def test_closed_pipe_ends_quietly() -> None:
    """A reader that has seen enough (`| head`) causes no error text."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "ugallu", "version"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert done.returncode == 141
    assert done.stderr == ""


def test_broken_plugin_command_harms_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A plug-in command that does not load is listed with its reason; calling it says so; the rest works."""
    point = EntryPoint("broken", "no_such_module:register", cli.PLUGIN_GROUP)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: [point])
    assert cli.main(["--help"]) == 0
    assert "No module named" in capsys.readouterr().out
    assert cli.main(["broken"]) == 3
    assert "reinstall it" in capsys.readouterr().err
    assert cli.main(["version"]) == 0
