package shutdown

import (
	"io"
	"net"
	"time"

	"banger/internal/guest/agent/layout"
	"banger/internal/guest/agent/log"
	"banger/internal/guest/wire"
)

// serverTime bounds how long the server may take to pass on a bye and end.
const serverTime = 4 * time.Second

// sayBye tells the server how the machine ends, and waits until the server is gone.
func sayBye(verb wire.Verb) {
	conn, err := net.DialTimeout("unix", layout.ByeSocket, serverTime)
	if err != nil {
		log.Errorf("tell the server bye: %v", err)
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(serverTime))
	if _, err := io.WriteString(conn, string(verb)+"\n"); err != nil {
		log.Errorf("tell the server bye: %v", err)
		return
	}
	io.Copy(io.Discard, conn)
}

// printBye prints a bye on the console. rest is empty or a space and a reason.
func printBye(nonce string, verb wire.Verb, rest string) {
	log.Console(wire.ConsoleBye + nonce + " " + string(verb) + rest)
}
