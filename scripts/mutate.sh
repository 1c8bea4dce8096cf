#!/bin/sh
# Break each guard in scripts/mutations in turn, and print which test notices. Fail if
# no test notices one, or if one no longer applies. The tree is not changed: the
# compiler gets the broken file as an overlay.
# Usage: scripts/mutate.sh [WORD], to try only those with the word in name or file
set -eu
word=${1:-}
cd "$(dirname "$0")/.."
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM
cp scripts/mutations "$dir/mutations"
ran=0
bad=0

# broken prints the file with the one place of OLD replaced by NEW.
broken() {
	OLD=$old NEW=$new awk '{
		at = index($0, ENVIRON["OLD"])
		if (at > 0) {
			found++
			$0 = substr($0, 1, at - 1) ENVIRON["NEW"] substr($0, at + length(ENVIRON["OLD"]))
		}
		print
	} END { exit found != 1 }' "$file"
}

# verdict prints which test noticed, and fails if none did.
verdict() {
	[ -f "$file" ] && broken >"$dir/broken.go" || { echo "DOES NOT APPLY: $file must contain this once: $old"; return 1; }
	printf '{"Replace":{"%s":"%s"}}' "$PWD/$file" "$dir/broken.go" >"$dir/overlay.json"
	if "${GO:-go}" test -overlay "$dir/overlay.json" -count=1 -vet=off -failfast -timeout 1m -run "$tests" "$package" >"$dir/log" 2>&1; then
		grep -q 'no tests to run' "$dir/log" && echo "NO SUCH TEST: $tests" || echo "NOT NOTICED by $tests"
		return 1
	fi
	if grep -q 'build failed' "$dir/log"; then
		echo "DOES NOT COMPILE"
		sed 's/^/  /' "$dir/log"
		return 1
	fi
	by=$(sed -n 's/^--- FAIL: \([A-Za-z0-9_]*\).*/\1/p' "$dir/log" | head -n 1)
	[ -n "$by" ] || by="the end of $tests"
	echo "noticed by $by"
}

while IFS= read -r name; do
	case $name in "" | "#"*) continue ;; esac
	IFS= read -r file
	IFS= read -r old
	IFS= read -r new
	read -r package tests
	old=${old#- }
	new=${new#+}
	new=${new# }
	case "$name $file" in *"$word"*) ;; *) continue ;; esac
	ran=$((ran + 1))
	said=$(verdict) || bad=$((bad + 1))
	echo "$name: $said"
done <"$dir/mutations"

echo "$ran tried, $bad not noticed"
[ "$ran" -gt 0 ] && [ "$bad" = 0 ]
