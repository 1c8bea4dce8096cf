#!/bin/sh
# Run every fuzz target for some time, and fail if one fails. The failing input is
# then in the package's testdata/fuzz. Commit it with the fix: every `go test` tries it.
# Usage: scripts/fuzz.sh TIME [TARGET...], for example scripts/fuzz.sh 10s FuzzTree
set -eu
time=$1
shift
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
ran=0

wanted() {
	[ "$#" -gt 1 ] || return 0
	name=$1
	shift
	for want; do [ "$name" != "$want" ] || return 0; done
	return 1
}

for found in $(grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | sed 's|/[^/]*:func |:|' | sort); do
	package=${found%:*}
	target=${found#*:}
	wanted "$target" "$@" || continue
	ran=$((ran + 1))
	if "${GO:-go}" test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 5x "$package" >"$log" 2>&1; then
		tried=$(sed -n 's/^fuzz: elapsed.*execs: \([0-9]*\).*/\1/p' "$log" | tail -n 1)
		echo "ok    $package $target: ${tried:-0} inputs"
	else
		echo "FAIL  $package $target:"
		grep -v '^fuzz: elapsed' "$log" | head -n 40 | sed 's/^/      /'
		status=1
	fi
done
[ "$ran" -gt 0 ] || { echo "there is no such fuzz target" >&2; exit 1; }
exit "$status"
