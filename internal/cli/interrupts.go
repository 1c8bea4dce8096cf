package cli

import (
	"fmt"
	"os"
	"sync"
)

// interrupts decides what a signal means: by default the first cancels the
// request, so that the daemon undoes what it began, and the second leaves at
// once. A command that runs something in a VM takes the signals over.
type interrupts struct {
	app    *app
	cancel func()

	mu    sync.Mutex
	seen  int
	taken chan<- os.Signal
}

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
		select {
		case i.taken <- sig:
		default: // nobody reads: the program in the VM has ended
		}
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

// take hands the signals that arrive from now on to the caller until give is
// called.
func (i *interrupts) take() (signals <-chan os.Signal, give func()) {
	taken := make(chan os.Signal, 4)
	i.set(taken)
	return taken, func() { i.set(nil) }
}

func (i *interrupts) set(taken chan<- os.Signal) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.taken = taken
}
