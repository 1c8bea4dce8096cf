package cli

import (
	"fmt"
	"io"
	"sync"
	"time"

	"banger"
)

// progress shows the steps of a long operation: on a terminal in one line that
// changes, with --verbose in one line per step, and otherwise not at all.
type progress struct {
	app   *app
	out   io.Writer
	live  bool
	plain bool
	end   chan struct{}
	drawn sync.WaitGroup

	mu    sync.Mutex
	step  string
	begun time.Time
	moved string        // how far the step is, if it moves bytes
	line  func() string // shown instead of the step; may be nil
}

// redraw is the interval at which the elapsed time changes.
const redraw = 100 * time.Millisecond

// What a person is told about an interrupted operation.
const (
	undone    = "Interrupted, undoing."
	notUndone = "Interrupted."
	goesDown  = "Interrupted. A guest that has begun to shut down continues."
	staysUp   = "Interrupted. The VM keeps running."
	comesBack = "Interrupted. A guest that has begun to shut down continues, and starts again."
)

func (a *app) newProgress(interrupted string) *progress {
	a.operation.Store(interrupted)
	p := &progress{app: a, out: a.std.Err, end: make(chan struct{}), begun: time.Now()}
	switch {
	case a.json:
	case a.verbose:
		p.plain = true
	case a.std.ErrTTY:
		p.live = true
		p.drawn.Add(1)
		go p.draw()
	}
	return p
}

// event is the operation's banger.Progress.
func (p *progress) event(e banger.Step) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.Output != "" {
		if p.live || p.plain {
			p.erase()
			fmt.Fprintf(p.out, "  %s\n", clean(e.Output))
		}
		return
	}
	step := clean(e.Step)
	if e.VM != "" {
		step = clean(e.VM) + ": " + step
	}
	if e.Total > 0 {
		p.moved = fmt.Sprintf("%s of %s, ", megabytes(int64(e.Moved)), megabytes(int64(e.Total)))
		return
	}
	if !e.Done {
		p.step, p.begun, p.moved = step, time.Now(), ""
	}
	if p.plain && e.Done {
		fmt.Fprintf(p.out, "%s ... %s\n", step, seconds(e.Took))
	}
	if e.Note != "" && (p.live || p.plain || e.Warn && !p.app.json) {
		p.erase()
		if e.Warn && e.VM != "" {
			e.Note = e.VM + ": " + e.Note
		}
		fmt.Fprintf(p.out, "note: %s\n", clean(e.Note))
	}
}

func (p *progress) draw() {
	defer p.drawn.Done()
	ticker := time.NewTicker(redraw)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			p.mu.Lock()
			if text := p.text(); text != "" {
				p.erase()
				fmt.Fprint(p.out, text)
			}
			p.mu.Unlock()
		case <-p.end:
			return
		}
	}
}

func (p *progress) text() string {
	switch {
	case p.line != nil:
		return p.line()
	case p.step != "":
		return fmt.Sprintf("%s ... %s%s", p.step, p.moved, seconds(time.Since(p.begun)))
	}
	return ""
}

// show shows what line returns from now on.
func (p *progress) show(line func() string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.line != nil {
		p.erase()
	}
	p.line = line
}

// say prints a line for a person, whatever the display is.
func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	fmt.Fprintf(p.out, format+"\n", args...)
}

func (p *progress) erase() {
	if p.live {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}

// close ends the display. Print nothing else to the terminal before it.
func (p *progress) close() {
	p.app.operation.Store("")
	close(p.end)
	p.drawn.Wait()
	p.erase()
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1fs", d.Seconds()) }
