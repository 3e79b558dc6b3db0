from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from images.errors import WainError
from images.render import (
    MAX_SHEBANG,
    Interpreter,
    link_problem,
    prefix_problem,
    render,
    shebang,
)

HERE = Interpreter("/usr/lib/py 3/bin/python3.11", "3.11.7", "/usr/lib/py 3")
HARD = [
    "/srv/shop",
    "/srv/the shop",
    '/srv/it\'s $HOME `id` "here" !x & ; * ~ # %',
    "/srv/ünï/店",
    "/srv/" + "long/" * 40 + "end",
]


def test_a_short_path_has_one_shebang_line() -> None:
    assert shebang("/srv/shop") == b"#!/srv/shop/bin/python\n"
    longest = "/" + "x" * (MAX_SHEBANG - len("#!//bin/python"))
    assert len(shebang(longest)) == MAX_SHEBANG + 1
    assert shebang(longest + "x").startswith(b"#!/bin/sh\n'''exec' ")
    assert shebang("/a b").startswith(b"#!/bin/sh\n'''exec' '/a b/bin/python' ")


@pytest.mark.parametrize("name", ["plain", "with blank", 'it\'s $HOME `id` "x" !y', "x" * 140])
def test_a_script_runs_from_any_prefix(tmp_path: Path, name: str) -> None:
    prefix = tmp_path / name
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin" / "python").symlink_to(os.path.realpath(sys.executable))
    script = prefix / "bin" / "show"
    body = b"import sys\nprint(ascii([sys.argv, __doc__]))\n"
    script.write_bytes(render("script", body, str(prefix), HERE))
    script.chmod(0o755)
    found = subprocess.run(
        [script, "a b", "$c"], capture_output=True, text=True, check=True, timeout=30
    )
    assert found.stdout.startswith(ascii([str(script), "a b", "$c"])[:-1].join(["[", ""]))
    assert found.stderr == ""


@pytest.mark.parametrize("prefix", HARD)
@pytest.mark.parametrize(
    ("kind", "program", "echo"),
    [
        ("sh", "sh", "printf %s "),
        ("sh", "bash", "printf %s "),
        ("csh", "csh", "/usr/bin/printf %s "),
        ("fish", "fish", "printf %s "),
        ("python", sys.executable, "print(end=@WAIN_PREFIX@)"),
    ],
)
def test_each_shell_reads_back_the_prefix(
    tmp_path: Path, kind: str, program: str, echo: str, prefix: str
) -> None:
    if not shutil.which(program):
        pytest.skip(f"no {program} here")
    text = echo if "@" in echo else f"{echo}@WAIN_PREFIX@\n"
    script = tmp_path / "script"
    script.write_bytes(render(kind, text.encode(), prefix, HERE))
    found = subprocess.run([program, script], capture_output=True, check=True, timeout=30)
    assert found.stdout.decode() == prefix


def test_every_placeholder_and_nothing_else_is_replaced() -> None:
    text = b"@WAIN_PREFIX@|@WAIN_PYTHON@|@WAIN_HOME@|@WAIN_VERSION@|@WAIN_BASE@|@WAIN_X@|@@"
    assert render("plain", text, "/p", HERE) == (
        b"/p|/usr/lib/py 3/bin/python3.11|/usr/lib/py 3/bin|3.11.7|/usr/lib/py 3|@WAIN_X@|@@"
    )
    # A value is not searched again.
    odd = HERE._replace(version="@WAIN_PREFIX@")
    assert render("plain", b"@WAIN_VERSION@", "/p", odd) == b"@WAIN_PREFIX@"


def test_a_template_that_is_no_text_is_an_error() -> None:
    with pytest.raises(WainError, match="template of kind sh is not UTF-8"):
        render("sh", b"\xff", "/p", HERE)


@pytest.mark.parametrize(
    "prefix", ["", "relative", "/a:b", "/a\nb", "/a\\b", "/a'''b", "/a\udcffb"]
)
def test_a_prefix_that_cannot_be_quoted_everywhere_is_refused(prefix: str) -> None:
    assert prefix_problem(prefix)


@pytest.mark.parametrize("prefix", HARD)
def test_other_prefixes_are_allowed(prefix: str) -> None:
    assert prefix_problem(prefix) == ""


@pytest.mark.row("M3")
@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("bin/python3", "../../etc/passwd"),
        ("link", "../x"),
        ("link", ".."),
        ("a/link", "../.."),
        ("a/link", "b/../../.."),
        ("a/link", "b/../c"),
        ("a/link", "/etc/passwd"),
        ("a/link", ""),
        ("a/link", "."),
        ("a/link", "./b"),
        ("a/link", "b//c"),
        ("a/link", "b/"),
        ("a/link", "b\0c"),
        ("a/link", "b\nc"),
        ("a/link", "x" * 1025),
        ("a/link", "\udcff"),
    ],
)
def test_a_link_that_could_leave_the_image_is_refused(path: str, target: str) -> None:
    assert link_problem(path, target)


@pytest.mark.row("M3")
@given(
    st.dictionaries(
        st.sampled_from(["a", "d/b", "d/e/c", "f"]),
        st.lists(st.sampled_from(["..", "a", "b", "c", "d", "e", "f", "."]), max_size=5).map(
            "/".join
        ),
    )
)
def test_no_set_of_allowed_links_leaves_the_image(links: dict[str, str]) -> None:
    """Followed as the kernel does, link by link, from real folders."""
    allowed = {path: target for path, target in links.items() if not link_problem(path, target)}
    for start in allowed:
        at: list[str] = []
        todo = start.split("/")
        for _ in range(60):
            if not todo:
                break
            part = todo.pop(0)
            if part == "..":
                assert at, f"{start} leaves the image: {allowed}"
                at.pop()
            elif "/".join([*at, part]) in allowed:
                todo = allowed["/".join([*at, part])].split("/") + todo
            else:
                at.append(part)


def test_links_inside_the_image_are_allowed() -> None:
    assert link_problem("bin/python3", "python") == ""
    assert link_problem("lib64", "lib") == ""
    assert link_problem("a/b/c", "../../d/e") == ""
    assert link_problem("bin/python", "@WAIN_PYTHON@") == ""
