# What a rival is: compare.sh reads this and then rivals/NAME.sh, which defines
#   missing      print why the rival cannot run here and how to get it; nothing if it can
#   open, close  start and end what it needs beside VMs, below $HOME_OF; close ends all VMs
#   create, run, pid, remove
#                create and boot a VM; run `true` in it; print its VMM's process; delete it
# or, in place of the last four, round. $ROOT is this checkout.
open() { :; }
close() { :; }

# has reports whether all of these programs are in PATH, and names the first that is not.
has() {
	for program; do
		command -v "$program" >/dev/null || { printf "%s is not in PATH" "$program"; return 1; }
	done
}

# kvm reports whether this user may use KVM. The device can be there without the CPU's
# extensions.
kvm() { [ -w /dev/kvm ] && grep -Eqm 1 '^flags.* (vmx|svm)( |$)' /proc/cpuinfo; }

now() { date +%s%N; }
since() { echo "$1 $(now)" | awk '{ printf "%.3f", ($2 - $1) / 1e9 }'; }

# cpu prints the CPU seconds of a process with all its threads.
cpu() { sed 's/.*) //' "/proc/$1/stat" | awk -v hz="$(getconf CLK_TCK)" '{ printf "%.3f", ($12 + $13) / hz }'; }

# round prints the seconds from the call to create to the end of the first `true`, those
# of the next `true`, and the VMM's CPU seconds.
round() (
	set -e
	began=$(now)
	create "$1" >&2
	run "$1" >&2
	first=$(since "$began")
	began=$(now)
	run "$1" >&2
	second=$(since "$began")
	used=$(cpu "$(pid "$1")")
	remove "$1" >&2
	echo "first $first second $second cpu $used"
)
