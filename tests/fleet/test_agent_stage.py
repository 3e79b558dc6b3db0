"""What a host takes from a controller, and what it refuses: everything is checked there again."""

from __future__ import annotations

import hashlib
import os
import signal
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet import packing
from fleet.agent_unpack import GOES_ON, PACK, Blocks, PlainReader, inflate
from fleet.pack import Packs
from fleet.session import HostError, Session
from images.manifest import Entry, Manifest
from images.store import Store
from tests.support.hosts import Host, children, needs_cores
from tests.support.small_images import ABI, MINOR, small_image

HEAD = f"wain-manifest 1\npython {MINOR}\nabi {ABI}\nplatform manylinux_2_28_x86_64\nskeleton v\n\n"


class Raw:
    """A manifest as bytes nobody has checked, in the shape Session.begin takes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.image_id = hashlib.sha256(data).hexdigest()

    def to_bytes(self) -> bytes:
        return self.data

    def objects(self) -> dict[tuple[str, bool], int]:
        return {}


def begin_raw(session: Session, text: str | bytes) -> HostError:
    data = text.encode() if isinstance(text, str) else text
    with pytest.raises(HostError) as caught:
        session.begin(Raw(data))  # type: ignore[arg-type]
    return caught.value


def outside(host: Host) -> list[str]:
    """Every path below the host's parent that is not in the root."""
    base = Path(host.root).parent
    return sorted(str(p) for p in base.rglob("*") if not str(p).startswith(host.root))


@pytest.mark.row("M2")
@pytest.mark.row("M1")
@pytest.mark.parametrize(
    "path",
    ["../x", "/etc/x", "a//b", "./a", "a/./b", "a/../b", "..", "a/", "a\tb", "a\\b", "", "a\x7f"],
)
def test_paths_are_checked_on_the_host(host: Host, path: str) -> None:
    line = f"file - {'0' * 64} 1 pkg {path}\n"
    with host.open() as session:
        error = begin_raw(session, HEAD + line)
        assert error.kind == "manifest"
        assert "line 7" in str(error)
        assert error.what.isprintable()
    assert outside(host) == []
    assert not os.path.exists(f"{host.root}/releases")


@pytest.mark.row("M2")
def test_clashing_and_disordered_paths(host: Host) -> None:
    def lines(*paths: str) -> str:
        return HEAD + "".join(f"file - {'0' * 64} 1 pkg {path}\n" for path in paths)

    with host.open() as session:
        for paths in (("a", "a"), ("a", "a/b"), ("b", "a")):
            assert begin_raw(session, lines(*paths)).kind == "manifest"
        assert begin_raw(session, HEAD.encode() + b"file - \xff\n").kind == "manifest"
        assert begin_raw(session, "{}").kind == "manifest"
        assert begin_raw(session, HEAD.replace("manifest 1", "manifest 2")).kind == "manifest"


@pytest.mark.row("M3")
@pytest.mark.parametrize("target", ["../../etc", "/etc/passwd", "..", "a/../../..", "./a"])
def test_links_that_leave_the_image(host: Host, store: Store, target: str) -> None:
    sha256, size = hashlib.sha256(target.encode()).hexdigest(), len(target)
    image = Manifest(MINOR, ABI, "any", "v", [Entry("link", False, sha256, size, "-", "lib/x")])
    with store.batch() as batch:
        batch.put(target.encode())
    with host.open() as session, Packs(store) as packs:
        missing = session.begin(image)
        session.send_pack(packs.get(image, missing).pieces())
        with pytest.raises(HostError, match=r"leaves the image|no plain relative path"):
            session.checkout(image.image_id)
    assert not os.path.lexists(f"{host.root}/releases/{image.image_id}")
    assert [name for name in os.listdir(f"{host.root}/releases") if name[:1] != "."] == []


