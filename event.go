package banger

import "time"

// EventKind says what an event is about.
type EventKind string

// The kinds of events.
const (
	EventVM        EventKind = "vm"        // VM is set: as it is now, or as it was last when Gone
	EventImage     EventKind = "image"     // Image is set
	EventKernel    EventKind = "kernel"    // Kernel is set
	EventOperation EventKind = "operation" // Operation is set
	EventReady     EventKind = "ready"     // the snapshot is complete: what follows are changes
	EventDropped   EventKind = "dropped"   // the reader was too slow and has missed events: read the snapshot again
)

// Event is one change of what the daemon owns.
type Event struct {
	Seq       uint64     `json:"seq"`                 // grows by one with each change; a snapshot repeats the newest number
	Time      time.Time  `json:"time"`                // when it happened
	Kind      EventKind  `json:"kind"`                // what the event is about
	Gone      bool       `json:"gone,omitempty"`      // the VM, image or kernel no longer exists
	VM        *VM        `json:"vm,omitempty"`        // the VM as it is now
	Image     *Image     `json:"image,omitempty"`     // the image as it is now
	Kernel    *Kernel    `json:"kernel,omitempty"`    // the kernel as it is now
	Operation *Operation `json:"operation,omitempty"` // the operation and its newest step
}

// Operation is a verb at work: each of its steps is an event.
type Operation struct {
	ID      string        `json:"id"`                // as in the daemon's log
	Noun    string        `json:"noun"`              // `vm` or `image`
	Verb    Verb          `json:"verb"`              // what it does
	Name    string        `json:"name,omitempty"`    // the VM's or image's name; absent until one is chosen
	VMID    VMID          `json:"vm_id,omitempty"`   // the VM's ID
	BeganAt time.Time     `json:"began_at"`          // when it began
	Step    *Step         `json:"step,omitempty"`    // the newest step
	Ended   bool          `json:"ended,omitempty"`   // it has ended
	Took    time.Duration `json:"took_ns,omitempty"` // how long it took, once it has ended
	Failure *Failure      `json:"failure,omitempty"` // why it failed; absent when it succeeded
}

// Failure is an Error as text.
type Failure struct {
	Kind    Kind   `json:"kind"`          // the error's kind
	Message string `json:"message"`       // the whole error
	Fix     string `json:"fix,omitempty"` // one command or one sentence
}

// Step is a part of an operation, by the same name in progress, events and log.
type Step struct {
	VM   string        `json:"vm,omitempty"`      // the VM's name
	Step string        `json:"step"`              // name of the step: `create disks`, `boot`
	Done bool          `json:"done,omitempty"`    // absent when the step begins
	Took time.Duration `json:"took_ns,omitempty"` // how long the step took
	Note string        `json:"note,omitempty"`    // one line for the user
	Warn bool          `json:"warn,omitempty"`    // the user has to know the note even if nobody shows steps

	Output string `json:"output,omitempty"` // one line that a program in a VM printed; not in the event stream

	Moved Size `json:"moved_bytes,omitempty"` // how much the step has moved so far
	Total Size `json:"total_bytes,omitempty"` // how much it will move in all; set in a report of Moved
}

// Progress receives the steps of an operation in order; nil means that nobody
// listens.
type Progress func(Step)

// Send hands s to p unless nobody listens.
func (p Progress) Send(s Step) {
	if p != nil {
		p(s)
	}
}
