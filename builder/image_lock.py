"""``locks/image.<target>.txt``: what an image is, short enough to review. Pure but for files.

    # Made by `wain image build`; `wain image build --locked` accepts nothing else.
    image <id>
    target <python> <abi> <platform>
    skeleton <release>
    bytecode <interpreter release, or - for none>
    <package> <version> <sha256 of the wheel> <digest of its files>

The digest of a package's files covers kind, mode, object, size and path of each, bytecode
included. A changed package shows as one changed line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from images.errors import DifferenceError, WainError

_HEADER = "# Made by `wain image build`; `wain image build --locked` accepts nothing else.\n"
_PACKAGE = re.compile(r"([a-z0-9]+(?:-[a-z0-9]+)*) (\S+) ([0-9a-f]{64}) ([0-9a-f]{64})")
_FIELDS = ("image", "target", "skeleton", "bytecode")


@dataclass(frozen=True, slots=True)
class LockedImage:
    """What the file says. ``packages``: name -> version, wheel's sha256, digest of its files."""

    image: str
    target: str
    skeleton: str
    bytecode: str
    packages: dict[str, tuple[str, str, str]]

    def to_text(self) -> str:
        """The file's text: the same image always gives the same."""
        lines = [f"{name} {getattr(self, name)}\n" for name in _FIELDS]
        lines += [f"{name} {' '.join(rest)}\n" for name, rest in sorted(self.packages.items())]
        return _HEADER + "".join(lines)


def image_lock_path(locks: str, target: str) -> Path:
    """Where the file of a target lives."""
    return Path(locks) / f"image.{target}.txt"


def parse(text: str, where: str) -> LockedImage:
    """Read the file's text. Raises WainError with the line."""
    fields: dict[str, str] = {}
    packages: dict[str, tuple[str, str, str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        name, _, value = line.partition(" ")
        package = _PACKAGE.fullmatch(line)
        if len(fields) < len(_FIELDS) and name == _FIELDS[len(fields)] and value:
            fields[name] = value
        elif len(fields) == len(_FIELDS) and package and package[1] not in packages:
            packages[package[1]] = (package[2], package[3], package[4])
        else:
            raise WainError(f"{where}:{number}", f"not understood: {line[:60]!a}", "build it anew")
    if len(fields) < len(_FIELDS):
        raise WainError(where, f"there is no line '{_FIELDS[len(fields)]}'", "build it anew")
    return LockedImage(packages=packages, **fields)


def read(path: Path) -> LockedImage:
    """Read the file. Raises WainError, also when there is none."""
    try:
        return parse(path.read_text(encoding="utf-8"), path.name)
    except FileNotFoundError:
        raise WainError(str(path), "there is no such file", "wain image build") from None
    except (OSError, UnicodeDecodeError) as error:
        raise WainError(str(path), f"cannot be read: {error}") from None


def write(path: Path, image: LockedImage) -> bool:
    """Write the file in one step; False when it already says exactly this."""
    data = image.to_text().encode()
    try:
        if path.exists() and path.read_bytes() == data:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise WainError(str(path), error.strerror or "cannot be written") from None
    return True


def differences(old: LockedImage, new: LockedImage) -> list[str]:
    """What is not the same, a line each, packages by name; empty when the images are equal."""
    if old.image == new.image:
        return []
    lines = [
        f"{name}: {getattr(old, name)} -> {getattr(new, name)}"
        for name in _FIELDS[1:]
        if getattr(old, name) != getattr(new, name)
    ]
    for name in sorted(old.packages.keys() | new.packages.keys()):
        before, after = old.packages.get(name), new.packages.get(name)
        if before == after:
            continue
        if before is None or after is None:
            lines.append(f"{name}: {'added' if before is None else 'removed'}")
        elif before[0] != after[0]:
            lines.append(f"{name}: {before[0]} -> {after[0]}")
        elif before[1] != after[1]:
            lines.append(f"{name}: same version, another wheel")
        else:
            lines.append(f"{name}: same wheel, other files")
    return lines or ["the environment's own files differ"]


class ImageDiffersError(DifferenceError):
    """A build that did not give the expected image. ``lines`` says what differs."""

    def __init__(self, where: str, lines: list[str], hint: str) -> None:
        self.lines = lines
        shown = "; ".join(lines[:5]) + (f"; and {len(lines) - 5} more" if len(lines) > 5 else "")
        super().__init__(where, f"the build gave another image: {shown}", hint)
