"""Wheels that differ from a good one in exactly one thing, and the rule each breaks."""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from tests.support.wheels import Draft, Raw, Rows, draft, record_hash, zip_bytes


@dataclass(frozen=True)
class Kind:
    """One way a wheel can be bad: ``says`` is a part of the message it must get."""

    name: str
    rule: str
    says: str
    make: Callable[[], Draft]


KINDS: list[Kind] = []


def kind(rule: str, says: str = "", **options: object) -> Callable[[Callable[[Draft], None]], None]:
    """Register a change to a good wheel; ``options`` are those of the good wheel."""

    def register(change: Callable[[Draft], None]) -> None:
        def make() -> Draft:
            good = draft(**options)  # type: ignore[arg-type]
            change(good)
            return good

        KINDS.append(Kind(change.__name__.replace("_", "-"), rule, says, make))

    return register


def member_kind(name: str, rule: str, path: str | bytes, says: str = "") -> None:
    """Register a wheel with one more member of this path, which is in RECORD too."""

    def make() -> Draft:
        good = draft()
        good.add(path)
        return good

    KINDS.append(Kind(name, rule, says, make))


def patch(draft: Draft, old: bytes, new: bytes) -> None:
    """Change bytes of the finished archive, in one place and of equal length."""

    def edit(data: bytes) -> bytes:
        assert data.count(old) == 1
        assert len(old) == len(new)
        return data.replace(old, new)

    draft.edit = edit


def row(draft: Draft, path: str, change: Callable[[list[str]], list[str] | None]) -> None:
    """Change one row of RECORD, or drop it."""

    def edit(rows: Rows) -> Rows:
        found = []
        for cells in rows:
            if cells[0] == path:
                changed = change(cells)
                if changed is None:
                    continue
                cells = changed
            found.append(cells)
        return found

    draft.edit_record = edit


MODULE = "demo/__init__.py"
INFO = "demo-1.0.dist-info"

# --- W1: members that leave the place they are unpacked to ---------------------------------

member_kind("dotdot", "W1", "../evil.py", "'..'")
member_kind("dotdot-inside", "W1", "demo/../../evil.py", "'..'")
member_kind("dotdot-to-itself", "W1", "demo/../demo/evil.py", "'..'")
member_kind("absolute", "W1", "/etc/evil", "absolute")
member_kind("drive", "W1", "C:/evil", "absolute")
member_kind("drive-relative", "W1", "c:evil", "absolute")
member_kind("data-scripts-dotdot", "W1", "demo-1.0.data/scripts/../../x", "'..'")
member_kind("data-data-dotdot", "W1", "demo-1.0.data/data/../../../x", "'..'")
member_kind("dot-component", "W1", "demo/./evil.py", "'.'")
member_kind("empty-component", "W1", "demo//evil.py", "''")
member_kind("dotdot-folder", "W1", "../", "'..'")
member_kind("dist-info-dotdot", "W1", f"{INFO}/../evil.py", "'..'")

# --- W2: members over what an environment is made of ---------------------------------------

member_kind("data-bin-python", "W2", "demo-1.0.data/data/bin/python", "bin/python")
member_kind("data-bin-python3", "W2", "demo-1.0.data/data/bin/python3.11", "bin/python3.11")
member_kind("data-pyvenv-cfg", "W2", "demo-1.0.data/data/pyvenv.cfg", "pyvenv.cfg")
member_kind("data-pyvenv-case", "W2", "demo-1.0.data/data/PyVenv.cfg", "PyVenv.cfg")
member_kind(
    "data-sitecustomize",
    "W2",
    "demo-1.0.data/data/lib/python3.11/site-packages/sitecustomize.py",
    "lib/python3.11",
)
member_kind("data-lib64", "W2", "demo-1.0.data/data/lib64/python3.11/os.py", "lib64/python3.11")
member_kind("data-lib-file", "W2", "demo-1.0.data/data/lib", "'lib'")
member_kind("scripts-python", "W2", "demo-1.0.data/scripts/python", "bin/python")
member_kind("scripts-python3", "W2", "demo-1.0.data/scripts/python3", "bin/python3")
member_kind(
    "data-purelib-dist-info",
    "W2",
    "demo-1.0.data/purelib/other-1.0.dist-info/METADATA",
    ".dist-info",
)
member_kind(
    "data-platlib-own-dist-info",
    "W2",
    f"demo-1.0.data/platlib/{INFO}/direct_url.json",
    ".dist-info",
)

