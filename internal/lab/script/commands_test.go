package script

import (
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"banger/internal/config"
	"banger/internal/vmm"
)

func dirsOf(ts *testscript.TestScript) config.Dirs { return ts.Value("dirs").(config.Dirs) }

// exits runs a command and checks its exit code: exits 3 banger vm show otter
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	code := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}

// hold takes a lock as an unknown VMM would: hold FILE. ! hold FILE releases it.
func hold(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: [!] hold FILE")
	}
	path := ts.MkAbs(args[0])
	if neg {
		ts.Check(held[path].Close())
		delete(held, path)
		return
	}
	lock, err := vmm.Lock(path)
	ts.Check(err)
	held[path] = lock
}

// held has the locks that scripts hold, by path. Only one script uses it.
var held = map[string]*os.File{}

// changing lists what differs between two runs of a script, and what replaces it.
var changing = []struct {
	is      *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?`), "TIME"},
	{regexp.MustCompile(`sha256:[0-9a-f]{64}`), "DIGEST"},
	{regexp.MustCompile(`("[a-z]+_on_host_bytes"|"on_host_bytes"): [0-9]+`), "$1: BLOCKS"},
	{regexp.MustCompile(`\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b`), "BOOT"},
	{regexp.MustCompile(`\b[0-9a-f]{12}\b`), "HEX"},
	{regexp.MustCompile(`((?m)^log: grep |"op": ")[0-9a-f]{8}\b`), "${1}OP"},
	{regexp.MustCompile(`\b\d+s\b`), "AGE"},
	{regexp.MustCompile(`\bAGE +`), "AGE  "},
	{regexp.MustCompile(`(\bpid"?:? *)\d+`), "${1}PID"},
	{regexp.MustCompile(`\bgo1\.[\w.-]+`), "GO"},
	{regexp.MustCompile(`\blinux/\w+`), "PLATFORM"},
	{regexp.MustCompile(`'/[^']*' 'vm' 'proxy'`), "'PROGRAM' 'vm' 'proxy'"},
}

// like compares a whole output with a file, after the replacements of changing: like
// stdout want
func like(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: like stdout|stderr FILE")
	}
	got := strings.ReplaceAll(ts.ReadFile(args[0]), ts.Getenv("WORK"), "WORK")
	for _, c := range changing {
		got = c.is.ReplaceAllString(got, c.instead)
	}
	if want := ts.ReadFile(args[1]); got != want {
		ts.Fatalf("%s is:\n%s\nwant:\n%s", args[0], got, want)
	}
}

// capture sets a variable to a part of stdout: capture PID 'pid +(\d+)'
func capture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: capture VARIABLE REGEXP")
	}
	pattern, err := regexp.Compile(args[1])
	ts.Check(err)
	found := pattern.FindStringSubmatch(ts.ReadFile("stdout"))
	if len(found) < 2 {
		ts.Fatalf("%q is not in stdout", args[1])
	}
	ts.Setenv(args[0], found[1])
}

// killDaemon kills the daemon, as a crash would.
func killDaemon(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(kill(dirsOf(ts).DaemonLock()))
}

// schema sets the schema version of the database.
func schema(ts *testscript.TestScript, neg bool, args []string) {
	version, err := strconv.ParseUint(args[0], 10, 32)
	ts.Check(err)
	db, err := os.OpenFile(dirsOf(ts).DB(), os.O_WRONLY, 0)
	ts.Check(err)
	const userVersion = 60 // its offset in SQLite's header
	_, err = db.WriteAt(binary.BigEndian.AppendUint32(nil, uint32(version)), userVersion)
	ts.Check(errors.Join(err, db.Close()))
}
