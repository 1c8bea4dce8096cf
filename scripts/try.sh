#!/bin/sh
# From a fresh clone to a running VM: `make try`. It may be run again at any
# time; what is there already is neither built nor downloaded again.
# YES=1 installs missing packages without asking; ANYWAY=1 goes on where the
# distribution is untested.
set -eu
cd "$(dirname "$0")/.."

name=first-otter
began=$(date +%s)
first=dist/first-try
verbose=
[ -t 2 ] || verbose=-v # no live line there: print the steps

say() { printf '\n%s\n' "$*"; }
die() { printf 'try: %s\n' "$1" >&2; shift; for line; do printf 'fix: %s\n' "$line" >&2; done; exit 5; }

check_host() {
	[ -r /etc/os-release ] && . /etc/os-release
	[ "$(uname -m)" = x86_64 ] || die "this is $(uname -m), and only x86-64 is supported" "use an x86-64 host"
	case "${ID:-}-${VERSION_ID:-}" in
	debian-12 | debian-13) return ;;
	esac
	[ "${ANYWAY:-}" = 1 ] && return
	die "${PRETTY_NAME:-this host} is untested: only Debian 12 and 13 are tried out" \
		"run it on Debian 12 or 13, or install Go, QEMU with microvm, mmdebstrap, apt, uidmap, e2fsprogs and ssh and then: ANYWAY=1 make try"
}

check_go() {
	command -v go >/dev/null || PATH=$PATH:/usr/local/go/bin
	command -v go >/dev/null || {
		printf 'missing  Go\n'
		die "Go is not installed" "install Go from https://go.dev/dl and put its bin directory in PATH"
	}
	# From 1.21 on Go fetches the version that go.mod asks for; an older one
	# cannot even read that file, so it is asked elsewhere.
	version=$(cd / && go env GOVERSION) || version=
	case $version in
	go1.[0-9] | go1.[0-9].* | go1.1[0-9] | go1.1[0-9].* | go1.20 | go1.20.*)
		die "$version is too old: 1.21 or newer is needed, which fetches the rest" "install Go from https://go.dev/dl and put its bin directory in PATH"
		;;
	esac
}

may_install() {
	[ "${YES:-}" = 1 ] && return
	[ "${CI:-}" = true ] && [ "$(id -u)" = 0 ] && return
	[ -t 0 ] || return 1
	printf '\ninstall %s now? [y/N] ' "$*"
	read -r answer
	case $answer in y | Y | yes) return ;; esac
	return 1
}

install_packages() {
	sudo=
	[ "$(id -u)" = 0 ] || sudo=sudo
	command="${sudo:+$sudo }apt-get install -y --no-install-recommends $*"
	may_install "$@" || die "packages are missing: $*" "$command"
	[ -z "$sudo" ] || command -v sudo >/dev/null || die "there is no sudo to install packages with" "as root: ${command#sudo }"
	$sudo apt-get update -q
	$command
}

preflight() {
	if ./banger doctor --preflight; then return; fi
	missing=$(./banger doctor --preflight --packages | sort -u | tr '\n' ' ' || true)
	[ -n "$missing" ] || die "this host is not ready: see the table"
	# shellcheck disable=SC2086 # a list of package names
	install_packages $missing
	./banger doctor --preflight || die "this host is still not ready: see the table"
}

# firecracker gets it where it would run VMs and is all that is missing for that.
firecracker() {
	./banger doctor | grep -q '^ *make runtime-bundle' || return 0
	say "Firecracker, which runs VMs where KVM is usable:"
	make -s runtime-bundle || say "VMs run on QEMU without it. To try again: make runtime-bundle"
}

show() {
	printf '\n$ banger'
	printf ' %s' "$@"
	printf '\n'
	./banger $verbose "$@"
}

inside() { ./banger vm exec --no-stdin "$name" -- "$@"; }
boot_id() { inside cat /proc/sys/kernel/random/boot_id; }

bring_up() {
	case $(./banger vm list | awk -v n="$name" '$1 == n { print $2 }') in
	"") show vm create --name "$name" ;;
	running) say "$name is running already" ;;
	*) show vm start "$name" ;;
	esac
}

tour() {
	show vm exec --no-stdin "$name" -- uname -a
	show vm exec --no-stdin "$name" -- cat /etc/os-release
	mark="written by make try at $(date '+%F %T')"
	say "Writing /root/proof (on the work disk) and /etc/banger-proof (in the overlay):"
	inside sh -c 'echo "$1" >/root/proof && echo "$1" >/etc/banger-proof' sh "$mark"
	before=$(boot_id)
	show vm restart --wait boot "$name"
	after=$(boot_id)
	show vm exec --no-stdin "$name" -- cat /root/proof /etc/banger-proof
	[ "$(inside cat /root/proof)" = "$mark" ] || die "/root/proof did not survive the restart" "banger vm logs $name"
	[ "$(inside cat /etc/banger-proof)" = "$mark" ] || die "/etc/banger-proof did not survive the restart" "banger vm logs $name"
	[ "$before" != "$after" ] || die "the boot id did not change: nothing was restarted" "banger vm logs $name"
	printf '\nboot id before %s\nboot id after  %s\n' "$before" "$after"
}

farewell() {
	took=$(($(date +%s) - began))
	say "Your machine $name is running and stays until you delete it. To go on:"
	cat <<-END
	  ./banger vm ssh $name                   log in
	  ./banger vm exec $name -- docker info   run a program
	  ./banger vm stop $name                  its disks stay
	  ./banger vm --help                            everything else
	END
	if [ -s "$first" ]; then
		say "This run took $took s; the first one took $(cat "$first") s."
	else
		mkdir -p dist
		echo "$took" >"$first"
		say "This first run took $took s. Another one rebuilds and downloads nothing."
	fi
}

check_host
check_go
say "Checking this host (building banger for that, which takes a minute the first time):"
make -s build
preflight
say "The runtime: a kernel and the default image, made from Debian's packages:"
make -s runtime
firecracker
bring_up
tour
farewell
