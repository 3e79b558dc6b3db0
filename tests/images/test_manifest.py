from __future__ import annotations

import os
import string
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from images.manifest import (
    KINDS,
    Entry,
    Manifest,
    ManifestError,
    _all_clean,
    _line_problem,
    folders,
    path_problem,
    sizes_in,
)
from tests.support.trees import HEADER, entry, manifest_of, sha

names = st.one_of(
    st.text(string.ascii_letters + string.digits + "._- ", min_size=1, max_size=12),
    st.text(min_size=1, max_size=12),
)
paths = st.lists(names, min_size=1, max_size=4).map("/".join).filter(lambda p: not path_problem(p))
entries = st.builds(
    lambda kind, executable, data, owner, path: Entry(
        kind, executable and kind != "link", sha(data), len(data), owner, path
    ),
    st.sampled_from(sorted(KINDS)),
    st.booleans(),
    st.binary(max_size=4),
    st.sampled_from(["-", "six", "python-dateutil"]),
    paths,
)


def _fits(found: list[Entry]) -> bool:
    every = [one.path for one in found]
    return not folders(every).intersection(every)


trees = st.lists(entries, max_size=8, unique_by=lambda one: one.path).filter(_fits)
manifests = trees.map(lambda found: manifest_of(*found))


@given(trees)
def test_what_is_written_is_what_is_read(found: list[Entry]) -> None:
    manifest = manifest_of(*found)
    again = Manifest.parse(manifest.to_bytes())
    assert again == manifest
    assert again.entries == tuple(sorted(found, key=lambda one: one.path.encode()))
    assert again.to_bytes() == manifest.to_bytes()
    assert (again.python, again.abi, again.platform, again.skeleton) == HEADER


@given(trees)
def test_sizes_are_read_without_the_rest(found: list[Entry]) -> None:
    manifest = manifest_of(*found)
    sizes = sizes_in(manifest.to_bytes())
    assert list(sizes.items()) == list(manifest.sizes().items())


@given(trees, st.randoms())
def test_the_identity_does_not_depend_on_the_order(found: list[Entry], random: Any) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)
    assert manifest_of(*shuffled).image_id == manifest_of(*found).image_id


@pytest.mark.row("M1")
@given(manifests, st.data())
def test_any_changed_byte_is_refused_or_is_another_image(manifest: Manifest, data: Any) -> None:
    before = manifest.to_bytes()
    at = data.draw(st.integers(0, len(before) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != before[at]))
    after = before[:at] + bytes([byte]) + before[at + 1 :]
    try:
        found = Manifest.parse(after)
    except ManifestError:
        return
    assert found.image_id != manifest.image_id
    assert found.to_bytes() == after


@pytest.mark.row("M1")
@given(manifests, st.data())
def test_a_cut_manifest_never_has_the_same_identity(manifest: Manifest, data: Any) -> None:
    whole = manifest.to_bytes()
    part = whole[: data.draw(st.integers(0, len(whole) - 1))]
    try:
        assert Manifest.parse(part).image_id != manifest.image_id
    except ManifestError:
        return


@given(st.binary(max_size=300))
@example(b"")
@example(b"wain-manifest 1")
def test_rubbish_is_one_error_or_canonical(data: bytes) -> None:
    try:
        assert Manifest.parse(data).to_bytes() == data
    except ManifestError:
        return


HOSTILE = [
    *("", "/etc/passwd", "..", "../x", "a/../b", "a/..", ".", "./a", "a/./b", "a/.", "a//b"),
    *("a/", "/", "//", "a\0b", "a\nb", "a\tb", "a\x1b[31m", "a\x7f", "a\x85b", "a\\b"),
    *("x" * 256, "é" * 128, "/".join(["x" * 200] * 6), "a\udc80"),
]


@pytest.mark.row("M2")
@pytest.mark.parametrize("path", HOSTILE)
def test_a_hostile_path_is_refused_when_built_and_when_read(path: str) -> None:
    assert path_problem(path)
    with pytest.raises(ManifestError):
        manifest_of(entry(path), entry("z"))
    line = entry(path).line.encode("utf-8", "surrogatepass")
    with pytest.raises(ManifestError) as caught:
        Manifest.parse(manifest_of().to_bytes() + line + b"\n")
    assert str(caught.value).isprintable()


@pytest.mark.row("M2")
@given(st.lists(st.sampled_from(["a", "b", "..", ".", "", "c d", "\\", "\n", "é"]), max_size=5))
def test_paths_that_parse_never_leave_the_root(parts: list[str]) -> None:
    path = "/".join(parts)
    try:
        manifest_of(entry(path))
    except ManifestError:
        assert path_problem(path)
        return
    inside = os.path.normpath(os.path.join("/root", path))
    assert inside == "/root/" + path


@pytest.mark.row("M2")
def test_a_path_twice_and_a_file_used_as_a_folder_are_refused() -> None:
    with pytest.raises(ManifestError, match="line 8: a path twice: 'a'"):
        manifest_of(entry("a"), entry("a", b"other"))
    with pytest.raises(ManifestError, match="line 7: a file that is also a folder: 'a'"):
        manifest_of(entry("a"), entry("a/b/c"))
    # "a-b" sorts between "a" and "a/b".
    with pytest.raises(ManifestError, match="also a folder: 'a'"):
        manifest_of(entry("a"), entry("a-b"), entry("a/b"))


