"""Running as somebody else, where the tests run as root."""

from __future__ import annotations

OTHER = 65534
# It may read what is root's, as the interpreter of the tests may be; it owns nothing of it.
AS_OTHER = (
    "setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups",
    "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search",
    "--bounding-set=-all,+dac_read_search",
)  # fmt: skip
