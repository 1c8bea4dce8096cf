package daemon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/api"
)

// TestDaemonHoldsNothingOfItsClients: what a shell has opened for the command
// that starts the daemon, such as the lock of a cron job, ends with the command.
func TestDaemonHoldsNothingOfItsClients(t *testing.T) {
	p := newPlace(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := unix.FcntlInt(w.Fd(), unix.F_SETFD, 0); err != nil { // as a shell leaves it
		t.Fatal(err)
	}
	p.connect()
	if flags, err := unix.FcntlInt(w.Fd(), unix.F_GETFD, 0); err != nil || flags != 0 {
		t.Errorf("the client's own descriptor is changed: %d, %v", flags, err)
	}
	w.Close()
	r.SetReadDeadline(time.Now().Add(10 * time.Second)) // the end is there, or never comes
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the daemon holds the pipe open: %v", err)
	}
}

// TestDaemonLeavesItsShellsGroup: the daemon asks for a control group of its own, and
// works without one.
func TestDaemonLeavesItsShellsGroup(t *testing.T) {
	p := newPlace(t)
	c := p.connect()
	d := p.daemon(c)
	if err := c.StopDaemon(t.Context()); err != nil { // which waits for the answer
		t.Fatal(err)
	}
	log, err := os.ReadFile(p.dirs.Log())
	if want := fmt.Sprintf(`"err":"process %d has no group for daemon"`, d.PID); err != nil || !strings.Contains(string(log), want) {
		t.Errorf("no %s in %s, %v", want, log, err)
	}
}

func TestFailedStartIsExplained(t *testing.T) {
	p := newPlace(t, "BANGERD_TEST_FAIL=the disk is full")
	_, err := api.Connect(t.Context(), p.dirs, p.opts)
	if banger.KindOf(err) != banger.Unready || banger.FixOf(err) != "mend it" || !strings.Contains(err.Error(), "start the daemon: open the parts: the disk is full") {
		t.Errorf("got %v, fix %q", err, banger.FixOf(err))
	}
	if err := os.MkdirAll(p.dirs.Config, 0o700); err == nil {
		err = os.WriteFile(p.dirs.ConfigFile(), []byte("vcpu = 2\n"), 0o600)
	}
	_, err = api.Connect(t.Context(), p.dirs, p.opts)
	if banger.KindOf(err) != banger.Invalid || !strings.Contains(err.Error(), `unknown key "vcpu", perhaps vcpus`) {
		t.Errorf("got %v", err)
	}
	p.opts.Program = "/bin/true"
	_, err = api.Connect(t.Context(), p.dirs, p.opts)
	if err == nil || banger.FixOf(err) != "read "+p.dirs.Log() {
		t.Errorf("got %v, fix %q", err, banger.FixOf(err))
	}
}

// TestDirectoriesOfAnotherUser: root, with the HOME of a user, changes nothing there.
func TestDirectoriesOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can use directories of others: run it as root")
	}
	p := newPlace(t)
	if err := errors.Join(os.MkdirAll(p.dirs.State, 0o750), os.Chown(p.dirs.State, 12345, 12345)); err != nil {
		t.Fatal(err)
	}
	_, err := api.Connect(t.Context(), p.dirs, p.opts)
	if banger.KindOf(err) != banger.Unready || !strings.Contains(err.Error(), p.dirs.State+" belongs to the user with the ID 12345") || !strings.Contains(banger.FixOf(err), "without sudo") {
		t.Errorf("got %v, fix %q", err, banger.FixOf(err))
	}
	entries, _ := os.ReadDir(p.dirs.State)
	if info, err := os.Stat(p.dirs.State); err != nil || info.Mode().Perm() != 0o750 || len(entries) > 0 {
		t.Errorf("%v, %v, %v", info.Mode(), entries, err)
	}
}

// TestFailedStartLeadsToWhatIsThere: to the log where that knows more, and not to
// a daemon that does not live.
func TestFailedStartLeadsToWhatIsThere(t *testing.T) {
	p := newPlace(t, "BANGERD_TEST_BUG=the sky has fallen")
	_, err := api.Connect(t.Context(), p.dirs, p.opts)
	if err == nil || banger.FixOf(err) != "read "+p.dirs.Log() {
		t.Errorf("got %v, fix %q", err, banger.FixOf(err))
	}
	if log, err := os.ReadFile(p.dirs.Log()); err != nil || !strings.Contains(string(log), "the sky has fallen") {
		t.Errorf("log: %s, %v", log, err)
	}
	for _, file := range []string{p.dirs.DaemonLock(), p.dirs.Log()} { // what is there before the log can say anything
		if err := errors.Join(os.Remove(file), os.Mkdir(file, 0o700)); err != nil {
			t.Fatal(err)
		}
		_, err := api.Connect(t.Context(), p.dirs, p.opts)
		if banger.KindOf(err) != banger.Unready || banger.FixOf(err) != "make "+p.dirs.State+" a directory that you can write to" {
			t.Errorf("%s: got %v, fix %q", file, err, banger.FixOf(err))
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNoInotifyInstanceIsExplained(t *testing.T) {
	if err := noInstance(unix.EMFILE); banger.KindOf(err) != banger.Unready || !strings.Contains(banger.FixOf(err), "fs.inotify.max_user_instances=") {
		t.Errorf("got %v", err)
	}
	if err := noInstance(unix.ENOMEM); banger.FixOf(err) != "" || !errors.Is(err, unix.ENOMEM) {
		t.Errorf("got %v", err)
	}
}
