// Package registry downloads images of containers from registries. It owns how a registry
// is found and talked to: its address, mirrors, certificates, credentials and the
// repetition of what failed. It writes nothing but the cache of downloads.
package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/retry"

	"banger"
	"banger/internal/oci"
	"banger/internal/oci/registry/blob"
	"banger/internal/version"
)

// Client downloads images.
type Client struct {
	Blobs   blob.Cache
	Mirrors map[string][]string // URLs that are asked before a registry
	Getenv  func(string) string // finds credentials and certificates
	Idle    time.Duration       // how long a registry may send nothing; 0: a minute
}

const (
	defaultIdle = time.Minute
	parallel    = 3 // downloads of one image
)

// Found is an image in a registry.
type Found struct {
	oci.Image
	client *Client
	from   *place
}

// Size returns how many bytes its layers have, and how many of these are missing.
func (f *Found) Size() (all, missing banger.Size) {
	for _, layer := range f.Layers {
		all += banger.Size(layer.Size)
		if !f.client.Blobs.Has(layer.Digest) {
			missing += banger.Size(layer.Size)
		}
	}
	return all, missing
}

// place is a repository at one address.
type place struct {
	base string // such as https://registry-1.docker.io/v2/library/debian/
	ref  oci.Ref
	http *auth.Client
	idle time.Duration
}

// Find asks for an image for this machine. authFile names a file with credentials, in
// Docker's form, which is used before those that the user has.
func (c *Client) Find(ctx context.Context, ref oci.Ref, authFile string) (*Found, error) {
	credential, err := c.credentials(authFile)
	if err != nil {
		return nil, err
	}
	var failed error
	for _, address := range append(append([]string{}, c.Mirrors[ref.Registry]...), ref.Registry) {
		p, err := c.place(ctx, address, ref, credential)
		if err == nil {
			var i oci.Image
			if i, err = p.find(ctx); err == nil {
				return &Found{i, c, p}, nil
			}
		}
		// What the registry itself says counts more than what a mirror says.
		if failed = err; ctx.Err() != nil {
			break
		}
	}
	return nil, failed
}

// place returns a repository at an address: a host, or the URL of a mirror.
func (c *Client) place(ctx context.Context, address string, ref oci.Ref, credential auth.CredentialFunc) (*place, error) {
	scheme, host := "", address
	if u, err := url.Parse(address); err == nil && u.Host != "" {
		scheme, host = u.Scheme, u.Host
	}
	if host == oci.DockerHub {
		host = "registry-1.docker.io"
	}
	transport, err := c.transport(host)
	if err != nil {
		return nil, err
	}
	p := &place{ref: ref, idle: c.Idle, http: &auth.Client{
		Client: &http.Client{Transport: &retry.Transport{Base: transport}}, Cache: auth.NewCache(), Credential: credential,
		Header: http.Header{"User-Agent": {"banger/" + version.Version}}, ClientID: "banger",
	}}
	if p.idle == 0 {
		p.idle = defaultIdle
	}
	if loopback(host) {
		// A registry of this host may have its token service there as well.
		p.http.BlockedRealmPrefixes = []netip.Prefix{}
		if scheme == "" {
			scheme = plainOrTLS(ctx, transport, host)
		}
	}
	if scheme == "" {
		scheme = "https"
	}
	p.base = scheme + "://" + host + "/v2/" + ref.Repository + "/"
	return p, nil
}

// loopback reports whether a host is this one, where nobody listens on the way.
func loopback(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = strings.Trim(host, "[]")
	}
	ip := net.ParseIP(name)
	return name == "localhost" || ip != nil && ip.IsLoopback()
}

// plainOrTLS returns how a registry on this host is talked to. Only a server that does
// not speak TLS is talked to without it.
func plainOrTLS(ctx context.Context, transport http.RoundTripper, host string) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+"/v2/", nil)
	if err != nil {
		return "https"
	}
	resp, err := transport.RoundTrip(req)
	if err == nil {
		resp.Body.Close()
		return "https"
	}
	var header tls.RecordHeaderError
	if errors.Is(err, http.ErrSchemeMismatch) || errors.As(err, &header) {
		return "http"
	}
	return "https"
}

// manifestTypes are the forms of a manifest that are understood.
var manifestTypes = strings.Join([]string{
	"application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json",
	"application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.docker.distribution.manifest.v2+json",
}, ", ")