# --- W3: what is no plain file --------------------------------------------------------------

for _name, _mode, _says in [
    ("symlink", stat.S_IFLNK | 0o777, "symbolic link"),
    ("fifo", stat.S_IFIFO | 0o644, "named pipe"),
    ("char-device", stat.S_IFCHR | 0o644, "character device"),
    ("block-device", stat.S_IFBLK | 0o644, "block device"),
    ("socket", stat.S_IFSOCK | 0o644, "socket"),
    ("setuid", stat.S_IFREG | 0o4755, "4755"),
    ("setgid", stat.S_IFREG | 0o2755, "2755"),
    ("sticky", stat.S_IFREG | 0o1644, "1644"),
    ("folder-mode-on-file", stat.S_IFDIR | 0o755, "folder"),
]:

    def _make(mode: int = _mode) -> Draft:
        good = draft()
        good.add("demo/special", b"/etc/passwd", mode=mode)
        return good

    KINDS.append(Kind(_name, "W3", _says, _make))


@kind("W3", "file with a slash")
def file_mode_on_folder(wheel: Draft) -> None:
    wheel.add("demo/sub/", b"", mode=0o100644, method=0)


# --- W4: RECORD ------------------------------------------------------------------------------


@kind("W4", "not in RECORD")
def member_not_in_record(wheel: Draft) -> None:
    row(wheel, MODULE, lambda cells: None)


@kind("W4", "not in the archive")
def record_row_without_member(wheel: Draft) -> None:
    wheel.edit_record = lambda rows: [*rows, ["demo/gone.py", record_hash(b""), "0"]]


@kind("W4", "its content has")
def wrong_hash(wheel: Draft) -> None:
    row(wheel, MODULE, lambda cells: [cells[0], record_hash(b"other"), cells[2]])


@kind("W4", "its content has")
def wrong_hash_of_metadata(wheel: Draft) -> None:
    row(wheel, f"{INFO}/METADATA", lambda cells: [cells[0], record_hash(b"other"), cells[2]])


@kind("W4", "its content has")
def wrong_sha512(wheel: Draft) -> None:
    row(wheel, MODULE, lambda cells: [cells[0], record_hash(b"other", "sha512"), cells[2]])


@kind("W4", "no hash")
def absent_hash(wheel: Draft) -> None:
    row(wheel, MODULE, lambda cells: [cells[0], "", cells[2]])


@kind("W4", "'md5'")
def md5_hash(wheel: Draft) -> None:
    data = wheel.get(MODULE).data
    row(wheel, MODULE, lambda cells: [cells[0], record_hash(data, "md5"), cells[2]])


@kind("W4", "'sha1'")
def sha1_hash(wheel: Draft) -> None:
    data = wheel.get(MODULE).data
    row(wheel, MODULE, lambda cells: [cells[0], record_hash(data, "sha1"), cells[2]])


@kind("W4", "without padding")
def padded_hash(wheel: Draft) -> None:
    row(wheel, MODULE, lambda cells: [cells[0], cells[1] + "=", cells[2]])


@kind("W4", "without padding")
def hash_in_hex(wheel: Draft) -> None:
    row(wheel, MODULE, lambda cells: [cells[0], "sha256=" + "ab" * 32, cells[2]])


@kind("W4", "bytes in RECORD")
def wrong_size(wheel: Draft) -> None:
    row(wheel, MODULE, lambda cells: [cells[0], cells[1], "9999"])


@kind("W4", "the size")
def size_is_no_number(wheel: Draft) -> None:
    row(wheel, MODULE, lambda cells: [cells[0], cells[1], "-1"])


