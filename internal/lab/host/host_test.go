package host

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"banger"
	"banger/internal/config"
	"banger/internal/hostcmd"
)

// maker models the machine's commands: it writes what they would write, and records what
// was run.
type maker struct {
	ran  [][]string
	says string // what QEMU prints before it ends
}

func (m *maker) Look(name string) (string, error) { return name, nil }

func (m *maker) Run(ctx context.Context, c hostcmd.Cmd) ([]byte, error) {
	m.ran = append(m.ran, c.Argv)
	switch c.Argv[0] {
	case "mke2fs":
		return nil, os.WriteFile(c.Argv[len(c.Argv)-2], nil, 0o600)
	case "qemu":
		io.WriteString(c.Stdout, m.says)
	}
	return nil, nil
}

func open(t *testing.T) (*Lab, *maker) {
	t.Helper()
	m := &maker{}
	l := &Lab{Runner: m, Bundle: config.BundleDir(t.TempDir()), Out: io.Discard}
	if err := l.Open(config.Dirs{Cache: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, m
}

func TestOneLabAtATime(t *testing.T) {
	l, _ := open(t)
	other := &Lab{}
	if err := other.Open(config.Dirs{Cache: filepath.Dir(l.dir)}); banger.KindOf(err) != banger.Conflict {
		t.Errorf("got %v", err)
	}
}

func TestStaleDisksAreMadeAnew(t *testing.T) {
	l, m := open(t)
	for i, text := range []string{"first", "first", "second"} {
		if err := os.WriteFile(l.Bundle.Manifest(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		path, err := l.buildData(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if all, _ := filepath.Glob(filepath.Join(l.dir, "data-*")); !slices.Equal(all, []string{path}) {
			t.Errorf("%d: there are %v", i, all)
		}
	}
	if len(m.ran) != 2 {
		t.Errorf("made %d times", len(m.ran))
	}
	failing := errors.New("no space")
	if _, err := l.once("data", "third", func(path string) error {
		os.WriteFile(path, []byte("half"), 0o600)
		return failing
	}); !errors.Is(err, failing) {
		t.Errorf("got %v", err)
	}
	if all, _ := filepath.Glob(filepath.Join(l.dir, "data-*")); len(all) != 0 {
		t.Errorf("left %v", all)
	}
}

func TestBootWaitsForTheWord(t *testing.T) {
	for says, want := range map[string]string{
		"boot\n" + isReady + "\n":  "",
		"boot\n" + notReady + "\n": "set-up failed",
		"Kernel panic\n":           "ended before it was ready",
	} {
		l, m := open(t)
		m.says = says
		ended, err := l.boot(t.Context(), []string{"qemu"})
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v", says, err)
		}
		<-ended
		if text, err := os.ReadFile(l.Console()); err != nil || string(text) != says {
			t.Errorf("the console holds %q, %v", text, err)
		}
	}
}

// TestHostThatNeverStartedCloses: a host whose console file cannot be created can still be
// closed.
func TestHostThatNeverStartedCloses(t *testing.T) {
	l, m := open(t)
	if err := os.Mkdir(l.Console(), 0o700); err != nil {
		t.Fatal(err)
	}
	var h Host
	var err error
	_, h.stop = context.WithCancel(t.Context())
	if h.ended, err = l.boot(t.Context(), []string{"qemu"}); err == nil || len(m.ran) > 0 {
		t.Errorf("got %v, ran %v", err, m.ran)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
}

func TestWatcherFindsTornWords(t *testing.T) {
	var to bytes.Buffer
	w := &watcher{to: &to, good: isReady, bad: notReady, seen: make(chan bool, 1)}
	text := strings.Repeat("x", 1000) + isReady + "\n"
	for part := range slices.Chunk([]byte(text), 7) {
		w.Write(part)
	}
	if ok := <-w.seen; !ok || to.String() != text {
		t.Errorf("seen %v, passed on %d bytes", ok, to.Len())
	}
}

func TestFrequency(t *testing.T) {
	for text, want := range map[string]string{"cpu MHz\t\t: 2445.404\ncpu MHz\t\t: 1.000\n": "2445404", "processor: 0\n": ""} {
		if got := khz([]byte(text)); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	if line := cmdline("5"); !strings.HasSuffix(line, " tsc_early_khz=5 tsc=reliable") {
		t.Error(line)
	}
}

func TestArgsGiveTheHostItsDisks(t *testing.T) {
	d := disks{kernel: "/k", image: "/c/a,b.ext4", data: "/c/data.ext4", programs: "/c/programs.ext4"}
	line := strings.Join(args(d, "/c/initrd.img", 2200, "1"), " ")
	for _, want := range []string{
		"-cpu max,cx16=off ", "-smp 1", "hostfwd=tcp:127.0.0.1:2200-:22", "restrict=on", "readonly=on,file=/c/a,,b.ext4", "serial=image",
		"snapshot=on,file=/c/data.ext4", "file=/k/modules.ext4", "-kernel /k/vmlinux",
	} {
		if !strings.Contains(line, want) {
			t.Errorf("no %q in %s", want, line)
		}
	}
}

// TestTogether: an empty stream takes nothing from the other one.
func TestTogether(t *testing.T) {
	for range 1000 {
		var out bytes.Buffer
		w := &together{to: &out}
		var copying sync.WaitGroup
		for _, text := range []string{"12.34 5.67\n", ""} {
			copying.Go(func() { io.Copy(w, strings.NewReader(text)) })
		}
		copying.Wait()
		if got := out.String(); got != "12.34 5.67\n" {
			t.Fatalf("%q", got)
		}
	}
}

// The scripts that run in the host are valid shell.
func TestScriptsParse(t *testing.T) {
	for _, name := range []string{"init", "up"} {
		cmd := exec.Command("sh", "-n")
		cmd.Stdin = bytes.NewReader(script(name))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
}

func TestEverySuiteHasAShortPart(t *testing.T) {
	for _, suite := range Suites {
		if suite.Short == "" {
			t.Errorf("%s has none", suite.Name)
		}
	}
}

// TestFilesOfTests: what tests of the lab read in the checkout is in the host, too.
func TestFilesOfTests(t *testing.T) {
	tests, err := filepath.Glob("../*_test.go")
	if err != nil || len(tests) < 10 {
		t.Fatal(len(tests), err)
	}
	read := regexp.MustCompile(`"\.\./\.\./([^"]+)"`)
	for _, test := range tests {
		text, err := os.ReadFile(test)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range read.FindAllSubmatch(text, -1) {
			if !slices.ContainsFunc(filesOfTests, func(name string) bool { return strings.HasPrefix(name, string(m[1])) }) {
				t.Errorf("%s reads %s", test, m[1])
			}
		}
	}
	if err := copyFiles("../../..", t.TempDir()); err != nil {
		t.Error(err)
	}
}