@pytest.mark.row("M3")
def test_what_is_planted_in_the_stage_is_not_followed(
    host: Host, old: Manifest, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    with host.open() as session:
        missing = session.begin(old)
        session.send_pack(host.packs.get(old, missing).pieces())
        releases = Path(host.root, "releases")
        releases.mkdir()
        (releases / f".new-{old.image_id[:16]}").symlink_to(victim)
        (releases / old.image_id).symlink_to(victim)
        session.checkout(old.image_id)
        assert session.verify(old.image_id, deep=True) == []
    assert list(victim.iterdir()) == []
    assert (releases / old.image_id).is_dir()
    assert not (releases / old.image_id).is_symlink()


@pytest.mark.row("G4")
def test_a_manifest_under_another_images_id(host: Host, old: Manifest, new: Manifest) -> None:
    swapped = Raw(old.to_bytes())
    swapped.image_id = new.image_id
    with host.open() as session:
        with pytest.raises(HostError, match="came as") as caught:
            session.begin(swapped)  # type: ignore[arg-type]
        assert caught.value.kind == "manifest"
        with pytest.raises(HostError, match="no image"):
            session.checkout(new.image_id)


def test_another_interpreters_image_is_refused(host: Host, old: Manifest) -> None:
    other = Manifest("3.8", "cp38", old.platform, old.skeleton, old.entries)
    with host.open() as session, pytest.raises(HostError, match=r"for Python 3\.8") as caught:
        session.begin(other)
    assert caught.value.kind == "target"


def block_of(parts: list[bytes]) -> packing._Block:
    block = packing._Block(bytearray(b"".join(parts)))
    for part in parts:
        block.size += len(part)
        block.ends.append(block.size)
    return block


def pack_of(*records: bytes) -> bytes:
    plain = b"".join(records)
    return PACK + packing._deflated(block_of([plain])) + packing.END


def record(key: tuple[str, bool], size: int, data: bytes) -> bytes:
    return bytes.fromhex(key[0]) + bytes([key[1]]) + size.to_bytes(8, "big") + data


@pytest.mark.row("G4")
@pytest.mark.row("T5")
def test_objects_nobody_asked_for_or_with_other_bytes(host: Host, old: Manifest) -> None:
    sizes = old.objects()
    key = next(key for key, size in sizes.items() if size > 4)
    size = sizes[key]
    stranger = hashlib.sha256(b"stranger").hexdigest()
    attempts = [
        (record((stranger, False), 8, b"stranger"), "was not asked for"),
        (record(key, size + 1, b"x" * (size + 1)), "was not asked for"),
        (record(key, size, b"x" * size), r"bytes of \w+ came"),
        (record(key, size, b"x" * (size - 1)), "ends within an object"),
        (record(key, size, b"")[:20], "ends within an object"),
    ]
    with host.open() as session:
        missing = session.begin(old)
        for data, what in attempts:
            with pytest.raises(HostError, match=what) as caught:
                session.send_pack([pack_of(data)])
            assert caught.value.kind == "object"
        assert session.begin(old) == missing
    assert list(Store(host.root).keys()) == []


def test_packs_that_are_no_packs(host: Host, old: Manifest) -> None:
    block = packing._deflated(block_of([b"x" * 1000]))
    zstd = packing._zstd(block_of([b"x" * 1000, b"y" * 1000]))
    zstd_bomb = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    window = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=0)
    greedy = zstandard.ZstdCompressor(compression_params=window)
    stream = greedy.compressobj()
    wide = stream.compress(bytes(1000)) + stream.flush()

    def zstd_block(packed: bytes, size: int) -> bytes:
        return b"\x02" + len(packed).to_bytes(4, "big") + size.to_bytes(4, "big") + packed

    bomb = zlib.compress(bytes(64 << 20), wbits=-15)
    attempts = [
        b"hello",
        b"",
        b"wain-pack 2\n" + packing.END,
        PACK,
        PACK + block[:-3],
        PACK + b"\x07" + block[1:] + packing.END,
        PACK + block[:9] + b"!" * (len(block) - 9) + packing.END,
        PACK + packing.END + b"more",
        PACK + b"\x01" + len(bomb).to_bytes(4, "big") + b"\0\0\x10\0" + bomb,
        PACK + zstd[:-3],
        PACK + zstd[:9] + b"!" * (len(zstd) - 9) + packing.END,
        PACK + zstd[:5] + b"\0\0\x07\xd1" + zstd[9:] + packing.END,
        PACK + zstd[:5] + b"\0\0\x07\xcf" + zstd[9:] + packing.END,
        PACK + b"\x02" + len(zstd_bomb).to_bytes(4, "big") + b"\0\0\x10\0" + zstd_bomb,
        PACK + zstd_block(zstd_bomb, 4096) + packing.END,
        PACK + zstd_block(wide, 1000) + packing.END,
        PACK + zstd_block(zstd[9:] + b"more", 2000) + packing.END,
        PACK + b"\x01\xff\xff\xff\xff\xff\xff\xff\xff" + b"x" * 100,
    ]
    with host.open() as session:
        session.begin(old)
        for data in attempts:
            with pytest.raises(HostError) as caught:
                session.send_pack([data])
            assert caught.value.kind == "object", data[:20]
        host.stage(session, old)


@pytest.mark.row("G5")
def test_the_bytes_that_were_checked_are_the_ones_used(
    host: Host, old: Manifest, new: Manifest
) -> None:
    with host.open() as session:
        missing = session.begin(new)
        session.send_pack(host.packs.get(new, missing).pieces())
        # Somebody swaps the stored manifest between check and use.
        Path(host.root, "manifests", new.image_id).write_bytes(zlib.compress(old.to_bytes()))
        session.checkout(new.image_id)
        assert session.run("{release}/bin/app", 9, image_id=new.image_id).output == "new\n"
    with host.open() as session:
        assert session.verify(new.image_id, deep=True) == []


