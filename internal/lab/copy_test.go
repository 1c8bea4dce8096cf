//go:build vm

package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// huge is the size of a file that takes long to copy.
const huge = 300 << 20

// TestCopy copies into and out of an image without any program for it.
func TestCopy(t *testing.T) {
	t.Parallel()
	h, dir := shared, t.TempDir()
	h.create(t, "--name", "copies", "--image", h.tiny(t))

	t.Run("a tree", func(t *testing.T) {
		src := filepath.Join(dir, "src")
		if err := os.MkdirAll(filepath.Join(src, "a b", "empty"), 0o750); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"line\nbreak", "-rf", "a b/'quoted'"} {
			if err := os.WriteFile(filepath.Join(src, name), []byte(name), 0o604); err != nil {
				t.Fatal(err)
			}
		}
		sparse, err := os.Create(filepath.Join(src, "sparse"))
		if err == nil {
			_, err = sparse.WriteAt([]byte("end"), 1<<30)
		}
		for _, e := range []error{err, sparse.Chmod(0o644), sparse.Close(), os.Link(filepath.Join(src, "-rf"), filepath.Join(src, "a b", "same")),
			os.Symlink("/etc/passwd", filepath.Join(src, "link"))} {
			if e != nil {
				t.Fatal(e)
			}
		}
		h.banger(t, "vm", "cp", src, "copies:")
		if got := h.sh(t, "copies", `cd src && ls -di -- -rf "a b/same" | awk '{print $1}' | uniq | wc -l; stat -c '%A %U %s' . -- -rf sparse; du -k sparse | awk '$1 < 100 {print "small"}'; readlink link`); got != "1\ndrwxr-x--- root "+strings.Fields(got)[3]+"\n-rw----r-- root 3\n-rw-r--r-- root 1073741827\nsmall\n/etc/passwd" {
			t.Errorf("in the guest: %q", got)
		}
		h.banger(t, "vm", "cp", "copies:src", filepath.Join(dir, "back"))
		list := func(dir string) string {
			out, err := h.shell(t, "cd "+dir+" && find . -printf '%p %M %T@ %s %n %l\n' | sort")
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
		if got, want := list(filepath.Join(dir, "back")), list(src); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	})
	t.Run("a large file", func(t *testing.T) {
		size := 20 << 20
		if rounds(t, 1) > 1 {
			size = huge
		}
		sum := noise(t, filepath.Join(dir, "large"), size)
		begun := time.Now()
		h.banger(t, "vm", "cp", filepath.Join(dir, "large"), "copies:large")
		t.Logf("in: %s", rate(size, time.Since(begun)))
		if got := strings.Fields(h.sh(t, "copies", "sha256sum large"))[0]; got != sum {
			t.Errorf("the guest has %s, want %s", got, sum)
		}
		begun = time.Now()
		h.banger(t, "vm", "cp", "copies:large", filepath.Join(dir, "large back"))
		t.Logf("out: %s", rate(size, time.Since(begun)))
		if got := digest(t, filepath.Join(dir, "large back")); got != sum {
			t.Errorf("the host has %s, want %s", got, sum)
		}
	})
	t.Run("Ctrl-C", func(t *testing.T) {
		noise(t, filepath.Join(dir, "huge"), huge)
		h.sh(t, "copies", fmt.Sprintf("dd if=/dev/zero of=huge bs=1M count=%d", huge>>20))
		for _, args := range [][]string{{filepath.Join(dir, "huge"), "copies:/root/dir/"}, {"copies:huge", dir + "/dir/"}} {
			h.sh(t, "copies", "mkdir -p /root/dir")
			os.Mkdir(filepath.Join(dir, "dir"), 0o700)
			cmd := h.command(t.Context(), append([]string{"vm", "cp"}, args...)...)
			var said bytes.Buffer
			cmd.Stderr = &said
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			there := func() string {
				out, _ := h.shell(t, "ls -A "+dir+"/dir")
				return out + h.sh(t, "copies", "ls -A /root/dir")
			}
			until(t, time.Minute, "the copy begins", func() bool { return there() != "" })
			cmd.Process.Signal(syscall.SIGINT)
			if cmd.Wait(); cmd.ProcessState.ExitCode() != 130 {
				t.Errorf("%v: %s", cmd.ProcessState, said.String())
			}
			if left := there(); left != "" {
				t.Errorf("left: %q", left)
			}
		}
	})
	t.Run("no space", func(t *testing.T) {
		h.sh(t, "copies", "mkdir -p /tmp/small && mount -t tmpfs -o size=1m none /tmp/small")
		r := h.run(t.Context(), nil, "vm", "cp", filepath.Join(dir, "large"), "copies:/tmp/small/x")
		if want := "banger: copies:/tmp/small/x: no space left on device\nfix: "; r.code != 5 || !strings.HasPrefix(r.stderr, want) {
			t.Errorf("exit %d: %s", r.code, r.stderr)
		}
		if left := h.sh(t, "copies", "ls -A /tmp/small"); left != "" {
			t.Errorf("left: %q", left)
		}
	})
	t.Run("another user", func(t *testing.T) {
		h.sh(t, "copies", "echo ann:x:1000:1000::/tmp:/bin/sh >>/etc/passwd && chmod 1777 /tmp")
		h.run(t.Context(), []byte("mine"), "vm", "cp", "--user", "ann", "-", "copies:hers")
		if got := h.sh(t, "copies", "stat -c %u:%g /tmp/hers; cat /tmp/hers"); got != "1000:1000\nmine" {
			t.Errorf("%q", got)
		}
		r := h.run(t.Context(), nil, "vm", "cp", "--user", "ann", "copies:/etc/shadow", filepath.Join(dir, "x"))
		if r.code != 1 && r.code != 3 {
			t.Errorf("exit %d: %s", r.code, r.stderr)
		}
		r = h.run(t.Context(), nil, "vm", "cp", "--user", "bob", "copies:/etc/passwd", filepath.Join(dir, "x"))
		if want := "banger: VM \"copies\" has no user \"bob\"\n"; r.code != 3 || !strings.HasPrefix(r.stderr, want) {
			t.Errorf("exit %d: %s", r.code, r.stderr)
		}
	})
}

// shell runs a shell command on the host.
func (h *home) shell(t *testing.T, line string) (string, error) {
	t.Helper()
	cmd := h.command(context.Background())
	cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", line}
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w", line, err)
	}
	return strings.TrimSuffix(string(out), "\n"), err
}
