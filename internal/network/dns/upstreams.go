package dns

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// ResolvConf is where a host names its resolvers.
const ResolvConf = "/etc/resolv.conf"

// Bounds of the file, the C library's among them.
const (
	mostResolvConf = 64 << 10
	mostUpstreams  = 3
)

// local is where a host that names no resolver has one.
var local = netip.MustParseAddr("127.0.0.1")

// Upstreams is the list of the host's resolvers. It follows the file that names them: a
// change counts for the next query. It looks at the file then, and does not watch it:
// links lead to the file, whole directories of them come and go, and a watch would wake
// the process for each change beside them.
type Upstreams struct {
	path string
	log  *slog.Logger

	mu   sync.Mutex
	seen version
	list []netip.AddrPort
	said string // the last problem, which is logged once
}

// version tells one content of a file from another.
type version struct {
	dev, ino         uint64
	size             int64
	changed, renamed syscall.Timespec
}

// NewUpstreams returns the list in the file at path, which is ResolvConf except in tests.
func NewUpstreams(path string, log *slog.Logger) *Upstreams { return &Upstreams{path: path, log: log} }

// List returns the resolvers, the preferred one first. The caller must not change it.
func (u *Upstreams) List() []netip.AddrPort {
	u.mu.Lock()
	defer u.mu.Unlock()
	var stat syscall.Stat_t
	var seen version
	err := syscall.Stat(u.path, &stat)
	if err == nil {
		seen = version{uint64(stat.Dev), stat.Ino, stat.Size, stat.Mtim, stat.Ctim}
	}
	if u.list != nil && seen == u.seen {
		return u.list
	}
	var text []byte
	if err == nil {
		text, err = readBounded(u.path)
	}
	u.complain(err)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && u.list != nil {
		return u.list // better an old resolver than none
	}
	list := nameservers(text)
	if !slices.Equal(list, u.list) {
		u.log.Info("resolvers", "file", u.path, "resolvers", list)
	}
	u.seen, u.list = seen, list
	return u.list
}

// complain logs a problem once.
func (u *Upstreams) complain(err error) {
	said := ""
	if err != nil {
		said = err.Error()
	}
	if said != "" && said != u.said {
		u.log.Warn("read the host's resolvers", "err", said)
	}
	u.said = said
}

func readBounded(path string) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, fmt.Errorf("%s is not a file", path))
	}
	return io.ReadAll(io.LimitReader(file, mostResolvConf))
}

// nameservers returns the resolvers that a resolv.conf names, as the C library reads it.
func nameservers(text []byte) []netip.AddrPort {
	const port = 53
	list := []netip.AddrPort{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() && len(list) < mostUpstreams {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		addr, err := netip.ParseAddr(fields[1])
		if err == nil && !addr.IsMulticast() {
			list = append(list, netip.AddrPortFrom(addr.Unmap(), port))
		}
	}
	if len(list) == 0 {
		list = append(list, netip.AddrPortFrom(local, port))
	}
	return list
}