@kind("W4", "RECORD")
def no_record(wheel: Draft) -> None:
    wheel.edit_record = lambda rows: None


@kind("W4", "not in RECORD")
def empty_record(wheel: Draft) -> None:
    wheel.record_bytes = b""


@kind("W4", "twice")
def record_row_twice(wheel: Draft) -> None:
    wheel.edit_record = lambda rows: [rows[0], *rows]


@kind("W4", "fields")
def record_with_two_fields(wheel: Draft) -> None:
    row(wheel, MODULE, lambda cells: cells[:2])


@kind("W4", "RECORD line")
def record_with_an_open_quote(wheel: Draft) -> None:
    good = wheel.record() or b""
    wheel.record_bytes = good + b'"demo/x.py,,\n'


@kind("W4", "absolute")
def absolute_record_row(wheel: Draft) -> None:
    wheel.edit_record = lambda rows: [*rows, ["/etc/passwd", record_hash(b""), "0"]]


@kind("W4", "'..'")
def dotdot_record_row(wheel: Draft) -> None:
    wheel.edit_record = lambda rows: [*rows, ["../../bin/ls", record_hash(b""), "0"]]


@kind("W4", "UTF-8")
def record_not_utf8(wheel: Draft) -> None:
    wheel.record_bytes = b"\xff\xfe,,\n"


@kind("W4", "hash for itself")
def record_hashes_itself(wheel: Draft) -> None:
    row(wheel, f"{INFO}/RECORD", lambda cells: [cells[0], record_hash(b"x"), ""])


# --- W5: two members, one place --------------------------------------------------------------


@kind("W5", "twice")
def duplicate_member(wheel: Draft) -> None:
    wheel.add(MODULE, b"evil = 1\n")
    wheel.edit_record = lambda rows: rows[:-2] + rows[-1:]


@kind("W5", "twice")
def duplicate_equal_member(wheel: Draft) -> None:
    wheel.members.append(wheel.get(MODULE))
    wheel.edit_record = lambda rows: rows[:-2] + rows[-1:]


@kind("W5", "one path")
def purelib_over_root(wheel: Draft) -> None:
    wheel.add(f"demo-1.0.data/purelib/{MODULE}")


@kind("W5", "one path")
def purelib_and_platlib(wheel: Draft) -> None:
    wheel.add("demo-1.0.data/purelib/x.py")
    wheel.add("demo-1.0.data/platlib/x.py")


@kind("W5", "one path", entry_points="[console_scripts]\ntool = demo:main\n")
def script_and_entry_point(wheel: Draft) -> None:
    wheel.add("demo-1.0.data/scripts/tool")


@kind("W5", "one path")
def scripts_and_data_bin(wheel: Draft) -> None:
    wheel.add("demo-1.0.data/scripts/tool")
    wheel.add("demo-1.0.data/data/bin/tool")


@kind("W5", "folder")
def file_and_folder(wheel: Draft) -> None:
    wheel.add("demo/sub")
    wheel.add("demo/sub/x.py")


@kind("W5", "folder")
def file_and_folder_member(wheel: Draft) -> None:
    wheel.add("demo/sub")
    wheel.add("demo/sub/", b"", mode=0o40755, method=0)


@kind("W5", "folder")
def file_and_folder_across_schemes(wheel: Draft) -> None:
    wheel.add("demo-1.0.data/platlib/demo")


@kind("W5", "case")
def case_clash(wheel: Draft) -> None:
    wheel.add("demo/__INIT__.py")


@kind("W5", "Unicode")
def normalisation_clash(wheel: Draft) -> None:
    wheel.add("demo/caf\u00e9.py")
    wheel.add("demo/cafe\u0301.py")


@kind("W5", "holds 5 bytes")
def folder_with_content(wheel: Draft) -> None:
    wheel.add("demo/sub/", b"hello", mode=0o40755, method=0)


# --- W6: the framing of the archive ----------------------------------------------------------


