package boot

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// foreignFstab is the fstab of another machine, with some lines that are of use here.
const foreignFstab = `# /etc/fstab: static file system information.
UUID=5b7a3c1e-0000-4000-8000-000000000001 / ext4 errors=remount-ro 0 1
UUID=1234-ABCD /boot/efi vfat umask=0077 0 1
/dev/mapper/vg-home /home ext4 defaults 0 2
LABEL="big\040data" /srv/big\040data xfs defaults 0 2
/dev/disk/by-id/ata-disk /disk ext4 defaults 0 2
/home/ann/src /src none bind 0 0
hostshare /host 9p trans=virtio 0 0
PARTUUID=0011 none swap sw 0 0
tmpfs /scratch tmpfs size=10% 0 0
LABEL=banger-work /again ext4 defaults 0 0
UUID=AAAA-1 /mine ext4 defaults 0 0
/dev/vda /base ext4 ro 0 0
/root/disk.img /image ext4 loop 0 0
/scratch/sub /sub none bind 0 0
/etc /etc2 none rbind 0 0
/dev/zram0 none swap sw 0 0
/dev/mapper/secret /secret ext4 defaults 0 0
/dev/mapper/other /other ext4 defaults 0 0
server:/export /nfs nfs defaults 0 0
/dev/sdb1 /usb ext4 noauto 0 0
/dev/sdc1 /later ext4 defaults,nofail 0 0
/nowhere /never none bind 0 0
`

var lackedHere = []string{"/", "/boot/efi", "/home", "/srv/big data", "/disk", "/src", "/host", "none", "/other", "/never"}

func newMachine(t *testing.T) machine {
	t.Helper()
	root := t.TempDir()
	for path, text := range map[string]string{
		"etc/fstab": foreignFstab, "root/disk.img": "",
		"etc/crypttab": "# none\nsecret /dev/loop7 none luks\nother UUID=9999 none luks\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	names := map[string]bool{"LABEL=banger-work": true, "UUID=aaaa-1": true}
	return machine{root: root, names: names, there: func(device string) bool { return device == "/dev/vda" }}
}

func TestDeadEntriesOfFstab(t *testing.T) {
	m := newMachine(t)
	entries, err := readFstab(m.root)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range m.dead(entries) {
		got = append(got, e.where)
	}
	if !slices.Equal(got, lackedHere) {
		t.Errorf("dead are %q, want %q", got, lackedHere)
	}
}

func TestSkipDead(t *testing.T) {
	m, units := newMachine(t), t.TempDir()
	if err := skipDead(m, units); err != nil {
		t.Fatal(err)
	}
	// As systemd-escape --path names them.
	for file, want := range map[string]string{
		"boot-efi.mount":        "\nWhere=/boot/efi\n",
		`srv-big\x20data.mount`: "\nWhere=/srv/big data\n",
		"home.mount":            "\nConditionPathExists=!/\n",
		`dev-disk-by\x2dpartuuid-0011.device.d/banger.conf`: "[Unit]\nJobRunningTimeoutSec=1s\n",
	} {
		if got, err := os.ReadFile(filepath.Join(units, file)); err != nil || !strings.Contains(string(got), want) {
			t.Errorf("%s has %q, %v, want %q in it", file, got, err, want)
		}
	}
	if to, err := os.Readlink(filepath.Join(units, "systemd-remount-fs.service")); err != nil || to != "/dev/null" {
		t.Errorf("the root would be looked for again: %q, %v", to, err)
	}
	if entries, err := os.ReadDir(units); err != nil || len(entries) != len(lackedHere) {
		t.Errorf("%v, %v", entries, err)
	}
	if got, err := os.ReadFile(m.root + "/etc/fstab"); err != nil || string(got) != foreignFstab {
		t.Errorf("the file changed: %q, %v", got, err)
	}
}

func FuzzFstab(f *testing.F) {
	f.Add(foreignFstab)
	f.Add("\\0 \\400\\040 swap\nUUID= % none\n/dev/a /x\\012[Mount] ext4\n")
	f.Fuzz(func(t *testing.T, text string) {
		m, units := newMachine(t), t.TempDir()
		if err := os.WriteFile(m.root+"/etc/fstab", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := skipDead(m, units); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	})
}
