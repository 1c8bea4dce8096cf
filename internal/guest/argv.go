package guest

import (
	"fmt"
	"strings"

	"banger"
)

// SSHArgv is the command line of the user's own ssh that reaches a VM through
// proxy, a command whose stdin and stdout are the guest's port 22. args follow
// the host's name: ssh hands them to a shell in the guest, joined by spaces.
// Options of ssh go between, by inserting them at index 1.
func SSHArgv(vm banger.VM, proxy []string, args []string) []string {
	argv := []string{"ssh"}
	for _, o := range sshOptions(vm, proxy) {
		argv = append(argv, "-o", o.name+"="+o.value)
	}
	return append(append(argv, "--", vm.Name+".vm"), args...)
}

// SSHConfig is what SSHArgv says, as a host's entry in a configuration of ssh:
// for scp, sftp, rsync and editors. The host has the VM's name, with .vm behind
// it and without.
func SSHConfig(vm banger.VM, proxy []string) (string, error) {
	var text strings.Builder
	fmt.Fprintf(&text, "Host %s %s.vm\n", vm.Name, vm.Name)
	for _, o := range sshOptions(vm, proxy) {
		if strings.ContainsAny(o.value, "\n\r") {
			return "", fmt.Errorf("a path with an end of line has no place in a configuration of ssh: %q", o.value)
		}
		fmt.Fprintf(&text, "  %s %s\n", o.name, o.value)
	}
	return text.String(), nil
}

type sshOption struct{ name, value string }

// sshOptions are the options by which ssh reaches a VM and knows it for sure.
func sshOptions(vm banger.VM, proxy []string) []sshOption {
	words := make([]string, len(proxy))
	for i, word := range proxy {
		words[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	}
	// ssh expands % in all of them; the shell that runs the proxy command undoes its quotes.
	escape := func(s string) string { return strings.ReplaceAll(s, "%", "%%") }
	file := func(s string) string {
		return `"` + strings.NewReplacer("%", "%%", `\`, `\\`, `"`, `\"`).Replace(s) + `"`
	}
	return []sshOption{
		{"ProxyCommand", escape(strings.Join(words, " "))},
		{"User", "root"},
		{"HostKeyAlias", HostAlias(vm.ID)},
		{"UserKnownHostsFile", file(vm.KnownHosts)},
		{"GlobalKnownHostsFile", "/dev/null"},
		{"StrictHostKeyChecking", "yes"},
		{"UpdateHostKeys", "no"},
		{"CheckHostIP", "no"},
		{"IdentityFile", file(vm.SSHKey)},
		{"IdentitiesOnly", "yes"},
		{"PasswordAuthentication", "no"},
		{"LogLevel", "ERROR"},
	}
}
