package wire

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// ReadMessage reads one line of at most MaxLine bytes. in's buffer may be smaller: few
// messages are long.
func ReadMessage(in *bufio.Reader) (Message, error) {
	var message Message
	var begun []byte
	line, err := in.ReadSlice('\n')
	for errors.Is(err, bufio.ErrBufferFull) && len(begun)+len(line) < MaxLine {
		begun = append(begun, line...)
		line, err = in.ReadSlice('\n')
	}
	line = append(begun, line...)
	if len(line) > MaxLine || errors.Is(err, bufio.ErrBufferFull) {
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
