# What rivals/qemu.sh and rivals/firecracker.sh share: internal/lab/bare, built here or,
# on a host without Go, beside banger.
bare_missing() {
	[ -e "$ROOT/runtime/kernel/vmlinux" ] || { echo "there is no kernel in $ROOT/runtime; make runtime"; return; }
	[ -x "$ROOT/bare-init" ] || has go || echo "; install Go from https://go.dev/dl"
}
open() {
	if [ -x "$ROOT/bare-init" ]; then
		ln -s "$ROOT/bare" "$ROOT/bare-init" "$HOME_OF/"
	else
		(cd "$ROOT" && CGO_ENABLED=0 && export CGO_ENABLED && go build -trimpath -ldflags '-s -w' -o "$HOME_OF/bare" ./internal/lab/bare &&
			go build -trimpath -ldflags '-s -w' -o "$HOME_OF/bare-init" ./internal/lab/bare/init)
	fi
}
round() { "$HOME_OF/bare" --vmm "$VMM" --init "$HOME_OF/bare-init" --kernel "$ROOT/runtime/kernel/vmlinux" --memory 1024; }
