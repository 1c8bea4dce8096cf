package registry

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strings"

	"oras.land/oras-go/v2/registry/remote/auth"

	"banger"
)

// refused returns what a registry's refusal means for a person.
func (p *place) refused(resp *http.Response) error {
	said := message(resp.Body)
	switch resp.StatusCode {
	case http.StatusNotFound:
		return &banger.Error{Kind: banger.NotFound, Why: fmt.Errorf("%s has no %s", p.host(), p.ref), Fix: "check the name and the tag"}
	case http.StatusUnauthorized, http.StatusForbidden:
		return p.unauthorized(said)
	case http.StatusTooManyRequests:
		return &banger.Error{Kind: banger.Unready, Why: fmt.Errorf("%s limits downloads: %s", p.host(), said), Fix: "wait and try again, or docker login " + p.ref.Registry}
	}
	return &banger.Error{Kind: banger.Unready, Why: fmt.Errorf("%s answers %s: %s", p.host(), resp.Status, said), Fix: "try again later"}
}

func (p *place) unauthorized(said string) error {
	return &banger.Error{Kind: banger.NotFound, Why: fmt.Errorf("%s does not have %s, or does not let you read it: %s", p.host(), p.ref, said), Fix: "check the name, or docker login " + p.ref.Registry}
}

// message returns what an answer says, as one short line.
func message(body io.Reader) string {
	const most = 200
	data, _ := io.ReadAll(io.LimitReader(body, 64<<10))
	var answer struct {
		Errors []struct{ Code, Message string }
	}
	text := string(data)
	if json.Unmarshal(data, &answer) == nil && len(answer.Errors) > 0 {
		text = strings.ToLower(answer.Errors[0].Message)
		if text == "" {
			text = answer.Errors[0].Code
		}
	}
	text = strings.Join(strings.Fields(strings.Map(printable, text)), " ")
	if text == "" {
		return "no reason"
	}
	return text[:min(len(text), most)]
}

func printable(r rune) rune {
	if r < ' ' || r > '~' {
		return ' '
	}
	return r
}

// interrupted returns why a download ended, if that was not on purpose.
func (p *place) interrupted(err error) error {
	if file := (*fs.PathError)(nil); banger.KindOf(err) != banger.Unknown || errors.As(err, &file) {
		return err
	}
	return &banger.Error{Kind: banger.Unready, Why: err, Fix: "run the command again: it continues where it ended"}
}

// unreachable returns why a registry could not be asked.
func (p *place) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, auth.ErrBasicCredentialNotFound) || strings.Contains(err.Error(), "response status code 401") {
		return p.unauthorized("it wants a login")
	}
	var at *url.Error
	if errors.As(err, &at) {
		err = at.Err // without the URL, which can have a secret in it
	}
	fix := "curl -I https://" + p.host() + "/v2/, which shows whether this host reaches it"
	if authority := (x509.UnknownAuthorityError{}); errors.As(err, &authority) {
		fix = "put the certificate of its authority at " + certificates + "/" + p.host() + "/ca.crt"
	}
	return &banger.Error{Kind: banger.Unready, Why: fmt.Errorf("reach %s: %w", p.host(), err), Fix: fix}
}
