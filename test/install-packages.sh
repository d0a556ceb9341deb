#!/usr/bin/env bash
# Installs the Debian packages of a list, packages.txt if none is given, that are missing, and says so. Where all are
# there it needs neither root nor network. It leaves no new service running or enabled and makes no PostgreSQL cluster: the tests start what they
# need themselves, in network namespaces.
set -euo pipefail

list=${1:-$(dirname "$0")/packages.txt}
policy=/usr/sbin/policy-rc.d
saved=$policy.before-replypath
mark='replypath test/install-packages.sh'
cluster=/etc/postgresql-common/createcluster.d/replypath-tests.conf

say() { printf 'install-packages: %s\n' "$*"; }
die() { say "$*" >&2; exit 1; }

wanted() { sed 's/#.*//' "$list" | awk 'NF {print $1}' | sort -u; }

installed() {
  { dpkg-query -W -f '${db:Status-Status} ${Package}\n' $(wanted) 2>/dev/null || true; } |
    awk '$1 == "installed" {print $2}' | sort -u
}

missing() { comm -23 <(wanted) <(installed); }

enabled_units() {
  if command -v systemctl >/dev/null; then
    systemctl --root=/ list-unit-files --state=enabled --no-legend --plain | awk '{print $1}' | sort
  fi
}

# invoke-rc.d and deb-systemd-invoke ask this program before they start anything; 101 forbids it.
forbid_services() {
  allow_services # after a run that was killed
  if [ -e "$policy" ] || [ -L "$policy" ]; then
    mv "$policy" "$saved"
  fi
  printf '#!/bin/sh\n# Temporary, by %s.\nexit 101\n' "$mark" >"$policy"
  chmod 0755 "$policy"
  mkdir -p "$(dirname "$cluster")"
  printf '# Temporary, by %s.\ncreate_main_cluster = false\n' "$mark" >"$cluster"
}

allow_services() {
  if grep -qsF "$mark" "$policy"; then
    rm -f "$policy"
  fi
  if [ -e "$saved" ] || [ -L "$saved" ]; then
    mv "$saved" "$policy"
  fi
  rm -f "$cluster"
  rmdir --ignore-fail-on-non-empty "$(dirname "$cluster")" 2>/dev/null || true
}

apt_get() {
  DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
    apt-get -q -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@" </dev/null
}

install_missing() {
  local before
  before=$(enabled_units)
  trap allow_services EXIT
  trap 'exit 1' HUP INT TERM
  forbid_services
  # The lists may be older than the archive, or there may be none.
  apt_get update || say 'apt-get update failed; trying with the lists that are there' >&2
  apt_get install --yes --no-install-recommends --no-remove "$@" ||
    die "apt-get cannot install: $* (they are packages of Debian 12)"
  # What the packages have enabled would start with the next boot.
  comm -13 <(echo "$before") <(enabled_units) | xargs -r systemctl --root=/ --quiet disable
}

if ! command -v dpkg-query >/dev/null; then
  say "this is no Debian; the tests need what these packages hold: $(wanted | xargs)" >&2
  exit 0
fi
packages=$(missing)
if [ -z "$packages" ]; then
  say "all $(wanted | wc -l) Debian packages of $list are installed"
  exit 0
fi
[ "$(id -u)" = 0 ] || die "missing: ${packages//$'\n'/ }; run this as root, or: apt-get install ${packages//$'\n'/ }"
exec 9<"$list"
flock 9
packages=$(missing) # another run may have installed them meanwhile
if [ -n "$packages" ]; then
  say "installing the missing Debian packages: ${packages//$'\n'/ }"
  # shellcheck disable=SC2086 # one argument for each
  install_missing $packages
fi
