"""What replay and demo share: rules that follow the command line, and progress by the bytes of the input."""

from pathlib import Path

from ugallu.api.meta import Metadata
from ugallu.api.sigma import SigmaRule
from ugallu.cli.playback import Drawing, load_rules
from ugallu.cli.progress import Meter, Progress
from ugallu.cluster.embedded.cluster import EmbeddedCluster
from ugallu.cluster.port import list_all
from ugallu.metrics import Metrics
from ugallu.supervisor import supervisor
from ugallu.supervisor.registry import installed

RULES = Path(__file__).parents[3] / "examples" / "rules"


class Shown(Meter):
    """A meter that keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.live = True
        self.seen: list[Progress] = []

    def show(self, progress: Progress) -> None:
        self.seen.append(progress)


async def names(cluster: EmbeddedCluster) -> set[str]:
    rules, _ = await list_all(cluster, SigmaRule)
    return {rule.metadata.name for rule in rules}


async def test_rules_follow_the_command_line() -> None:
    """What an earlier command loaded and this one does not name goes; what others created stays."""
    cluster = EmbeddedCluster.in_memory()
    operators = [installed()["audit-detection"].load()()]
    kept, gone = RULES / "cluster-admin-granted.yaml", RULES / "anonymous-access.yaml"
    await load_rules(cluster, operators, [kept, gone])
    [loaded] = (await cluster.list(SigmaRule, limit=1)).items
    await cluster.create(SigmaRule(metadata=Metadata(name="by-hand"), spec=loaded.spec))
    assert await load_rules(cluster, operators, [kept]) == 1
    assert await names(cluster) == {"cluster-admin-granted", "by-hand"}
    assert await load_rules(cluster, operators, []) == 0
    assert await names(cluster) == {"cluster-admin-granted", "by-hand"}
    await cluster.close()


def test_progress_is_by_bytes_then_by_seals(tmp_path: Path) -> None:
    """While input is left its bytes are the share; behind its end the events still to be sealed are."""
    logs = [tmp_path / "a", tmp_path / "b"]
    for log in logs:
        log.write_bytes(b"x" * 1000)
    metrics, meter = Metrics(), Shown()
    draw = Drawing(meter, [str(log) for log in logs], metrics, lambda: 10.0)
    metrics.gauge("ugallu_audit_source_lag_bytes", 1500, source="s")
    draw(supervisor.Progress(lines=5, findings=2))
    metrics.gauge("ugallu_audit_source_lag_bytes", 0, source="s")
    draw(supervisor.Progress(lines=20, findings=8, events=8, sealed=6))
    reading, sealing = meter.seen
    assert (reading.doing, reading.done, reading.total) == ("reading", 500, 2000)
    assert (sealing.doing, sealing.done, sealing.total) == ("sealing", 6, 8)


def test_progress_of_a_pipe_has_no_total() -> None:
    """Nobody knows how long standard input is."""
    meter = Shown()
    Drawing(meter, ["-"], Metrics(), lambda: 1.0)(supervisor.Progress(lines=5))
    assert [progress.total for progress in meter.seen] == [0]
