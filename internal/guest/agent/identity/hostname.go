package identity

import (
	"strings"

	"banger/internal/guest/agent/inroot"
	"banger/internal/guest/agent/layout"
)

// swap is a word that takes the place of another one.
type swap struct{ old, new string }

// hostName is what a guest is called, and which words follow from that.
type hostName struct {
	file  []byte // the content of /etc/hostname
	name  string // the host name in it
	swaps []swap // of names in /etc/hosts
}

// readHostName returns what /etc/hostname is to be for a VM with this name.
func readHostName(root, vm string) (hostName, error) {
	file, err := inroot.Read(root, hostNameFile)
	if err != nil {
		return hostName{}, err
	}
	before, err := inroot.Read(root, layout.HostNameMemory)
	if err != nil {
		return hostName{}, err
	}
	return hostNameFor(string(file), strings.TrimSpace(string(before)), vm), nil
}

// hostNameFor changes the VM's name in the text of /etc/hostname from before, which is
// empty at the first boot, to vm. What a person added, such as a domain, stays; so does
// a host name that a person has chosen.
func hostNameFor(text, before, vm string) hostName {
	var lines []string
	was, at := "", -1
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if word := strings.TrimSpace(line); at < 0 && word != "" && !strings.HasPrefix(word, "#") {
			was, at = word, len(lines)
		}
		lines = append(lines, line)
	}
	label, domain, dotted := strings.Cut(was, ".")
	name := was
	switch {
	case at < 0:
		name = vm
		lines = append(lines, vm)
	case label == vm:
	case label == before && dotted:
		name = vm + "." + domain
		lines[at] = name
	case before == "" || was == before:
		name = vm
		lines[at] = name
	}
	now, _, _ := strings.Cut(name, ".")
	return hostName{
		file: []byte(strings.Join(lines, "\n") + "\n"), name: name,
		swaps: []swap{{was, name}, {label, now}, {before, vm}},
	}
}

// remember keeps the VM's name for the next boot, which may have another one.
func remember(root, vm string) error {
	return inroot.Write(root, layout.HostNameMemory, []byte(vm+"\n"), 0o644)
}