@kind("W6", "its own header")
def other_name_in_local_header(wheel: Draft) -> None:
    wheel.get(MODULE).local["name"] = b"demo/__evil__.py"


@kind("W6", "size")
def other_size_in_local_header(wheel: Draft) -> None:
    wheel.get(MODULE).local["size"] = 3


@kind("W6", "CRC")
def other_crc_in_local_header(wheel: Draft) -> None:
    wheel.get(MODULE).local["crc"] = 3


@kind("W6", "method")
def other_method_in_local_header(wheel: Draft) -> None:
    wheel.get(MODULE).local["method"] = 0


@kind("W6", "end record")
def trailing_data(wheel: Draft) -> None:
    wheel.edit = lambda data: data + b"evil"


@kind("W6", "byte")
def prepended_data(wheel: Draft) -> None:
    wheel.edit = lambda data: b"#!/bin/sh\n" + data


@kind("W6", "stand before the first member")
def prepended_data_with_fixed_offsets(wheel: Draft) -> None:
    def edit(data: bytes) -> bytes:
        head = b"#!/bin/sh\n"
        members = [*wheel.members, Raw(f"{INFO}/RECORD", wheel.record() or b"")]
        position = len(head)
        for member in members:
            member.central["start"] = position
            position += 30 + len(member.raw_name) + len(member.payload())
        body = head + zip_bytes(members)
        start = struct.pack("<L", position)
        return body[:-6] + start + body[-2:]

    wheel.edit = edit


@kind("W6", "end record")
def archive_comment(wheel: Draft) -> None:
    wheel.comment = b"hello"


@kind("W6", "byte")
def second_end_record(wheel: Draft) -> None:
    wheel.edit = lambda data: data + data[-22:]


@kind("W6", "end record")
def second_archive_appended(wheel: Draft) -> None:
    wheel.edit = lambda data: data + draft("other").to_bytes()


@kind("W6", "follow the data")
def gap_after_a_member(wheel: Draft) -> None:
    wheel.get(MODULE).after = b"hidden"


@kind("W6", "follow the data")
def hidden_member(wheel: Draft) -> None:
    hidden = zip_bytes([Raw("demo/hidden.py", b"x")])
    wheel.get("METADATA").after = hidden[: hidden.index(b"PK\1\2")]


@kind("W6", "follow the data")
def gap_before_the_directory(wheel: Draft) -> None:
    wheel.gap = b"hidden"


@kind("W6", "CRC")
def bad_crc(wheel: Draft) -> None:
    member = wheel.get(MODULE)
    member.local["crc"] = member.central["crc"] = zlib.crc32(b"other")


@kind("W6", "end record")
def truncated(wheel: Draft) -> None:
    wheel.edit = lambda data: data[:-10]


