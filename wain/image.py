"""`wain image …`: each action's module is imported only when that action runs."""

from __future__ import annotations

import argparse

from wain import group
from wain.output import Output

# action -> (module, one line of help)
ACTIONS: dict[str, tuple[str, str]] = {
    "build": ("wain.image_build", "assemble the image of each target from its lock"),
    "list": ("wain.image_names", "list the images in the store"),
    "show": ("wain.image_names", "show one image: target, packages, size"),
    "tag": ("wain.image_names", "give an image another name"),
    "untag": ("wain.image_names", "take a name away"),
    "gc": ("wain.image_names", "remove images and objects that nothing uses"),
    "diff": ("wain.image_diff", "compare two images, by package and then by file"),
    "verify": ("wain.image_verify", "hash an image's objects again, repair the bad ones"),
    "export": ("wain.image_bundle", "write an image to one file"),
    "import": ("wain.image_bundle", "read an image from such a file"),
    "sign": ("wain.image_sign", "sign an image with an OpenSSH key"),
    "trust": ("wain.image_trust", "say whose signatures count"),
    "sbom": ("wain.image_sbom", "write an image's bill of materials (CycloneDX JSON)"),
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """One sub-command for each action."""
    group.arguments(parser, ACTIONS)


def run(args: argparse.Namespace, out: Output) -> int:
    """Run one action."""
    return group.run(args, out, ACTIONS)
