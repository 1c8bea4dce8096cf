package guest

import (
	"fmt"
	"strings"

	"banger"
)

// SSHArgv returns the command line of the user's own ssh that reaches a VM
// through proxy, a command whose stdin and stdout are the guest's port 22. args
// follow the host's name: ssh joins them by spaces and hands them to a shell in
// the guest. Further options of ssh can be inserted at index 1.
func SSHArgv(vm banger.VM, proxy []string, args []string) []string {
	// The forwards of a user's `Host *` would take ports of this host for the VM.
	argv := []string{"ssh", "-o", "ClearAllForwardings=yes"}
	for _, o := range sshOptions {
		if o.value != nil {
			argv = append(argv, "-o", o.keyword+"="+o.value(route{vm: vm, proxy: proxy}))
		}
	}
	return append(append(argv, "--", vm.Name+".vm"), args...)
}

// SSHConfig returns the options of SSHArgv as an entry of an ssh configuration,
// for scp, sftp, rsync and editors. Its hosts are the VM's name and NAME.vm.
func SSHConfig(vm banger.VM, proxy []string) (string, error) {
	return entry(vm.Name+" "+vm.Name+".vm", route{vm: vm, proxy: proxy})
}

// SSHConfigOfAll returns one entry for all VMs, also for those that do not exist yet.
// Its hosts are all NAME.vm; proxy is called with the name as the user types it, and
// must refuse one that no VM has. key and knownHosts are files; WriteHostNames has to have
// been called for knownHosts.
func SSHConfigOfAll(key, knownHosts string, proxy []string) (string, error) {
	names, err := IncludeLine(hostNames(knownHosts))
	if err != nil {
		return "", err
	}
	// A name with a quote would leave those around it in the ProxyCommand.
	text, err := entry(`*.vm "!*'*"`, route{vm: banger.VM{SSHKey: key, KnownHosts: knownHosts}, proxy: proxy, any: true})
	return names + "\n" + text, err
}

func entry(hosts string, r route) (string, error) {
	var text strings.Builder
	fmt.Fprintf(&text, "Host %s\n", hosts)
	for _, o := range sshOptions {
		if o.value == nil || o.value(r) == "" {
			continue
		}
		value := o.value(r)
		if strings.ContainsAny(value, "\n\r") {
			return "", fmt.Errorf("an ssh configuration cannot hold a path with a line break: %q", value)
		}
		fmt.Fprintf(&text, "  %s %s\n", o.keyword, value)
	}
	return text.String(), nil
}
