package cli

import (
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// notify asks for the signals that end a command. One that is ignored, as under
// nohup or behind a shell's &, was meant to be, and stays so.
func notify(signals chan<- os.Signal) {
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
		if !signal.Ignored(sig) {
			signal.Notify(signals, sig)
		}
	}
}

// interrupts decides what a signal means: by default the first cancels the
// request, so that the daemon undoes what it began, and the second leaves at
// once. A program that a command runs takes the signals over, and one that does
// not end by them is given up.
type interrupts struct {
	app    *app
	cancel func()

	mu    sync.Mutex
	seen  int
	taken chan<- os.Signal
	asked int // by how many signals that are taken
}

// patience is how many INT or TERM a program may be sent before it is given up:
// it may be in a guest that hangs.
const patience = 3

// run handles signals until over is closed.
func (i *interrupts) run(signals <-chan os.Signal, over <-chan struct{}) {
	for {
		select {
		case sig := <-signals:
			i.handle(sig)
		case <-over:
			return
		}
	}
}

func (i *interrupts) handle(sig os.Signal) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.taken != nil {
		i.pass(sig)
		return
	}
	i.seen++
	if i.seen > 1 {
		i.app.quit(exitInterrupted)
		return
	}
	if i.app.std.ErrTTY && !i.app.json && i.app.operating.Load() {
		fmt.Fprintln(i.app.std.Err, "\ninterrupted: what was begun is being undone; once more leaves at once")
	}
	i.cancel()
}

func (i *interrupts) pass(sig os.Signal) {
	select {
	case i.taken <- sig:
	default: // nobody reads: the program has ended
	}
	if sig == syscall.SIGINT || sig == syscall.SIGTERM {
		i.asked++
	}
	if i.asked >= patience {
		i.cancel()
	}
}

// handTo makes the signals that arrive from now on those of whoever reads
// taken; nil takes them back.
func (i *interrupts) handTo(taken chan<- os.Signal) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.taken, i.asked = taken, 0
}
