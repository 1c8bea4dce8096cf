package linux

import (
	"encoding/binary"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// watches are all watches of this process on one inotify instance: a user may have
// few of these.
var watches struct {
	sync.Mutex
	file  *os.File // nil while there is no watch
	rings map[uint32]map[*watch]bool
}

// watch is what one caller of Watch watches.
type watch struct {
	id     uint32 // of the kernel; the same for all that watch the same file
	events uint32
	ring   chan<- struct{}
}

// Watch sends to ring, if that has room, whenever one of these inotify events happens to
// the file or directory at path, and when it is deleted. A ring with room for one value
// misses nothing. It ends with stop, which may be called twice.
func Watch(path string, events uint32, ring chan<- struct{}) (stop func(), err error) {
	watches.Lock()
	defer watches.Unlock()
	if watches.file == nil {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			return nil, os.NewSyscallError("inotify_init1", err)
		}
		watches.file, watches.rings = os.NewFile(uintptr(fd), "inotify"), map[uint32]map[*watch]bool{}
		go ringAll(watches.file)
	}
	id := 0
	failed := control(watches.file, func(fd int) {
		// Others of this process may watch the same file for other events.
		id, err = unix.InotifyAddWatch(fd, path, events|unix.IN_MASK_ADD)
	})
	if failed != nil {
		err = failed
	}
	if err != nil {
		closeUnwatched()
		return nil, os.NewSyscallError("inotify_add_watch", err)
	}
	w := &watch{id: uint32(id), events: events, ring: ring}
	if watches.rings[w.id] == nil {
		watches.rings[w.id] = map[*watch]bool{}
	}
	watches.rings[w.id][w] = true
	return w.stop, nil
}

func (w *watch) stop() {
	watches.Lock()
	defer watches.Unlock()
	rings := watches.rings[w.id]
	if !rings[w] {
		return
	}
	delete(rings, w)
	if len(rings) == 0 {
		delete(watches.rings, w.id)
		control(watches.file, func(fd int) { unix.InotifyRmWatch(fd, w.id) }) // it may have gone with its file
	}
	closeUnwatched()
}

// closeUnwatched closes the inotify instance when nothing is watched. The caller holds
// the lock.
func closeUnwatched() {
	if len(watches.rings) == 0 {
		watches.file.Close()
		watches.file = nil
	}
}

// control calls f with the descriptor. (*os.File).Fd would make reads of it block.
func control(file *os.File, f func(fd int)) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { f(int(fd)) })
}

// ringAll reads the events of an inotify instance until it is closed.
func ringAll(file *os.File) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := file.Read(buffer)
		if err != nil {
			return
		}
		watches.Lock()
		for events := buffer[:n]; len(events) >= unix.SizeofInotifyEvent && file == watches.file; {
			id, mask := binary.NativeEndian.Uint32(events), binary.NativeEndian.Uint32(events[4:])
			ring(id, mask)
			events = events[min(unix.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(events[12:])), len(events)):]
		}
		watches.Unlock()
	}
}

// ring sends to the rings of one event. The caller holds the lock.
func ring(id, mask uint32) {
	for key, rings := range watches.rings {
		if key != id && mask&unix.IN_Q_OVERFLOW == 0 {
			continue
		}
		for w := range rings {
			if mask&(w.events|unix.IN_IGNORED|unix.IN_Q_OVERFLOW) == 0 {
				continue
			}
			select {
			case w.ring <- struct{}{}:
			default:
			}
		}
	}
}
