package script

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"banger/internal/bundle"
	"banger/internal/cli"
	"banger/internal/config"
	"banger/internal/daemon"
	"banger/internal/guest/wire"
	"banger/internal/hostcmd"
	"banger/internal/initrd"
	"banger/internal/oci/ocitest"
	"banger/internal/vmm"
	"banger/internal/vmm/firecracker"
	"banger/internal/vmm/process"
	"banger/internal/vmm/vmmtest"
)

// faultsEnv is the variable with the faults of the VMs of a script's daemon.
const faultsEnv = "BANGER_FAKE_FAULTS"

// TestMain makes the test binary banger, bangerd and the VMM.
func TestMain(m *testing.M) {
	if code, ran := daemon.RunRole(os.Args[1:]); ran {
		os.Exit(code)
	}
	if os.Getenv(lookEnv) != "" {
		os.Exit(printNetwork())
	}
	vmmtest.RunVMM(vmmtest.Port{Number: wire.PortSSH, Serve: serveSSH})
	testscript.Main(m, map[string]func(){
		"banger":  func() { os.Exit(cli.Main(context.Background(), cli.OS(), os.Args[1:])) },
		"bangerd": func() { os.Exit(daemon.Main(context.Background(), daemonEnv(), os.Args[1:])) },
	})
}

// daemonEnv is the environment of the real daemon with other drivers.
func daemonEnv() daemon.Env {
	fake := vmmtest.NewFake(nil)
	if faults := os.Getenv(faultsEnv); faults != "" {
		fake.SetFaults(vmmtest.Fault(faults))
	}
	if life, err := time.ParseDuration(os.Getenv(lifeEnv)); err == nil {
		fake.SetLife(life)
	}
	env := daemon.Std()
	env.Isolate = nil
	env.Drivers = func(config.Config, string) vmm.Drivers {
		return vmm.Drivers{firecracker.New(hostcmd.Host{}, firecracker.Places{Configured: "/nonexistent/firecracker"}), fake}
	}
	return env
}

func TestScripts(t *testing.T) {
	if _, err := (hostcmd.Host{}).Look("mke2fs"); err != nil {
		t.Skip("mke2fs is missing: apt-get install e2fsprogs")
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata", Setup: setUp, RequireUniqueNames: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "like": like, "capture": capture, "killdaemon": killDaemon, "schema": schema, "push": push, "free": free, "hold": hold,
		},
		Condition: condition,
	})
}

// condition is for lines of scripts that begin with [mounts]: whether this user can mount
// a file system in a namespace of its own.
func condition(name string) (bool, error) {
	if name != "mounts" {
		return false, fmt.Errorf("there is no condition %q", name)
	}
	return exec.Command("unshare", "--user", "--map-root-user", "--mount", "true").Run() == nil, nil
}

// setUp gives a script a home with a runtime bundle, and kills its daemon and its VMs
// at the end of the script.
func setUp(env *testscript.Env) error {
	for key, value := range homeEnv(env.WorkDir) {
		env.Setenv(key, value)
	}
	dirs, err := config.DirsFrom(env.Getenv)
	if err != nil {
		return err
	}
	env.Values["dirs"] = dirs
	t := env.T().(testing.TB)
	registry := ocitest.NewRegistry(t)
	env.Values["registry"] = registry
	env.Setenv("REGISTRY", registry.Host)
	env.Defer(func() {
		if err := endAll(dirs); err != nil {
			t.Error(err)
		}
		log, _ := os.ReadFile(dirs.Log())
		if t.Failed() || strings.Contains(string(log), "DATA RACE") || strings.Contains(string(log), "panic: ") {
			t.Errorf("%s:\n%s", dirs.Log(), log)
		}
	})
	return fillHome(env.WorkDir, "6.12-fake")
}

// homeEnv is the environment of a user whose home is dir.
func homeEnv(dir string) map[string]string {
	return map[string]string{
		"HOME": dir, "XDG_CONFIG_HOME": dir + "/config", "XDG_STATE_HOME": dir + "/state",
		"XDG_CACHE_HOME": dir + "/cache", "XDG_RUNTIME_DIR": dir + "/run",
		"BANGER_RUNTIME_DIR": dir + "/runtime", "BANGER_NETWORK": "none", "GORACE": "atexit_sleep_ms=0", "TZ": "UTC",
	}
}

// fillHome creates the files that a home needs before its first command.
func fillHome(dir, kernel string) error {
	return errors.Join(os.Mkdir(dir+"/run", 0o700), makeBundle(config.BundleDir(dir+"/runtime"), kernel))
}

// endAll kills first the daemon, so that it starts no more VMMs, and then the VMMs.
func endAll(dirs config.Dirs) error {
	locks, err := filepath.Glob(dirs.VM("*").Lock())
	for _, lock := range append([]string{dirs.DaemonLock()}, locks...) {
		err = errors.Join(err, kill(lock))
	}
	return err
}

// kill kills the process that holds a lock file open, if there is one.
func kill(lock string) error {
	holder, err := process.OpenHolder(lock)
	if errors.Is(err, vmm.ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer holder.Close()
	if err := holder.Kill(); err != nil {
		return err
	}
	<-holder.Done()
	return nil
}

// makeBundle creates a valid bundle with tiny parts.
func makeBundle(dir config.BundleDir, release string) error {
	kernel := dir.Kernel()
	if err := os.MkdirAll(string(kernel), 0o755); err != nil {
		return err
	}
	for path, text := range map[string]string{
		kernel.Vmlinux(): "kernel", kernel.Modules(): "modules", kernel.Info(): "{}", dir.Rootfs(): "rootfs", dir.Agent(): "agent",
	} {
		if err := os.WriteFile(path, []byte(text), 0o444); err != nil {
			return err
		}
	}
	boot, err := os.Create(kernel.BootModules())
	if err != nil {
		return err
	}
	if err := errors.Join(initrd.NewWriter(boot).Close(), boot.Close()); err != nil {
		return err
	}
	m := bundle.Manifest{Version: bundle.Version, CreatedAt: time.Now().UTC()}
	m.Kernel = bundle.Kernel{Release: release, Origin: "test"}
	m.Image = bundle.Image{Name: "docker", File: filepath.Base(dir.Rootfs()), Origin: "test"}
	var errK, errI error
	m.Kernel.Digest, m.Kernel.Size, errK = bundle.KernelDigest(context.Background(), kernel)
	m.Image.Digest, m.Image.Size, errI = bundle.FileDigest(context.Background(), dir.Rootfs())
	return errors.Join(errK, errI, m.Write(dir))
}