@kind("W6", "end record")
def truncated_in_the_middle(wheel: Draft) -> None:
    wheel.edit = lambda data: data[: len(data) // 2]


@kind("W6", "is empty")
def empty_file(wheel: Draft) -> None:
    wheel.edit = lambda data: b""


@kind("W6", "too few")
def a_few_bytes(wheel: Draft) -> None:
    wheel.edit = lambda data: b"PK\5\6"


@kind("W6", "end record")
def not_a_zip(wheel: Draft) -> None:
    wheel.edit = lambda data: b"<html>404 Not Found</html>" * 10


@kind("W9", ".dist-info")
def archive_without_members(wheel: Draft) -> None:
    wheel.edit = lambda data: zip_bytes([])


@kind("W6", "before the first member")
def bytes_without_members(wheel: Draft) -> None:
    wheel.edit = lambda data: zip_bytes([], gap=b"hidden")


@kind("W6", "cut off")
def name_beyond_the_directory(wheel: Draft) -> None:
    def edit(data: bytes) -> bytes:
        last = data.rindex(b"PK\1\2")
        return data[: last + 28] + b"\xff\x7f" + data[last + 30 :]

    wheel.edit = edit


@kind("W6", "encrypted")
def encrypted(wheel: Draft) -> None:
    wheel.get(MODULE).flags = 1


@kind("W6", "unknown flags")
def unknown_flags(wheel: Draft) -> None:
    wheel.get(MODULE).flags = 0x8000


@kind("W6", "method 14")
def lzma(wheel: Draft) -> None:
    wheel.get(MODULE).method = 14


@kind("W6", "method 12")
def bzip2(wheel: Draft) -> None:
    wheel.get(MODULE).method = 12


@kind("W6", "method 93")
def zstandard(wheel: Draft) -> None:
    wheel.get(MODULE).method = 93


@kind("W6", "data descriptor")
def data_descriptor(wheel: Draft) -> None:
    member = wheel.get(MODULE)
    fields = member.fields()
    member.flags = 8
    member.local.update(crc=0, packed=0, size=0)
    member.after = b"PK\7\10" + struct.pack("<3L", fields["crc"], fields["packed"], fields["size"])


@kind("W6", "does not unpack")
def broken_stream(wheel: Draft) -> None:
    member = wheel.get(MODULE)
    member.packed = b"\xff" * 20


@kind("W6", "cut off")
def stream_cut_off(wheel: Draft) -> None:
    member = wheel.get(MODULE)
    member.packed = member.payload()[:-3]


@kind("W6", "data follows the stream")
def data_after_the_stream(wheel: Draft) -> None:
    member = wheel.get(MODULE)
    member.packed = member.payload() + b"hidden"


@kind("W6", "ZIP version")
def needs_a_newer_reader(wheel: Draft) -> None:
    wheel.get(MODULE).local["version"] = 64


@kind("W6", "comment")
def member_comment(wheel: Draft) -> None:
    wheel.get(MODULE).comment = b"hello"


@kind("W6", "several disks")
def several_disks(wheel: Draft) -> None:
    wheel.edit = lambda data: data[:-18] + struct.pack("<2H", 1, 1) + data[-14:]


@kind("W6", "another disk")
def member_on_another_disk(wheel: Draft) -> None:
    wheel.get(MODULE).central["disk"] = 1


@kind("W6", "directory")
def count_too_high(wheel: Draft) -> None:
    wheel.count = 99


@kind("W6", "follow the last directory entry")
def count_too_low(wheel: Draft) -> None:
    wheel.count = 2


@kind("W6", "second name")
def unicode_path_with_another_name(wheel: Draft) -> None:
    other = b"demo/evil.py"
    data = struct.pack("<BL", 1, zlib.crc32(MODULE.encode())) + other
    wheel.get(MODULE).extra = struct.pack("<2H", 0x7075, len(data)) + data


@kind("W6", "twice")
def zip64_field_twice(wheel: Draft) -> None:
    wheel.get(MODULE).extra = struct.pack("<2H", 1, 0) * 2


@kind("W6", "longer than its space")
def extra_field_too_long(wheel: Draft) -> None:
    wheel.get(MODULE).extra = struct.pack("<2H", 0x5455, 100) + b"x"


@kind("W6", "ZIP64")
def zip64_sizes_missing(wheel: Draft) -> None:
    wheel.get(MODULE).central["size"] = 0xFFFFFFFF


@kind("W6", "two sizes")
def zip64_sizes_contradict(wheel: Draft) -> None:
    member = wheel.get(MODULE)
    member.local["extra"] = struct.pack("<2H2Q", 1, 16, 5, 5)


@kind("W6", "ZIP64 field of 24 bytes")
def zip64_field_too_long(wheel: Draft) -> None:
    member = wheel.get(MODULE)
    member.central["extra"] = struct.pack("<2H3Q", 1, 24, 0, 0, 0)


@kind("W6", "ZIP64 field of 8 bytes")
def zip64_field_too_short_in_header(wheel: Draft) -> None:
    wheel.get(MODULE).local["extra"] = struct.pack("<2HQ", 1, 8, 5)


@kind("W6", "two end records that differ")
def zip64_end_record_contradicts(wheel: Draft) -> None:
    def edit(data: bytes) -> bytes:
        count, size, start = struct.unpack("<H2L", data[-12:-2])
        record = struct.pack(
            "<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count - 1, count - 1, size, start
        )
        locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(data) - 22, 1)
        return data[:-22] + record + locator + data[-22:]

    wheel.edit = edit


