# shellcheck shell=bash
# Sourced by quickstart and check: makes .venv hold a working rainfs, on Debian and Ubuntu.
#
# Installs Debian packages only as root and only those that are missing; elsewhere it names what is
# missing and stops.  Running it again changes nothing unless the sources changed.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV="$ROOT/.venv"
PYTHON=""
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

say() { printf '== %s\n' "$*"; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Install those of the named Debian packages that are missing.
need_packages() {
    local package missing=()
    if ! command -v dpkg-query >/dev/null; then
        say "not a Debian system: make sure that these are installed: $*"
        return
    fi
    for package in "$@"; do
        [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] ||
            missing+=("$package")
    done
    if ((${#missing[@]} == 0)); then
        say "Debian packages: all there ($*)"
        return
    fi
    ((EUID == 0)) || die "missing packages; as root: apt-get install ${missing[*]}"
    say "installing Debian packages: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    if ! apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2>&1; then
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    fi
}

# Whether $1 is a Python of at least 3.11; with "complete" also one that has venv, pip and headers.
python_fits() {
    "$1" - "${2:-}" >/dev/null 2>&1 <<'PYTHON'
import os, sys, sysconfig
if sys.version_info < (3, 11):
    sys.exit(1)
if sys.argv[1] == "complete":
    import ensurepip, venv
    if not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")):
        sys.exit(1)
PYTHON
}

# Set PYTHON to an interpreter that can make the virtual environment; install one if need be.
need_python() {
    local candidate version
    for candidate in python3 python3.13 python3.12 python3.11; do
        if python_fits "$candidate" complete; then
            PYTHON=$(command -v "$candidate")
            break
        fi
    done
    if [[ -z $PYTHON && -x /usr/bin/python3 ]] && python_fits /usr/bin/python3; then
        need_packages python3 python3-venv python3-dev
        PYTHON=/usr/bin/python3
    fi
    if [[ -z $PYTHON ]] && command -v apt-cache >/dev/null; then
        ((EUID == 0)) && apt-get update -qq
        version=$(apt-cache policy python3 | sed -n 's/.*Candidate: \(3\.[0-9]*\).*/\1/p')
        if [[ $version =~ ^3\.(1[1-9]|[2-9][0-9])$ ]]; then
            need_packages python3 python3-venv python3-dev
            PYTHON=/usr/bin/python3
        else
            for version in 3.13 3.12 3.11; do
                if [[ -n $(apt-cache search --names-only "^python$version-venv\$") ]]; then
                    need_packages "python$version" "python$version-venv" "python$version-dev"
                    PYTHON=/usr/bin/python$version
                    break
                fi
            done
        fi
    fi
    [[ -n $PYTHON ]] && python_fits "$PYTHON" complete ||
        die "no Python 3.11 or later with venv and headers found"
    say "Python: $PYTHON ($("$PYTHON" -V))"
}

# FUSE must be there before anything can be mounted.
need_fuse() {
    [[ -e /dev/fuse ]] || modprobe fuse 2>/dev/null || true
    [[ -e /dev/fuse ]] || die "/dev/fuse is missing: this kernel or container offers no FUSE"
}

# Make .venv and install rainfs into it: install_rainfs plain | editable
install_rainfs() {
    local mode=$1 stamp="$VENV/.rainfs-installed" target="$ROOT" sources want
    if ! [[ -x $VENV/bin/python ]] || ! python_fits "$VENV/bin/python"; then
        say "making the virtual environment .venv"
        rm -rf "$VENV"
        "$PYTHON" -m venv "$VENV"
    fi
    sources=(pyproject.toml native rainfs)
    if [[ $mode == editable ]]; then
        sources=(pyproject.toml native)
        target="$ROOT[test]"
    fi
    want="$mode $(cd "$ROOT" && find "${sources[@]}" -type f \
        ! -path '*/__pycache__/*' ! -name '*.so' ! -name '*.o' ! -name '*.pyc' ! -name '_kernel.c' \
        -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1)"
    if [[ -f $stamp && $(<"$stamp") == "$want" ]]; then
        say "rainfs is installed in .venv already ($mode)"
        return
    fi
    say "installing rainfs into .venv (this compiles pyfuse3 and the parity kernel)"
    rm -f "$stamp"
    if [[ $mode == editable ]]; then
        "$VENV/bin/pip" install --quiet --editable "$target"
    else
        "$VENV/bin/pip" install --quiet "$target"
    fi
    # What the build leaves beside the sources is of no use to anybody.
    rm -rf "$ROOT/build" "$ROOT/rainfs.egg-info"
    printf '%s\n' "$want" >"$stamp"
}
