"""Names of the MITRE ATT&CK techniques (v19) that matter on Kubernetes, so that a report reads without a browser."""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple


class Technique(NamedTuple):
    """One technique: its id (`T1613`), its name, and the tactic under which a cluster sees it most."""

    id: str
    name: str
    tactic: str


TECHNIQUES: Final = {
    technique.id: technique
    for technique in (
        Technique("T1021.007", "Cloud Services", "Lateral Movement"),
        Technique("T1036.005", "Match Legitimate Resource Name or Location", "Stealth"),
        Technique("T1040", "Network Sniffing", "Credential Access"),
        Technique("T1041", "Exfiltration Over C2 Channel", "Exfiltration"),
        Technique("T1053.007", "Container Orchestration Job", "Persistence"),
        Technique("T1068", "Exploitation for Privilege Escalation", "Privilege Escalation"),
        Technique("T1069.003", "Cloud Groups", "Discovery"),
        Technique("T1070", "Indicator Removal", "Stealth"),
        Technique("T1078", "Valid Accounts", "Initial Access"),
        Technique("T1078.001", "Default Accounts", "Initial Access"),
        Technique("T1078.004", "Cloud Accounts", "Initial Access"),
        Technique("T1087", "Account Discovery", "Discovery"),
        Technique("T1090", "Proxy", "Command and Control"),
        Technique("T1098", "Account Manipulation", "Persistence"),
        Technique("T1098.006", "Additional Container Cluster Roles", "Privilege Escalation"),
        Technique("T1133", "External Remote Services", "Initial Access"),
        Technique("T1136", "Create Account", "Persistence"),
        Technique("T1190", "Exploit Public-Facing Application", "Initial Access"),
        Technique("T1195.002", "Compromise Software Supply Chain", "Initial Access"),
        Technique("T1204.003", "Malicious Image", "Execution"),
        Technique("T1485", "Data Destruction", "Impact"),
        Technique("T1496", "Resource Hijacking", "Impact"),
        Technique("T1498", "Network Denial of Service", "Impact"),
        Technique("T1525", "Implant Internal Image", "Persistence"),
        Technique("T1528", "Steal Application Access Token", "Credential Access"),
        Technique("T1530", "Data from Cloud Storage", "Collection"),
        Technique("T1543", "Create or Modify System Process", "Persistence"),
        Technique("T1543.005", "Container Service", "Persistence"),
        Technique("T1546", "Event Triggered Execution", "Persistence"),
        Technique("T1548", "Abuse Elevation Control Mechanism", "Privilege Escalation"),
        Technique("T1548.005", "Temporary Elevated Cloud Access", "Privilege Escalation"),
        Technique("T1550.001", "Application Access Token", "Lateral Movement"),
        Technique("T1552", "Unsecured Credentials", "Credential Access"),
        Technique("T1552.001", "Credentials In Files", "Credential Access"),
        Technique("T1552.007", "Container API", "Credential Access"),
        Technique("T1557", "Adversary-in-the-Middle", "Credential Access"),
        Technique("T1565.001", "Stored Data Manipulation", "Impact"),
        Technique("T1572", "Protocol Tunneling", "Command and Control"),
        Technique("T1578.002", "Create Cloud Instance", "Stealth"),
        Technique("T1609", "Container Administration Command", "Execution"),
        Technique("T1610", "Deploy Container", "Execution"),
        Technique("T1611", "Escape to Host", "Privilege Escalation"),
        Technique("T1612", "Build Image on Host", "Stealth"),
        Technique("T1613", "Container and Resource Discovery", "Discovery"),
        Technique("T1685", "Disable or Modify Tools", "Defense Impairment"),
    )
}


def technique(id_: str) -> Technique:
    """Return what is known of a technique id; an unknown one keeps its id and has no name."""
    upper = id_.upper()
    return TECHNIQUES.get(upper) or Technique(upper, "", "")


def techniques(texts: Iterable[str]) -> tuple[Technique, ...]:
    """Return the techniques that tags (`attack.t1613`) or signals (`T1613,T1552`) name, each once, in order."""
    return tuple(technique(id_) for id_ in dict.fromkeys(found for text in texts for found in _ids(text)))


def _ids(text: str) -> Iterator[str]:
    for word in text.replace(",", " ").split():
        id_ = word.lower().removeprefix("attack.").upper()
        if id_[:1] == "T" and id_[1:5].isdigit() and len(id_) >= 5:
            yield id_