@pytest.mark.row("M1")
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("wain-manifest 1\n", "{}\n", "line 1: this is no manifest"),
        ("wain-manifest 1\n", "wain-manifest 2\n", "format 2 found, this wain reads format 1"),
        ("wain-manifest 1\n", f"wain-manifest {'9' * 90}\n", "line 1: format 999"),
        ("python 3.11\n", "python 3\n", "line 2: expected 'python' and its value"),
        ("python 3.11\n", "python 3.11\npython 3.11\n", "line 3: expected 'abi'"),
        ("abi cp311\n", "", "line 3: expected 'abi'"),
        ("platform ", "platform\t", "line 4: expected 'platform'"),
        ("virtualenv-21.15.7", "../x", "line 5: expected 'skeleton'"),
        ("virtualenv-21.15.7\n", "virtualenv-21.15.7\nmore 1\n", "line 6: expected an empty"),
        ("file - ", "socket - ", "line 7: unknown kind 'socket'"),
        ("file - ", "file s ", "line 7: expected 'x' or '-' as the mode"),
        ("file - ", "link x ", "'-' for a link"),
        (sha(b"x"), sha(b"x").upper(), "line 7: expected 64 hex digits"),
        (sha(b"x"), sha(b"x")[1:], "line 7: expected 64 hex digits"),
        (" 1 shop", " 01 shop", "line 7: expected a size"),
        (" 1 shop", " -1 shop", "line 7: expected a size"),
        (" 1 shop", f" {'9' * 5000} shop", "line 7: expected a size, found '99999999999999999999'"),
        (" 1 shop", " ٣ shop", "line 7: expected a size"),
        (" shop a\n", " Shop a\n", "line 7: expected a normalised package name"),
        (" shop a\n", " a\n", "line 7: expected 6 fields, found 5"),
        (" shop b\n", " shop b", "line 8: cut short: no end of line"),
        (" shop b\n", " shop b\n\n", "line 9: expected 6 fields"),
        (" shop a\n", " shop c\n", "line 8: a path out of order: 'b'"),
        (" shop a\n", " shop a\r\n", "line 7: a control character"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(old: str, new: str, message: str) -> None:
    text = manifest_of(entry("a"), entry("b")).to_bytes().decode()
    assert old in text
    with pytest.raises(ManifestError) as caught:
        Manifest.parse(text.replace(old, new, 1).encode())
    assert message in str(caught.value)


def test_bytes_that_are_not_utf8_are_named_with_their_line() -> None:
    data = manifest_of(entry("a")).to_bytes().replace(b" a\n", b" \xff\n")
    with pytest.raises(ManifestError, match=r"^manifest 12ab, line 7: bytes that are not UTF-8"):
        Manifest.parse(data, "manifest 12ab")


lines = st.one_of(
    entries.map(lambda one: one.line),
    st.lists(
        st.sampled_from(
            [
                *sorted(KINDS),
                "x",
                "-",
                sha(b""),
                "0",
                "7",
                "007",
                "1_0",
                "six",
                "a/b",
                "a//b",
                "",
                ".",
            ]
        ),
        min_size=4,
        max_size=8,
    ).map(" ".join),
    st.text(max_size=80).filter(lambda text: "\n" not in text),
)


@given(st.lists(lines, min_size=1, max_size=4))
def test_the_fast_check_never_passes_what_the_exact_one_refuses(body: list[str]) -> None:
    text = "".join(line + "\n" for line in body)
    assume(text.split("\n") == [*body, ""])
    if _all_clean(text, [line.split(" ", 5) for line in body]):
        assert not any(map(_line_problem, body))


def test_objects_are_named_once_and_templates_are_stored_without_the_executable_bit() -> None:
    tool = Entry("file", True, sha(b"tool"), 4, "a", "bin/tool")
    script = Entry("script", True, sha(b"script"), 6, "a", "bin/script")
    copy = Entry("file", False, sha(b"tool"), 4, "a", "lib/tool")
    twice = Entry("file", False, sha(b"tool"), 4, "b", "lib/tool2")
    found = manifest_of(tool, script, copy, twice).objects()
    assert found == {(sha(b"tool"), True): 4, (sha(b"tool"), False): 4, (sha(b"script"), False): 6}
    assert list(found) == sorted(found)


@given(manifests, st.data())
def test_a_part_is_the_image_of_its_entries(manifest: Manifest, data: Any) -> None:
    some = [one for one in manifest.entries if data.draw(st.booleans())]
    part = manifest.part(reversed(some))
    assert part == manifest_of(*some)
    assert Manifest.parse(part.to_bytes()).image_id == part.image_id


def test_folders_are_all_that_lead_to_a_path() -> None:
    assert folders(["a/b/c", "a/d", "e"]) == {"a", "a/b"}
    assert folders([]) == set()
