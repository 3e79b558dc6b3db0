"""What the wheelhouse refuses and what it accepts: malformed wheels, and real ones."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from bench.pairs import Figure, command
from bench.report import Result
from tests.support.malformed import KINDS
from wheelhouse.index import Wheelhouse
from wheelhouse.wheel import WheelError
from wheelhouse.zipcheck import Limits

# None of these is in the tried set. Many backends, ages and sizes; none is huge.
MORE = re.findall(
    r"\S+",
    """
    aiofiles aiohttp aiosignal alembic amqp annotated-doc argon2-cffi argon2-cffi-bindings arrow
    asttokens asyncpg babel backoff bcrypt beautifulsoup4 billiard bleach boltons boto3 cachetools
    cattrs celery chardet cloudpickle configobj contourpy coverage cron-descriptor croniter cycler
    dataclasses-json decorator defusedxml deprecated distlib dnspython docker docutils dill
    email-validator et-xmlfile executing fastapi fonttools frozenlist fsspec gitdb gitpython
    greenlet grpcio gunicorn h2 hpack html5lib httptools humanize hyperframe hypothesis imagesize
    importlib-metadata invoke isodate isort jedi jmespath joblib jsonpatch jsonpointer jsonschema
    jsonschema-specifications kiwisolver kombu lazy-object-proxy limits mako marshmallow mistune
    more-itertools msgpack multidict mypy-extensions networkx nh3 oauthlib openpyxl orjson parso
    pathspec pexpect pip prettytable prometheus-client prompt-toolkit propcache protobuf ptyprocess
    pyasn1 pycparser pycryptodome pyjwt pymysql pynacl pyparsing pytest python-dotenv
    python-multipart pyzmq redis referencing regex requests-oauthlib rpds-py rsa setuptools sniffio
    sortedcontainers soupsieve starlette tenacity threadpoolctl toolz tornado traitlets typer tzdata
    uvicorn uvloop vine watchfiles wcwidth websockets wheel xmltodict yarl zipp zope-interface
    zstandard
    """,
)


def accepted_and_refused(folder: Path) -> list[Result]:
    """Figures of the checks on entry."""
    folder.mkdir(parents=True)
    return [_refused(folder / "malformed"), _accepted(folder / "real")]


def _refused(folder: Path) -> Result:
    """Each kind in an empty wheelhouse: refused by its rule, and nothing of it left."""
    count = 0
    for kind in KINDS:
        wheel = kind.make()
        place = folder / kind.name
        (place / "in").mkdir(parents=True)
        path = place / "in" / wheel.filename
        path.write_bytes(wheel.to_bytes())
        house = Wheelhouse(place / "house", limits=Limits(members=60_000, ratio_floor=1 << 20))
        try:
            house.add(path)
        except WheelError as error:
            line = str(error)
            left = [*place.rglob("*.whl*"), *house.folder.glob(".staging/*")]
            if error.rule == kind.rule and line.isprintable() and left == [path]:
                count += 1
    rules = sorted({kind.rule for kind in KINDS}, key=lambda rule: int(rule[1:]))
    return Figure(
        "Kinds of malformed wheels refused by their rule, nothing left", count, "",
        least=max(60, len(KINDS)), note=f"{len(KINDS)} kinds of {', '.join(rules)}",
    )  # fmt: skip


def _accepted(folder: Path) -> Result:
    """Real wheels beyond those of the tried set, which were all accepted to be built with."""
    options = ["--no-deps", "--only-binary", ":all:", "-d", folder]
    command([sys.executable, "-m", "pip", "download", "-q", *options, *MORE])()
    house = Wheelhouse(folder / "house")
    wheels = sorted(folder.glob("*.whl"))
    for wheel in wheels:
        house.add(wheel)
    return Figure("Real wheels accepted beyond the tried set", len(wheels), "", least=100)
