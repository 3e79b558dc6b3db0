"""`wain image verify A [--repair]`, and what `wain store verify` shares with it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from wain.image_names import image_arguments
from wain.output import Output
from wain.shared import open_catalog, short

if TYPE_CHECKING:
    from images.catalog import Catalog
    from images.manifest import Manifest
    from images.store import Bad


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which image, and whether to repair."""
    image_arguments(parser)
    parser.add_argument("--repair", action="store_true", help="replace what is bad from the wheels")


def run(args: argparse.Namespace, out: Output) -> int:
    """Hash every object of one image; exit 3 when something is bad and stays so."""
    catalog = open_catalog(args)
    image_id = catalog.resolve(args.image, args.target)
    manifest = catalog.store.manifest(image_id)
    bad = catalog.store.verify(manifest.objects(), out.progress)
    return _report(catalog, {image_id: manifest}, bad, args.repair, out, short(image_id))


def verify_store(args: argparse.Namespace, out: Output) -> int:
    """Hash every object and manifest of the store."""
    catalog = open_catalog(args)
    store = catalog.store
    images = {image_id: store.manifest(image_id) for image_id in store.manifests()}
    keys = set(store.keys())
    for manifest in images.values():
        keys.update(manifest.objects())
    return _report(catalog, images, store.verify(sorted(keys), out.progress), args.repair, out,
                   f"the store, {len(keys)} objects")  # fmt: skip


def _report(
    catalog: Catalog,
    images: dict[str, Manifest],
    bad: list[Bad],
    repair: bool,
    out: Output,
    title: str,
) -> int:
    rows = _rows(images, bad)
    repaired: set[str] = set()
    if bad and repair:
        from builder.repair import repair_objects

        with catalog.store.writing():
            left = repair_objects(catalog, images, bad, wheel_folders(catalog), out.progress)
        repaired = {one.key[0] for one in bad} - {key[0] for key in left}
    for row in rows:
        row["repaired"] = row["object"] in repaired
        note = ", repaired" if row["repaired"] else ""
        out.say(f"bad: {row['path']} of {row['package']}: {row['what']}{note}")
    ok = all(row["repaired"] for row in rows)
    if not bad:
        out.say(f"{title}: everything is as its name says")
    elif not ok and not repair:
        out.say(f"{len(bad)} bad objects; --repair replaces them from the wheels")
    out.result({"ok": ok, "bad": rows})
    return 0 if ok else 3


def wheel_folders(catalog: Catalog) -> list[str]:
    """Where this project's wheels may be."""
    from builder.spec import WHEELHOUSE, load_spec
    from images.errors import WainError

    folders = [f"{catalog.project}/{WHEELHOUSE}"]
    try:
        folders.append(load_spec(catalog.project).wheelhouse)
    except WainError:
        # The store can be verified from anywhere; then only the default place is looked at.
        return folders
    return [one for one in folders if one]


def _rows(images: dict[str, Manifest], bad: list[Bad]) -> list[dict[str, object]]:
    """One row for each file of an image that a bad object is in."""
    what = {one.key: one for one in bad}
    rows: list[dict[str, object]] = []
    seen = set()
    for image_id, manifest in images.items():
        for entry in manifest.entries:
            one = what.get(entry.key)
            if one is None:
                continue
            seen.add(one.key)
            rows.append(
                {
                    "path": entry.path,
                    "package": entry.owner,
                    "what": one.what,
                    "object": entry.sha256,
                    "image": image_id,
                }
            )
    for key, one in what.items():
        if key not in seen:
            rows.append(
                {"path": one.path, "package": "-", "what": one.what, "object": key[0], "image": ""}
            )
    return rows
