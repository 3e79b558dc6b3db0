from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from images.diff import bytes_to_send, compare, compare_files, text_hunks, versions
from images.manifest import Entry, Manifest
from tests.support.trees import entry, manifest_of, sha

few = st.lists(
    st.tuples(
        st.sampled_from("abcdefgh"),
        st.sampled_from([b"1", b"2", b"333"]),
        st.sampled_from(["six", "shop"]),
    ),
    unique_by=lambda item: item[0],
).map(lambda items: manifest_of(*(entry(path, data, owner=by) for path, data, by in items)))


@given(few, few)
def test_the_changes_applied_to_the_first_give_the_second(old: Manifest, new: Manifest) -> None:
    tree = {one.path: one for one in old.entries}
    for change in compare_files(old, new):
        assert tree.pop(change.path, None) == change.before
        if change.after is not None:
            tree[change.path] = change.after
    assert manifest_of(*tree.values()) == new


@given(few)
def test_an_image_does_not_differ_from_itself(image: Manifest) -> None:
    found = compare(image, image, {"six": "1"}, {"six": "1"})
    assert not found
    assert found.size == 0


def test_packages_files_and_bytes() -> None:
    old = manifest_of(
        entry("lib/shop/a.py", b"1", owner="shop"),
        entry("lib/six.py", b"six", owner="six"),
        entry("lib/pytz.py", b"pytz", owner="pytz"),
        entry("bin/activate", b"sh", owner="-"),
    )
    new = manifest_of(
        Entry("file", True, sha(b"22"), 2, "shop", "lib/shop/a.py"),
        entry("lib/shop/b.py", b"four", owner="shop"),
        entry("lib/six.py", b"sox", owner="six"),
        entry("lib/ply.py", b"ply", owner="ply"),
        entry("bin/activate", b"sh2", owner="-"),
    )
    found = compare(
        old,
        new,
        {"shop": "1.0", "six": "1.17", "pytz": "2026"},
        {"shop": "1.1", "six": "1.17", "ply": "3.11"},
    )
    document = found.to_json()
    assert document["packages"] == {
        "added": [{"name": "ply", "version": "3.11", "files": 1}],
        "removed": [{"name": "pytz", "version": "2026", "files": 1}],
        "changed": [
            {"name": "shop", "from": "1.0", "to": "1.1", "files": 2},
            # The same release with other bytes: a rebuilt wheel.
            {"name": "six", "from": "1.17", "to": "1.17", "files": 1},
        ],
    }
    assert document["files"]["added"] == [
        {"path": "lib/ply.py", "package": "ply"},
        {"path": "lib/shop/b.py", "package": "shop"},
    ]
    assert document["files"]["removed"] == [{"path": "lib/pytz.py", "package": "pytz"}]
    assert document["files"]["changed"][1] == {
        "path": "lib/shop/a.py",
        "package": "shop",
        "details": ["not executable → executable", "1 → 2 bytes"],
    }
    assert document["bytes"] == 2 + 4 + 3 + 3 + 3
    assert [change.path for change in found.files_of("six")] == ["lib/six.py"]


def test_bytes_to_send_counts_an_object_once_and_never_what_is_there() -> None:
    image = manifest_of(entry("a", b"12345"), entry("b", b"12345"), entry("c", b"7"))
    assert bytes_to_send([], image) == 6
    assert bytes_to_send([(sha(b"12345"), False)], image) == 1
    # An executable is another object.
    assert bytes_to_send([(sha(b"7"), True)], image) == 6


def test_bytecode_and_records_are_noise() -> None:
    old = manifest_of()
    new = manifest_of(
        entry("lib/__pycache__/six.cpython-311.pyc"),
        entry("lib/six-1.dist-info/RECORD"),
        entry("lib/six-1.dist-info/METADATA"),
    )
    noisy = {change.path: change.is_noise for change in compare_files(old, new)}
    assert list(noisy.values()) == [True, False, True]


def test_text_is_shown_as_hunks_and_binary_as_one_line() -> None:
    assert text_hunks("six.py", b"a\nb\n", b"a\nc\n")[-2:] == ["-b", "+c"]
    assert text_hunks("x.so", b"\0", b"\0\0") == ["binary: 1 → 2 bytes"]
    assert text_hunks("x.txt", b"\xff", b"") == ["binary: 1 → 0 bytes"]


def test_versions_come_from_the_image_document() -> None:
    document = {"packages": [{"name": "six", "version": "1.17.0", "wheel": "six.whl"}]}
    assert versions(document) == {"six": "1.17.0"}
