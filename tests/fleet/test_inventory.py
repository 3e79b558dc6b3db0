from __future__ import annotations

from pathlib import Path

import pytest

from fleet.inventory import Check, Inventory, load_inventory, parse_inventory, root_problem
from images.errors import UsageError
from images.tomlfile import TomlError, parse_toml

FULL = """\
root = "/opt/wain/shop"
python = "/usr/bin/python3.11"
user = "deploy"
port = 2222
key = "keys/deploy"
env-file = "/etc/shop.env"

[[host]]
name = "web1"
address = "web1.example"
labels = ["canary", "eu"]

[[host]]
name = "web2"
user = "other"
become = "sudo -n -u app"

[[host]]
name = "here"
transport = "local"
root = "/srv/here"

[rollout]
waves = ["label:canary", 1, "100%"]
max-failures = "10%"
parallel = 8
max-unreachable = "5%"
soak = "30s"
on-halt = "revert-all"
health = ["{release}/bin/python -c 'import shop'", { http = "http://127.0.0.1:8000/healthz", timeout = "5s" }, { run = "true", timeout = 3 }]
after-switch = ["sudo -n systemctl restart shop"]
connect-timeout = "15s"
step-timeout = "5m"
confirm-timeout = "20s"
bandwidth = "20MB/s"
keep = 5
"""  # noqa: E501 - one line as people write it
SMALL = '[[host]]\nname = "a"\nroot = "/srv/a"\n'


def parse(text: str, store: Path | None = None) -> Inventory:
    return parse_inventory(parse_toml(text, "fleet.toml"), Path("/project"), store)


def refused(text: str, store: Path | None = None) -> str:
    with pytest.raises(TomlError) as error:
        parse(text, store)
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_full_file() -> None:
    fleet = parse(FULL)
    web1, web2, here = fleet.hosts
    assert (web1.address, web1.user, web1.port, web1.key) == (
        "web1.example", "deploy", 2222, "/project/keys/deploy",
    )  # fmt: skip
    assert web1.labels == {"canary", "eu"}
    assert (web2.address, web2.user, web2.become) == ("web2", "other", ("sudo", "-n", "-u", "app"))
    assert (here.transport, here.root, here.python) == ("local", "/srv/here", "/usr/bin/python3.11")
    assert here.env_file == "/etc/shop.env"
    settings = fleet.settings
    assert [rule.text for rule in settings.waves] == ["label:canary", "1", "100%"]
    assert settings.health == (
        Check("{release}/bin/python -c 'import shop'"),
        Check(http="http://127.0.0.1:8000/healthz", timeout=5),
        Check("true", timeout=3),
    )
    assert (settings.soak, settings.on_halt, settings.keep) == (30, "revert-all", 5)
    assert (settings.confirm_timeout, settings.step_timeout) == (20, 300)
    assert settings.bandwidth == 20_000_000
    assert [str(settings.limits.max_failures), str(settings.limits.max_unreachable)] == [
        "10%",
        "5%",
    ]


def test_the_defaults() -> None:
    settings = parse(SMALL).settings
    assert [rule.text for rule in settings.waves] == ["100%"]
    assert (settings.limits.max_failures.of(100), settings.limits.max_unreachable.of(100)) == (1, 0)
    assert (settings.parallel, settings.soak, settings.confirm_timeout) == (32, 0, 30)
    assert (settings.keep, settings.on_halt) == (3, "revert-wave")
    assert settings.health == settings.after_switch == ()


def test_selecting() -> None:
    fleet = parse(FULL)
    assert [host.name for host in fleet.select("label:eu & !web2")] == ["web1"]
    assert fleet.select(None) == fleet.hosts
    with pytest.raises(UsageError, match="no host is meant"):
        fleet.select("web1 & web2")
    with pytest.raises(UsageError, match="did you mean 'web1'"):
        fleet.select("wbe1")


