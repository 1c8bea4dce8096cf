package banger

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
)

func TestParsePublish(t *testing.T) {
	for text, want := range map[string]Publish{
		"80":                  {Host: 80, Port: 80},
		"8080:80":             {Host: 8080, Port: 80},
		"8080:80/tcp":         {Host: 8080, Port: 80},
		"65535:1":             {Host: 65535, Port: 1},
		"localhost:8080:80":   {Host: 8080, Port: 80},
		"0.0.0.0:8080:80":     {netip.IPv4Unspecified(), 8080, 80},
		"192.168.1.5:8080:80": {netip.MustParseAddr("192.168.1.5"), 8080, 80},
		"[::]:8080:80":        {netip.IPv6Unspecified(), 8080, 80},
		"[fe80::1%eth0]:1:2":  {netip.MustParseAddr("fe80::1%eth0"), 1, 2},
	} {
		got, err := ParsePublish(text)
		if err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
		if back, err := ParsePublish(got.String()); err != nil || back != got {
			t.Errorf("%s: %q is read as %v, %v", text, got, back, err)
		}
	}
}

func TestParsePublishRefuses(t *testing.T) {
	for text, fix := range map[string]string{
		"":                     "1 to 65535",
		"web":                  "1 to 65535",
		"0":                    "1 to 65535",
		"080":                  "1 to 65535",
		"+80":                  "1 to 65535",
		"65536":                "1 to 65535",
		"8080:":                "1 to 65535",
		":80":                  "1 to 65535",
		"8000-8010:80":         "once for each",
		"8000-8010:80-90":      "once for each",
		"8080:80/udp":          "leave out /udp",
		"8080:80/":             "leave out /",
		"::":                   "8080:80",
		":8080:80":             "8080:80",
		"::1:8080:80":          "brackets",
		"1.2.3.4:80":           "1.2.3.4:8080:80",
		"[::1]:80":             "[::1]:8080:80",
		"[::1]":                "[::]:8080:80",
		"[::1:8080:80":         "[::]:8080:80",
		"[1.2.3.4]:8080:80":    "address of this host",
		"[::ffff:1.2.3.4]:1:2": "address of this host",
		"[]:8080:80":           "address of this host",
		"example.org:8080:80":  "address of this host",
		"224.0.0.1:8080:80":    "address of this host",
		"[::1]:1:2:3":          "1 to 65535",
	} {
		got, err := ParsePublish(text)
		if err == nil || KindOf(err) != Invalid || !strings.Contains(FixOf(err), fix) {
			t.Errorf("%q: %v, %v; fix: %s", text, got, err, FixOf(err))
		}
	}
}

func TestPublishInJSON(t *testing.T) {
	raw, err := json.Marshal([]Publish{{Host: 8080, Port: 80}})
	if err != nil || string(raw) != `["8080:80"]` {
		t.Errorf("%s, %v", raw, err)
	}
	var back []Publish
	if err := json.Unmarshal(raw, &back); err != nil || back[0] != (Publish{Host: 8080, Port: 80}) {
		t.Errorf("%v, %v", back, err)
	}
	if err := json.Unmarshal([]byte(`["nothing"]`), &back); KindOf(err) != Invalid {
		t.Errorf("got %v", err)
	}
}

func FuzzParsePublish(f *testing.F) {
	for _, text := range []string{"80", "8080:80", "0.0.0.0:8080:80", "[::]:8080:80", "[fe80::1%lo]:1:2/tcp", "8000-8010:80"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePublish(text)
		if err != nil {
			if KindOf(err) != Invalid || FixOf(err) == "" {
				t.Errorf("%q: %v without a fix", text, err)
			}
			return
		}
		if back, err := ParsePublish(p.String()); err != nil || back != p || p.Host == 0 || p.Port == 0 {
			t.Errorf("%q: %v, then %v, %v", text, p, back, err)
		}
	})
}
