package cli

import (
	"bytes"
	"strings"
	"testing"
	"unicode"

	"banger"
)

func TestTerminalsGetNoControlSequences(t *testing.T) {
	for in, want := range map[string]string{
		"plain\ttext\n":                                           "plain\ttext\n",
		"lötet 日本 😀\n":                                            "lötet 日本 😀\n",
		"line\r\nline\r\r\n":                                      "line\nline\n",
		"10%\r20%\r\n":                                            "10%\n20%\n",
		"\x1b[31mred\x1b[m\n":                                     "\x1b[31mred\x1b[m\n\x1b[0m",
		"\x1b[38;2;1;2;3mx\x1b[4:3my":                             "\x1b[38;2;1;2;3mx\x1b[4:3my\x1b[0m",
		"\x1b[2J\x1b[H\x1b[?25lx\x1b[6n\x1b[c":                    "x",
		"\x1b[>4;2mx\x1b[?4mx\x1b[1 mx":                           "xxx",
		"\x1b[" + strings.Repeat("1;", 99) + "m":                  "",
		"\x1b]0;title\ax\x1b]52;c;ZXZpbA==\x1b\\y":                "xy",
		"\x1bP+q544e\x1b\\x\x1b_a\x1b\\\x1b^b\x1b\\\x1bXc\x1b\\y": "xy",
		"\x1bc\x1b(0\x1b#8\x1b=x":                                 "x",
		"\a\b\x00\x7f\v\f\x0e\x05x":                               "x",
		"\u009b31mx\u009d0;t\u009cy":                              "31mx0;ty",
		"\x9b31mx\xff\n":                                          "\ufffd31mx\ufffd\n",
		"\x1b]0;never ended\nshown\n":                             "\nshown\n",
		"\x1b[12\nshown\n":                                        "\nshown\n",
		"\x1b[1é\x1b\x1b[2Kx\x1b":                                 "éx",
		"\x1b\nx\x1b(\ny":                                         "\nx\ny",
		"\x1b[3\x1b[31mx":                                         "\x1b[31mx\x1b[0m",
	} {
		for _, size := range []int{1, 2, 3, 1000} {
			var out bytes.Buffer
			w := &terminalWriter{to: &out}
			for rest := []byte(in); len(rest) > 0; {
				n := min(size, len(rest))
				if wrote, err := w.Write(rest[:n]); wrote != n || err != nil {
					t.Fatal(wrote, err)
				}
				rest = rest[n:]
			}
			w.Close()
			if out.String() != want {
				t.Errorf("%q in writes of %d: got %q, want %q", in, size, out.String(), want)
			}
		}
	}
}

// FuzzTerminalWriter: whatever a guest writes, nothing but text and colours
// comes out.
func FuzzTerminalWriter(f *testing.F) {
	for _, seed := range []string{"\x1b[31mx\x1b[0m", "\x1b]0;t\a", "\x1b[>4;2m", "\u009b2J", "\x9b\xc2\x9b", "a\rb\r\n", "\x1b[1\x1b[\x1b"} {
		f.Add([]byte(seed), 1)
	}
	f.Fuzz(func(t *testing.T, in []byte, cut int) {
		var out bytes.Buffer
		w := &terminalWriter{to: &out}
		cut = min(max(cut, 0), len(in))
		w.Write(in[:cut])
		w.Write(in[cut:])
		w.Close()
		rest := out.String()
		for rest != "" {
			if after, ok := strings.CutPrefix(rest, "\x1b["); ok {
				params, tail, ok := strings.Cut(after, "m")
				if !ok || strings.Trim(params, "0123456789;:") != "" {
					t.Fatalf("%q let %q through", in, rest)
				}
				rest = tail
				continue
			}
			r := []rune(rest)[0]
			if unicode.IsControl(r) && r != '\n' && r != '\t' {
				t.Fatalf("%q let %q through", in, rest)
			}
			rest = strings.TrimPrefix(rest, string(r))
		}
	})
}

func TestLogsOnATerminal(t *testing.T) {
	f := newFake(aVM("otter", banger.Running))
	f.logs = "\x1b[2J\x1b[32mok\x1b[0m\r\n\u009b2J\x1b]0;t\a"
	f.run(t, setup{}, "vm", "logs", "otter").want(t, 0, "console:\nok\n2J", "")
	f.run(t, setup{}, "vm", "logs", "--raw", "otter").want(t, 0, "console:\n"+f.logs, "")
	f.run(t, setup{tty: true}, "vm", "logs", "otter").want(t, 0, "console:\n\x1b[32mok\x1b[0m\n2J\x1b[0m", "services log to the journal: banger vm exec otter -- journalctl\n")
	if r := f.run(t, setup{tty: true}, "vm", "logs", "--json", "otter"); r.code != 0 || strings.ContainsAny(r.out, "\x1b\u009b\a") {
		t.Errorf("%+v", r)
	}
}