@kind("W6", "contradicts its locator")
def zip64_locator_to_nowhere(wheel: Draft) -> None:
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, 7, 1)
    wheel.edit = lambda data: data[:-22] + bytes(56) + locator + data[-22:]


# --- W7: names -------------------------------------------------------------------------------

member_kind("nul-in-name", "W7", b"demo/evil\0.py", r"\x00")
member_kind("newline-in-name", "W7", "demo/ev\nil.py", r"\n")
member_kind("escape-in-name", "W7", "demo/\x1b]0;evil\x07.py", r"\x1b")
member_kind("delete-in-name", "W7", "demo/\x7f.py", r"\x7f")
member_kind("backslash-in-name", "W7", "demo\\..\\evil.py", "backslash")
member_kind("right-to-left-override", "W7", "demo/\u202eyp.live", r"\u202e")
member_kind("c1-control", "W7", "demo/\x9b31m.py", r"\x9b")
member_kind("name-over-255-bytes", "W7", "demo/" + "x" * 256, "255 bytes")
member_kind("path-over-2048-bytes", "W7", "/".join(["x" * 100] * 21), "bytes")
member_kind("empty-name", "W7", "", "no name")


@kind("W7", "UTF-8")
def name_in_latin1(wheel: Draft) -> None:
    wheel.add(b"demo/caf\xe9.py", flags=0)


@kind("W7", "neither ASCII nor marked")
def name_in_utf8_but_not_marked(wheel: Draft) -> None:
    wheel.add("demo/café.py", flags=0)


@kind("W7", "UTF-8")
def name_marked_utf8_but_is_not(wheel: Draft) -> None:
    wheel.add(b"demo/caf\xe9.py", flags=0x800)


# --- W8: bombs -------------------------------------------------------------------------------


@kind("W8", "to 1")
def bomb(wheel: Draft) -> None:
    member = wheel.add(
        "demo/zeros", bytes(1000), central={"size": 1 << 30}, local={"size": 1 << 30}
    )
    row(wheel, "demo/zeros", lambda cells: [cells[0], cells[1], ""])
    assert member.data


@kind("W8", "holds more")
def declares_less_than_it_holds(wheel: Draft) -> None:
    member = wheel.add("demo/zeros", bytes(100_000))
    member.local["size"] = member.central["size"] = 10
    row(wheel, "demo/zeros", lambda cells: [cells[0], cells[1], ""])


@kind("W8", "holds")
def declares_more_than_it_holds(wheel: Draft) -> None:
    member = wheel.add("demo/zeros", bytes(1000))
    member.local["size"] = member.central["size"] = 1010
    row(wheel, "demo/zeros", lambda cells: [cells[0], cells[1], ""])


@kind("W8", "overlap")
def overlapping_members(wheel: Draft) -> None:
    first, second = wheel.add("demo/a", bytes(5000), method=0), wheel.add("demo/b", b"x")
    first.local["packed"] = first.central["packed"] = 5000 + 40
    first.local["size"] = first.central["size"] = 5000 + 40
    assert second.data


@kind("W8", "overlap")
def two_entries_for_one_member(wheel: Draft) -> None:
    wheel.add("demo/a", b"x")
    twin = wheel.add("demo/b", b"x")
    twin.central["start"] = 0


@kind("W8", "members")
def too_many_members(wheel: Draft) -> None:
    wheel.edit = lambda data: zip_bytes([Raw("x", method=0)] * 65_000, count=0xFFFF)


@kind("W8", "directory of")
def endless_directory(wheel: Draft) -> None:
    wheel.edit = lambda data: data[:-10] + struct.pack("<L", 1 << 30) + data[-6:]


# --- W9: names and versions that disagree ----------------------------------------------------


@kind("W9", "other")
def filename_of_another_project(wheel: Draft) -> None:
    wheel.filename = "other-1.0-py3-none-any.whl"


