package guest

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// hostile has for each keyword that banger sets the value of a user that would
// break the connection, or lead it to another machine.
var hostile = map[string]string{
	"ProxyCommand": "false", "Port": "2222", "ProxyUseFdpass": "yes", "HostName": "192.0.2.1", "CanonicalizeHostname": "always",
	"User": "nobody", "ConnectTimeout": "1", "ServerAliveInterval": "1", "Tunnel": "yes",
	"ControlMaster": "auto", "ControlPath": "/tmp/%r@%h:%p", "ControlPersist": "600",
	"HostKeyAlias": "other", "UserKnownHostsFile": "/dev/null", "GlobalKnownHostsFile": "/etc/other", "KnownHostsCommand": "/bin/false",
	"RevokedHostKeys": "/nonexistent", "StrictHostKeyChecking": "ask", "HostKeyAlgorithms": "rsa-sha2-512",
	"VerifyHostKeyDNS": "ask", "UpdateHostKeys": "ask", "CheckHostIP": "yes",
	"IdentityFile": "/home/other/key", "IdentitiesOnly": "no", "PubkeyAuthentication": "no", "PubkeyAcceptedAlgorithms": "rsa-sha2-512",
	"PreferredAuthentications": "password", "PKCS11Provider": "/usr/lib/other.so", "AddKeysToAgent": "ask",
	"Ciphers": "3des-cbc", "KexAlgorithms": "diffie-hellman-group1-sha1", "MACs": "hmac-md5",
	"RemoteCommand": "tmux", "SessionType": "none", "RequestTTY": "force", "StdinNull": "yes", "ForkAfterAuthentication": "yes",
	"PermitLocalCommand": "yes", "ForwardX11": "yes", "LogLevel": "QUIET", "ClearAllForwardings": "yes", "ExitOnForwardFailure": "yes",
}

// adding are the keywords whose values add up over all files.
var adding = []string{"identityfile", "certificatefile", "localforward", "remoteforward", "dynamicforward", "sendenv", "setenv"}

// options asks the real ssh for the options that it would use.
func options(t *testing.T, args ...string) map[string][]string {
	t.Helper()
	ssh, err := exec.LookPath("ssh")
	if err != nil {
		t.Skip("ssh is missing: apt-get install openssh-client")
	}
	cmd := exec.Command(ssh, append([]string{"-G"}, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	found := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		keyword, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		keyword = strings.ToLower(keyword)
		found[keyword] = append(found[keyword], value)
	}
	return found
}

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// users is the configuration of a user whose every option is hostile.
func users(t *testing.T) string {
	t.Helper()
	text := "Host *\n"
	for _, o := range sshOptions {
		value, ok := hostile[o.keyword]
		if o.value != nil != ok {
			t.Errorf("%s: banger sets it: %v; hostile has it: %v", o.keyword, o.value != nil, ok)
		}
		if ok {
			text += o.keyword + " " + value + "\n"
		}
	}
	return text + "ProxyJump elsewhere\nLocalForward 8080 localhost:80\nRemoteForward 8081 localhost:80\nDynamicForward 1080\n"
}

// TestUsersSSHConfigurationReachesNoVM compares what ssh would do with and
// without a configuration that is against it, once for `vm ssh` and once for an
// entry.
func TestUsersSSHConfigurationReachesNoVM(t *testing.T) {
	against := users(t)
	entry, err := SSHConfig(oddVM, oddProxy)
	if err != nil {
		t.Fatal(err)
	}
	all, err := SSHConfigOfAll(oddVM.SSHKey, oddVM.KnownHosts, oddProxy)
	if err != nil {
		t.Fatal(err)
	}
	argv := SSHArgv(oddVM, oddProxy, []string{"true"})[1:]
	for name, c := range map[string]struct{ with, without []string }{
		"argv":  {append([]string{"-F", writeConfig(t, against)}, argv...), append([]string{"-F", "none"}, argv...)},
		"entry": {[]string{"-F", writeConfig(t, entry+against), "otter"}, []string{"-F", writeConfig(t, entry), "otter"}},
		"all":   {[]string{"-F", writeConfig(t, all+against), "otter.vm"}, []string{"-F", writeConfig(t, all), "otter.vm"}},
	} {
		with, without := options(t, c.with...), options(t, c.without...)
		for keyword, want := range without {
			if got := with[keyword]; !slices.Equal(got, want) && !slices.Contains(adding, keyword) {
				t.Errorf("%s: %s is %q, want %q", name, keyword, got, want)
			}
		}
		for keyword := range with {
			refused := name == "all" && keyword == "hostkeyalias" // no known host has it
			if without[keyword] == nil && !slices.Contains(adding, keyword) && !refused {
				t.Errorf("%s: %s is %q, want none", name, keyword, with[keyword])
			}
		}
		if got, want := with["identityfile"][0], without["identityfile"][0]; got != want {
			t.Errorf("%s: the first key is %q, want %q", name, got, want)
		}
	}
	if got := options(t, append([]string{"-F", writeConfig(t, against)}, argv...)...); got["localforward"] != nil || got["remoteforward"] != nil || got["dynamicforward"] != nil {
		t.Errorf("forwards are left: %v", got)
	}
}

// TestUserCanStillAskSSH: what the user types has precedence over an entry.
func TestUserCanStillAskSSH(t *testing.T) {
	entry, err := SSHConfig(oddVM, oddProxy)
	if err != nil {
		t.Fatal(err)
	}
	got := options(t, "-F", writeConfig(t, entry), "-o", "ExitOnForwardFailure=yes", "-l", "nobody", "-A", "-t", "-L", "8080:localhost:80", "otter")
	for keyword, want := range map[string]string{"exitonforwardfailure": "yes", "user": "nobody", "forwardagent": "yes", "requesttty": "true", "localforward": "8080 [localhost]:80"} {
		if !slices.Equal(got[keyword], []string{want}) {
			t.Errorf("%s is %q, want %q", keyword, got[keyword], want)
		}
	}
}

// TestEveryKeywordOfSSHIsDecided: those that this host's ssh knows, by its
// manual and by what it prints.
func TestEveryKeywordOfSSHIsDecided(t *testing.T) {
	decided := map[string]bool{}
	for _, o := range sshOptions {
		if key := strings.ToLower(o.keyword); decided[key] {
			t.Errorf("%s is there twice", o.keyword)
		} else {
			decided[key] = true
		}
	}
	known := manual(t)
	for keyword := range options(t, "-F", "none", "host") {
		known = append(known, keyword)
	}
	for _, keyword := range known {
		if keyword != "host" && !decided[strings.ToLower(keyword)] {
			t.Errorf("%s is not in sshOptions", keyword)
		}
	}
}

// manual returns the keywords in this host's ssh_config(5), if that is there.
func manual(t *testing.T) []string {
	packed, err := os.Open("/usr/share/man/man5/ssh_config.5.gz")
	if err != nil {
		return nil
	}
	defer packed.Close()
	unpacked, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(unpacked)
	if err != nil {
		t.Fatal(err)
	}
	text, _, _ = bytes.Cut(text, []byte(".Sh PATTERNS"))
	var found []string
	for _, line := range regexp.MustCompile(`(?m)^\.It Cm ([A-Z]\w+)`).FindAllSubmatch(text, -1) {
		found = append(found, string(line[1]))
	}
	if len(found) < 50 {
		t.Errorf("the manual has only %q", found)
	}
	return found
}
