"""Images: manifests over content-addressed objects, and checkouts of them."""

# The modules of this folder that are sent to hosts: standard library only, Python 3.9.
TRAVELS = ("delta", "durable", "errors", "hashing", "manifest", "render", "store", "tree")
