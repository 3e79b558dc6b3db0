"""Requirements files as pip reads them, flattened, with the place of every line."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.inputs import inputs_digest
from builder.requirements import Inputs, Line, read_inputs
from builder.spec import BuildSpec, TargetSpec
from images.errors import UsageError
from wheelhouse.target import Target

TARGET = Target("t", "3.12", "manylinux_2_28_aarch64")


def spec(folder: Path, *requirements: str, project: bool = False) -> BuildSpec:
    return BuildSpec(
        str(folder), str(folder / "wain.toml"), "p", (TargetSpec("t"),), requirements,
        project=str(folder) if project else "",
    )  # fmt: skip


def read(folder: Path, text: str) -> Inputs:
    (folder / "requirements.txt").write_text(text)
    return read_inputs(spec(folder, str(folder / "requirements.txt")))


def test_everything_a_file_may_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "secret")
    (tmp_path / "deps").mkdir()
    (tmp_path / "deps/base.txt").write_text("six>=1 # why\n-c limits.txt\n")
    (tmp_path / "deps/limits.txt").write_text("six<2\n")
    found = read(
        tmp_path,
        "\ufeff# head\n-r deps/base.txt\n\nDemo[x] == 1.0 \\\n  --hash=sha256:aa \\\n"
        "  --hash sha256:bb\n"
        '--extra-index-url https://me:${TOKEN}@x.example/\n--pre\nold; python_version < "3"\n'
        "-f links\n--no-binary=:none:\n",
    )
    assert found.requirements == (
        Line("six>=1", "deps/base.txt:1"),
        Line("Demo[x] == 1.0", "requirements.txt:4", ("sha256:aa", "sha256:bb")),
        Line('old; python_version < "3"', "requirements.txt:9"),
    )
    assert found.constraints == (Line("six<2", "deps/limits.txt:1"),)
    assert found.places("--extra-index-url") == ("https://me:secret@x.example/",)
    assert ("--pre", "") in found.options
    assert found.places("-f") == ("links",)
    assert [line.name for line in found.for_target(TARGET)] == ["six", "demo"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("six\n-e .", r"requirements\.txt:2: '-e \.' is a source tree"),
        ("./local", "comes from an address"),
        ("git+https://x.example/y", "comes from an address"),
        ("six @ https://me:c4n4ry@x.example/six.whl", "comes from an address"),
        ("six ==", r"requirements\.txt:1: 'six ==' is no requirement"),
        ("--what", "option '--what' is not known"),
        ("-r missing.txt", r"requirements\.txt:1: missing\.txt: No such file"),
    ],
)
def test_refusals(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        read(tmp_path, text)
    assert "c4n4ry" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_cyclic_includes_end(tmp_path: Path) -> None:
    assert [line.text for line in read(tmp_path, "-r requirements.txt\nsix\n").requirements] == [
        "six"
    ]


def test_dependencies_of_the_project(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "p"\nversion = "1"\ndependencies = [\n  "six",\n  "demo>=2",\n]\n'
    )
    found = read_inputs(spec(tmp_path, "other", project=True))
    assert [(line.text, line.origin) for line in found.requirements] == [
        ("other", "wain.toml"),
        ("six", "pyproject.toml:5"),
        ("demo>=2", "pyproject.toml:6"),
    ]


def test_digest_is_of_what_is_asked_not_of_how(tmp_path: Path) -> None:
    def digest(text: str, **more: object) -> str:
        found = read(tmp_path, text)
        return inputs_digest(spec(tmp_path)._replace(**more), found, TARGET)

    plain = digest("six\nDemo>=1\n")
    assert digest("# head\ndemo >= 1\n\nsix # why\n") == plain
    assert digest("six\ndemo>=2\n") != plain
    assert digest("six\ndemo>=1\n", from_source=("six",)) != plain
    assert digest("six\ndemo>=1\n--pre\n") != plain
