package script

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"

	"banger/internal/guest/transfer"
	"banger/internal/guest/wire"
)

// serveSSH serves the SSH port of a guest without programs: it answers a request to run
// one with its command line, and copies files of a home in the VM's directory. A program
// that sleeps ends with its client, or by a signal. It accepts only the VM's own keys.
func serveSSH(config wire.Config, conn net.Conn) {
	host, err := ssh.ParsePrivateKey([]byte(config.HostKey))
	if err != nil {
		return
	}
	server := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
		for _, known := range config.AuthorizedKeys {
			if strings.HasPrefix(known, line) {
				return nil, nil
			}
		}
		return nil, fmt.Errorf("unknown key")
	}}
	server.AddHostKey(host)
	client, channels, requests, err := ssh.NewServerConn(conn, server)
	if err != nil {
		return
	}
	defer client.Close()
	go ssh.DiscardRequests(requests)
	for offer := range channels {
		if channel, requests, err := offer.Accept(); err == nil {
			go serveSession(config, channel, requests)
		}
	}
}

func serveSession(config wire.Config, channel ssh.Channel, requests <-chan *ssh.Request) {
	defer channel.Close()
	name := config.Name
	for request := range requests {
		said := ""
		switch request.Type {
		case "shell":
			said = "a shell"
		case "exec":
			var command struct{ Line string }
			if ssh.Unmarshal(request.Payload, &command) == nil {
				said = command.Line
			}
		case "subsystem":
			request.Reply(true, nil)
			if strings.Contains(string(request.Payload), wire.ExportSubsystem) {
				serveExport(config, channel)
				return
			}
			serveFiles(channel)
			return
		case "signal":
			channel.SendRequest("exit-signal", false, append(request.Payload, make([]byte, 9)...))
			return
		case wire.ExecRequest:
			var program wire.Exec
			if json.Unmarshal(request.Payload, &program) != nil {
				continue
			}
			if ran, ok := serveBuild(program); ok {
				request.Reply(true, nil)
				ran(channel, requests)
				return
			}
			said = fmt.Sprintf("%q", program.Argv)
		}
		if request.WantReply {
			request.Reply(true, nil)
		}
		if said != "" {
			fmt.Fprintf(channel, "%s ran %s\r\n", name, said)
			if strings.Contains(said, "sleep") {
				continue // until the client has enough
			}
			channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{0}))
			return
		}
	}
}

// serveFiles copies files as the agent does.
func serveFiles(channel ssh.Channel) {
	home, err := filepath.Abs("home")
	if err == nil {
		err = os.MkdirAll(home, 0o700)
	}
	if err == nil {
		transfer.Serve(channel, channel, home)
	}
}
