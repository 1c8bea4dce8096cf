package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/config"
	"banger/internal/hostcmd"
)

// Who runs programs in the host: a plain user of the group kvm, or root.
const (
	User      = "lab"
	Superuser = "root"
)

// Root is the directory in the host that holds the programs and, as runtime, the bundle.
const Root = "/lab"

// Lab is the place where the lab host is built and run. A cache has one lab, which runs
// one host at a time.
type Lab struct {
	Runner hostcmd.Runner
	Bundle config.BundleDir
	Out    io.Writer

	dir, run string
	lock     *os.File
}

// Open locks the lab. It returns a Conflict if another process has it.
func (l *Lab) Open(dirs config.Dirs) error {
	l.dir, l.run = dirs.Lab(), filepath.Join(dirs.Lab(), "run")
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return err
	}
	lock, err := os.Open(l.dir)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return &banger.Error{Kind: banger.Conflict, What: "open the lab", Why: fmt.Errorf("another lab is running in %s", l.dir), Fix: "wait until it ends"}
	}
	l.lock = lock
	return errors.Join(os.RemoveAll(l.run), os.Mkdir(l.run, 0o700))
}

// Close unlocks the lab. The files of the last run stay until the next one.
func (l *Lab) Close() error { return l.lock.Close() }

// Console returns the file of the host's console output.
func (l *Lab) Console() string { return filepath.Join(l.run, "console.log") }

// Run returns the directory of this run's files. The next run removes them.
func (l *Lab) Run() string { return l.run }

func (l *Lab) say(format string, args ...any) { fmt.Fprintf(l.Out, format+"\n", args...) }

// Build builds the host's disks that are missing or stale.
func (l *Lab) Build(ctx context.Context) error {
	_, err := l.disks(ctx)
	return err
}

func (l *Lab) disks(ctx context.Context) (disks, error) {
	d := disks{kernel: l.Bundle.Kernel()}
	var err error
	if d.image, err = l.buildImage(ctx); err != nil {
		return d, err
	}
	d.data, err = l.buildData(ctx)
	return d, err
}

// Host is a running lab host. Its Client is the plain user's.
type Host struct {
	*ssh.Client
	root  *ssh.Client
	Port  int
	Key   string // file of the user's private key
	Known string // known_hosts file with the host's key

	stop  context.CancelFunc
	ended <-chan error
}

// Boot boots the host with the directory programs copied into Root. The host ends with
// ctx or by Close, and everything written in it is lost.
func (l *Lab) Boot(ctx context.Context, programs string) (*Host, error) {
	d, err := l.disks(ctx)
	if err != nil {
		return nil, err
	}
	d.programs = filepath.Join(l.run, "programs.ext4")
	if err := l.mke2fs(ctx, programs, d.programs, 512*banger.MiB); err != nil {
		return nil, err
	}
	keys, err := newKeys()
	if err != nil {
		return nil, err
	}
	initrd, err := l.writeInitrd(keys)
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	qemu, err := l.Runner.Look("qemu-system-x86_64")
	if err != nil {
		return nil, err
	}
	cpuinfo, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	h := &Host{Port: port, stop: stop}
	if h.ended, err = l.boot(ctx, append([]string{qemu}, args(d, initrd, port, khz(cpuinfo))...)); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	if err := l.connect(h, keys); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to the lab host: %w", err), h.Close())
	}
	return h, nil
}

func (l *Lab) connect(h *Host, keys keys) error {
	address := fmt.Sprintf("127.0.0.1:%d", h.Port)
	known := fmt.Sprintf("[127.0.0.1]:%d %s", h.Port, ssh.MarshalAuthorizedKey(keys.known))
	var err error
	if h.Known, err = l.writeText("known_hosts", 0o600, []byte(known)); err != nil {
		return err
	}
	if h.Key, err = l.writeText("id", 0o600, keys.user); err != nil {
		return err
	}
	if h.Client, err = login(address, User, keys); err != nil {
		return err
	}
	go h.nudge()
	h.root, err = login(address, Superuser, keys)
	return err
}

func login(address, user string, keys keys) (*ssh.Client, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	secure, channels, requests, err := ssh.NewClientConn(conn, address, &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(keys.signer)}, HostKeyCallback: ssh.FixedHostKey(keys.known),
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("log in as %s: %w", user, err), conn.Close())
	}
	return ssh.NewClient(secure, channels, requests), nil
}

// nudging is how often nudge sends a request to the host.
const nudging = 2 * time.Second

// nudge sends requests to the host until the connection ends. Once a host stood still in
// a VM's thread for 216 s until a connection came in, as if QEMU had lost a timer
// interrupt (2026-11-24, QEMU 7.2). Any other interrupt ends that.
func (h *Host) nudge() {
	ticker := time.NewTicker(nudging)
	defer ticker.Stop()
	for range ticker.C {
		if _, _, err := h.SendRequest("keepalive@banger-lab", true, nil); err != nil {
			return
		}
	}
}

// Close ends the host.
func (h *Host) Close() error {
	for _, client := range []*ssh.Client{h.Client, h.root} {
		if client != nil {
			client.Close()
		}
	}
	h.stop()
	if h.ended != nil { // nil if QEMU never started
		<-h.ended
	}
	return nil
}

// Shell runs a shell command in the host as User or Superuser and returns its exit status.
// It returns an error if the host dies.
func (h *Host) Shell(ctx context.Context, user, line string, out io.Writer) (int, error) {
	client := h.Client
	if user == Superuser {
		client = h.root
	}
	session, err := client.NewSession()
	if err != nil {
		return 0, err
	}
	defer session.Close()
	both := &together{to: out}
	session.Stdout, session.Stderr = both, both
	done := make(chan error, 1)
	go func() { done <- session.Run(line) }()
	select {
	case err = <-done:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	var exit *ssh.ExitError
	if errors.As(err, &exit) && exit.Signal() == "" {
		return exit.ExitStatus(), nil
	}
	return 0, err
}

// together writes what two streams bring at the same time. It hides all but Write: a
// buffer that reads both by itself loses what one of them brought.
type together struct {
	mu sync.Mutex
	to io.Writer
}

func (w *together) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.to.Write(p)
}
