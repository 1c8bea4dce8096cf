#!/bin/sh
# Compare banger with what else runs VMs: create a VM, run `true` in it, run it again, and
# read how much CPU time the VMM took. Rivals take turns, forwards and backwards, and the
# medians are printed. A rival that cannot run here is named with the reason.
# Usage: scripts/compare/compare.sh [--rounds N] [RIVAL...]
# docs/benchmarks.md says what each rival needs.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
ROOT=$(cd "$here/../.." && pwd)
rounds=4
if [ "${1:-}" = --rounds ]; then
	rounds=${2:?--rounds needs a number}
	shift 2
fi
case $rounds in '' | 0* | *[!0-9]*) echo "compare: --rounds $rounds is not a number from 1 on" >&2; exit 2 ;; esac
[ $# -gt 0 ] || set -- $(cd "$here/rivals" && ls | sed 's/\.sh$//')
for rival; do
	[ -f "$here/rivals/$rival.sh" ] || { echo "compare: there is no rival $rival; there are:" $(cd "$here/rivals" && ls | sed 's/\.sh$//') >&2; exit 2; }
done

WORK=$(mktemp -d)
export ROOT WORK
here_are=
# as calls a function of a rival, in a shell of its own.
as() (
	HOME_OF=$WORK/$1
	. "$here/rival.sh"
	. "$here/rivals/$1.sh"
	shift
	"$@"
)
finish() {
	trap - EXIT INT TERM
	for rival in $here_are; do as "$rival" close >>"$WORK/$rival/log" 2>&1 || echo "compare: $rival did not end well" >&2; done
	rm -rf "$WORK"
}
trap finish EXIT
trap 'exit 130' INT TERM

host() (
	. "$here/rival.sh"
	kvm && with=KVM || with='no KVM'
	echo "$(uname -sr), $(getconf _NPROCESSORS_ONLN) CPUs, $with; load $(cut -d ' ' -f 1-3 /proc/loadavg) $1"
)
# give_up tells why a rival takes no further part.
give_up() {
	echo "$1 failed:" >>"$WORK/absent"
	tail -n 5 "$WORK/$1/log" | sed 's/^/  /' >>"$WORK/absent"
	here_are=$(echo " $here_are " | sed "s/ $1 / /")
	as "$1" close >/dev/null 2>&1 || true
}

: >"$WORK/absent"
for rival; do
	mkdir "$WORK/$rival"
	if reason=$(as "$rival" missing) && [ -z "$reason" ]; then
		here_are="$here_are $rival"
	else
		printf '%s is missing: %s\n' "$rival" "$reason" >>"$WORK/absent"
	fi
done
host "before"
for rival in $here_are; do
	echo "prepare $rival" >&2
	as "$rival" open >"$WORK/$rival/log" 2>&1 && as "$rival" round warm >>"$WORK/$rival/log" 2>&1 || give_up "$rival"
done
turn=1
while [ "$turn" -le "$rounds" ]; do
	order=
	for rival in $here_are; do
		[ $((turn % 2)) = 1 ] && order="$order $rival" || order="$rival $order"
	done
	for rival in $order; do
		if line=$(as "$rival" round "r$turn" 2>>"$WORK/$rival/log"); then
			echo "round $turn, $rival: $line" >&2
			echo "$line" >>"$WORK/$rival/figures"
		else
			give_up "$rival"
		fi
	done
	turn=$((turn + 1))
done
host "after"

# spread prints the median and the range of a column.
spread() {
	awk -v c="$2" '{ print $c }' "$1" | sort -n | awk '{ v[NR] = $1 }
		END { printf "%.2f (%.2f-%.2f)", NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2, v[1], v[NR] }'
}
row='%-12s %-22s %-20s %-22s %s\n'
printf "\n$row" rival 'create + exec, s' 'next exec, s' "VMM's CPU time, s" rounds
for rival; do
	[ -s "$WORK/$rival/figures" ] || continue
	figures=$WORK/$rival/figures
	printf "$row" "$rival" "$(spread "$figures" 2)" "$(spread "$figures" 4)" "$(spread "$figures" 6)" "$(wc -l <"$figures")"
done
[ ! -s "$WORK/absent" ] || { echo; cat "$WORK/absent"; }
[ -n "$here_are" ] || { echo "compare: nothing could run" >&2; exit 1; }
