#!/usr/bin/env bash
# The tests of what depends on an interpreter's insides, on the newest CPython that pyproject.toml names and Debian sid
# has: debootstrap makes a system, the C core is built in it, the tests run, and the system is gone again.
#
# Usage: test_newest.sh [arguments for pytest: other tests, or options]      as root on Debian; some minutes
#
# The way to Debian's archive and to Python's packages is this machine's: how apt and pip are configured is copied. The
# system lies in memory where there is enough, else below TMPDIR. All happens in a mount and process namespace of its
# own, so that no process and no mount is left behind, however this ends. Where the system cannot be made, as when the
# archive is in the midst of a change, it ends with 75.
set -euo pipefail
name=$(basename "$0")
root=$(realpath "$(dirname "$0")/..")
tests=(tests/contract tests/test_core.py tests/test_engine.py tests/test_scopes.py tests/test_denials.py
  tests/test_numpy_hook.py tests/test_cffi_hook.py tests/test_cli.py tests/test_run_is_python.py)

status=1
fail() {
  echo "$name: $*" >&2
  exit $status
}

if [ "${1-}" != --inside ]; then
  [ "$(id -u)" = 0 ] || fail "needs root, for debootstrap and chroot"
  export DEBIAN_FRONTEND=noninteractive
  if ! command -v debootstrap >/dev/null; then
    apt-get update -qq
    apt-get install -qq -y --no-install-recommends debootstrap </dev/null >/dev/null || fail "apt-get does not install debootstrap"
  fi
  place=$(mktemp -d -t nativemem-newest.XXXXXX)
  unshare --mount --pid --fork --kill-child bash "$0" --inside "$place" "$@" &
  child=$!
  trap 'kill -9 $child 2>/dev/null || true; wait; rm -rf --one-file-system "$place"' EXIT
  trap 'exit 130' INT TERM HUP
  wait $child
  exit
fi

place=$2
shift 2
status=75
system=$place/system
mkdir "$system"
say() { echo "$name: $SECONDS s: $*"; }

# does the rest of its words; what they print is shown where they fail
quietly() {
  local what=$1
  shift
  "$@" >"$place/log" 2>&1 </dev/null || {
    tail -n 40 "$place/log" >&2
    fail "failed: $what"
  }
}

inside() {
  local passed
  mapfile -t passed < <(env | grep -E '^(PIP_[A-Z_]+|SSL_CERT_[A-Z]+|REQUESTS_CA_BUNDLE|[a-z]+_proxy|[A-Z]+_PROXY)=' || true)
  env -i HOME=/root LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive CI=1 "${passed[@]}" \
    chroot "$system" "$@"
}

# a file or folder of this machine's, to the same place in the system
as_here() {
  local path
  for path in "$@"; do
    if [ -e "$path" ]; then
      mkdir -p "$system$(dirname "$path")"
      cp -RL "$path" "$system$(dirname "$path")/"
    fi
  done
}

available=$(awk '/^MemAvailable:/ { print int($2 / 1048576) }' /proc/meminfo)
if [ "$available" -ge 6 ]; then
  mount -t tmpfs -o size=4g,mode=755 nativemem-newest "$system"
fi

archive() { apt-get indextargets --format '$(ORIGIN) $(LABEL) $(REPO_URI)' 'Created-By: Packages' | awk '$1 == "Debian" && $2 == "Debian" { print $3; exit }'; }
mirror=$(archive)
if [ -z "$mirror" ]; then
  quietly "apt-get update" apt-get update
  mirror=$(archive)
fi
[ -n "$mirror" ] || fail "apt of this machine has no archive of Debian's"

say "debootstrap"
quietly "debootstrap of sid" debootstrap --variant=minbase sid "$system" "$mirror"
as_here /etc/apt/apt.conf.d /etc/apt/auth.conf /etc/apt/auth.conf.d
mount -t proc proc "$system/proc"
for each in dev sys; do mount --rbind "/$each" "$system/$each"; done
cp /etc/resolv.conf /etc/hosts "$system/etc/"

quietly "apt-get update in sid" inside apt-get update
there=$(inside apt-cache search --names-only '^python3\.[0-9]+-venv$')
for version in $(sed -n 's/.*"Programming Language :: Python :: \(3\.[0-9]*\)".*/\1/p' "$root/pyproject.toml" | sort -rV); do
  if grep -q "^python$version-venv " <<<"$there"; then break; fi
  say "sid has no Python $version"
  version=
done
[ -n "$version" ] || fail "sid has none of the versions that pyproject.toml names"

say "Python $version and gcc"
quietly "apt-get install in sid" inside apt-get install -qq -y --no-install-recommends \
  g++ libc6-dev "python$version-dev" "python$version-venv"
# after the packages, which have files of the same names
as_here /etc/ssl/certs/ca-certificates.crt "${PIP_CERT-}" "${SSL_CERT_FILE-}" "${REQUESTS_CA_BUNDLE-}" "${PIP_CLIENT_CERT-}" \
  /etc/pip.conf /etc/xdg/pip "${PIP_CONFIG_FILE-}"
for each in .config/pip .pip; do
  if [ -d "$HOME/$each" ]; then
    mkdir -p "$system/root/$each"
    cp -RL "$HOME/$each/." "$system/root/$each/"
  fi
done

status=1
say "the environment with the C core"
mkdir "$system/root/tree"
tar -C "$root" --exclude-vcs --exclude='./.venv*' --exclude=./build --exclude=./dist --exclude='*.so' \
  --exclude=__pycache__ --exclude='./.*_cache' -c . | tar -C "$system/root/tree" -x
python=/root/venv/bin/python
quietly "the environment" inside "python$version" -m venv /root/venv
quietly "pip install '.[test]' with the core" inside env USE_NATIVE_MEM=1 $python -m pip install --disable-pip-version-check '/root/tree[test]'

say "the tests on $(inside "python$version" -c 'import platform; print(platform.python_version())')"
# a command in the background ignores interrupts, and hands that on: tests that send one would wait for ever
inside env -C /root/tree --default-signal=INT,QUIT $python -m pytest -q -p no:cacheprovider -n "$(nproc)" --dist loadfile -m 'not slow' "${@:-${tests[@]}}" ||
  fail "failed: the tests on Python $version"
say "passed on Python $version"
