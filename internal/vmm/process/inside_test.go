package process

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger"
	"banger/internal/network"
	"banger/internal/vmm"
)

// What nsenter and setpriv write in the VMM's place is their error, and what an earlier
// one wrote, or a guest, is not.
func TestEntryError(t *testing.T) {
	output := filepath.Join(t.TempDir(), "log")
	const old, entered = "nsenter: an earlier start\n", "nsenter: reassociate to namespace 'ns/net' failed: Operation not permitted\n"
	write := func(text string) {
		if err := os.WriteFile(output, []byte(old+text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	failed := vmm.Exit{Reason: vmm.ReasonFailed, Detail: "exit status 1"}
	for text, want := range map[string]bool{entered: true, "setpriv: libcap-ng is too old for \"all\" caps\n": true, "qemu: no memory\n": false, "": false} {
		write(text)
		err := EntryError(failed, output, int64(len(old)))
		if (err != nil) != want || want && (err.Error() != "enter the network of the VM: "+strings.TrimSpace(text) || banger.FixOf(err) == "") {
			t.Errorf("%q: %v", text, err)
		}
	}
	write(entered)
	if err := EntryError(vmm.Exit{Reason: vmm.ReasonKilled}, output, 0); err != nil {
		t.Errorf("of a VMM that was killed: %v", err)
	}
}

// A namespace that cannot be entered ends the process with words of nsenter's, and an
// account does not fit into one.
func TestStartInside(t *testing.T) {
	dir, err := OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	own := &network.Namespace{}
	if own.User, err = os.Open("/proc/self/ns/user"); err == nil { // which nobody may enter again
		own.Net, err = os.Open("/proc/self/ns/net")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	output, err := dir.Create("log", os.O_APPEND)
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	command := Command{Program: "/bin/true", Output: output, Inside: own}
	proc, err := dir.Start(command)
	if err != nil {
		t.Fatal(err)
	}
	<-proc.Done()
	if err := EntryError(proc.Exit(), dir.Path("log"), 0); err == nil || !strings.Contains(err.Error(), "nsenter: ") {
		t.Errorf("got %v, exit %+v", err, proc.Exit())
	}
	proc.Close()
	command.Account = Account{id: firstAccount}
	if _, err := dir.Start(command); !errors.Is(err, ErrAccountInside) {
		t.Errorf("with an account: %v", err)
	}
}

// What VMMs say about a TAP becomes a fix.
func TestExplainTap(t *testing.T) {
	spec := vmm.Spec{Name: "otter", NIC: &vmm.NIC{Tap: "bg0123456789ab"}}
	for said, want := range map[string][2]string{
		"-netdev tap,...: could not configure /dev/net/tun (bg0123456789ab): Device or resource busy":                                    {"another process has", "iff:.bg0123456789ab$"},
		"Error while creating ifreq structure: Operation not permitted (os error 1). Invalid TUN/TAP Backend provided by bg0123456789ab": {"there is no TAP bg0123456789ab", "banger vm start otter"},
		"Error while creating ifreq structure: Resource busy (os error 16). Invalid TUN/TAP Backend provided by bg0123456789ab":          {"another process has", "sudo grep"},
		"-netdev tap,...: could not open /dev/net/tun: Permission denied":                                                                {"may not open /dev/net/tun", "banger doctor"},
		"Couldn't open /dev/net/tun: No such file or directory (os error 2)":                                                             {"may not open /dev/net/tun", "banger doctor"},
	} {
		err := ExplainTap(said, spec)
		if err == nil || !strings.Contains(err.Error(), want[0]) || !strings.Contains(banger.FixOf(err), want[1]) {
			t.Errorf("%s: %v (fix: %s)", said, err, banger.FixOf(err))
		}
	}
	for _, said := range []string{"vmlinux: Permission denied", "bg0123456789ab: unknown"} {
		if err := ExplainTap(said, spec); err != nil {
			t.Errorf("%s: %v", said, err)
		}
	}
	spec.NIC = nil
	if err := ExplainTap("could not open /dev/net/tun: Permission denied", spec); err != nil {
		t.Errorf("without a card: %v", err)
	}
}
