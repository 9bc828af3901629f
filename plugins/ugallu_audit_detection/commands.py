"""`ugallu rules`: run the tests that rules carry, say what a rule needs and what an audit policy hides, list rules."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ugallu_audit_detection.report import Report

_FORMS = "files or directories: SigmaRule objects in YAML or JSON, or upstream Sigma rules; `pack`: the default rules"


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `rules` and its own subcommands; each sets `run`, from the arguments to the exit status."""
    parser = commands.add_parser("rules", help="test, explain and list detection rules in files")
    own = parser.add_subparsers(title="commands", metavar="COMMAND", dest="rules_command", required=True)
    tests = own.add_parser(
        "test",
        help="run the tests that rules carry",
        description="Compile every rule and run its tests. Exit status: 0 all pass, 1 one fails or a rule does not "
        "compile, 2 a file cannot be read.",
    )
    explain = own.add_parser("explain", help="say what a rule needs to be able to fire")
    explain.add_argument("rule", metavar="RULE", help="name of a rule, or a file: then every rule in it")
    explain.add_argument("--rules", action="append", default=[], metavar="PATH", help=f"where to look; {_FORMS}")
    listing = own.add_parser("list", help="list the rules that files hold")
    for command, does in ((tests, "run_tests"), (listing, "list_rules")):
        command.add_argument("paths", nargs="+", metavar="PATH", help=_FORMS)
        command.set_defaults(run=_call(does))
    explain.set_defaults(run=_call("explain_rules"))
    covered = own.add_parser(
        "coverage",
        help="say which rules can fire under an audit policy, or by what a log shows",
        description="Hold each rule that is on against an audit policy: its requests, and the events of its own tests "
        "as the policy would show them. Exit status: 0 every rule can fire, 1 one is blind, in part or wholly.",
    )
    covered.add_argument("--audit-policy", type=Path, metavar="FILE", help="the file of --audit-policy-file")
    smallest = own.add_parser(
        "policy",
        help="write the smallest audit policy under which rules see what they look for",
        description="Write the policy on stdout; with --audit-log also how much an API server would write under it.",
    )
    for command, does in ((covered, "coverage_report"), (smallest, "policy_report")):
        command.add_argument("paths", nargs="*", type=Path, metavar="PATH", help=f"{_FORMS}; none: the default rules")
        command.add_argument(
            "--audit-log", action="append", default=[], type=Path, metavar="FILE", help="a log, plain, gzip or zstd"
        )
        command.set_defaults(run=_policy(does))
    for command in (tests, explain, listing, covered, smallest):
        command.add_argument("--json", action="store_true", help="one JSON object on stdout instead of text")


def _call(does: str) -> Callable[[argparse.Namespace], int]:
    """Import what the work needs only when it is asked for: `ugallu --help` must feel instant."""

    def run(args: argparse.Namespace) -> int:
        from ugallu_audit_detection import report

        work: Callable[[Any], Report] = getattr(report, does)
        return report.show(work(_paths(args)), as_json=args.json)

    return run


def _policy(does: str) -> Callable[[argparse.Namespace], int]:
    def run(args: argparse.Namespace) -> int:
        from ugallu_audit_detection.audit_policy import report
        from ugallu_audit_detection.report import show

        if does == "coverage_report":
            return show(report.coverage_report((args.paths, args.audit_policy, args.audit_log)), as_json=args.json)
        return show(report.policy_report((args.paths, args.audit_log)), as_json=args.json)

    return run


def _paths(args: argparse.Namespace) -> Any:  # noqa: ANN401 - what the chosen function takes
    from ugallu_audit_detection import pack

    if args.rules_command == "explain":
        return args.rule, pack.located(args.rules)
    return pack.located(args.paths)
