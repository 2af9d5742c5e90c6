# Sourced where Postgres keeps something. It refuses to run as root, so for root it runs as `nobody`, who
# may not enter a clone below /root. Its directories are then in /var/tmp, behind a symbolic link from where
# they belong.
# shellcheck shell=bash

# make_private_directory LINK: a new empty directory, reached by LINK; whatever was there is removed.
make_private_directory() {
  [[ ! -L $1 ]] || rm -rf "$(realpath -m "$1")"
  rm -rf "$1"
  if ((EUID != 0)); then mkdir -p "$1"; return; fi
  remove_orphans
  local place
  place=$(mktemp -d /var/tmp/milepost-XXXXXXXX)
  chmod 755 "$place"
  mkdir "$place/dir"
  ln -s "$place/dir" "$1"
  # Written last: a place without it is one that is being made.
  printf '%s' "$1" >"$place/link"
}

# Removes the places whose link is gone, as after `rm -r .dev` or a test that removed its directory.
remove_orphans() {
  local place
  for place in /var/tmp/milepost-*; do
    [[ -O $place && -f $place/link && ! "$(cat "$place/link")" -ef $place/dir ]] || continue
    ! in_use "$place/dir" || continue
    # A disk that a killed test has left mounted.
    umount --lazy "$place/dir" 2>/dev/null || true
    rm -rf "$place"
  done
}

# Some process works in this directory.
in_use() { [[ -n "$(processes_in "$1")" ]]; }

# processes_in DIR: the pids of those that work in it.
processes_in() {
  local proc
  for proc in /proc/[0-9]*; do
    [[ $proc/cwd -ef $1 ]] && echo "${proc#/proc/}"
  done
  return 0
}
