package registry

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/oci/ocitest"
)

// TestRealRegistry pulls from Debian's registry what skopeo has pushed, with a password.
func TestRealRegistry(t *testing.T) {
	for _, program := range []string{"docker-registry", "skopeo"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(program + " is missing: apt-get install docker-registry skopeo")
		}
	}
	dir := t.TempDir()
	const passwords = "ann:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"
	config := fmt.Sprintf("version: 0.1\nlog: {level: info, formatter: json}\nstorage: {filesystem: {rootdirectory: %s/data}}\nhttp: {addr: \"127.0.0.1:0\"}\nauth: {htpasswd: {realm: test, path: %[1]s/passwords}}\n", dir)
	for name, text := range map[string]string{"config.yml": config, "passwords": passwords} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	server := exec.CommandContext(t.Context(), "docker-registry", "serve", dir+"/config.yml")
	log, err := server.StderrPipe()
	if err == nil {
		err = server.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Process.Kill(); server.Wait() })
	host := ""
	for lines := bufio.NewScanner(log); host == "" && lines.Scan(); {
		_, after, _ := strings.Cut(lines.Text(), "listening on ")
		host, _, _ = strings.Cut(after, `"`)
	}
	go func() { io.Copy(io.Discard, log) }()
	if host == "" {
		t.Fatal("it does not listen")
	}
	layout := ocitest.Write(t, ocitest.Layout(app))
	push := exec.CommandContext(t.Context(), "skopeo", "copy", "--dest-tls-verify=false", "--dest-creds", "ann:secret", "oci:"+layout+":name0", "docker://"+host+"/org/app:1")
	if out, err := push.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c := newClient(t)
	ref := refOf(t, host+"/org/app:1")
	if err := pull(t.Context(), c, ref, nobody); err == nil {
		t.Error("without a password")
	}
	docker := filepath.Join(c.Getenv("HOME"), ".docker")
	if err := os.Mkdir(docker, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(docker+"/config.json", fmt.Appendf(nil, `{"auths":{"%s":{"auth":"YW5uOnNlY3JldA=="}}}`, host), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := pull(t.Context(), c, ref, nobody); err != nil {
		t.Error(err)
	}
	if left := files(c); len(left) != 2 {
		t.Errorf("the cache has %q", left)
	}
}
