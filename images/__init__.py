"""Images: manifests over content-addressed objects, and checkouts of them."""

# The modules of this folder that are sent to hosts: standard library only, Python 3.9.
TRAVELS = (
    "allowed", "batch", "delta", "durable", "errors", "forks", "hashing", "keygen", "layout",
    "manifest", "parallel", "place", "private", "render", "scan", "shards", "sigcheck", "staging",
    "store", "tree", "trust", "worklist",
)  # fmt: skip
