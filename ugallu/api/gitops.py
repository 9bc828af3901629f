"""GitopsResponderConfig: where changes are proposed, and under which name."""

import enum
from typing import ClassVar

from ugallu.api.k8s import LocalObjectReference
from ugallu.api.meta import AGE, Column, Config, ConfigStatus, Kind, Resource, Wire
from ugallu.api.scalars import Off


class GitProviderType(enum.StrEnum):
    """Software of a Git host."""

    GITHUB = "github"
    GITLAB = "gitlab"
    FORGEJO = "forgejo"


class GitAuthMode(enum.StrEnum):
    """Sort of a credential."""

    GITHUB_APP = "github-app"
    PROJECT_ACCESS_TOKEN = "project-access-token"  # noqa: S105 - a name
    APP_TOKEN = "app-token"  # noqa: S105 - a name
    PAT = "pat"
    SSH_DEPLOY_KEY = "ssh-deploy-key"


class ConflictBehavior(enum.StrEnum):
    """What to do when a branch or request of the same change exists."""

    ABORT = "abort"
    FORCE = "force"
    MERGE = "merge"


class ArgoOperation(enum.StrEnum):
    """What to ask of an Argo CD Application."""

    REFRESH = "refresh"
    HARD_REFRESH = "hardRefresh"
    SYNC = "sync"


class GitAuthConfig(Wire, frozen=True, kw_only=True):
    """The credential for a Git host."""

    mode: GitAuthMode
    """Credential kind."""
    secret_ref: LocalObjectReference
    """Secret in the config's namespace."""


class GitProvider(Wire, frozen=True, kw_only=True):
    """A Git host."""

    name: str
    """Provider key, referenced by repos."""
    type: GitProviderType
    """Host software."""
    host: str
    """Host name or API base URL."""
    auth: GitAuthConfig
    """Credentials."""


class GitRepo(Wire, frozen=True, kw_only=True):
    """A repository at one of the hosts."""

    provider: str
    """Provider name."""
    owner: str
    """Owner or group."""
    repo: str
    """Repository name."""
    branch: str = ""
    """Base branch; empty = repository default."""


class BotIdentity(Wire, frozen=True, kw_only=True):
    """Under which name commits are made."""

    name: str
    """Commit author name."""
    email: str
    """Commit author e-mail."""
    ssh_signing_key: str = ""
    """Name of the SSH key used to sign commits."""


class ChangeDefaults(Wire, frozen=True, kw_only=True):
    """What every request gets."""

    draft: bool = False
    """Open as draft."""
    labels: tuple[str, ...] = ()
    """Labels to add."""
    require_reviewers: tuple[str, ...] = ()
    """Reviewers to request."""


class BranchStrategy(Wire, frozen=True, kw_only=True):
    """How branches are named and cleaned up."""

    naming_template: str = ""
    """Branch name template."""
    delete_after_merge: bool = False
    """Delete the branch once merged."""


class RoutingRule(Wire, frozen=True, kw_only=True):
    """Which responses go to which repository; what is not given matches."""

    match_labels: dict[str, str] = {}
    """EventResponse labels that must match."""
    match_namespace_pattern: str = ""
    """Unanchored regular expression on the event or target namespace."""
    repo: GitRepo
    """Target repository."""


class ArgoCD(Wire, frozen=True, kw_only=True):
    """Kicks of Argo CD Applications."""

    enabled: Off = False
    """Allow kicks."""
    namespace: str = "argocd"
    """Namespace of the Applications."""
    operation: ArgoOperation = ArgoOperation.REFRESH
    """The kick when the action names none."""
    application: str = ""
    """The Application kicked when the action names none."""


class GitopsResponderConfigSpec(Config, frozen=True, kw_only=True):
    """Hosts, repositories and the rules between them."""

    providers: tuple[GitProvider, ...]
    """Git hosts."""
    default_provider: str
    """Provider name used when routing gives none."""
    default_repo: GitRepo
    """Repository used when no rule matches."""
    bot: BotIdentity
    """Commit identity."""
    change_defaults: ChangeDefaults | None = None
    """Pull-request defaults."""
    branch_strategy: BranchStrategy | None = None
    """Branch naming and clean-up."""
    conflict_behavior: ConflictBehavior = ConflictBehavior.ABORT
    """What to do on conflicting change."""
    routing: tuple[RoutingRule, ...] = ()
    """Ordered rules, first match wins."""
    argocd: ArgoCD | None = None
    """Kicks of Argo CD Applications."""


class GitopsResponderConfig(Resource, frozen=True, kw_only=True):
    """Settings of gitops-responder; the object is called `default`."""

    kind_info: ClassVar[Kind] = Kind(
        "GitopsResponderConfig",
        "gitopsresponderconfigs",
        namespaced=True,
        short_names=("gitopscfg",),
        columns=(
            Column("Default-Provider", ".spec.defaultProvider"),
            Column("Default-Repo", ".spec.defaultRepo.repo"),
            Column("Conflict", ".spec.conflictBehavior"),
            AGE,
        ),
    )
    spec: GitopsResponderConfigSpec
    """What is wanted."""
    status: ConfigStatus = ConfigStatus()
    """What has become of it."""
