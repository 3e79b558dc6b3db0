"""Fixtures and rules for all tests."""

from __future__ import annotations

import os
import shutil

import pytest

# CI sets this: a test that cannot run there fails instead of being left out.
REQUIRE_ALL = os.environ.get("WAIN_TEST_REQUIRE_ALL") == "1"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out, in plain words, what this machine cannot run; in CI nothing may be."""
    for marker, missing, reason in (
        ("sshd", _no_sshd(), "no sshd here (apt-get install openssh-server)"),
        ("root", os.geteuid() != 0, "needs root"),
    ):
        if item.get_closest_marker(marker) and missing:
            if REQUIRE_ALL:
                pytest.fail(f"left out in a run that may leave nothing out: {reason}")
            pytest.skip(reason)


def _no_sshd() -> bool:
    return not (os.path.exists("/usr/sbin/sshd") or shutil.which("sshd"))


@pytest.fixture(autouse=True)
def _own_world(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test touches the user's store."""
    monkeypatch.setenv("WAIN_STORE", str(tmp_path_factory.mktemp("store")))
