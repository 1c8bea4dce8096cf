//go:build vm

package qemu

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger/internal/config"
	"banger/internal/guest/wire"
	"banger/internal/hostcmd"
	"banger/internal/vmm"
	"banger/internal/vmm/vmmtest"
	"banger/internal/vmm/vmmtest/realguest"
)

// A host that cuts a link, 150 times with bytes under way in both directions and 30
// times idle, finds the guest again at once.
func TestReconnect(t *testing.T) {
	m := launch(t, realguest.Build(t).Spec(t, Name, wire.Config{}))
	var took []time.Duration
	for round := range 180 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		start := time.Now()
		full, err := m.Dial(ctx, vmmtest.PortFull)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		took = append(took, time.Since(start))
		sink, err := m.Dial(ctx, vmmtest.PortEcho)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		cancel()
		cut := int64(rand.IntN(400_000))
		var busy sync.WaitGroup
		if round%6 == 0 {
			full.Close()
			cut = 0
		} else {
			busy.Go(func() { io.Copy(sink, neverEnding{}) })
		}
		io.CopyN(io.Discard, full, cut)
		m.streams.session.Close()
		busy.Wait()
	}
	first := took[0]
	took = took[1:]
	slices.Sort(took)
	t.Logf("first stream %v after the launch; after %d reconnects: median %v, 95%% %v, max %v",
		first, len(took), took[len(took)/2], took[len(took)*95/100], took[len(took)-1])
}

type neverEnding struct{}

func (neverEnding) Read(b []byte) (int, error) { return len(b), nil }

func launch(t *testing.T, spec vmm.Spec) *machine {
	t.Helper()
	m, err := realguest.Measuring{Driver: New(hostcmd.Host{})}.Launch(t.Context(), spec)
	spec.Lock.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Kill()
		<-m.Ended()
		m.Close()
	})
	return m.(*machine)
}

// daemonEnv makes the test binary a daemon: it launches the VM whose directory
// it names, speaks with it, and is killed.
const daemonEnv = "BANGER_TEST_DAEMON"

func TestMain(m *testing.M) {
	vmmtest.RunVMM()
	if dir := os.Getenv(daemonEnv); dir != "" {
		fmt.Println(runDaemon(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func runDaemon(dir string) error {
	lock, err := vmm.Lock(config.VMDir(dir).Lock())
	if err != nil {
		return err
	}
	spec := realguest.SpecIn(dir, Name, lock)
	cardOf(&spec)
	m, err := realguest.Measuring{Driver: New(hostcmd.Host{})}.Launch(context.Background(), spec)
	if err != nil {
		return err
	}
	lock.Close()
	full, err := m.Dial(context.Background(), vmmtest.PortFull)
	if err != nil {
		return err
	}
	fmt.Println(m.PID())
	_, err = io.Copy(io.Discard, full)
	return err
}

// A daemon that is killed in the middle of a transfer leaves a VM that the next
// one takes over.
func TestDaemonKilled(t *testing.T) {
	spec := realguest.Build(t).Spec(t, Name, wire.Config{})
	spec.Lock.Close()
	daemon := exec.Command(os.Args[0])
	daemon.Env = append(os.Environ(), daemonEnv+"="+spec.Dir)
	out, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil {
		rest, _ := io.ReadAll(out)
		t.Fatalf("the daemon did not launch: %v %s", err, rest)
	}
	daemon.Process.Signal(syscall.SIGKILL)
	daemon.Wait()

	start := time.Now()
	m, err := New(hostcmd.Host{}).Adopt(t.Context(), spec.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	defer m.Kill()
	adopted := time.Since(start)
	if m.PID() != pid {
		t.Errorf("adopted process %d, launched %d", m.PID(), pid)
	}
	full, err := m.Dial(t.Context(), vmmtest.PortFull)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, full, 1<<20); err != nil {
		t.Fatal(err)
	}
	t.Logf("adopted in %v, 1 MiB from the guest after %v", adopted, time.Since(start))
	m.Kill()
	<-m.Ended()
	if got := m.Exit().Reason; got != vmm.ReasonKilled {
		t.Errorf("ended by %s", got)
	}
	for _, file := range []string{spec.Console, spec.Log} {
		if info, err := os.Stat(filepath.Join(spec.Dir, file)); err != nil || info.Mode().Perm()&0o007 != 0 {
			t.Errorf("%s: %v, %v", file, info, err)
		}
	}
}
