package stack

import "sync/atomic"

// workers run tasks on goroutines that are kept for the next ones: the stack of a new
// goroutine has to grow several times, which a short connection would notice.
type workers struct {
	tasks chan func()
	idle  atomic.Int32
}

// mostIdle is how many goroutines wait for a task at most.
const mostIdle = 16

func newWorkers() *workers { return &workers{tasks: make(chan func())} }

// run runs a task on a goroutine that waits for one, or on a new one.
func (w *workers) run(task func()) {
	select {
	case w.tasks <- task:
	default:
		go w.work(task)
	}
}

// work runs a task, and others after it.
func (w *workers) work(task func()) {
	for ok := true; ok; {
		task()
		if w.idle.Add(1) > mostIdle {
			w.idle.Add(-1)
			return
		}
		task, ok = <-w.tasks
		w.idle.Add(-1)
	}
}

// close ends those that wait. Nothing may be run after it.
func (w *workers) close() { close(w.tasks) }
