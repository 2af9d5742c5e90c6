# Sourced by every script here: strict mode, the repository's root, messages, deadlines, ports.
# shellcheck shell=bash
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# A directory per content of the pom: another version is never unpacked over the files of servers that run.
dist=$root/.dev/dist/$(sha256sum <"$root/services/pom.xml" | cut -c1-12)

# What runs here is reached directly, whatever proxy the environment names for the rest of the world.
others=${no_proxy:-${NO_PROXY:-}}
export no_proxy=127.0.0.1,localhost${others:+,$others}
export NO_PROXY=$no_proxy

say() { printf '%s\n' "$*" >&2; }
die() { say "$(basename "$0"): $*"; exit 1; }

# wait_until SECONDS COMMAND...: polls until COMMAND succeeds; fails at the deadline.
wait_until() {
  local end=$((SECONDS + $1)); shift
  until "$@"; do
    ((SECONDS < end)) || return 1
    sleep 0.1
  done
}

# Something accepts connections on this loopback port.
port_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Who listens there, as far as this user may see it: ` by "java" (pid 17)`, or nothing.
port_owner() {
  command -v ss >/dev/null || return 0
  ss -Hltnp "sport = :$1" 2>/dev/null \
    | sed -nE 's/.*users:\(\(("[^"]*"),pid=([0-9]+).*/ by \1 (pid \2)/p' | head -n1
}

# A port nobody listens on, below the range the kernel hands out for outgoing connections. Random, not the
# next one: many servers may be started side by side.
free_port() {
  local port
  while port=$((20000 + RANDOM % 12000)); port_open "$port"; do :; done
  echo "$port"
}
