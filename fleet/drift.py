"""Whether hosts' releases still are what their manifests say, and putting them right.

Repair sends only objects that are bad or missing on the host, replaces files by rename and
never touches anything outside the release.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fleet.contact import ask_all, open_session
from fleet.errors import HostError
from fleet.inventory import Host, Settings
from fleet.sending import send_missing
from fleet.session import HostDrift, Session
from fleet.wanted import Comparisons

# Differences of one host that are kept; the count is always whole.
KEPT = 2000


@dataclass(frozen=True, slots=True)
class Checked:
    """One host's release: what differed, and how much of it was put right and sent."""

    image: str | None
    drift: tuple[HostDrift, ...]
    count: int
    repaired: int = 0
    bytes_sent: int = 0

    @property
    def ok(self) -> bool:
        """Whether the release is as it should be now."""
        return self.count == self.repaired


def verify_all(
    hosts: Sequence[Host],
    settings: Settings,
    images: Comparisons,
    *,
    deep: bool,
    repair: bool,
    by: Mapping[str, str],
    on_progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Checked | HostError]:
    """Compare every host's current release with its manifest, and repair it when asked to."""
    found: dict[str, Checked | HostError] = {}

    def ask(host: Host) -> Checked:
        with open_session(host, settings, keep=repair, by=by) as session:
            image = session.facts.state.current
            if session.facts.state.foreign:
                raise HostError(host.name, "foreign", session.facts.state.foreign)
            if image is None:
                return Checked(None, (), 0)
            drift = session.verify(image, deep)
            if not drift or not repair:
                return Checked(image, tuple(drift[:KEPT]), len(drift))
            _repair(session, image, drift, images)
            left = session.verify(image, deep)
            return Checked(
                image, tuple(drift[:KEPT]), len(drift), len(drift) - len(left), session.bytes_sent
            )

    def take(host: Host, answer: Checked | HostError) -> None:
        found[host.name] = answer
        if on_progress:
            on_progress("Verifying hosts", len(found), len(hosts))

    ask_all(hosts, settings, ask, take)
    return {host.name: found[host.name] for host in hosts}


def _repair(session: Session, image: str, drift: Sequence[HostDrift], images: Comparisons) -> None:
    paths = [one.path for one in drift]
    manifest = images.manifest(image)
    if manifest is None:
        if not session.repair(image, paths):
            return
        raise HostError(
            session.name, "missing", f"image {image[:12]} is not in this machine's store",
            "import it, then repair again",
        )  # fmt: skip
    if not send_missing(session, manifest, images, lambda: session.repair(image, paths)):
        return
    left = session.repair(image, paths)
    if left:
        raise HostError(
            session.name, "object", f"{len(left)} objects are still missing after they were sent"
        )


def by_package(found: Mapping[str, Checked | HostError]) -> dict[str, dict[str, int]]:
    """Package -> host -> how many of its files differ there."""
    packages: dict[str, dict[str, int]] = {}
    for name, checked in found.items():
        if isinstance(checked, Checked):
            for one in checked.drift:
                hosts = packages.setdefault(one.package, {})
                hosts[name] = hosts.get(name, 0) + 1
    return dict(sorted(packages.items()))
