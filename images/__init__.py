"""Images: manifests over content-addressed objects, and checkouts of them."""

# The modules of this folder that are sent to hosts: standard library only, Python 3.9.
TRAVELS = (
    "batch", "delta", "durable", "errors", "hashing", "layout", "manifest", "parallel", "place",
    "render", "scan", "sigcheck", "staging", "store", "tree", "trust",
)  # fmt: skip