@pytest.mark.row("V1")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "fleet.toml:1: there is no [[host]]"),
        ("hosts = []\n", "fleet.toml:1: unknown key 'hosts' (did you mean 'host'?)"),
        ("host = []\n", "there is no [[host]]"),
        (SMALL + 'adress = "x"\n',
         "fleet.toml:4: [[host]] a: unknown key 'adress' (did you mean 'address'?)"),
        (SMALL + SMALL, "fleet.toml:5: [[host]] a: the name 'a' stands for two hosts"),
        (SMALL + '\n[[host]]\nname = "b"\naddress = "a"\nroot = "/srv/a"\n',
         "fleet.toml:8: [[host]] b: is the same machine and root as 'a' (/srv/a)"),
        (SMALL + '\n[[host]]\nname = "b"\naddress = "a"\nroot = "/srv/a/b"\n',
         "the root of 'b' is inside the root of 'a'"),
        (SMALL + "port = 0\n", "fleet.toml:4: [[host]] a: 'port' is 0, expected 1 to 65535"),
        (SMALL + 'port = "22"\n', "fleet.toml:4: [[host]] a: 'port' expects a whole number"),
        (SMALL + 'transport = "telnet"\n', "expected one of 'ssh', 'local'"),
        (SMALL + 'transport = "local"\nuser = "x"\n', "'user' means nothing with transport"),
        (SMALL + 'labels = ["a b"]\n', "label 'a b' has a character of no label"),
        ('[[host]]\nname = "a"\n', "fleet.toml:1: [[host]] a: has no 'root'"),
        ('[[host]]\nroot = "/srv/a"\n', "missing key 'name'"),
        (SMALL + '[rollout]\nwaves = ["label:eu", "100%"]\n',
         "fleet.toml:5: [rollout]: selector 'label:eu': no host has the label 'eu'"),
        (SMALL + '[rollout]\nwaves = ["150%"]\n', "fleet.toml:5: [rollout]: 'waves': expected"),
        (SMALL + "[rollout]\nwaves = []\n", "'waves' expects a list"),
        (SMALL + SMALL.replace('"a"', '"b"') + "[rollout]\nwaves = [1]\n",
         "leave out b (end them with \"100%\")"),
        (SMALL + "[rollout]\nmax-failures = 0\n", "must be at least 1"),
        (SMALL + '[rollout]\nmax-failures = "many"\n', "'max-failures': expected a number"),
        (SMALL + "[rollout]\nparallel = 0\n", "'parallel' is 0, expected 1 to 1024"),
        (SMALL + '[rollout]\non-halt = "panic"\n', "expected one of 'revert-wave', 'keep'"),
        (SMALL + '[rollout]\nsoak = "soon"\n', "'soak': expected a duration"),
        (SMALL + '[rollout]\nconfirm-timeout = "0s"\n', "expected at least 0.1 s"),
        (SMALL + '[rollout]\nbandwidth = "fast"\n', "expected a rate"),
        (SMALL + "[rollout]\nhealth = [3]\n", "'health' expects a command or"),
        (SMALL + '[rollout]\nhealth = "true"\n', "'health' expects a list"),
        (SMALL + '[rollout]\nhealth = [{ http = "ftp://x/" }]\n', "expected a URL"),
        (SMALL + '[rollout]\nhealth = [{ htp = "http://x/" }]\n', "unknown key 'htp'"),
        (SMALL + '[rollout]\nhealth = [{ timeout = "5s" }]\n', "either 'http' or 'run'"),
        (SMALL + '[rollout]\nhaelth = ["true"]\n', "(did you mean 'health'?)"),
        (SMALL + '[trust]\nsigners = "none"\n', "there is no file 'none'"),
        (SMALL + "[trust]\nrequired = true\n", "'required' needs 'signers'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(text: str, message: str) -> None:
    assert message in refused(text)


@pytest.mark.row("V2")
@pytest.mark.parametrize(
    "line",
    [
        'address = "-oProxyCommand=touch x"',
        'address = "$(touch x)"',
        'address = "a;b"',
        'user = "-l"',
        'user = "a b"',
        'user = "`x`"',
        'python = "-c"',
        'python = "bin/python"',
        'python = "/usr/bin/py\\nthon"',
        'env-file = "relative"',
    ],
)
def test_values_that_could_become_options_or_commands_are_refused(line: str) -> None:
    refused(SMALL + line + "\n")


@pytest.mark.row("V2")
@pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", "$(x)", "a\\u001b]0;b", "../x"])
def test_names_of_hosts(name: str) -> None:
    message = refused(f'[[host]]\nname = "{name}"\nroot = "/srv/a"\n')
    assert "\x1b" not in message


@pytest.mark.row("V3")
@pytest.mark.parametrize(
    "root",
    ["/", "/usr", "/etc", "/opt", "/etc/wain", "/usr/bin/x", "/dev/shm", "/tmp", "/var/lib",
     "srv/a", ".", "/srv/../etc", "/srv//a", "//srv/a", "/srv/a/.", "/srv/a\\n", "/proc/self"],
)  # fmt: skip
def test_roots_that_are_refused(root: str) -> None:
    assert "root" in refused(f'[[host]]\nname = "a"\nroot = "{root}"\n')


def test_roots_that_are_taken() -> None:
    for root in ("/opt/wain/shop", "/srv/a", "/home/app/wain", "/var/lib/wain", "/tmp/a b $x'\""):
        assert root_problem(root) == ""
    # A slash at the end is no other folder.
    assert parse(SMALL.replace("/srv/a", "/srv/a/")).hosts[0].root == "/srv/a"


@pytest.mark.row("V3")
@pytest.mark.parametrize("root", ["/data/store", "/data/store/x", "/data"])
def test_a_local_root_stays_out_of_the_store(root: str) -> None:
    text = f'transport = "local"\n[[host]]\nname = "a"\nroot = "{root}"\n'
    assert "overlaps the store" in refused(text, Path("/data/store"))


def test_two_machines_may_have_the_same_root() -> None:
    text = 'root = "/srv/a"\n[[host]]\nname = "a"\n[[host]]\nname = "b"\n'
    assert [host.address for host in parse(text).hosts] == ["a", "b"]


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such file"):
        load_inventory(tmp_path)
    (tmp_path / "fleet.toml").write_text("[[host]\n")
    with pytest.raises(TomlError, match=r"fleet.toml:1: not TOML"):
        load_inventory(tmp_path)
