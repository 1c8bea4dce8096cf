package cli

import (
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// notify asks for the signals that interrupt a command.
func notify(signals chan<- os.Signal) {
	listen(signals, []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT})
}

// listen asks for signals. Those that are ignored, as under nohup or after a shell's &,
// stay ignored.
func listen(signals chan<- os.Signal, which []os.Signal) {
	for _, sig := range which {
		if !signal.Ignored(sig) {
			signal.Notify(signals, sig)
		}
	}
}

// passed are the further signals that a program in a VM gets while it runs. Otherwise they
// do to banger what they do to any program.
var passed = func() []os.Signal {
	all := []os.Signal{syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM}
	for n := syscall.Signal(34); n <= 64; n++ { // those of real time that the C library leaves
		all = append(all, n)
	}
	return all
}()

// interrupts decides what a signal does. The first cancels the request and waits for
// the daemon to undo what it can; the second quits at once. While a command runs a
// program, the signals go to the program instead; if it does not end, banger does.
type interrupts struct {
	app    *app
	cancel func()

	mu    sync.Mutex
	seen  int
	taken chan<- os.Signal
	asked int // how many signals were sent to the program
}

// patience is the number of INT and TERM signals after which banger no longer waits
// for the program: its guest may hang.
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
	if text, _ := i.app.operation.Load().(string); text != "" && i.app.std.ErrTTY && !i.app.json {
		fmt.Fprintln(i.app.std.Err, "\n"+text+" Press Ctrl-C again to quit at once.")
	}
	i.cancel()
}

func (i *interrupts) pass(sig os.Signal) {
	select {
	case i.taken <- sig:
	default: // the program has ended
	}
	if sig == syscall.SIGINT || sig == syscall.SIGTERM {
		i.asked++
	}
	if i.asked >= patience {
		i.cancel()
	}
}

// handTo sends the signals that arrive from now on to taken; nil takes them back.
func (i *interrupts) handTo(taken chan<- os.Signal) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.taken, i.asked = taken, 0
}
