#!/bin/sh
# Install what `make test` and `make lab-short` need on a Debian host in CI. Run as root.
set -eu
packages="gcc libc6-dev make git qemu-system-x86 mmdebstrap uidmap e2fsprogs cpio busybox-static kmod openssh-client rsync iproute2 nftables iptables dbus bind9-dnsutils zsh openssh-sftp-server ufw firewalld docker-registry skopeo umoci"
command -v pip3 >/dev/null || packages="$packages python3-pip"
missing=
for package in $packages; do
	dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
# shellcheck disable=SC2086 # a list of package names
exec apt-get install -y -q --no-install-recommends $missing
