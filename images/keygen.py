"""``ssh-keygen -Y verify``, tested before it may decide anything (row G7).

It gets an allowed_signers line written here, from checked parts, in a private folder: ssh-keygen
itself skips lines it cannot read and looks at no file's mode.

Travels to hosts: standard library only, and nothing heavy is imported before it is used.
"""

from __future__ import annotations

import os
import time

from images.trust import SignatureError, Signer

TOOL_SECONDS = 20.0

PLACES = ("/usr/bin", "/bin", "/usr/local/bin", "/run/current-system/sw/bin")
"""Where ssh-keygen is looked for."""

_PROBE_NAMESPACE = "wain-self-test@wainwright"
_PROBE_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFGnzr64v5HyQslo9pNuMlxbpCxV6PfeVnGQfzveFZtQ"
_PROBE_TEXT = b"wain self-test\n"
_PROBE_SIGNATURE = """-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAADMAAAALc3NoLWVkMjU1MTkAAAAgUafOvri/kfJCyWj2k24yXFukLF
Xo995WcZB/O94Vm1AAAAAZd2Fpbi1zZWxmLXRlc3RAd2FpbndyaWdodAAAAAAAAAAGc2hh
NTEyAAAAUwAAAAtzc2gtZWQyNTUxOQAAAEAA/r2bDl99IocB70NN79XzRoh+qokXRSlxV2
WvFzb7u5FDn19zG5/3wvflGMO7pXqdMjiFhvOS1dZRGuK+RhsI
-----END SSH SIGNATURE-----
"""


class Keygen:
    """A tested ``ssh-keygen`` and a private folder for its files. Use as a context manager."""

    def __init__(self, program: str = "") -> None:
        self.program = program
        self._folder = ""

    def __enter__(self) -> Keygen:
        import tempfile

        # Not by PATH: whoever sets that would choose who judges signatures.
        places = [f"{folder}/ssh-keygen" for folder in PLACES]
        found = self.program or next((one for one in places if os.access(one, os.X_OK)), "")
        if not found:
            what = f"ssh-keygen is in none of {', '.join(PLACES)}"
            raise SignatureError(
                "tool", "signature", what, "install OpenSSH's client, 8.1 or newer"
            )
        self.program = found
        self._folder = tempfile.mkdtemp(prefix="wain-sig-")
        try:
            self._self_test()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        import shutil

        shutil.rmtree(self._folder, ignore_errors=True)

    def _self_test(self) -> None:
        """Row G7: an absent, broken or always-agreeing program must not decide anything."""
        signer = Signer("self-test", _PROBE_KEY)
        altered = _PROBE_TEXT.upper()
        if self.verify(signer, _PROBE_NAMESPACE, _PROBE_SIGNATURE, altered) is None:
            what = f"{self.program} accepts a signature that is known to be bad"
            raise SignatureError("tool", "signature", what, "it is not OpenSSH's ssh-keygen")
        problem = self.verify(signer, _PROBE_NAMESPACE, _PROBE_SIGNATURE, _PROBE_TEXT)
        if problem is not None:
            what = f"{self.program} cannot verify signatures: {problem}"
            raise SignatureError("tool", "signature", what, "OpenSSH 8.1 or newer is needed")

    def verify(
        self,
        signer: Signer,
        namespace: str,
        armour: str,
        payload: bytes,
        revoked: tuple[str, ...] = (),
        now: float | None = None,
    ) -> str | None:
        """None when ssh-keygen accepts the signature, else its reason in one line."""
        import subprocess

        options = [f'namespaces="{namespace}"']
        if signer.valid_after:
            options.append(f'valid-after="{signer.valid_after.rstrip("Z")}"')
        if signer.valid_before:
            options.append(f'valid-before="{signer.valid_before.rstrip("Z")}"')
        signers = self._write("signers", f"{signer.principal} {','.join(options)} {signer.key}\n")
        signature = self._write("signature", armour)
        argv = [self.program, "-Y", "verify", "-f", signers, "-I", signer.principal]
        argv += ["-n", namespace, "-s", signature]
        if revoked:
            argv += ["-r", self._write("revoked", "".join(f"{key}\n" for key in revoked))]
        if now is not None and (signer.valid_after or signer.valid_before):
            # Only these need a time; older releases do not know the option.
            argv.append("-Overify-time=" + time.strftime("%Y%m%d%H%M%S", time.gmtime(now)))
        environment = {"PATH": ":".join(PLACES), "LC_ALL": "C", "TZ": "UTC"}
        try:
            done = subprocess.run(  # noqa: S603
                argv,
                input=payload,
                capture_output=True,
                timeout=TOOL_SECONDS,
                env=environment,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"does not run ({type(error).__name__})"
        if done.returncode == 0:
            return None
        if done.returncode < 0:
            return f"was killed by signal {-done.returncode}"
        text = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines()
        return ascii(text[0][:200])[1:-1] if text else f"exit status {done.returncode}"

    def _write(self, name: str, text: str) -> str:
        path = os.path.join(self._folder, name)
        with open(path, "w", encoding="ascii") as stream:
            stream.write(text)
        return path
