package wire

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// ReadMessage reads one line of at most MaxLine bytes: in's buffer has to be
// that long, and neither end trusts the other with more.
func ReadMessage(in *bufio.Reader) (Message, error) {
	var message Message
	line, err := in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return message, fmt.Errorf("a message is longer than %d bytes", MaxLine)
	}
	if err != nil {
		return message, err
	}
	if err := json.Unmarshal(bytes.TrimSpace(line), &message); err != nil {
		return message, fmt.Errorf("read a message: %w", err)
	}
	return message, nil
}
