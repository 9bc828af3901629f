"""`ugallu`: find the subcommand, run it, turn errors into one line and an exit status.

Nothing heavy is imported before a subcommand is chosen: `ugallu --help` must feel instant. A subcommand is a module
with `register(subparsers)`, which adds its parser and sets `run=`, a function from the parsed arguments to the exit
status. A plug-in brings one through the entry point group `ugallu.commands` (`name = "package.module:register"`);
its `register` keeps to the same rule: import what the work needs inside `run`.

Exit status: 0 done, 1 the thing checked does not hold, 2 wrong use, 3 something needed is unreachable; 70 is a defect
of ours, which a script must not take for any of these.
"""

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

from ugallu.errors import RefusedError, TransientError, UgalluError

Subparsers = argparse._SubParsersAction  # noqa: SLF001 - argparse has no public name for what add_subparsers returns

DONE: Final = 0
FAILED: Final = 1
MISUSED: Final = 2
UNREACHABLE: Final = 3
BROKEN: Final = 70
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141

COMMANDS: Final = {
    # Each name maps to its module and its line in the help.
    "demo": ("demo", "play a recorded attack through the whole product and write a report"),
    "replay": ("replay", "run the rules over recorded audit logs, to the end"),
    "run": ("run", "watch audit logs until stopped"),
    "events": ("events", "list security events"),
    "verify": ("verify", "check exported evidence offline"),
    "export": ("export", "write an event's evidence into a folder that cosign verifies"),
    "operators": ("operators", "list what is installed"),
    "doctor": ("doctor", "check that everything ugallu needs is in order"),
    "manifests": ("manifests", "write what a cluster needs to run this"),
    "version": ("version", "print the version"),
}
PLUGIN_GROUP: Final = "ugallu.commands"
FIXES: Final = {
    errno.EACCES: "run as its owner, or grant this user the right",
    errno.EPERM: "run as its owner, or grant this user the right",
    errno.EEXIST: "name another place",
    errno.EISDIR: "name a file",
    errno.ENOTDIR: "name a directory",
    errno.ENOENT: "check the path",
    errno.ENOSPC: "make room on that disk",
    errno.EROFS: "name a place that can be written",
    errno.EMFILE: "raise `ulimit -n`",
}
MANUAL: Final = "https://github.com/ugallu/ugallu/blob/main/docs/cli.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    _open_streams()
    try:
        args = parser_for(arguments).parse_args(arguments)
        run: Callable[[argparse.Namespace], int] = args.run
        status = run(args)
        sys.stdout.flush()
    except SystemExit as stop:  # argparse: help, version, wrong use
        return stop.code if isinstance(stop.code, int) else DONE
    except (Exception, KeyboardInterrupt, BaseExceptionGroup) as error:  # the last wall: a sentence, no traceback
        if debug and not _signalled(error):
            raise
        return explain(_leaves(error))
    return status


