#!/bin/sh
# `make try`: from a fresh clone to a running VM. It can be run again at any time, and
# does not rebuild or download what exists already.
# YES=1 installs missing packages without asking; ANYWAY=1 continues on an untested
# distribution.
set -eu
cd "$(dirname "$0")/.."

name=first-otter
began=$(date +%s)
first=dist/first-try
verbose=
[ -t 2 ] || verbose=-v # without a terminal there is no live line: print the steps

say() { printf '\n%s\n' "$*"; }

# step begins one of the steps, which are numbered.
step() {
	number=$((${number:-0} + 1))
	printf '\n[%d/5] %s\n' "$number" "$*"
}
die() { printf 'try: %s\n' "$1" >&2; shift; for line; do printf 'fix: %s\n' "$line" >&2; done; exit 5; }

check_host() {
	[ -r /etc/os-release ] && . /etc/os-release
	[ "$(uname -m)" = x86_64 ] || die "this host is $(uname -m); only x86-64 is supported" "use an x86-64 host"
	case "${ID:-}-${VERSION_ID:-}" in
	debian-12 | debian-13) return ;;
	esac
	[ "${ANYWAY:-}" = 1 ] && return
	die "${PRETTY_NAME:-this host} is untested; Debian 12 and 13 are tested" \
		"run it on Debian 12 or 13, or install Go, QEMU with microvm, mmdebstrap, apt, uidmap, e2fsprogs and ssh and then: ANYWAY=1 make try"
}

check_go() {
	command -v go >/dev/null || PATH=$PATH:/usr/local/go/bin
	command -v go >/dev/null || {
		printf 'missing  Go\n'
		die "Go is not installed" "install Go from https://go.dev/dl and put its bin directory in PATH"
	}
	# From 1.21 on, Go downloads the version that go.mod requires. An older Go cannot
	# read our go.mod, so ask for its version in another directory.
	version=$(cd / && go env GOVERSION) || version=
	case $version in
	go1.[0-9] | go1.[0-9].* | go1.1[0-9] | go1.1[0-9].* | go1.20 | go1.20.*)
		die "$version is too old; Go 1.21 or newer is needed" "install Go from https://go.dev/dl and put its bin directory in PATH"
		;;
	esac
}

may_install() {
	[ "${YES:-}" = 1 ] && return
	[ "${CI:-}" = true ] && [ "$(id -u)" = 0 ] && return
	[ -t 0 ] || return 1
	printf '\nInstall %s now? [y/N] ' "$*"
	read -r answer
	case $answer in y | Y | yes) return ;; esac
	return 1
}

install_packages() {
	sudo=
	[ "$(id -u)" = 0 ] || sudo=sudo
	command="${sudo:+$sudo }apt-get install -y --no-install-recommends $*"
	may_install "$@" || die "packages are missing: $*" "$command"
	[ -z "$sudo" ] || command -v sudo >/dev/null || die "sudo is not installed" "as root: ${command#sudo }"
	$sudo apt-get update -q
	$command
}

# build shows on a terminal what is compiled: the first time takes a minute.
build() {
	[ -t 1 ] || { make -s build; return; }
	status=$(mktemp)
	{ GOFLAGS=-v make -s build 2>&1 && echo 0 >"$status" || echo 1 >"$status"; } | while IFS= read -r line; do
		case $line in
		*' '*) printf '\r\033[K%s\n' "$line" ;; # what the compiler says
		*) compiled=$((${compiled:-0} + 1)); printf '\r\033[K%d packages compiled: %.60s' "$compiled" "$line" ;;
		esac
	done
	printf '\r\033[K'
	result=$(cat "$status")
	rm -f "$status"
	return "$result"
}

ready() { ./banger doctor --preflight >/dev/null; }

preflight() {
	if ready; then
		echo "Everything that is needed is here."
		return
	fi
	./banger doctor --preflight || true
	missing=$(./banger doctor --preflight --packages | sort -u | tr '\n' ' ' || true)
	[ -n "$missing" ] || die "this host is not ready; see the table above"
	# shellcheck disable=SC2086 # a list of package names
	install_packages $missing
	ready || { ./banger doctor --preflight || true; die "this host is still not ready; see the table above"; }
}

# firecracker downloads Firecracker if nothing else is missing to run VMs on it.
firecracker() {
	./banger doctor | grep -q '^ *make runtime-bundle' || return 0
	say "Downloading Firecracker, which runs VMs on hosts with KVM:"
	make -s runtime-bundle || say "Continuing without Firecracker; VMs use QEMU. To try again: make runtime-bundle"
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
	running) say "$name is already running" ;;
	*) show vm start "$name" ;;
	esac
}

tour() {
	show vm exec --no-stdin "$name" -- uname -a
	show vm exec --no-stdin "$name" -- cat /etc/os-release
	mark="written by make try at $(date '+%F %T')"
	say "Writing /root/proof (on the work disk) and /etc/banger-proof (on the overlay), then restarting:"
	inside sh -c 'echo "$1" >/root/proof && echo "$1" >/etc/banger-proof' sh "$mark"
	before=$(boot_id)
	show vm restart --wait boot "$name"
	after=$(boot_id)
	show vm exec --no-stdin "$name" -- cat /root/proof /etc/banger-proof
	[ "$(inside cat /root/proof)" = "$mark" ] || die "/root/proof did not survive the restart" "banger vm logs $name"
	[ "$(inside cat /etc/banger-proof)" = "$mark" ] || die "/etc/banger-proof did not survive the restart" "banger vm logs $name"
	[ "$before" != "$after" ] || die "the boot id did not change: $name did not restart" "banger vm logs $name"
	printf '\nboot id before %s\nboot id after  %s\n' "$before" "$after"
}

# verdict is doctor's last line.
verdict() { { ./banger doctor || true; } | tail -n 1; }

farewell() {
	took=$(($(date +%s) - began))
	say "$(verdict)"
	cat <<-END
	Your VM $name is running and stays until you delete it. Next:
	  ./banger vm ssh $name                   log in
	  ./banger vm exec $name -- docker info   run a program
	  ./banger vm stop $name                  stop it; its disks stay
	  ./banger vm --help                            list all commands
	  make install                                  have banger in your PATH
	END
	if [ -s "$first" ]; then
		echo "This run took $took s; the first one took $(cat "$first") s."
	else
		mkdir -p dist
		echo "$took" >"$first"
		echo "This first run took $took s. The next one will not rebuild or download anything."
	fi
}

if [ -s "$first" ]; then
	echo "make try: 5 steps. The first run took $(cat "$first") s; this one builds only what has changed."
else
	echo "make try: 5 steps, about 5 minutes the first time, with 300 MB to download."
fi
check_host
check_go
step "Build banger"
build
step "Check this host"
preflight
step "Build the runtime: a kernel and the default image, from Debian's packages"
make -s runtime
firecracker
step "Start the VM $name"
bring_up
step "A tour: what you write stays"
tour
farewell
