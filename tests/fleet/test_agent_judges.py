"""Who judges signatures on a host: an ssh-keygen that is gone or lies; a state others may write."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from fleet.session import HostError
from images.keygen import PLACES
from images.manifest import Manifest
from images.trust import Trust
from tests.fleet.test_agent_trust import (  # noqa: F401 - fixtures
    Sign,
    chain,
    deploy,
    keys,
    proof,
    refused,
    sign,
    trust,
)
from tests.support.hosts import Host

pytestmark = pytest.mark.root


@pytest.mark.row("G7", "T6")
@pytest.mark.parametrize(
    ("body", "says"),
    [
        (None, "ssh-keygen is in none of"),
        ("exit 0", "accepts a signature that is known to be bad"),
        ("kill -9 $$", "signal 9"),
        ("echo 'unknown option -- Y' >&2; exit 1", "cannot verify signatures"),
    ],
)
def test_the_hosts_own_program_is_tried_first(
    host: Host, old: Manifest, new: Manifest, keys: dict[str, Path], trust: Trust, sign: Sign,  # noqa: F811
    tmp_path: Path, body: str | None, says: str,
) -> None:  # fmt: skip
    """The host alone sees another program: it is mounted over the real one for its agent."""
    signers = chain(keys, trust)
    deploy(host, old, proof(signers, sign(old)))
    fake = tmp_path / "fake"
    fake.write_text(f"#!/bin/sh\n{body}\n")
    fake.chmod(0o644 if body is None else 0o755)
    places = [f"{folder}/ssh-keygen" for folder in PLACES]
    real = sorted({os.path.realpath(place) for place in places if os.path.exists(place)})
    script = f'for one in {" ".join(real)}; do mount --bind {fake} $one || exit 9; done; exec "$@"'
    become = ["unshare", "--mount", "sh", "-c", script, "sh"]
    signature = sign(new)
    with host.open(become=become) as session:
        refused(session, new, proof(signers, signature), says)
    assert host.current == old.image_id
    with host.open() as session:
        assert session.verify(old.image_id, deep=True) == []
        assert session.run("{release}/bin/app", 9).output == "old\n"
    deploy(host, new, proof(signers, signature))
    assert host.current == new.image_id


@pytest.mark.row("G8")
@pytest.mark.parametrize("how", ["everybody", "owner"])
def test_what_the_host_trusts_may_be_written_by_nobody_else(
    host: Host, old: Manifest, new: Manifest, keys: dict[str, Path], trust: Trust, sign: Sign,  # noqa: F811
    how: str,
) -> None:  # fmt: skip
    deploy(host, old, proof(chain(keys, trust), sign(old)))
    state = Path(host.root, "state.json")
    if how == "everybody":
        state.chmod(0o666)
    else:
        os.chown(state, 4711, -1)
    with pytest.raises(HostError, match=r"state\.json") as caught:
        host.open()
    assert str(caught.value).startswith("h1: ")
    assert str(caught.value).isprintable()
    assert host.current == old.image_id
    program = f"{host.root}/current/bin/app"
    assert subprocess.run([program], capture_output=True, check=True).stdout == b"old\n"
    state.chmod(0o644)
    os.chown(state, 0, -1)
    deploy(host, new, proof(chain(keys, trust), sign(new)))