@pytest.mark.row("A9")
@pytest.mark.root
def test_too_little_room_is_refused_before_the_first_write(host: Host, store: Store) -> None:
    import subprocess

    image = small_image(store, "big", {"big.bin": os.urandom(3_000_000)}, count=50)
    for options, word in (("size=9m", "bytes"), ("size=64m,nr_inodes=60", "inodes")):
        mount = Path(host.root).parent / "small"
        mount.mkdir(exist_ok=True)
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"mode=755,{options}", "tmpfs", mount], check=True
        )
        try:
            host.root = str(mount / "app")
            with host.open() as session:
                with pytest.raises(HostError, match=rf"needs \d+ {word}, \d+ are free") as caught:
                    session.begin(image)
                assert caught.value.kind == "space"
            assert list(Store(host.root).keys()) == []
        finally:
            subprocess.run(["umount", mount], check=True)


# Cuts


def cut(session: Session, pieces: Iterator[bytes], at: int) -> Iterator[bytes]:
    """The first ``at`` bytes of a stream, then the end of the line for both sides."""
    for piece in pieces:
        if len(piece) >= at:
            yield piece[:at]
            session._channel.close_write()
            raise ConnectionResetError
        at -= len(piece)
        yield piece


@pytest.mark.row("T1")
@pytest.mark.parametrize("zstd", [False, True])
@pytest.mark.parametrize("times", [1, 20], ids=["alone", "shared"])
def test_a_cut_line_costs_at_most_one_object(
    host: Host,
    store: Store,
    sample: Callable[[Sequence[int], int], Sequence[int]],
    zstd: bool,
    times: int,
) -> None:
    files = {f"data/{n:03}": os.urandom((1500 + 250 * n) * times).hex().encode() for n in range(40)}
    image = small_image(store, "many", files)
    total = len(image.objects())
    with Packs(store) as packs:
        pack = packs.get(image, image.objects(), zstd)
        size = pack.size
        assert pack.path.read_bytes()[len(PACK)] == (2 if zstd else 1)
        order = [entry.key for entry in image.entries]
        for share in sample(range(1, 100), 8):
            at = size * share // 100
            host.root = str(Path(host.root).parent / f"cut{share}")
            session = host.open()
            assert len(session.begin(image)) == total
            with pytest.raises(HostError) as caught:
                session.send_pack(cut(session, pack.pieces(), at))
            assert caught.value.kind == "agent-died"
            with host.open() as session:
                missing = session.begin(image)
            # What of the objects' bytes had crossed whole, had also been kept.
            arrived = plain_prefix(pack.path.read_bytes()[:at])
            whole = count_whole(arrived, order, image.objects())
            assert total - whole <= len(missing) <= total - whole + 1
            assert not os.listdir(f"{host.root}/tmp")
            with host.open() as session:
                assert host.stage(session, image) == len(missing)


def plain_prefix(data: bytes) -> int:
    """How many plain bytes the blocks of a cut pack hold."""
    at, plain = len(PACK), 0
    while at + 9 <= len(data):
        packed = int.from_bytes(data[at + 1 : at + 5], "big")
        piece = data[at + 9 : at + 9 + packed]
        if data[at] == 1:
            piece = zlib.decompressobj(-15).decompress(piece)
        elif data[at] == 2:
            piece = zstandard.ZstdDecompressor().decompressobj().decompress(piece)
        plain += len(piece)
        at += 9 + packed
    return plain


def count_whole(
    plain: int, order: list[tuple[str, bool]], sizes: dict[tuple[str, bool], int]
) -> int:
    count = 0
    for key in dict.fromkeys(order):
        plain -= 41 + sizes[key]
        if plain < 0:
            break
        count += 1
    return count


def large_image(store: Store) -> Manifest:
    """So much that several processes of the host take it; some objects span blocks."""
    sizes = [3_000_000, 1 << 20, (1 << 20) - 41, (1 << 20) - 40, *range(1, 400_000, 20_000)]
    return small_image(store, "large", {f"d{at:02}": os.urandom(n) for at, n in enumerate(sizes)})


def _going_on(data: bytes) -> bytes:
    """A pack whose first block claims to go on with something."""
    pack = bytearray(data)
    pack[len(PACK)] |= GOES_ON
    return bytes(pack)


