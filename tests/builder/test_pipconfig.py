"""pip's configuration as wain reads it is pip's configuration as pip reads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from builder import pipconfig
from builder.pipconfig import PipSettings, default_index, read_settings
from builder.urls import mask, without_credentials
from images.errors import UsageError


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """An environment with files in each of the places pip looks at."""
    (tmp_path / "xdg/pip").mkdir(parents=True)
    (tmp_path / "home/.pip").mkdir(parents=True)
    (tmp_path / "home/.config/pip").mkdir(parents=True)
    (tmp_path / "xdg/pip/pip.conf").write_text(
        "[global]\nindex-url = https://xdg.example/simple\ntimeout = 3\nextra_index_url =\n"
    )
    (tmp_path / "home/.pip/pip.conf").write_text("[global]\ntrusted-host = old.example\n")
    (tmp_path / "home/.config/pip/pip.conf").write_text(
        "[install]\nindex-url = https://install.example/simple\n"
        "[global]\nfind-links =\n    ~/wheels\n    https://links.example/\n"
        "extra-index-url = https://a.example/ https://b.example/\ntimeout = 7\n"
    )
    (tmp_path / "own.conf").write_text("[global]\ncert = /certs/ca.pem\n[list]\ntimeout = 99\n")
    return {
        "HOME": str(tmp_path / "home"),
        "XDG_CONFIG_DIRS": str(tmp_path / "xdg"),
        "PIP_RETRIES": "9",
        "PIP_NO_INPUT": "",
        "PATH": os.environ["PATH"],
    }


def test_settings_of_all_places(places: dict[str, str]) -> None:
    settings = read_settings(places)
    assert settings.index_url == "https://install.example/simple"
    assert settings.extra_index_urls == ("https://a.example/", "https://b.example/")
    assert settings.find_links[1] == "https://links.example/"
    assert settings.find_links[0].startswith("file:///")
    assert settings.find_links[0].endswith("/wheels")
    assert settings.trusted_hosts == ("old.example",)
    assert (settings.timeout, settings.retries) == (7.0, 9)


def test_named_file_stands_for_the_users_own(places: dict[str, str], tmp_path: Path) -> None:
    settings = read_settings({**places, "PIP_CONFIG_FILE": str(tmp_path / "own.conf")})
    assert settings.index_url == "https://xdg.example/simple"
    assert (settings.timeout, settings.cert) == (3.0, "/certs/ca.pem")


def test_variables_win(places: dict[str, str]) -> None:
    settings = read_settings(
        {**places, "PIP_INDEX_URL": "https://env.example/", "PIP_TIMEOUT": "1"}
    )
    assert (settings.index_url, settings.timeout) == ("https://env.example/", 1.0)


ASK_PIP = """\
import json
from pip._internal.commands import create_command
found = create_command("install").parser.get_default_values()
names = "index_url extra_index_urls find_links no_index cert proxy trusted_hosts timeout retries"
print(json.dumps({name: getattr(found, name) for name in names.split()}))
"""


@pytest.mark.parametrize("named", ["", os.devnull, "own.conf", "missing.conf"])
def test_equal_to_what_pip_goes_by(places: dict[str, str], tmp_path: Path, named: str) -> None:
    """pip itself is asked what its options are: the same, whichever file is named."""
    environment = {**places, "PIP_CONFIG_FILE": str(tmp_path / named)} if named else places
    printed = subprocess.run(
        [sys.executable, "-c", ASK_PIP],
        env=environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    said = json.loads(printed)
    found = read_settings(environment)
    assert (found.index_url or said["index_url"]) == said["index_url"]
    assert list(found.extra_index_urls) == said["extra_index_urls"]
    links = [os.path.expanduser(link) for link in said["find_links"]]
    assert [link.removeprefix("file://") for link in found.find_links] == links
    assert list(found.trusted_hosts) == said["trusted_hosts"]
    assert (found.timeout, found.retries) == (said["timeout"], said["retries"])
    assert (found.cert or None, found.proxy) == (said["cert"], said["proxy"] or "")
    assert found.no_index is bool(said["no_index"])


def test_unreadable_configuration(tmp_path: Path) -> None:
    (tmp_path / "bad.conf").write_text("index-url = https://me:c4n4ry@x.example/\n")
    with pytest.raises(UsageError, match="no pip configuration") as caught:
        read_settings({"HOME": str(tmp_path), "PIP_CONFIG_FILE": str(tmp_path / "bad.conf")})
    assert "c4n4ry" not in str(caught.value)


def test_wrong_number(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="timeout is 'soon', expected a number"):
        read_settings({"HOME": str(tmp_path), "PIP_TIMEOUT": "soon"})


def test_pip_says_its_default_index() -> None:
    assert default_index().startswith("https://")
    assert PipSettings().index_url == ""
    assert pipconfig.config_files({"HOME": "/h", "PIP_CONFIG_FILE": os.devnull}) == []


@pytest.mark.row("L1")
@pytest.mark.parametrize(
    "text",
    [
        "https://me:c4n4ry@x.example/simple/",
        "see https://c4n4ry@x.example and 'http://me:c4n4ry@y.example:80/a'",
        "https://x.example/f.whl?token=c4n4ry&a=1",
        "GET /?X-Signature=c4n4ry",
        "https://me:c4n@c4n4ry@x.example/simple/",
        "https://me:c4n/c4n4ry@x.example/simple/ and http://y.example:80/a@b",
        "https://me:c4n%40ry@x.example c4n".replace("c4n%40ry", "c4n4ry"),
    ],
)
def test_mask(text: str) -> None:
    assert "c4n4ry" not in mask(text)
    assert "x.example" in mask(text) or "GET" in mask(text)
    assert ("y.example:80/a" in text) == ("y.example:80/a" in mask(text))


def test_without_credentials() -> None:
    assert without_credentials("https://me:x@h.example:8/a#b") == "https://h.example:8/a#b"
