#!/bin/sh
# Run `go test`, print a line for each package and each test that does not pass, and
# then the skipped tests with their reasons and the number of passed, failed and
# skipped tests. Usage: scripts/test.sh NAME go test ARGS...
set -eu
name=$1
shift
log=$(mktemp)
status=$(mktemp)
trap 'rm -f "$log" "$status"' EXIT

{
	"$@" -v 2>&1 && echo 0 >"$status" || echo 1 >"$status"
} | tee "$log" | grep --line-buffered -E "^(ok|FAIL|panic:|#)|^ *--- (FAIL|SKIP)${VERBOSE:+|^(not here|driver|machines|the lab host|Firecracker v|svm)|^ *(=== (RUN|CONT|NAME)|--- PASS|[a-z_]+_test.go)}" || true

count() { grep -cE "^ *--- $1: Test|^--- $1: Fuzz" "$log" || true; }
if [ "$(cat "$status")" != 0 ]; then
	echo "--- full output:"
	cat "$log"
fi
if grep -qE '^ *--- SKIP' "$log"; then
	echo "skipped:"
	awk '/^=== (RUN|CONT|NAME) / { name = $3 } /_test.go:[0-9]+:/ { sub(/^ */, ""); said[name] = $0 }
		/^ *--- SKIP/ { print "  " $3 ": " said[$3] }' "$log"
fi
echo "$name: $(count PASS) passed, $(count FAIL) failed, $(count SKIP) skipped"
exit "$(cat "$status")"
