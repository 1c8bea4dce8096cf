package process

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"banger/internal/vmm"
)

// TestProgramByDescriptor: a program that its account cannot reach by a path is the one
// that starts, however many descriptors it inherits, and in whichever order.
func TestProgramByDescriptor(t *testing.T) {
	host := ThisHost()
	account, err := host.Account("helper")
	if err != nil || !account.Is() {
		t.Skipf("only root starts programs as others: %v; fix: sudo go test ./internal/vmm/process", err)
	}
	dir, err := OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	program := filepath.Join(t.TempDir(), "program") // in a directory of root's own
	text, err := os.ReadFile("/bin/true")
	if err == nil {
		err = os.WriteFile(program, text, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	for n := range 20 {
		var inherit []*os.File
		for i := range n {
			file, err := os.Open(os.DevNull)
			if err != nil {
				t.Fatal(err)
			}
			if i%2 == 0 {
				inherit = append(inherit, file)
			} else {
				inherit = append([]*os.File{file}, inherit...)
			}
		}
		output, err := dir.Create(fmt.Sprint("log", n), 0)
		if err != nil {
			t.Fatal(err)
		}
		p, err := dir.Start(Command{Program: program, Output: output, Inherit: inherit, Account: account})
		for _, file := range append(inherit, output) { // so that low numbers are used again
			file.Close()
		}
		if err != nil {
			t.Errorf("with %d descriptors: %v", n, err)
			continue
		}
		<-p.Done()
		if exit := p.Exit(); exit.Reason != vmm.ReasonUnknown { // of status 0
			t.Errorf("with %d descriptors: %+v", n, exit)
		}
		p.Close()
	}
}
