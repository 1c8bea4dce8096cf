package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// vmm writes a VMM that is a shell script, and a guest for it.
func vmm(t *testing.T, script string) guest {
	t.Helper()
	g := guest{vmm: "firecracker", program: filepath.Join(t.TempDir(), "vmm"), init: filepath.Join(t.TempDir(), "init"), kernel: "k", cpus: 1, memory: 64}
	t.Setenv("TMPDIR", t.TempDir())
	for path, text := range map[string]string{g.program: "#!/bin/sh\n" + script, g.init: "program"} {
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

// left fails if a run left files behind.
func left(t *testing.T) {
	t.Helper()
	if files, _ := os.ReadDir(os.Getenv("TMPDIR")); len(files) > 0 {
		t.Errorf("left %v", files)
	}
}

func TestMeasure(t *testing.T) {
	g := vmm(t, `echo kernel; echo bare: ready; while read line; do echo "$line"; echo bare: done; done`)
	r, err := g.measure(t.Context())
	if err != nil || r.first <= 0 || r.second <= 0 || r.cpu <= 0 {
		t.Errorf("%v, %v", r, err)
	}
	left(t)
}

func TestMeasureOfWhatFails(t *testing.T) {
	g := vmm(t, "echo no such machine >&2; exit 1")
	if _, err := g.measure(t.Context()); err == nil || !strings.Contains(err.Error(), "no such machine") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	g = vmm(t, "exec sleep 60")
	if _, err := g.measure(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	g.vmm = "other"
	if _, err := g.measure(t.Context()); err == nil {
		t.Error("another VMM was accepted")
	}
	left(t)
}

func TestCPUInfo(t *testing.T) {
	info := "processor\t: 0\ncpu MHz\t\t: 2445.4\nflags\t\t: fpu sse\n\nprocessor\t: 1\ncpu MHz\t\t: 1.000\n"
	if got := khz(info); got != "2445400" {
		t.Errorf("got %q", got)
	}
	if kvm(info) || khz("processor: 0\n") != "" {
		t.Error("a CPU without extensions has KVM, or one without a frequency has one")
	}
}

func TestFirecrackersFile(t *testing.T) {
	var file struct {
		Boot    map[string]string `json:"boot-source"`
		Machine map[string]int    `json:"machine-config"`
	}
	if err := json.Unmarshal(guest{kernel: "/k", cpus: 2, memory: 512}.firecracker("/i"), &file); err != nil {
		t.Fatal(err)
	}
	if file.Boot["kernel_image_path"] != "/k" || file.Boot["initrd_path"] != "/i" || file.Machine["mem_size_mib"] != 512 || file.Machine["vcpu_count"] != 2 {
		t.Errorf("%+v", file)
	}
}

// TestArchive: the host's cpio reads it.
func TestArchive(t *testing.T) {
	cpio, err := exec.LookPath("cpio")
	if err != nil {
		t.Skip("no cpio: apt-get install cpio")
	}
	cmd := exec.Command(cpio, "-it", "--quiet")
	cmd.Stdin = bytes.NewReader(archive([]byte("a program\n")))
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "dev\ndev/console\ninit\n" {
		t.Errorf("%q, %v", out, err)
	}
}
