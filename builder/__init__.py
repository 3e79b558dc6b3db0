"""Build: resolve, fetch, build from source, assemble images."""
