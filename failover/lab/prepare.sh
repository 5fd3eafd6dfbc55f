#!/usr/bin/env bash
# Gets a Debian-like machine ready: our own Python environment, and the daemons that the lab's hosts run.
#
#   prepare.sh venv [dev]      ./.venv with this project in it (dev: test tools too); instant if nothing changed
#   prepare.sh lab [--check] [ENGINE...]   installs by apt what is missing and starts nothing; --check only lists it (exit 1
#                              if any). PostgreSQL always; mariadb and mysql only if named
#
# What was on the machine stays as it was: no service is started, stopped or restarted, and no database cluster is made.
# MySQL is not in Debian's stable releases: it comes from Debian sid, into a root directory of its own under /var/cache.
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

# Of MariaDB only the programs: with its server package would come a service, and a database of the machine's own.
needs_mariadb=(
  "/usr/sbin/mariadbd mariadb-server-core"
  "/usr/bin/mariadb-install-db mariadb-server-core"
  "/usr/bin/mariadb mariadb-client-core"
  "/usr/bin/mariadb-admin mariadb-client"
  "/usr/bin/mariadb-binlog mariadb-client"
  "/usr/bin/mariadb-backup mariadb-backup"
)
needs_mysql=(  # to make its root, if there is none yet
  "debootstrap debootstrap"
  "/usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring"
  "patchelf patchelf"
)
sid=/var/cache/failover-lab/mysql
why_not=$sid.why-not  # the lab says it where MySQL is missing

mysql_is_there() { [ -x "$sid/native/mysqld" ]; }

# missing_packages ENGINE...
missing_packages() {
  local line what package wanted=("${needs[@]}")
  case " $* " in *" mariadb "*) wanted+=("${needs_mariadb[@]}") ;; esac
  case " $* " in *" mysql "*) mysql_is_there || wanted+=("${needs_mysql[@]}") ;; esac
  for line in "${wanted[@]}"; do
    read -r what package <<<"$line"
    case $what in
      /*) [ -e "$what" ] || say "$package" ;;
      *) PATH="$PATH:/usr/sbin:/sbin" command -v "$what" >/dev/null || say "$package" ;;
    esac
  done | sort -u
}

# MariaDB and MySQL run as an account that only a server package would make.
mysql_account() {
  ! getent passwd mysql >/dev/null || return 0
  say "  account mysql is new here, as its server's package would make it"
  useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin mysql ||
    fail "the account mysql cannot be made"
}

# The mirror of Debian that this machine's apt uses. Nothing where it uses none: debootstrap knows one itself.
# shellcheck disable=SC2016  # the names are apt's
debian_mirror() {
  apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
    sed -n -E 's#^Debian\|Debian\|((https?|ftp|file)://?.*)#\1#p' | head -n 1
}

no_mysql() {
  mkdir -p "${sid%/*}"
  printf '%s\n' "$*" >"$why_not"
  fail "MySQL cannot be had: $*"
}

# make_mysql: the root is made beside its place and moved there whole.
make_mysql() {
  local new=$sid.new mirror inside
  mkdir -p "${sid%/*}"
  exec 8>"$sid.lock"
  flock -w 900 8 || fail "another preparation has been making $sid for 15 minutes"
  ! mysql_is_there || return 0
  say "lab: making a Debian sid root with MySQL in $sid: 800 MB of disk, some minutes"
  rm -rf --one-file-system "$new"
  undo+=("rm -rf --one-file-system '$new'")
  mirror=$(debian_mirror)
  # In a mount namespace of its own: whatever is mounted in the root is gone with the command that did it.
  step "debootstrap" unshare --mount debootstrap --variant=minbase --include=ca-certificates sid "$new" ${mirror:+"$mirror"} ||
    no_mysql "debootstrap: $(tail -n 1 "$log")"
  printf '#!/bin/sh\nexit 101\n' >"$new/usr/sbin/policy-rc.d"
  chmod 755 "$new/usr/sbin/policy-rc.d"
  apt-config dump --no-empty | grep -E '^Acquire::(https?::|Retries|ForceIP)' >"$new/etc/apt/apt.conf.d/02machine" || true
  inside="DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin"
  # shellcheck disable=SC2086  # words
  step "apt-get install in it: mysql-server-core mysql-client" unshare --mount chroot "$new" env $inside \
    apt-get -y -q --no-install-recommends -o Dpkg::Use-Pty=0 -o Acquire::Retries=3 install mysql-server-core mysql-client ||
    no_mysql "apt-get in the root: $(grep '^E: ' "$log" | tail -n 1)"
  step "making its programs run here" native_programs "$new" || no_mysql "patchelf: $(tail -n 1 "$log")"
  rm -rf --one-file-system "$sid"
  mv "$new" "$sid"
  "$sid/native/mysqld" --version >"$log" 2>&1 || { mv "$sid" "$new"; no_mysql "mysqld does not run: $(tail -n 1 "$log")"; }
  rm -f "$why_not"
  say "  $(tail -n 1 "$log")"
}

# native_programs ROOT: copies that need no chroot, because they name the root's own loader and libraries.
native_programs() {
  local root=$1 program copy interpreter libraries
  libraries=$(find "$root/usr/lib" -maxdepth 2 -name libc.so.6 -printf '%h\n' | head -n 1)
  [ -n "$libraries" ] && mkdir "$root/native" && rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* || return
  for program in sbin/mysqld bin/mysql bin/mysqladmin bin/mysqlbinlog; do
    copy=$root/native/${program#*/}
    cp "$root/usr/$program" "$copy" && interpreter=$(patchelf --print-interpreter "$copy") &&
      patchelf --set-interpreter "$sid$interpreter" --force-rpath --set-rpath "$sid${libraries#"$root"}" "$copy" || return
  done
}

lab() {
  local check=no engines=(postgresql) word missing
  for word in "$@"; do
    case $word in
      --check) check=yes ;;
      postgresql) ;;
      mariadb | mysql) engines+=("$word") ;;
      *) fail "lab: no engine '$word'; there are: postgresql mariadb mysql" ;;
    esac
  done
  mapfile -t missing < <(missing_packages "${engines[@]}")
  case " ${engines[*]} " in *" mysql "*) mysql_is_there || missing+=("MySQL (from Debian sid, into $sid)") ;; esac
  if [ "$check" = yes ]; then
    ((${#missing[@]})) || return 0
    printf '%s\n' "${missing[@]}"
    return 1
  fi
  if ((${#missing[@]})) && [ "$(id -u)" != 0 ]; then
    fail "not root, and missing: ${missing[*]}
  do: sudo failover/lab/prepare.sh lab ${engines[*]}"
  fi
  mapfile -t missing < <(missing_packages "${engines[@]}")
  if ((${#missing[@]})); then
    say "lab: installing ${#missing[@]} packages; no service will be started"
    install_packages "${missing[@]}"
    mapfile -t missing < <(missing_packages "${engines[@]}")
    ((!${#missing[@]})) || fail "still missing after the installation: ${missing[*]}"
  fi
  if ((${#engines[@]} > 1)); then mysql_account; fi
  case " ${engines[*]} " in *" mysql "*) make_mysql ;; esac
  say "lab: every daemon is there"
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
  lab) shift; lab "$@" ;;
  *) say "usage: prepare.sh venv [dev] | lab [--check] [postgresql] [mariadb] [mysql]" >&2; exit 2 ;;
esac
