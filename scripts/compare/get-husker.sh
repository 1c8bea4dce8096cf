#!/bin/sh
# Make what the rival husker needs in dist/rivals/husker: its program, from PyPI; a root
# file system with busybox and husker's agent, which is inside of that program; and an
# initrd that loads the modules of banger's kernel, mounts that and starts the agent.
# Usage: scripts/compare/get-husker.sh [WHEEL]
set -eu
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/sbin:/sbin
for need in python3 cpio mke2fs; do
	command -v "$need" >/dev/null || { echo "get-husker: $need is not in PATH; fix: sudo apt-get install -y python3-pip cpio e2fsprogs" >&2; exit 5; }
done
[ -x /bin/busybox ] || { echo "get-husker: there is no /bin/busybox; fix: sudo apt-get install -y busybox-static" >&2; exit 5; }
[ -e runtime/kernel/boot.cpio ] || { echo "get-husker: there is no kernel in runtime; fix: make runtime" >&2; exit 5; }
wheel=${1:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

if [ -z "$wheel" ]; then
	python3 -m pip download --no-deps --only-binary :all: --dest "$work" husker >&2
	wheel=$(ls "$work"/husker-*.whl)
fi
# The agent is a whole ELF file within the program's read-only data; it ends with its
# table of sections.
python3 - "$wheel" "$work" <<'EOF'
import struct, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel:
    program = wheel.read(next(n for n in wheel.namelist() if n.endswith("/scripts/husker")))
start = program.find(b"\x7fELF", 4)
if start < 0:
    sys.exit("get-husker: this wheel has no agent")
sections, = struct.unpack_from("<Q", program, start + 40)
size, count = struct.unpack_from("<HH", program, start + 58)
open(sys.argv[2] + "/husker", "wb").write(program)
open(sys.argv[2] + "/agent", "wb").write(program[start:start + sections + size * count])
EOF
chmod 755 "$work/husker" "$work/agent"

root=$work/root
mkdir -p "$root/bin" "$root/usr/local/bin" "$root/dev" "$root/proc" "$root/sys" "$root/tmp" "$root/run" "$root/root" "$root/etc"
cp /bin/busybox "$root/bin/busybox"
for name in sh true cat sync; do ln -s busybox "$root/bin/$name"; done
cp "$work/agent" "$root/usr/local/bin/husker-agent"
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
mke2fs -q -F -t ext4 -E root_owner=0:0 -d "$root" "$work/rootfs.ext4" 64M >/dev/null

initrd=$work/initrd.d
mkdir -p "$initrd/bin" "$initrd/dev" "$initrd/proc" "$initrd/new"
(cd "$initrd" && cpio -id --quiet) <runtime/kernel/boot.cpio
cp /bin/busybox "$initrd/bin/busybox"
cat >"$initrd/init" <<'EOF'
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /lib/modules.order); do
	case $module in
	*/virtio_mmio.ko | */virtio_blk.ko | *vsock*) /bin/busybox insmod "/$module" ;;
	esac
done
/bin/busybox mount -t ext4 /dev/vda /new
/bin/busybox mount -o move /dev /new/dev
/bin/busybox mount -t proc proc /new/proc
/bin/busybox mount -t sysfs sys /new/sys
exec /bin/busybox switch_root /new /usr/local/bin/husker-agent
EOF
chmod 755 "$initrd/init"
(cd "$initrd" && find . | cpio -o -H newc --quiet) >"$work/initrd"

mkdir -p dist/rivals/husker
mv "$work/husker" "$work/rootfs.ext4" "$work/initrd" dist/rivals/husker/
dist/rivals/husker/husker --version
