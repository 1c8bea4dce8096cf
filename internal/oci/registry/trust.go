package registry

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"

	"banger"
)

// certificates is where Docker looks for a registry's own authority.
const certificates = "/etc/docker/certs.d"

// transport returns how a host is reached: with the authorities of this host, and those
// that Docker and Podman would trust for this registry.
func (c *Client) transport(host string) (http.RoundTripper, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = 2 * time.Minute
	t.DisableCompression = true // layers are compressed, and ranges are of what is stored
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{certificates, "/etc/containers/certs.d", filepath.Join(c.Getenv("HOME"), ".config/containers/certs.d")} {
		files, _ := filepath.Glob(filepath.Join(dir, filepath.Base(host), "*.crt")) // only a bad pattern is an error
		for _, file := range files {
			if data, err := os.ReadFile(file); err == nil {
				pool.AppendCertsFromPEM(data)
			}
		}
	}
	t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	return t, nil
}

// credentials returns the user's credentials: those of Docker, with its helpers, else
// those of Podman.
func (c *Client) credentials(authFile string) (auth.CredentialFunc, error) {
	docker := filepath.Join(cmp.Or(c.Getenv("DOCKER_CONFIG"), filepath.Join(c.Getenv("HOME"), ".docker")), "config.json")
	podman := cmp.Or(c.Getenv("REGISTRY_AUTH_FILE"), filepath.Join(c.Getenv("XDG_RUNTIME_DIR"), "containers/auth.json"))
	var all []auth.CredentialFunc
	for _, file := range []string{authFile, docker, podman} {
		if _, err := os.Stat(file); err != nil && file != authFile || file == "" {
			continue
		}
		store, err := credentials.NewStore(file, credentials.StoreOptions{})
		if err != nil {
			return nil, &banger.Error{Kind: banger.Invalid, What: "read " + file, Why: err, Fix: "repair the file, or docker login"}
		}
		all = append(all, credentials.Credential(store))
	}
	return func(ctx context.Context, host string) (auth.Credential, error) {
		for _, credential := range all {
			found, err := credential(ctx, host)
			if err != nil {
				return found, &banger.Error{Kind: banger.Unready, What: "ask for the credentials of " + host, Why: err, Fix: "docker login " + host}
			}
			if found != auth.EmptyCredential {
				return found, nil
			}
		}
		return auth.EmptyCredential, nil
	}, nil
}
