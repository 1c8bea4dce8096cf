package guest

import (
	"strings"

	"banger"
)

// sshOption is what banger does about a keyword of ssh_config(5): it sets value,
// or leaves the keyword to the user's configuration where value is nil or empty.
type sshOption struct {
	keyword string
	value   func(route) string
}

// route is a VM and the command that connects to its port 22.
type route struct {
	vm    banger.VM
	proxy []string
	any   bool // the VM is whichever has the name that the user types; vm has only files
}

func is(value string) func(route) string { return func(route) string { return value } }

// yours marks a keyword as the user's.
var yours func(route) string

// sshOptions has every keyword of ssh_config(5). Whatever could break a
// connection to a VM, or lead it elsewhere, is set. ssh takes the first value it
// finds, so these win over all of the user's files but not over options that the
// user types. They need OpenSSH 8.7.
var sshOptions = []sshOption{
	// The way to the VM. ProxyCommand also cancels a ProxyJump.
	{"ProxyCommand", proxyCommand},
	{"ProxyJump", yours},
	{"ProxyUseFdpass", is("no")},
	// The host name is the ID's, so that a ControlPath made of %h or %C is, too. An entry
	// for all VMs has it from WriteHostNames.
	{"HostName", func(r route) string {
		if r.any {
			return "%h"
		}
		return HostAlias(r.vm.ID)
	}},
	{"Port", is("22")}, // known hosts are looked up by another one, too
	{"CanonicalizeHostname", is("no")},
	{"User", is("root")},
	{"ConnectTimeout", is("60")},     // the user's is for networks; a VM may be slow
	{"ServerAliveInterval", is("0")}, // so may one that pauses; the way to it tells its end
	{"Tunnel", is("no")},

	// No shared connection: a name that has moved would lead to the VM that had it.
	{"ControlMaster", is("no")},
	{"ControlPath", is("none")},
	{"ControlPersist", is("no")},

	// The VM proves who it is with the one key that banger made for it.
	// An entry for all VMs has its alias from WriteHostNames, too.
	{"HostKeyAlias", func(r route) string {
		if r.any {
			return ""
		}
		return HostAlias(r.vm.ID)
	}},
	{"UserKnownHostsFile", func(r route) string { return sshFile(r.vm.KnownHosts) }},
	{"GlobalKnownHostsFile", is("/dev/null")},
	{"KnownHostsCommand", is("none")},
	{"RevokedHostKeys", is("none")},
	{"StrictHostKeyChecking", is("yes")},
	{"HostKeyAlgorithms", is("ssh-ed25519")},
	{"VerifyHostKeyDNS", is("no")},
	{"UpdateHostKeys", is("no")},
	{"CheckHostIP", is("no")},

	// The user proves it with one key. IdentityFile and CertificateFile add up
	// over all files: ours comes first, and no certificate is accepted.
	{"IdentityFile", func(r route) string { return sshFile(r.vm.SSHKey) }},
	{"IdentitiesOnly", is("yes")},
	{"CertificateFile", yours},
	{"PubkeyAuthentication", is("yes")},
	{"PubkeyAcceptedAlgorithms", is("-*-cert-v0*@openssh.com")},
	{"PreferredAuthentications", is("publickey")},
	{"PKCS11Provider", is("none")}, // it would ask for a PIN
	{"AddKeysToAgent", is("no")},   // other hosts would be offered the VM's key

	// A minus takes from ssh's own list, whatever the user's list is.
	{"Ciphers", is("-*-cbc")},
	{"KexAlgorithms", is("-*-sha1")},
	{"MACs", is("-*-md5*")},

	// What runs is what was asked for.
	{"RemoteCommand", is("none")},
	{"SessionType", is("default")},
	{"RequestTTY", is("auto")},
	{"StdinNull", is("no")},
	{"ForkAfterAuthentication", is("no")},
	{"PermitLocalCommand", is("no")},
	{"ForwardX11", is("no")}, // guests do not offer it
	{"LogLevel", is("ERROR")},

	// Forwards add up over all files. `vm ssh` clears them; with an entry those
	// that the user types must work, and others must not end the connection.
	{"ClearAllForwardings", is("no")},
	{"ExitOnForwardFailure", is("no")},
	{"DynamicForward", yours},
	{"LocalForward", yours},
	{"RemoteForward", yours},
	{"GatewayPorts", yours},
	{"PermitRemoteOpen", yours},
	{"StreamLocalBindMask", yours},
	{"StreamLocalBindUnlink", yours},
	{"ForwardAgent", yours},

	// Each of these is about the user's own key: its agent, its token, its size.
	{"IdentityAgent", yours},
	{"SecurityKeyProvider", yours},
	{"RequiredRSASize", yours},
	{"BatchMode", yours},
	{"NumberOfPasswordPrompts", yours},

	// Taste: these neither break a connection nor lead it elsewhere. Of SendEnv and SetEnv,
	// the guest takes no variable that a login there sets.
	{"ChannelTimeout", yours},
	{"Compression", yours},
	{"EnableEscapeCommandline", yours},
	{"EscapeChar", yours},
	{"FingerprintHash", yours},
	{"HashKnownHosts", yours},
	{"IPQoS", yours},
	{"LogVerbose", yours},
	{"ObscureKeystrokeTiming", yours},
	{"RefuseConnection", yours},
	{"RekeyLimit", yours},
	{"SendEnv", yours},
	{"SetEnv", yours},
	{"SyslogFacility", yours},
	{"VersionAddendum", yours},
	{"VisualHostKey", yours},
	{"WarnWeakCrypto", yours},

	// No effect with a ProxyCommand.
	{"AddressFamily", yours},
	{"BindAddress", yours},
	{"BindInterface", yours},
	{"ConnectionAttempts", yours},
	{"TCPKeepAlive", yours},

	// No effect with one of the values above.
	{"CanonicalDomains", yours},
	{"CanonicalizeFallbackLocal", yours},
	{"CanonicalizeMaxDots", yours},
	{"CanonicalizePermittedCNAMEs", yours},
	{"CASignatureAlgorithms", yours},
	{"EnableSSHKeysign", yours},
	{"ForwardX11Timeout", yours},
	{"ForwardX11Trusted", yours},
	{"GSSAPIAuthentication", yours},
	{"GSSAPIClientIdentity", yours},
	{"GSSAPIDelegateCredentials", yours},
	{"GSSAPIKexAlgorithms", yours},
	{"GSSAPIKeyExchange", yours},
	{"GSSAPIRenewalForcesRekey", yours},
	{"GSSAPIServerIdentity", yours},
	{"GSSAPITrustDns", yours},
	{"HostbasedAcceptedAlgorithms", yours},
	{"HostbasedAuthentication", yours},
	{"KbdInteractiveAuthentication", yours},
	{"KbdInteractiveDevices", yours},
	{"LocalCommand", yours},
	{"ServerAliveCountMax", yours},
	{"NoHostAuthenticationForLocalhost", yours},
	{"PasswordAuthentication", yours},
	{"TunnelDevice", yours},
	{"XAuthLocation", yours},

	// The language of the file itself. To set IgnoreUnknown would undo the user's,
	// and with it break the user's files.
	{"Host", yours},
	{"IgnoreUnknown", yours},
	{"Include", yours},
	{"Match", yours},
	{"Tag", yours},
}

// proxyCommand quotes a command for the shell that runs it, and its % for ssh.
func proxyCommand(r route) string {
	words := make([]string, len(r.proxy))
	for i, word := range r.proxy {
		words[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	}
	command := strings.ReplaceAll(strings.Join(words, " "), "%", "%%")
	if r.any {
		command += " -- '%n' '22'"
	}
	return command
}

// sshFile quotes a path, in which ssh expands % too.
func sshFile(path string) string {
	return `"` + strings.NewReplacer("%", "%%", `\`, `\\`, `"`, `\"`).Replace(path) + `"`
}
