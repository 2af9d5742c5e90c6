# Sourced by the scripts that run one server in the background: `kafka`, `postgres`, `program`. They set
#
#   name  what it is called in messages
#   dir   where its `pid`, `log` and `lock` are
#   comm  the kernel's name of its process
#   home  the directory that process works in
#
# A process is taken for ours only if its name and its working directory say so, because the kernel gives
# the number in an old pid file to somebody else.
# shellcheck shell=bash

# Prints the pid of the running server, or fails.
running_pid() {
  local pid
  pid=$(cat "$dir/pid" 2>/dev/null) || return 1
  [[ $pid =~ ^[0-9]+$ && "/proc/$pid/cwd" -ef "$home" ]] || return 1
  [[ "$(cat "/proc/$pid/comm" 2>/dev/null)" == "$comm" ]] || return 1
  echo "$pid"
}

# It has ended, with all its threads: as long as one lives, files and ports are still open.
gone() {
  local threads=(/proc/"$1"/task/*)
  [[ ! -e /proc/$1 ]] || { ((${#threads[@]} <= 1)) && grep -q '^State:.*zombie' "/proc/$1/status" 2>/dev/null; }
}

# One start or stop at a time. Descriptor 9 is closed in the server, or it would keep the lock.
lock() {
  # Nothing was ever started there, so nothing is to be stopped.
  [[ $verb == start || -d $dir ]] || exit 0
  mkdir -p "$dir"
  exec 9>"$dir/lock"
  flock -w 180 9 || die "another start or stop of $name in $dir has not ended for 180 s"
}

# launch COMMAND...: in a session of its own, so that neither Ctrl-C nor the end of a terminal reaches it,
# and with no output of the caller's, who may be waiting for the end of it. Its part of the log begins at
# byte `log_begin`.
launch() {
  log_begin=$(stat -c %s "$dir/log" 2>/dev/null || echo 0)
  # A Ctrl-C waits until the pid file names a process that a stop will recognise.
  local interrupted=0
  trap 'interrupted=1' INT TERM
  setsid "$@" </dev/null >>"$dir/log" 2>&1 9>&- &
  echo $! >"$dir/pid"
  wait_until 10 recognised $! || true
  trap - INT TERM
  ((interrupted == 0)) || exit 130
}

# It has become the server, or has ended.
recognised() { running_pid >/dev/null || gone "$1"; }

# What the log says since the launch.
log_since() { tail -c "+$((log_begin + 1))" "$dir/log"; }

# await_ready SECONDS CHECK...: until CHECK succeeds. Shows the end of the log when the process ends before
# that, or is not ready in time (and is killed then).
await_ready() {
  local end=$((SECONDS + $1)) why=; shift
  until "$@"; do
    if gone "$(cat "$dir/pid")"; then why="ended while starting"
    elif ((SECONDS >= end)); then why="was not ready in time"
    else sleep 0.1; continue
    fi
    signal_and_wait KILL 10 || true
    say "---- the end of $dir/log"; log_since | tail -n 25 >&2 || true; say "----"
    die "$name $why"
  done
}

# signal_and_wait SIGNAL SECONDS: true when the process is gone, also if there was none.
signal_and_wait() {
  local pid
  if pid=$(running_pid); then
    kill -s "$1" "$pid" 2>/dev/null || true
    # A process that somebody paused would not hear of it.
    kill -s CONT "$pid" 2>/dev/null || true
    wait_until "$2" gone "$pid" || return 1
  fi
  rm -f "$dir/pid"
}

# stop_within SIGNAL SECONDS: gracefully, then by force, which is a failure.
stop_within() {
  signal_and_wait "$1" "$2" && return
  kill_now
  die "$name did not stop within $2 s and was killed"
}

kill_now() { signal_and_wait KILL 10 || die "$name survives SIGKILL"; }

# report PORT: "running PID PORT" and 0, or "stopped" and 3.
report() {
  local pid
  if pid=$(running_pid); then echo "running $pid $(cat "$dir/port")"; else echo stopped; exit 3; fi
}

# Nothing to do if it runs on this port already; a sentence if it runs on another one, or somebody else has
# the port.
already_started() {
  if running_pid >/dev/null; then
    [[ "$(cat "$dir/port")" == "$port" ]] && return 0
    die "$name of $dir runs on port $(cat "$dir/port") already, not on $port: stop it first"
  fi
  # A server that has just ended may still hold it.
  wait_until 5 port_closed ||
    die "port $port, wanted for $name, is taken$(port_owner "$port"): choose another one"
  echo "$port" >"$dir/port"
  return 1
}

port_closed() { ! port_open "$port"; }
