package identity

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/inroot"
	"banger/internal/guest/agent/log"
)

const hostNameFile = "/etc/hostname"

// writeHosts puts the guest's name into /etc/hosts. A file that is too large to be
// read is a person's own list, and stays as it is.
func writeHosts(root string, host hostName) error {
	old, err := inroot.Read(root, "/etc/hosts")
	if errors.Is(err, unix.EFBIG) {
		log.Errorf("leave /etc/hosts alone: %v", err)
		return nil
	}
	if err != nil {
		return err
	}
	return inroot.Write(root, "/etc/hosts", hostsFor(old, host.name, host.swaps), 0o644)
}

// ownAddress is what the guest's name stands for in /etc/hosts.
const ownAddress = "127.0.1.1"

// hostsFor returns the content of /etc/hosts with the guest's name and localhost, each
// of which may be on any line. At ownAddress, words are swapped, and the rest of the
// line stays.
func hostsFor(old []byte, name string, swaps []swap) []byte {
	var lines []string
	local, own := false, false
	for line := range strings.Lines(string(old)) {
		line = strings.TrimRight(line, "\n")
		if address := addressOf(line); address != "" {
			if address == ownAddress {
				line = swapWords(line, swaps)
			}
			local = local || address == "127.0.0.1"
			own = own || findName(line, name) >= 0
		}
		lines = append(lines, line)
	}
	if !local {
		lines = append([]string{"127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"}, lines...)
	}
	if !own {
		short, _, dotted := strings.Cut(name, ".")
		if dotted {
			name += " " + short
		}
		lines = append(lines, ownAddress+"\t"+name)
	}
	return []byte(strings.Join(lines, "\n") + "\n")
}

// addressOf returns the address that a line gives names to, or "".
func addressOf(line string) string {
	names, _, _ := strings.Cut(line, "#")
	if fields := strings.Fields(names); len(fields) > 1 {
		return fields[0]
	}
	return ""
}

// swapWords swaps names of a line. A name that the line has already is not added a
// second time.
func swapWords(line string, swaps []swap) string {
	for _, s := range swaps {
		at := findName(line, s.old)
		if at < 0 || findName(line, s.new) >= 0 {
			continue
		}
		line = line[:at] + s.new + line[at+len(s.old):]
	}
	return line
}

// findName returns where a line has a name, or -1. The address and the comment are
// none.
func findName(line, name string) int {
	names, _, _ := strings.Cut(line, "#")
	at := 0
	for i, word := range strings.Fields(names) {
		at += strings.Index(names[at:], word)
		if i > 0 && word == name {
			return at
		}
		at += len(word)
	}
	return -1
}
