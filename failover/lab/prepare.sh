#!/usr/bin/env bash
# Gets a Debian-like machine ready: our own Python environment, and the daemons that the lab's hosts run.
#
#   prepare.sh venv [dev]      ./.venv with this project in it (dev: test tools too); instant if nothing changed
#   prepare.sh lab [--check]   installs by apt what is missing and starts nothing; --check only lists it (exit 1 if any)
#
# What was on the machine stays as it was: no service is started, stopped or restarted, and no database cluster is made.
set -euo pipefail

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
log=$(mktemp "${TMPDIR:-/tmp}/failover-prepare.XXXXXX")
undo=()   # commands that put back what we changed, last first
child=""  # what is running right now, if anything
unbroken=no  # yes: what is running must not be cut short

say() { printf '%s\n' "$*"; }
fail() { printf 'prepare: %s\n' "$*" >&2; exit 1; }

finish() {
  local status=$?
  trap - EXIT
  trap '' INT TERM HUP
  # A package manager stopped half-way leaves a broken system, and one that outlives our policy-rc.d starts services.
  if [ -n "$child" ] && [ "$unbroken" = no ]; then kill "$child" 2>/dev/null || true; fi
  local ticks=0
  while [ -n "$child" ] && kill -0 "$child" 2>/dev/null; do
    ((ticks++ % 19)) || say "prepare: waiting for dpkg to end, so that nothing is left half done" >&2
    sleep 0.1
  done
  local index
  for ((index = ${#undo[@]} - 1; index >= 0; index--)); do eval "${undo[index]}" || true; done
  rm -f "$log"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# step WORDS COMMAND...: runs it, with a line every 2 s while it takes longer; its output only if it fails.
step() {
  local words=$1 start=$SECONDS
  shift
  : >"$log"
  "$@" >"$log" 2>&1 </dev/null 9>&- &
  child=$!
  say "  $words ..."
  local ticks=0
  while kill -0 "$child" 2>/dev/null; do
    sleep 0.1
    ticks=$((ticks + 1))
    if ((ticks % 19 == 0)); then
      printf '  %s ... %d s  %.70s\n' "$words" "$((SECONDS - start))" "$(tail -n 1 "$log" | tr -cd '[:print:]')"
    fi
  done
  local status=0
  wait "$child" || status=$?
  child=""
  if ((status)); then
    tail -n 25 "$log" >&2
    say "prepare: failed: $words (exit $status)" >&2
  fi
  return "$status"
}

# --- packages -------------------------------------------------------------------------------------------------------

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# Debian starts a service when its package is configured; a policy that answers "not allowed" keeps it still.
hold_services() {
  local policy=/usr/sbin/policy-rc.d
  if [ -e "$policy" ] || [ -L "$policy" ]; then return; fi  # somebody's own rule: it stays and is obeyed
  undo+=("rm -f $policy")
  printf '#!/bin/sh\n# for the duration of one installation by failover/lab/prepare.sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
}

hold_clusters() {
  local folder=/etc/postgresql-common/createcluster.d
  local drop=$folder/failover-lab.conf
  if [ -e "$drop" ]; then return; fi
  mkdir -p "$folder"
  undo+=("rm -f $drop; rmdir -p --ignore-fail-on-non-empty $folder 2>/dev/null")
  printf 'create_main_cluster = false\n' >"$drop"
}

apt() {
  env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 APT_LISTCHANGES_FRONTEND=none LC_ALL=C.UTF-8 \
    apt-get -y -q --no-install-recommends --no-remove \
    -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold \
    -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@"
}

update_lists() { step "apt-get update" apt update; }

have_lists() { compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null; }

# install_packages PACKAGE...
install_packages() {
  say "  apt-get install $*"
  [ "$(id -u)" = 0 ] || fail "needs root for: apt-get install $*"
  command -v apt-get >/dev/null || fail "no apt-get here; install by other means: $*"
  local new_services=() fresh=no
  if ! have_lists; then update_lists; fresh=yes; fi
  if ! step "downloading $# packages and what they need" apt install --download-only "$@"; then
    [ "$fresh" = no ] || fail "the packages cannot be downloaded"
    update_lists
    step "downloading $# packages and what they need" apt install --download-only "$@" || fail "the packages cannot be downloaded"
  fi
  if ! installed openssh-server; then new_services+=(ssh); fi
  if ! installed bind9; then new_services+=(named); fi
  hold_services
  installed postgresql-common || hold_clusters
  unbroken=yes
  step "installing $# packages" apt install "$@" || fail "the packages cannot be installed"
  unbroken=no
  stay_down "${new_services[@]}"
}

# What came with our installation does not start at the next boot either. What was there before is not touched.
stay_down() {
  command -v systemctl >/dev/null || return 0
  local unit
  for unit in "$@"; do
    systemctl cat "$unit.service" >/dev/null 2>&1 || [ -e "/lib/systemd/system/$unit.service" ] || continue
    systemctl disable --quiet "$unit.service" >/dev/null 2>&1 || continue
    say "  $unit.service is new here and stays off: systemctl enable --now $unit if you want it"
  done
}

# --- the lab's daemons ----------------------------------------------------------------------------------------------

# What must be there, and the package that brings it. Looked for as files: however it came, it is good.
needs=(
  "/usr/share/java/zookeeper.jar libzookeeper-java"
  "java default-jre-headless"
  "/usr/lib/postgresql/15/bin/postgres postgresql-15"
  "sshd openssh-server"
  "ssh-keygen openssh-client"
  "named bind9"
  "dig bind9-dnsutils"
  "nft nftables"
  "ip iproute2"
  "ping iputils-ping"
  "ps procps"
  "setpriv util-linux"
)

missing_packages() {
  local line what package
  for line in "${needs[@]}"; do
    read -r what package <<<"$line"
    case $what in
      /*) [ -e "$what" ] || say "$package" ;;
      *) PATH="$PATH:/usr/sbin:/sbin" command -v "$what" >/dev/null || say "$package" ;;
    esac
  done
}

lab() {
  local missing
  mapfile -t missing < <(missing_packages)
  if [ "${1:-}" = --check ]; then
    ((${#missing[@]})) || return 0
    printf '%s\n' "${missing[@]}"
    return 1
  fi
  if ((!${#missing[@]})); then say "lab: every daemon is there"; return; fi
  if [ "$(id -u)" != 0 ]; then
    fail "not root, and missing: ${missing[*]}
  do: sudo apt-get install --no-install-recommends ${missing[*]}   or: sudo failover/lab/prepare.sh lab"
  fi
  say "lab: installing ${#missing[@]} packages; no service will be started"
  install_packages "${missing[@]}"
  mapfile -t missing < <(missing_packages)
  ((!${#missing[@]})) || fail "still missing after the installation: ${missing[*]}"
  say "lab: ready after $SECONDS s"
}

# --- our own Python environment -------------------------------------------------------------------------------------

good_python() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

pick_python() {
  local candidate
  for candidate in /usr/bin/python3 python3 python3.13 python3.12 python3.11; do
    if good_python "$candidate"; then say "$candidate"; return; fi
  done
}

fingerprint() {
  { printf '%s\n' "$project" "$1"; cat setup.cfg pyproject.toml constraints.txt; } | sha256sum | cut -d ' ' -f 1
}

# pip brings its own list of authorities and would not know a company's; the system's list has both.
trust_system_certificates() {
  local system=/etc/ssl/certs/ca-certificates.crt
  if [ -z "${PIP_CERT:-}" ] && [ -r "$system" ] && ! .venv/bin/python -m pip config get global.cert >/dev/null 2>&1; then
    export PIP_CERT=$system
  fi
}

venv() {
  local extra=${1:-} python wanted
  [ -z "$extra" ] || [ "$extra" = dev ] || fail "venv: there is only the extra 'dev', not '$extra'"
  cd "$project"
  mkdir -p build
  exec 9>build/.prepare.lock
  flock -w 600 9 || fail "another preparation of this checkout has been running for 10 minutes"
  wanted=$(fingerprint "$extra")
  if good_python .venv/bin/python && [ -f .venv/.prepared ]; then
    # an environment with the test tools serves for both
    case $(cat .venv/.prepared) in "$wanted" | "$(fingerprint dev)") return ;; esac
  fi
  python=$(pick_python)
  if [ -z "$python" ] || ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    say "python: needs Python 3.11 or newer with venv"
    install_packages python3-venv ca-certificates
    python=$(pick_python)
    [ -n "$python" ] || fail "this system's python3 is older than 3.11"
  fi
  good_python .venv/bin/python || step "making .venv with $("$python" -V)" "$python" -m venv --clear .venv
  rm -f .venv/.prepared
  trust_system_certificates
  step "installing the project into .venv" \
    env PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 \
    .venv/bin/python -m pip install --no-input --progress-bar off -c constraints.txt -e ".${extra:+[$extra]}" ||
    fail "pip could not install the project; does it reach a package index?"
  say "$wanted" >.venv/.prepared
  say "venv: ready after $SECONDS s"
}

case "${1:-}" in
  venv) venv "${2:-}" ;;
  lab) lab "${2:-}" ;;
  *) say "usage: prepare.sh venv [dev] | lab [--check]" >&2; exit 2 ;;
esac
