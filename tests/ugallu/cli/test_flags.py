"""Every setting has its flag, and what is given arrives."""

import argparse
from collections.abc import Iterator

import msgspec

from ugallu.cli import flags
from ugallu.settings import Settings, load


def leaves(cls: type[msgspec.Struct], prefix: str = "") -> Iterator[str]:
    for field in msgspec.structs.fields(cls):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield from leaves(field.type, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def parsed(*arguments: str) -> Settings:
    parser = argparse.ArgumentParser()
    flags.add(parser)
    return load(flags.overrides(parser.parse_args(arguments)), environ={})


def test_every_setting_has_exactly_one_flag() -> None:
    """A field added to Settings without a flag fails here."""
    assert sorted(flag.setting for flag in flags.FLAGS) == sorted(leaves(Settings))


def test_nothing_given_means_the_defaults() -> None:
    """Flags that were not given change nothing."""
    assert msgspec.structs.replace(parsed(), instance="") == msgspec.structs.replace(load({}, environ={}), instance="")


def test_given_flags_arrive() -> None:
    """Lists, switches and numbers land in their fields."""
    settings = parsed("--enable", "a,b", "--enable", "c", "--state", "/s", "--audit-log", "x", "--audit-log", "y",
                      "--no-seal", "--from-start", "--objects-per-hour", "7", "--health", "", "--log-level", "debug")  # fmt: skip
    assert settings.enable == ("a", "b", "c")
    assert settings.state == "/s"
    assert settings.audit.files == ("x", "y")
    assert (settings.seal, settings.audit.from_start, settings.audit.follow) == (False, True, True)
    assert settings.emit.objects_per_hour == 7
    assert settings.listen.health == ""
    assert settings.log.level == "debug"