// get begins an answer. The caller closes its body.
func (p *place) get(ctx context.Context, path string, header http.Header) (*http.Response, error) {
	ctx = auth.AppendScopesForHost(ctx, p.host(), auth.ScopeRepository(p.ref.Repository, auth.ActionPull))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.base+path, nil)
	if err != nil {
		return nil, err
	}
	for key, values := range header {
		req.Header[key] = values
	}
	resp, err := p.http.Do(req)
	if err != nil {
		return nil, p.unreachable(ctx, err)
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable:
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, p.refused(resp)
}

func (p *place) host() string {
	u, _ := url.Parse(p.base)
	return u.Host
}

// document gets a small part.
func (p *place) document(ctx context.Context, path string) ([]byte, error) {
	resp, err := p.get(ctx, path, http.Header{"Accept": {manifestTypes}})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, int64(oci.MaxDocument)+1))
	if err != nil {
		return nil, p.unreachable(ctx, err)
	}
	if len(data) > int(oci.MaxDocument) {
		return nil, banger.Invalidf("use another image", "%s answers with more than %v", p.host(), oci.MaxDocument)
	}
	return data, nil
}

// find finds the image for this machine.
func (p *place) find(ctx context.Context) (oci.Image, error) {
	wanted := p.ref.Tag
	if p.ref.Digest != "" {
		wanted = string(p.ref.Digest)
	}
	top, err := p.document(ctx, "manifests/"+wanted)
	if err != nil {
		return oci.Image{}, err
	}
	first := oci.Descriptor{Digest: oci.DigestOf(top)}
	if p.ref.Digest != "" {
		first.Digest = p.ref.Digest
	}
	return oci.Find(ctx, func(ctx context.Context, d oci.Descriptor) ([]byte, error) {
		switch {
		case d.Digest == first.Digest:
			return top, nil
		case strings.Contains(d.MediaType, "manifest") || strings.Contains(d.MediaType, "image.index"):
			return p.document(ctx, "manifests/"+string(d.Digest))
		}
		return p.document(ctx, "blobs/"+string(d.Digest))
	}, first)
}

// Download gets the layers, some at a time, and returns them open, lowest first. What has
// come by then stays in the cache if it fails. moved is told how many bytes are there.
func (f *Found) Download(ctx context.Context, moved func(bytes int64)) (*Layers, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var sum atomic.Int64
	count := func(n int64) { moved(sum.Add(n)) }
	l := &Layers{found: f, files: make([]*os.File, len(f.Layers))}
	turns := make(chan struct{}, parallel)
	var all sync.WaitGroup
	for n, layer := range f.Layers {
		all.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			file, err := f.client.Blobs.Get(ctx, layer.Digest, layer.Size, f.from.fetch(layer.Digest), count)
			if err != nil {
				cancel(err)
				return
			}
			l.files[n] = file
		})
	}
	all.Wait()
	if err := context.Cause(ctx); err != nil {
		l.Close()
		return nil, f.from.interrupted(err)
	}
	return l, nil
}

// fetch returns how a blob is fetched from here.
func (p *place) fetch(d banger.Digest) blob.Fetch {
	return func(ctx context.Context, part *blob.Part) error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		var header http.Header
		if part.At() > 0 {
			header = http.Header{"Range": {fmt.Sprintf("bytes=%d-", part.At())}}
		}
		resp, err := p.get(ctx, "blobs/"+string(d), header)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if part.At() > 0 && !continues(resp, part.At()) {
			if err := part.Restart(); err != nil || resp.StatusCode != http.StatusOK {
				return err
			}
		}
		watched := &watched{r: resp.Body, idle: p.idle, timer: time.AfterFunc(p.idle, func() {
			cancel(fmt.Errorf("nothing has come for %v", p.idle))
		})}
		defer watched.timer.Stop()
		_, err = io.Copy(part, watched)
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		if err == nil || errors.As(err, new(*banger.Error)) {
			return err
		}
		return fmt.Errorf("download from %s: %w", p.host(), err)
	}
}

// continues reports whether an answer begins where a download ended.
func continues(resp *http.Response, at int64) bool {
	from, _, _ := strings.Cut(strings.TrimPrefix(resp.Header.Get("Content-Range"), "bytes "), "-")
	return resp.StatusCode == http.StatusPartialContent && from == strconv.FormatInt(at, 10)
}

// watched is a stream that may not rest for long.
type watched struct {
	r     io.Reader
	idle  time.Duration
	timer *time.Timer
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	w.timer.Reset(w.idle)
	return n, err
}
