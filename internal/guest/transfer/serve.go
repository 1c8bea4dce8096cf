package transfer

import (
	"bufio"
	"encoding/json"
	"io"
)

// maxRequest bounds the line of a Request.
const maxRequest = 64 << 10

// WriteRequest asks the other end, which runs Serve.
func WriteRequest(w io.Writer, r Request) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = w.Write(append(line, '\n'))
	return err
}

// Serve does what the Request at the start of in says, for a user with this home. A
// stream is then read from in, and the result is written to out, or the other way
// round.
func Serve(in io.Reader, out io.Writer, home string) error {
	from := bufio.NewReaderSize(in, maxRequest)
	line, err := from.ReadSlice('\n')
	if err != nil {
		return broken(err)
	}
	var request Request
	if err := json.Unmarshal(line, &request); err != nil {
		return foreign("%v", err)
	}
	path := absolute(home, string(request.Path))
	if request.Send {
		return Sender{Path: path, FollowLinks: request.FollowLinks}.Send(out)
	}
	answer := newWriter(out)
	notes := 0
	receiver := Receiver{Path: path, Name: string(request.Name), Note: func(path, why string) {
		if notes++; notes <= maxNotes {
			answer.put(record{kind: note, name: path, text: why})
		}
	}}
	if err := receiver.Receive(from); err != nil {
		answer.fail(fail(path, err))
	} else {
		answer.put(record{kind: done})
	}
	return answer.Flush()
}

// maxNotes bounds the notes in an answer: nobody reads it before the copy has ended.
const maxNotes = 64

// Answer reads what a Serve that received says about it. aside gets the notes of the
// sender; it may be nil.
func Answer(from io.Reader, aside func(path, why string)) error {
	in := &receiving{Receiver: Receiver{Note: aside}, reader: newReader(from)}
	if err := in.rest(); err != nil {
		return broken(err)
	}
	return nil
}
