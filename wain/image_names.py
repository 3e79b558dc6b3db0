"""`wain image list / show / tag / untag / gc`."""

from __future__ import annotations

import argparse

from wain.output import Output, human_bytes
from wain.shared import open_catalog, short


def arguments_list(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own."""


def run_list(args: argparse.Namespace, out: Output) -> int:
    """Every image of the store, with this project's tags."""
    catalog = open_catalog(args)
    names: dict[str, list[str]] = {}
    for tag, by_target in catalog.tags().items():
        for image_id in by_target.values():
            names.setdefault(image_id, []).append(tag)
    rows, images = [], []
    for document in catalog.documents():
        manifest = catalog.store.manifest(document.id)
        tags = sorted(names.get(document.id, []))
        size = sum(entry.size for entry in manifest.entries)
        images.append(
            {
                "id": document.id,
                "name": document.name,
                "tags": tags,
                "target": document.to_json()["target"],
                "files": len(manifest.entries),
                "bytes": size,
                "packages": len(document.packages),
                "created": document.created,
            }
        )
        rows.append(
            [
                short(document.id),
                document.name,
                ", ".join(tags),
                document.target.name,
                document.target.python,
                len(document.packages),
                len(manifest.entries),
                human_bytes(size),
                document.created,
            ]
        )
    if rows:
        headers = ["id", "name", "tags", "target", "python", "packages", "files", "size", "created"]
        out.table(headers, rows)
    else:
        out.say("no image in the store yet: wain image build")
    out.result({"images": images})
    return 0


def arguments_show(parser: argparse.ArgumentParser) -> None:
    """Which image, and how."""
    image_arguments(parser)
    parser.add_argument("--manifest", action="store_true", help="print the manifest's lines")


def image_arguments(parser: argparse.ArgumentParser) -> None:
    """The image a command works on, and for which target."""
    parser.add_argument("image", help="name, name:tag, or an id of 8 or more digits")
    parser.add_argument("--target", default="", metavar="T", help="where a name has several")


def run_show(args: argparse.Namespace, out: Output) -> int:
    """One image's document; with ``--manifest`` its lines."""
    catalog = open_catalog(args)
    image_id = catalog.resolve(args.image, args.target)
    document, manifest = catalog.document(image_id), catalog.store.manifest(image_id)
    size = sum(entry.size for entry in manifest.entries)
    result: dict[str, object] = {
        **document.to_json(),
        "files": len(manifest.entries),
        "bytes": size,
    }
    if args.manifest:
        result["manifest"] = manifest.to_bytes().decode()
        out.say(manifest.to_bytes().decode().rstrip("\n"))
    else:
        target = document.target
        out.say(f"image      {image_id}")
        out.say(f"name       {document.name}")
        python = f"Python {target.python}, {target.abi}, {target.platform}"
        out.say(f"target     {target.name}: {python}")
        out.say(f"bytecode   {'of ' + document.interpreter if document.interpreter else 'none'}")
        out.say(f"skeleton   {manifest.skeleton}")
        out.say(f"lock       {document.lock[:16]}")
        out.say(f"created    {document.created}")
        out.say(f"files      {len(manifest.entries)}, {human_bytes(size)}")
        counts: dict[str, int] = {}
        for entry in manifest.entries:
            counts[entry.owner] = counts.get(entry.owner, 0) + 1
        rows = [[one.name, one.version, counts.get(one.name, 0), one.wheel, one.sha256[:16]]
                for one in document.packages]  # fmt: skip
        out.say()
        out.table(["package", "version", "files", "wheel", "sha256"], rows)
    out.result(result)
    return 0


def arguments_tag(parser: argparse.ArgumentParser) -> None:
    """Which image, and its new name."""
    image_arguments(parser)
    parser.add_argument("tag", help="letters, digits, . _ -")


def run_tag(args: argparse.Namespace, out: Output) -> int:
    """Let a tag of this project name an image, for each of its targets."""
    catalog = open_catalog(args)
    with catalog.store.writing():
        found = catalog.candidates(args.image)
        if args.target:
            found = {args.target: catalog.resolve(args.image, args.target)}
        for target, image_id in sorted(found.items()):
            catalog.tag(args.tag, image_id, target)
            out.say(f"{args.tag} is now {short(image_id)} for {target}")
    out.result({"tag": args.tag, "images": found})
    return 0


def arguments_untag(parser: argparse.ArgumentParser) -> None:
    """Which tag."""
    parser.add_argument("tag", help="a tag of this project")
    parser.add_argument("--target", default="", metavar="T", help="only for this target")


def run_untag(args: argparse.Namespace, out: Output) -> int:
    """Take a tag away; the image stays until the next collection."""
    # `shop:v1` is how people name what they tagged.
    tag = args.tag.rpartition(":")[2]
    gone = open_catalog(args).untag(tag, args.target)
    out.say(f"{tag} no longer names {', '.join(short(one) for one in gone)}")
    out.result({"tag": tag, "removed": gone})
    return 0


def arguments_gc(parser: argparse.ArgumentParser) -> None:
    """What counts as used."""
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed")
    parser.add_argument(
        "--forget-exports", action="store_true", help="images written to files may go as well"
    )


def run_gc(args: argparse.Namespace, out: Output) -> int:
    """Remove what no tag, environment, export or fleet uses."""
    from builder.kept import sweep

    catalog = open_catalog(args)
    if args.forget_exports and not args.dry_run:
        with catalog.roots.adding():
            for root in catalog.roots.all():
                if root["kind"] == "export":
                    catalog.roots.forget("export", str(root["path"]))
    freed, users = catalog.collect(args.dry_run, then=lambda: sweep(catalog.store))
    for image_id, who in sorted(users.items()):
        out.detail(f"{short(image_id)} is used by {', '.join(who)}")
    verb = "would free" if args.dry_run else "freed"
    out.say(
        f"{verb} {human_bytes(freed.size)}: {freed.objects} objects, {freed.manifests} images; "
        f"{len(users)} images stay"
    )
    out.result(
        {
            "objects": freed.objects,
            "bytes": freed.size,
            "images": freed.manifests,
            "kept": dict(sorted(users.items())),
            "dry_run": args.dry_run,
        }
    )
    return 0
