#!/bin/sh
# Installs what a fresh machine lacks. `venv DIR`: the development environment.
# `system`: the Debian packages the tests use, when root; otherwise says what to install.
set -eu

as_root() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; }

apt_install() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y -q --no-install-recommends "$@" >/dev/null 2>&1 && return 0
    apt-get update -q >/dev/null 2>&1 || true
    apt-get install -y -q --no-install-recommends "$@" >/dev/null
}

case "$1" in
venv)
    "${PYTHON}" - <<'PY' || { echo "wainwright needs Python 3.11 or newer; try: make PYTHON=python3.12" >&2; exit 2; }
import sys
sys.exit(sys.version_info < (3, 11))
PY
    if ! "${PYTHON}" -c 'import venv, ensurepip' 2>/dev/null; then
        minor=$("${PYTHON}" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        if as_root; then
            echo "installing ${minor}"
            apt_install "${minor}"
        else
            echo "this Python has no venv module; install it first: sudo apt-get install ${minor}" >&2
            exit 2
        fi
    fi
    echo "preparing $2 (once)"
    # Cleared: what another interpreter left there must not mix with this one.
    "${PYTHON}" -m venv --clear "$2"
    quietly() { "$@" >"$log" 2>&1 || { cat "$log" >&2; exit 1; }; }
    log="$2/install.log"
    quietly "$2/bin/python" -m pip install --disable-pip-version-check --upgrade 'pip>=26.3'
    # As a path, not as an import hook, which would double the start of every Python here.
    quietly "$2/bin/python" -m pip install --disable-pip-version-check \
        --config-settings editable_mode=compat -e '.[dev]'
    "$2/bin/wain" --version
    ;;
system)
    missing=""
    [ -x /usr/sbin/sshd ] || command -v sshd >/dev/null 2>&1 || missing="$missing openssh-server"
    command -v ssh-keygen >/dev/null 2>&1 || missing="$missing openssh-client"
    command -v strace >/dev/null 2>&1 || missing="$missing strace"
    command -v rsync >/dev/null 2>&1 || missing="$missing rsync"
    command -v ip >/dev/null 2>&1 || missing="$missing iproute2"
    command -v sudo >/dev/null 2>&1 || missing="$missing sudo"
    command -v mkfs.ext4 >/dev/null 2>&1 || missing="$missing e2fsprogs"
    command -v gcc >/dev/null 2>&1 || missing="$missing gcc libc6-dev"
    for shell in dash zsh fish tcsh; do
        command -v "$shell" >/dev/null 2>&1 || missing="$missing $shell"
    done
    command -v bsd-csh >/dev/null 2>&1 || missing="$missing csh"
    # Only root can mount it.
    [ "$(id -u)" != 0 ] || command -v mkfs.xfs >/dev/null 2>&1 || missing="$missing xfsprogs"
    [ -n "$missing" ] || exit 0
    if as_root; then
        echo "installing$missing"
        apt_install $missing
    else
        echo "left out: tests that need$missing (sudo apt-get install$missing)" >&2
    fi
    ;;
esac
