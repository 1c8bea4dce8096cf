// Package modprobe loads kernel modules: those of the boot, and in images without a
// modprobe of their own those that the kernel asks for.
package modprobe

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/inroot"
	"banger/internal/guest/agent/layout"
	"banger/internal/guest/agent/log"
	"banger/internal/guest/wire"
	"banger/internal/linux"
)

// LoadBootModules loads the modules that the initrd lists, as far as this VM has the
// devices. Those of the buses come first.
func LoadBootModules() error {
	list, err := os.ReadFile("/" + wire.ModulesPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	devices := sync.OnceValue(func() map[int]bool { return virtioDevices("/sys/bus/virtio/devices") })
	for line := range strings.Lines(string(list)) {
		m := wire.ParseBootModule(line)
		if m.Device != 0 && !devices()[m.Device] {
			continue
		}
		if err := load("/" + m.Path); err != nil {
			return err
		}
	}
	return nil
}

// virtioDevices returns the numbers of the virtio devices that a directory of sysfs has.
func virtioDevices(dir string) map[int]bool {
	found := map[int]bool{}
	names, _ := filepath.Glob(dir + "/*/device")
	for _, name := range names {
		text, _ := os.ReadFile(name)
		if number, err := strconv.ParseInt(strings.TrimSpace(string(text)), 0, 32); err == nil {
			found[int(number)] = true
		}
	}
	return found
}

// moduleDecompress is MODULE_INIT_COMPRESSED_FILE: the kernel unpacks it.
const moduleDecompress = 4

// load loads one file. It succeeds if the module is already loaded or has no device.
func load(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := moduleDecompress
	if filepath.Ext(path) == ".ko" {
		flags = 0
	}
	err = unix.FinitModule(int(f.Fd()), "", flags)
	if err != nil && err != unix.EEXIST && err != unix.ENODEV {
		return fmt.Errorf("load module %s: %w", filepath.Base(path), err)
	}
	return nil
}

// kernelModprobe is what the kernel runs when a module is missing.
const kernelModprobe = "/sbin/modprobe"

// Register makes the agent the kernel's modprobe if the image in root has none, or
// busybox's, which cannot always read compressed modules.
func Register(root string) error {
	if program, err := inroot.Open(root, kernelModprobe, unix.O_PATH); err == nil {
		name, _ := os.Readlink(linux.Through(program))
		program.Close()
		if filepath.Base(name) != "busybox" {
			return nil
		}
	}
	if err := os.Link(root+layout.AgentFile, root+layout.ModprobeFile); err != nil {
		return err
	}
	return os.WriteFile("/proc/sys/kernel/modprobe", []byte(layout.ModprobeFile), 0)
}

// Run is the modprobe that the kernel runs: it loads the named modules or aliases,
// with what they depend on.
func Run(args []string) int {
	log.Open()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return 1
	}
	t, err := readModuleTree("/lib/modules/" + unix.ByteSliceToString(name.Release[:]))
	if err != nil {
		log.Errorf("modprobe: %v", err)
		return 1
	}
	status := 0
	for _, arg := range args {
		if strings.HasPrefix(arg, "-") {
			continue
		}
		if err := t.load(arg); err != nil {
			status = 1
		}
	}
	return status
}

// moduleTree is what depmod has written about a directory of modules.
type moduleTree struct {
	dir     string
	paths   map[string]string   // of a module's file, by name
	depends map[string][]string // paths, nearest first
	aliases []moduleAlias
}

type moduleAlias struct{ pattern, module string }

func readModuleTree(dir string) (*moduleTree, error) {
	t := &moduleTree{dir: dir, paths: map[string]string{}, depends: map[string][]string{}}
	err := eachLine(dir+"/modules.dep", func(line string) {
		path, rest, ok := strings.Cut(line, ":")
		if ok {
			name := moduleName(path)
			t.paths[name] = path
			t.depends[name] = strings.Fields(rest)
		}
	})
	if err != nil {
		return nil, err
	}
	err = eachLine(dir+"/modules.alias", func(line string) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "alias" {
			t.aliases = append(t.aliases, moduleAlias{f[1], f[2]})
		}
	})
	return t, err
}

func eachLine(path string, do func(string)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewScanner(f)
	for in.Scan() {
		do(in.Text())
	}
	return in.Err()
}

// moduleName returns the kernel's name of a module from its file's name.
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

var errNoModule = errors.New("no such module")

// files lists the files to load for a module or an alias, in order.
func (t *moduleTree) files(request string) ([]string, error) {
	var files []string
	for _, name := range t.resolve(request) {
		deps := t.depends[name]
		for i := len(deps) - 1; i >= 0; i-- {
			files = append(files, deps[i])
		}
		files = append(files, t.paths[name])
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s: %w", request, errNoModule)
	}
	return files, nil
}

func (t *moduleTree) resolve(request string) []string {
	request = underscored(request)
	if t.paths[request] != "" {
		return []string{request}
	}
	var names []string
	for _, a := range t.aliases {
		if ok, err := filepath.Match(underscored(a.pattern), request); ok && err == nil && t.paths[moduleName(a.module)] != "" {
			names = append(names, moduleName(a.module))
		}
	}
	return names
}

// underscored replaces - by _ outside brackets, as modprobe does.
func underscored(s string) string {
	inside := false
	return strings.Map(func(r rune) rune {
		switch {
		case r == '[' || r == ']':
			inside = r == '['
		case r == '-' && !inside:
			return '_'
		}
		return r
	}, s)
}

func (t *moduleTree) load(request string) error {
	files, err := t.files(request)
	if err != nil {
		return err
	}
	var errs []error
	for _, file := range files {
		errs = append(errs, load(filepath.Join(t.dir, file)))
	}
	return errors.Join(errs...)
}

// MakeStaticNodes makes the device nodes that load a module when they are opened. In
// other images udev does it. A node that cannot be made is left out.
func MakeStaticNodes(root, release string) {
	list, err := inroot.Read(root, "/lib/modules/"+release+"/modules.devname")
	if err != nil {
		return
	}
	for line := range bytes.Lines(list) {
		f := strings.Fields(string(line))
		if len(f) != 3 || strings.HasPrefix(f[0], "#") || !filepath.IsLocal(f[1]) {
			continue
		}
		if mode, dev, ok := parseDevice(f[2]); ok {
			path := filepath.Join("/dev", f[1])
			os.MkdirAll(filepath.Dir(path), 0o755)
			unix.Mknod(path, mode|0o660, dev)
		}
	}
}

// parseDevice reads "c10:200".
func parseDevice(text string) (mode uint32, dev int, ok bool) {
	if len(text) < 2 {
		return 0, 0, false
	}
	major, minor, found := strings.Cut(text[1:], ":")
	ma, err1 := strconv.ParseUint(major, 10, 12)
	mi, err2 := strconv.ParseUint(minor, 10, 20)
	kinds := map[byte]uint32{'c': unix.S_IFCHR, 'b': unix.S_IFBLK}
	mode, known := kinds[text[0]]
	return mode, int(unix.Mkdev(uint32(ma), uint32(mi))), found && err1 == nil && err2 == nil && known
}
