# banger from this checkout, or from $BANGER_DIR, with its default image. BANGER_DRIVER
# chooses the driver.
BANGER_DIR=${BANGER_DIR:-$ROOT}
export HOME="$HOME_OF" XDG_CONFIG_HOME="$HOME_OF/config" XDG_STATE_HOME="$HOME_OF/state" XDG_CACHE_HOME="$HOME_OF/cache" \
	XDG_RUNTIME_DIR="$HOME_OF/run" BANGER_NETWORK=none
banger() { "$BANGER_DIR/banger" "$@"; }

missing() {
	for need in banger bangerd banger-agent runtime/bundle.json; do
		[ -e "$BANGER_DIR/$need" ] || { echo "$BANGER_DIR has no $need; make -C $BANGER_DIR build runtime"; return; }
	done
}
open() { mkdir -m 700 "$XDG_RUNTIME_DIR"; banger vm list; }
close() {
	banger vm list --json | sed -n 's/^ *"name": "\(.*\)",$/\1/p' | while read -r vm; do banger vm delete --yes --force "$vm"; done
	banger daemon stop
}
create() { banger vm create --name "$1" --vcpu 1 --memory 1G; }
run() { banger vm exec "$1" -- true; }
pid() { banger vm show --json "$1" | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p'; }
remove() { banger vm delete --yes --force "$1"; }
