"""Row W13 at the lock: which file of a package a target takes, and when there is none. Pure."""

from __future__ import annotations

import pytest

from builder.pages import IndexFile
from builder.proof import Chosen, Gap, ProofError, best_wheel, choose, prove
from builder.resolution import Found
from wheelhouse.target import Target

TARGET = Target("prod", "3.12", "manylinux_2_28_x86_64")
SDIST = "demo-1.0.tar.gz"
PURE = "demo-1.0-py3-none-any.whl"
GOOD = "demo-1.0-cp312-cp312-manylinux_2_17_x86_64.whl"
BEST = "demo-1.0-cp312-cp312-manylinux_2_28_x86_64.whl"
REBUILT = "demo-1.0-2-cp312-cp312-manylinux_2_17_x86_64.whl"
STABLE = "demo-1.0-cp39-abi3-manylinux_2_17_x86_64.whl"
OTHERS = (
    "demo-1.0-cp311-cp311-manylinux_2_17_x86_64.whl",
    "demo-1.0-cp312-cp312-manylinux_2_34_x86_64.whl",
    "demo-1.0-cp312-cp312-manylinux_2_17_aarch64.whl",
    "demo-1.0-cp312-cp312-musllinux_1_2_x86_64.whl",
    "demo-1.0-cp312-cp312-linux_x86_64.whl",
    "demo-1.0-cp312-cp312-win_amd64.whl",
    "demo-1.0-nonsense.whl",
)


def found(*names: str) -> Found:
    return Found(
        "demo", "1.0", tuple(IndexFile(name, f"https://x.example/{name}") for name in names)
    )


@pytest.mark.row("W13")
@pytest.mark.parametrize(
    ("names", "taken"),
    [
        ((SDIST, PURE, *OTHERS), PURE),
        ((PURE, GOOD, *OTHERS), GOOD),
        ((GOOD, BEST), BEST),
        ((GOOD, REBUILT), REBUILT),
        ((PURE, STABLE), STABLE),
        ((*OTHERS, SDIST), SDIST),
        (("demo-1.0.zip", SDIST), SDIST),
    ],
)
def test_best_file(names: tuple[str, ...], taken: str) -> None:
    for order in (names, names[::-1]):
        chosen = choose(TARGET, found(*order), from_source=False)
        assert isinstance(chosen, Chosen)
        assert chosen.file.filename == taken
        assert chosen.kind == ("wheel" if taken.endswith(".whl") else "sdist")


@pytest.mark.row("W13")
@pytest.mark.parametrize(
    ("names", "from_source", "why"),
    [
        (OTHERS[:2], False, "no wheel fits (there are demo-1.0-cp311-cp311-manylinux_2_17_x86_64"),
        (OTHERS, False, "and 4 more"),
        ((), False, "there is no wheel and no sdist"),
        ((PURE,), True, "is in from-source, and there is no sdist"),
    ],
)
def test_no_file(names: tuple[str, ...], from_source: bool, why: str) -> None:
    gap = choose(TARGET, found(*names), from_source)
    assert isinstance(gap, Gap)
    assert why in gap.why


def test_wheel_for_other_pythons() -> None:
    old = IndexFile(PURE, "https://x.example/", requires_python=">=3.13")
    assert best_wheel(TARGET, [old]) is None
    assert best_wheel(TARGET, [old._replace(requires_python="not a specifier")]) is not None


@pytest.mark.row("W13")
def test_every_gap_is_named() -> None:
    other = found(*OTHERS)._replace(name="other")
    with pytest.raises(ProofError) as caught:
        prove(TARGET, [found(PURE), found()._replace(name="gone"), other])
    assert [gap.name for gap in caught.value.gaps] == ["gone", "other"]
    assert str(caught.value).startswith(
        "target prod (python 3.12, manylinux_2_28_x86_64): gone 1.0: "
    )


def test_from_source_beats_a_wheel() -> None:
    (chosen,) = prove(TARGET, [found(PURE, SDIST)], ["demo"])
    assert chosen.kind == "sdist"
