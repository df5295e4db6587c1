# A Debian system for tests, made by debootstrap in a mount and process namespace of its own, so that no process and no mount
# is left behind, however this ends. Sourced by bash scripts, which set `name` and `root` before it, and then call
#
#   system_enter "$@"     goes on inside of the namespace, with its arguments in `words`; `place` is a folder that goes at the end
#   system_make SUITE     the system, in $system; ends with 75 where it cannot be made
#   inside COMMAND        runs it there
#   system_bring_pip      pip's configuration, after the packages, which have files of the same names
#
# The way to Debian's archive and to Python's packages is this machine's: how apt and pip are configured is copied. The
# system lies in memory where there is enough, else below TMPDIR. It needs root.

status=1
fail() {
  echo "$name: $*" >&2
  exit $status
}
say() { echo "$name: $SECONDS s: $*"; }

system_enter() {
  if [ "${1-}" = --inside ]; then
    place=$2
    system=$place/system
    words=("${@:3}")
    return
  fi
  [ "$(id -u)" = 0 ] || fail "needs root, for debootstrap and chroot"
  export DEBIAN_FRONTEND=noninteractive
  if ! command -v debootstrap >/dev/null; then
    apt-get update -qq
    apt-get install -qq -y --no-install-recommends debootstrap </dev/null >/dev/null || fail "apt-get does not install debootstrap"
  fi
  place=$(mktemp -d -t "nativemem-$name.XXXXXX")
  unshare --mount --pid --fork --kill-child bash "$0" --inside "$place" "$@" &
  child=$!
  trap 'kill -9 $child 2>/dev/null || true; wait; rm -rf --one-file-system "$place"' EXIT
  trap 'exit 130' INT TERM HUP
  wait $child
  exit
}

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

archive() { apt-get indextargets --format '$(ORIGIN) $(LABEL) $(REPO_URI)' 'Created-By: Packages' | awk '$1 == "Debian" && $2 == "Debian" { print $3; exit }'; }

# of SUITE, with apt ready in it
system_make() {
  local suite=$1 available mirror each
  status=75
  mkdir "$system"
  available=$(awk '/^MemAvailable:/ { print int($2 / 1048576) }' /proc/meminfo)
  if [ "$available" -ge 6 ]; then
    mount -t tmpfs -o size=4g,mode=755 nativemem-system "$system"
  fi

  mirror=$(archive)
  if [ -z "$mirror" ]; then
    quietly "apt-get update" apt-get update
    mirror=$(archive)
  fi
  [ -n "$mirror" ] || fail "apt of this machine has no archive of Debian's"

  say "debootstrap"
  quietly "debootstrap of $suite" debootstrap --variant=minbase "$suite" "$system" "$mirror"
  as_here /etc/apt/apt.conf.d /etc/apt/auth.conf /etc/apt/auth.conf.d
  mount -t proc proc "$system/proc"
  for each in dev sys; do mount --rbind "/$each" "$system/$each"; done
  cp /etc/resolv.conf /etc/hosts "$system/etc/"

  quietly "apt-get update in $suite" inside apt-get update
  status=1
}

system_bring_pip() {
  local each
  as_here /etc/ssl/certs/ca-certificates.crt "${PIP_CERT-}" "${SSL_CERT_FILE-}" "${REQUESTS_CA_BUNDLE-}" "${PIP_CLIENT_CERT-}" \
    /etc/pip.conf /etc/xdg/pip "${PIP_CONFIG_FILE-}"
  for each in .config/pip .pip; do
    if [ -d "$HOME/$each" ]; then
      mkdir -p "$system/root/$each"
      cp -RL "$HOME/$each/." "$system/root/$each/"
    fi
  done
}
