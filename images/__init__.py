"""Images: manifests over content-addressed objects, and checkouts of them."""