def parser_for(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Return a parser that knows every command by name, and by its options the one that these arguments ask for."""
    parser = argparse.ArgumentParser(
        prog="ugallu",
        description="Detection, forensics and evidence for Kubernetes.",
        epilog=f"exit status: 0 done, 1 the thing checked does not hold, 2 wrong use, 3 unreachable.\nmanual: {MANUAL}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, help="print the version and exit")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    wanted = next((word for word in arguments if not word.startswith("-")), "")
    if wanted in COMMANDS:
        _register(commands, COMMANDS[wanted][0])
    else:
        for name, (_, summary) in COMMANDS.items():
            commands.add_parser(name, help=summary)
        _register_plugins(commands, wanted)
        if wanted and wanted not in commands.choices:
            parser.error(_unknown(wanted, list(commands.choices)))
    for command in commands.choices.values():
        command.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def explain(errors: Sequence[BaseException]) -> int:
    """Say each error once on stderr, in one line, and return the exit status of the gravest."""
    if any(isinstance(error, KeyboardInterrupt) for error in errors):
        return INTERRUPTED
    if any(isinstance(error, BrokenPipeError) for error in errors):
        return _pipe_closed()
    from ugallu.cli.markup import printable  # an error may quote hostile input, and terminals obey control characters

    for line in dict.fromkeys(_line(error) for error in errors):
        print(f"ugallu: {printable(line)}", file=sys.stderr)
    return max(_status(error) for error in errors)


def _line(error: BaseException) -> str:
    if isinstance(error, UgalluError):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        fix = FIXES.get(error.errno or 0, "")
        return f"{where}{error.strerror}{f' ({fix})' if fix else ''}"
    told = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{_place(error)}: unexpected {told} (a defect of ours: report it with what --debug prints)"


def _place(error: BaseException) -> str:
    """Return where in our code an error nobody foresaw came up."""
    place, step = "ugallu", error.__traceback__
    while step is not None:
        module = step.tb_frame.f_globals.get("__name__", "")
        if module.startswith("ugallu"):
            place = f"{module}:{step.tb_lineno}"
        step = step.tb_next
    return place


def _status(error: BaseException) -> int:
    if not isinstance(error, UgalluError | OSError):
        return BROKEN
    if isinstance(error, FileNotFoundError | FileExistsError | IsADirectoryError | NotADirectoryError):
        return MISUSED
    if isinstance(error, OSError | TransientError | RefusedError):
        return UNREACHABLE
    if type(error).__name__ in ("IntegrityError", "NotFoundError"):  # by name: their homes are heavy to import
        return FAILED
    # What a right or another process keeps from us is there: it is not the command line that is wrong.
    return UNREACHABLE if isinstance(error.__cause__, PermissionError | BlockingIOError) else MISUSED


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in _leaves(inner)]


def _signalled(error: BaseException) -> bool:
    return any(isinstance(leaf, KeyboardInterrupt | BrokenPipeError) for leaf in _leaves(error))


def _open_streams() -> None:
    """Give a process that was started with a stream closed (`>&-`) one that leads nowhere.

    Else the next file we open would be standard output, and a later write would go into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            mode = "r" if number == 0 else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - open to the end


def _pipe_closed() -> int:
    """The reader of our output went away: nobody to tell, and the interpreter must not try to flush at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return PIPE_CLOSED


def _register(commands: "Subparsers[argparse.ArgumentParser]", module: str) -> None:
    importlib.import_module(f"ugallu.cli.{module}").register(commands)


def _register_plugins(commands: "Subparsers[argparse.ArgumentParser]", wanted: str) -> None:
    """Add the commands of plug-ins; one that does not load stays in the list and says why, and harms no other."""
    from importlib.metadata import entry_points

    for point in sorted(entry_points(group=PLUGIN_GROUP), key=lambda found: found.name):
        if wanted and point.name != wanted:
            continue
        try:
            point.load()(commands)
        except (ImportError, AttributeError) as error:
            broken = commands.add_parser(point.name, help=f"does not load: {error}")
            broken.set_defaults(run=_refusal(point.name, point.value, str(error)))


def _refusal(name: str, value: str, reason: str) -> Callable[[argparse.Namespace], int]:
    def run(_: argparse.Namespace) -> NoReturn:
        raise TransientError(f"the command does not load: {reason}", where=f"{name} ({value})", fix="reinstall it")

    return run


def _unknown(wanted: str, known: list[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(wanted, known, n=1)
    hint = f"did you mean `{near[0]}`?" if near else "see `ugallu --help`"
    return f"there is no command `{wanted}`; {hint}"


class _Version(argparse.Action):
    """`--version`, which looks the version up only when asked."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:  # noqa: A002, ARG002 - argparse's
        super().__init__(option_strings, dest=argparse.SUPPRESS, default=argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:  # noqa: ANN401 - argparse's shape
        from ugallu import __version__

        print(f"ugallu {__version__}")
        parser.exit()