@kind("W9", "2.0")
def filename_of_another_version(wheel: Draft) -> None:
    wheel.filename = "demo-2.0-py3-none-any.whl"


@kind("W9", "other-1.0.dist-info")
def dist_info_of_another_project(wheel: Draft) -> None:
    wheel.rename(INFO, "other-1.0.dist-info")


@kind("W9", "demo-2.0.dist-info")
def dist_info_of_another_version(wheel: Draft) -> None:
    wheel.rename(INFO, "demo-2.0.dist-info")


@kind("W9", "demo.dist-info")
def dist_info_without_version(wheel: Draft) -> None:
    wheel.rename(INFO, "demo.dist-info")


@kind("W9", "2 .dist-info")
def two_dist_infos(wheel: Draft) -> None:
    wheel.add("other-1.0.dist-info/METADATA")


@kind("W9", "2 .dist-info")
def second_dist_info_in_another_case(wheel: Draft) -> None:
    wheel.add("other-1.0.DIST-INFO/METADATA")


@kind("W9", "0 .dist-info")
def no_dist_info(wheel: Draft) -> None:
    wheel.rename(INFO, "demo-1.0.info")


def _metadata(wheel: Draft, old: bytes, new: bytes, name: str = "METADATA") -> None:
    member = wheel.get(name)
    assert old in member.data
    member.data = member.data.replace(old, new, 1)


@kind("W9", "'other'")
def metadata_of_another_project(wheel: Draft) -> None:
    _metadata(wheel, b"Name: demo", b"Name: other")


@kind("W9", "2.0")
def metadata_of_another_version(wheel: Draft) -> None:
    _metadata(wheel, b"Version: 1.0", b"Version: 2.0")


@kind("W9", "2 fields Name")
def metadata_with_two_names(wheel: Draft) -> None:
    _metadata(wheel, b"Name: demo", b"Name: demo\nName: demo")


@kind("W9", "0 fields Metadata-Version")
def metadata_without_its_version(wheel: Draft) -> None:
    _metadata(wheel, b"Metadata-Version: 2.1\n", b"")


@kind("W9", "'../demo'")
def metadata_name_is_a_path(wheel: Draft) -> None:
    _metadata(wheel, b"Name: demo", b"Name: ../demo")


@kind("W9", "UTF-8")
def metadata_not_utf8(wheel: Draft) -> None:
    _metadata(wheel, b"Text.", b"\xff\xfe")


@kind("W9", "Requires-Dist 'six >> 1'", requires=["six >> 1"])
def broken_requirement(wheel: Draft) -> None:
    del wheel


@kind("W9", "Requires-Python '>=three'", requires_python=">=three")
def broken_requires_python(wheel: Draft) -> None:
    del wheel


@kind("W9", "2 fields Requires-Python", requires_python=">=3")
def two_requires_pythons(wheel: Draft) -> None:
    _metadata(wheel, b"Requires-Python", b"Requires-Python: >=2\nRequires-Python")


@kind("W9", "Tag 'py3--any'")
def tag_that_is_none(wheel: Draft) -> None:
    _metadata(wheel, b"Tag: py3-none-any", b"Tag: py3--any", "WHEEL")


@kind("W9", "has no demo-1.0.dist-info/METADATA")
def no_metadata(wheel: Draft) -> None:
    wheel.remove("METADATA")


@kind("W9", "has no demo-1.0.dist-info/WHEEL")
def no_wheel_file(wheel: Draft) -> None:
    wheel.remove("WHEEL")


@kind("W9", "'2.0'")
def wheel_version_2(wheel: Draft) -> None:
    _metadata(wheel, b"Wheel-Version: 1.0", b"Wheel-Version: 2.0", "WHEEL")


@kind("W9", "0 fields Wheel-Version")
def no_wheel_version(wheel: Draft) -> None:
    _metadata(wheel, b"Wheel-Version: 1.0\n", b"", "WHEEL")


