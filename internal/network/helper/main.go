package helper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/internal/linux"
	"banger/internal/network"
	"banger/internal/network/dns"
)

// served is what the helper writes to the ready pipe once it serves. It writes why it
// does not otherwise.
const served = "serves\n"

// mostLog is the size at which the log starts again.
const mostLog = 1 << 20

// Main runs the helper until nobody needs it or it is told to end, and returns the exit
// code. args are the names of the descriptors that it has inherited. Its directory is the
// helper's own, and its standard error the log.
func Main(args []string) int {
	in, err := inherit(args)
	if err != nil {
		fmt.Fprintf(os.Stderr, "bangerd: %v\n", err)
		return 2
	}
	os.WriteFile("/proc/self/comm", []byte("banger-net"), 0) // for those who list processes
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	log := slog.New(slog.NewJSONHandler(&boundedLog{file: os.Stderr}, nil))
	log.Info("starting", "pid", os.Getpid())
	if err := run(ctx, in, log); err != nil {
		log.Error("ended", "err", err)
		fmt.Fprintln(in["ready"], err)
		return 1
	}
	log.Info("ended")
	return 0
}

// inherited are the descriptors that the daemon has opened.
type inherited map[string]*os.File

func inherit(args []string) (inherited, error) {
	in := inherited{}
	for i, name := range args {
		fd := 3 + i
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			return nil, fmt.Errorf("descriptor %d, %s: %w", fd, name, err)
		}
		unix.CloseOnExec(fd)
		in[name] = os.NewFile(uintptr(fd), name)
	}
	if in["ready"] == nil || in["lock"] == nil {
		return nil, errors.New("this role is only for bangerd itself to start")
	}
	return in, nil
}

// run serves.
func run(ctx context.Context, in inherited, log *slog.Logger) error {
	changed := make(chan struct{}, 1)
	stop, err := linux.Watch(".", unix.IN_MOVED_TO|unix.IN_ONLYDIR, changed)
	if err != nil {
		return err
	}
	defer stop()
	state, err := readState() // after the watch, which tells of later ones
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 2)
	sockets, done, err := open(ctx, in, state, failed, log)
	if err != nil {
		return err
	}
	defer done()
	if err := confine(); err != nil {
		log.Warn("not confined", "err", err)
	}
	server := dns.NewServer(state.table(), dns.NewUpstreams(dns.ResolvConf, log).List)
	go func() { failed <- server.Serve(ctx, sockets...) }()
	needed := newNeeded(log)
	living := needed.set(state.Needed)
	if living == 0 {
		return errors.New("no process needs it")
	}
	if _, err := in["ready"].WriteString(served); err != nil {
		log.Warn("the daemon has ended meanwhile", "err", err)
	}
	in["ready"].Close()
	log.Info("serving", "subnet", state.Subnet, "mode", state.Mode, "names", len(state.Names), "needed", living)
	return follow(changed, needed, server, failed, log)
}

// follow returns when the helper has to end. Until then it follows the state.
func follow(changed <-chan struct{}, needed *needed, server *dns.Server, failed <-chan error, log *slog.Logger) error {
	for len(needed.all) > 0 {
		select {
		case err := <-failed: // nil if the helper is told to end
			return err
		case process := <-needed.gone:
			needed.drop(process)
		case <-changed:
			state, err := readState()
			if err != nil {
				log.Error("the last state stays", "err", err)
				continue
			}
			server.SetTable(state.table())
			log.Info("state", "names", len(state.Names), "needed", needed.set(state.Needed))
		}
	}
	log.Info("nobody needs the network any more")
	return nil
}

// open returns the sockets to serve on, and what to call in the end. In usernet it starts
// the stack, which may fail later.
func open(ctx context.Context, in inherited, state State, failed chan<- error, log *slog.Logger) (sockets []dns.Socket, done func(), err error) {
	done = func() {}
	if state.Mode == network.Usernet {
		var guests dns.Socket
		if guests, done, err = carry(ctx, in["uplink"], state, failed, log); err != nil {
			return nil, nil, err
		}
		sockets = append(sockets, guests)
	}
	for _, askers := range []dns.Askers{dns.Guests, dns.Host} {
		socket, err := in.socket(askers)
		if err != nil {
			done()
			return nil, nil, err
		}
		if socket.Packets != nil {
			sockets = append(sockets, socket)
		}
	}
	return sockets, done, nil
}

// socket returns the sockets for askers that were inherited, if any.
func (in inherited) socket(askers dns.Askers) (s dns.Socket, err error) {
	udp, tcp := in[string(askers)+packets], in[string(askers)+streams]
	if udp == nil || tcp == nil {
		return s, nil
	}
	defer udp.Close()
	defer tcp.Close()
	s.Askers = askers
	if s.Packets, err = net.FilePacketConn(udp); err != nil {
		return s, err
	}
	s.Streams, err = net.FileListener(tcp)
	return s, err
}

// boundedLog is the log. It starts again when it is large.
type boundedLog struct{ file *os.File }

func (l *boundedLog) Write(line []byte) (int, error) {
	if info, err := l.file.Stat(); err == nil && info.Size() > mostLog {
		l.file.Truncate(0)
	}
	return l.file.Write(line)
}
