"""`shop receipt` prints a receipt; `shop check` says whether the shop can open."""

import datetime
import sys
from importlib.resources import files

import jinja2
from dateutil.relativedelta import relativedelta

from shop import __version__

ITEMS = [("axle", 120.0), ("spoke", 2.5), ("felloe", 14.0)]


def receipt(day: datetime.date) -> str:
    """A receipt for one of everything, dated `day`, payable within a month."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    template = environment.from_string(files("shop").joinpath("receipt.txt").read_text())
    return template.render(
        shop="The wagon shop",
        version=__version__,
        day=day.isoformat(),
        items=ITEMS,
        total=sum(price for _, price in ITEMS),
        due=(day + relativedelta(months=1)).isoformat(),
    )


def main() -> int:
    """The console script."""
    command = sys.argv[1] if len(sys.argv) > 1 else "receipt"
    text = receipt(datetime.date(2026, 1, 31))
    if command == "receipt":
        print(text)
    elif command == "check":
        if "pay by 2026-02-28" not in text:
            print("the receipt names no day to pay by", file=sys.stderr)
            return 1
        print(f"shop {__version__} is open, jinja2 {jinja2.__version__}")
    else:
        print("usage: shop [receipt | check]", file=sys.stderr)
        return 2
    return 0