@kind("W9", "'perhaps'")
def purelib_is_perhaps(wheel: Draft) -> None:
    _metadata(wheel, b"Purelib: true", b"Purelib: perhaps", "WHEEL")


@kind("W9", "no Tag")
def no_tag(wheel: Draft) -> None:
    _metadata(wheel, b"Tag: py3-none-any\n", b"", "WHEEL")


@kind("W9", "build tag")
def other_build_tag(wheel: Draft) -> None:
    _metadata(wheel, b"Generator", b"Build: 7\nGenerator", "WHEEL")


member_kind("unknown-data-scheme", "W9", "demo-1.0.data/etc/x", "known scheme")
member_kind("file-beside-the-schemes", "W9", "demo-1.0.data/x", "known scheme")
member_kind("scheme-that-is-a-file", "W9", "demo-1.0.data/scripts", "file where")
member_kind("data-of-another-project", "W9", "other-1.0.data/purelib/x.py", "other-1.0.data")
member_kind("data-of-another-version", "W9", "demo-2.0.data/scripts/x", "demo-2.0.data")


@kind("W9", "file name")
def filename_without_tags(wheel: Draft) -> None:
    wheel.filename = "demo-1.0.whl"


@kind("W9", "file name")
def filename_with_control_character(wheel: Draft) -> None:
    wheel.filename = "demo-1.0-py3-none-any\x1b[2J.whl"


# --- W10: entry points -----------------------------------------------------------------------

for _name, _text, _says in [
    ("entry-point-dotdot", "../x = demo:main", "'../x'"),
    ("entry-point-absolute", "/abs = demo:main", "'/abs'"),
    ("entry-point-subfolder", "a/b = demo:main", "'a/b'"),
    ("entry-point-backslash", "a\\b = demo:main", "a"),
    ("entry-point-python", "python = demo:main", "'python'"),
    ("entry-point-python3", "python3 = demo:main", "'python3'"),
    ("entry-point-python-minor", "python3.11 = demo:main", "'python3.11'"),
    ("entry-point-dots", ".. = demo:main", "'..'"),
    ("entry-point-control", "a\x07b = demo:main", r"\x07"),
    ("entry-point-code", "tool = os:system;x", "'os:system;x'"),
    ("entry-point-newline", "tool = demo:main\n  import os", r"\n"),
    ("entry-point-without-object", "tool = demo", "'demo'"),
    ("entry-point-empty", "tool =", "''"),
    ("entry-point-call", "tool = demo:main()", "'demo:main()'"),
    ("entry-point-quotes", "tool = demo:main'", "demo:main"),
]:

    def _with_points(text: str = _text) -> Draft:
        return draft(entry_points=f"[console_scripts]\n{text}\n")

    KINDS.append(Kind(_name, "W10", _says, _with_points))


@kind("W10", "both", entry_points="[console_scripts]\na = b:c\n[gui_scripts]\na = b:d\n")
def script_in_both_groups(wheel: Draft) -> None:
    del wheel


@kind("W10", "entry_points.txt", entry_points="tool = demo:main\n")
def entry_point_outside_a_group(wheel: Draft) -> None:
    del wheel


@kind("W10", "UTF-8", entry_points="[console_scripts]\n")
def entry_points_not_utf8(wheel: Draft) -> None:
    wheel.get("entry_points.txt").data = b"[console_scripts]\n\xff = a:b\n"


# --- W13: tags that lie ----------------------------------------------------------------------


@kind("W13", "py2-none-any")
def more_tags_in_wheel_file(wheel: Draft) -> None:
    _metadata(wheel, b"Tag: py3", b"Tag: py2-none-any\nTag: py3", "WHEEL")


@kind("W13", "py3-none-any")
def other_tag_in_wheel_file(wheel: Draft) -> None:
    _metadata(wheel, b"py3-none-any", b"cp311-cp311-linux_x86_64", "WHEEL")


@kind("W13", "manylinux_2_17_x86_64")
def renamed_to_manylinux(wheel: Draft) -> None:
    wheel.filename = "demo-1.0-py3-none-manylinux_2_17_x86_64.whl"