@needs_cores
@pytest.mark.row("T5")
@pytest.mark.parametrize("zstd", [False, True])
def test_what_several_processes_take_is_checked_as_well(
    host: Host, store: Store, zstd: bool
) -> None:
    image = large_image(store)
    with Packs(store) as packs, host.open() as session:
        missing = session.begin(image)
        pieces = list(packs.get(image, missing, zstd).pieces())
        other = bytearray(b"".join(pieces))
        with pytest.raises(HostError, match="begins within an object"):
            session.send_pack([_going_on(b"".join(pieces))])
        other[-3000] ^= 1
        with pytest.raises(HostError) as caught:
            session.send_pack([bytes(other)])
        assert caught.value.kind == "object"
        left = session.begin(image)
        assert 0 < len(left) < len(missing)
        assert session.send_pack(packs.get(image, left, zstd).pieces()) == len(left)
        assert session.begin(image) == []
    assert Store(host.root).verify() == []
    assert not os.listdir(f"{host.root}/tmp")


@needs_cores
def test_a_process_that_dies_while_it_takes_objects_is_one_error(host: Host, store: Store) -> None:
    image = large_image(store)
    with Packs(store) as packs, host.open() as session:
        missing = session.begin(image)
        agent = session._channel._process.pid  # type: ignore[attr-defined]

        def pieces() -> Iterator[bytes]:
            done = False
            for piece in packs.get(image, missing).pieces():
                yield piece
                found = children(agent)
                if found and not done:
                    os.kill(int(found.pop()), signal.SIGKILL)
                    done = True
            assert done

        with pytest.raises(HostError, match="a helper of this command died"):
            session.send_pack(pieces())
        assert len(session.begin(image)) == len(missing)
        host.stage(session, image)
        assert session.verify(image.image_id, deep=True) == []
    assert not os.listdir(f"{host.root}/tmp")


@pytest.mark.row("T7")
@pytest.mark.row("A1")
def test_a_killed_agent_leaves_what_can_be_finished(
    host: Host, old: Manifest, store: Store
) -> None:
    host.deploy(old)
    image = small_image(store, "big", {f"d{n}": os.urandom(200_000) for n in range(20)})
    session = host.open()
    missing = session.begin(image)
    pack = host.packs.get(image, missing)

    def pieces() -> Iterator[bytes]:
        for count, piece in enumerate(pack.pieces()):
            if count == 6:
                os.killpg(session._channel._process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
            yield piece

    with pytest.raises(HostError, match="signal 9") as caught:
        session.send_pack(pieces())
    assert caught.value.kind == "agent-died"
    assert host.current == old.image_id
    host.deploy(image)
    assert not list(Path(host.root, "tmp").iterdir())


@pytest.mark.row("T3")
def test_a_stalled_stream_ends_at_the_deadline(host: Host, old: Manifest) -> None:
    session = host.open(timeout=0.6)
    missing = session.begin(old)
    os.kill(session._channel._process.pid, signal.SIGSTOP)  # type: ignore[attr-defined]
    with pytest.raises(HostError, match="no answer to pack within its deadline") as caught:
        session.send_pack(host.packs.get(old, missing).pieces())
    assert caught.value.kind == "timeout"
    host.deploy(old)


# Packs


def test_a_file_changed_between_arrival_and_check_out_is_found(host: Host, store: Store) -> None:
    """What arrived in this session is linked without a look: the links are looked at."""
    image = large_image(store)
    with host.open() as session:
        missing = session.begin(image)
        session.send_pack(host.packs.get(image, missing).pieces())
        entry = next(entry for entry in image.entries if entry.size == 3_000_000)
        place = Path(Store(host.root).object_path(*entry.key))
        place.chmod(0o644)
        place.write_bytes(bytes(3_000_000))
        place.chmod(0o444)
        with pytest.raises(HostError) as caught:
            session.checkout(image.image_id)
        assert caught.value.kind in ("damaged", "object")
    with host.open() as session:
        with pytest.raises(HostError):
            session.switch(image.image_id, None, 0, 60.0)
        host.stage(session, image)
        assert session.verify(image.image_id, deep=True) == []


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.binary(max_size=3000), max_size=8),
    st.integers(1, 2000),
    st.integers(1, 999),
    st.sampled_from([packing._deflated, packing._zstd]),
)
def test_any_blocks_and_any_pieces_unpack(
    contents: list[bytes], block: int, piece: int, packed: Callable[[packing._Block], bytes]
) -> None:
    plain = b"".join(record((hashlib.sha256(c).hexdigest(), False), len(c), c) for c in contents)
    blocks = [block_of([plain[at : at + block]]) for at in range(0, len(plain), block)]
    data = PACK + b"".join(map(packed, blocks)) + packing.END
    whole = Blocks(iter([data[at : at + piece] for at in range(0, len(data), piece)]))
    unpacker = PlainReader(inflate(piece for _, piece in whole.upto(1 << 30)))
    for content in contents:
        head = unpacker.exactly(41)
        assert int.from_bytes(head[33:], "big") == len(content)
        assert unpacker.exactly(len(content)) == content
    assert unpacker.exactly(41) == b""
