package config

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"banger"
)

// Dirs are banger's four directories. The name of every file that banger writes is in
// this file and nowhere else.
type Dirs struct {
	Config  string // config.toml
	State   string // what must not be lost
	Cache   string // can be deleted at any time
	Runtime string // the socket only, since it can vanish at any time
}

// Files of the configuration and state directories.
func (d Dirs) ConfigFile() string { return filepath.Join(d.Config, "config.toml") }
func (d Dirs) DB() string         { return filepath.Join(d.State, "banger.db") }
func (d Dirs) Log() string        { return filepath.Join(d.State, "bangerd.log") }
func (d Dirs) OldLog() string     { return d.Log() + ".1" }
func (d Dirs) DaemonLock() string { return filepath.Join(d.State, "bangerd.lock") }
func (d Dirs) Socket() string     { return filepath.Join(d.Runtime, "bangerd.sock") }
func (d Dirs) VMs() string        { return filepath.Join(d.State, "vms") }
func (d Dirs) Images() string     { return filepath.Join(d.State, "images") }
func (d Dirs) Kernels() string    { return filepath.Join(d.State, "kernels") }
func (d Dirs) Agents() string     { return filepath.Join(d.State, "agents") }
func (d Dirs) VMMs() string       { return filepath.Join(d.State, "vmms") }
func (d Dirs) Failed() string     { return filepath.Join(d.State, "failed") }
func (d Dirs) ImageBuild() string { return filepath.Join(d.State, "image-build") }
func (d Dirs) Leases() string     { return filepath.Join(d.State, "leases") }
func (d Dirs) Net() NetDir        { return NetDir(filepath.Join(d.State, "net")) }
func (d Dirs) SSH() string        { return filepath.Join(d.State, "ssh") }
func (d Dirs) SSHKey() string     { return filepath.Join(d.State, "ssh", "id_ed25519") }
func (d Dirs) KnownHosts() string { return filepath.Join(d.State, "ssh", "known_hosts") }
func (d Dirs) SSHConfig() string  { return filepath.Join(d.State, "ssh", "config") }
func (d Dirs) Initrds() string    { return filepath.Join(d.Cache, "initrds") }
func (d Dirs) Blobs() string      { return filepath.Join(d.Cache, "blobs") }
func (d Dirs) Downloads() string  { return filepath.Join(d.Cache, "downloads") }
func (d Dirs) Lab() string        { return filepath.Join(d.Cache, "lab") }

// tempDir is the same for all programs of a user. TMPDIR may be one shell's own.
const tempDir = "/tmp"

// SpareSocket returns where the daemon listens if the runtime directory is missing, or if
// the daemon of another state directory listens there. It is the same at each start.
func (d Dirs) SpareSocket() string {
	sum := sha256.Sum256([]byte(filepath.Clean(d.State)))
	return filepath.Join(tempDir, fmt.Sprintf("banger-%d-%x", os.Getuid(), sum[:4]), "bangerd.sock")
}

// FailedConsole returns where the console log of a VM is kept after its create failed.
func (d Dirs) FailedConsole(name string) string {
	return filepath.Join(d.Failed(), name+".console.log")
}

// BuildLog returns the file with the output of the last build of an image.
func (d Dirs) BuildLog(image string) string {
	return filepath.Join(d.ImageBuild(), image+".log")
}

// Lease returns the file that a client locks as long as it needs a temporary VM.
func (d Dirs) Lease(name string) string { return filepath.Join(d.Leases(), name) }

// VM returns the private directory of a VM.
func (d Dirs) VM(id banger.VMID) VMDir { return VMDir(filepath.Join(d.VMs(), string(id))) }

// NewVM returns where a create prepares a VM's directory. A directory of this name was
// left by a create that did not finish.
func (d Dirs) NewVM(id banger.VMID) VMDir { return VMDir(filepath.Join(d.VMs(), ".new-"+string(id))) }

// GoneVM returns what a VM's directory is renamed to when its deletion begins.
func (d Dirs) GoneVM(id banger.VMID) VMDir { return VMDir(filepath.Join(d.VMs(), ".gone-"+string(id))) }

// Image returns the directory of an image in the state directory.
func (d Dirs) Image(id banger.Digest) ImageDir {
	return ImageDir(filepath.Join(d.Images(), hexOf(id)))
}

// NewImage returns the pattern for os.MkdirTemp of the directories in which imports and
// deletions work. A directory of such a name was left by one that did not finish.
func (d Dirs) NewImage() string { return ".new-image-*" }

// Kernel returns the directory of a kernel set in the state directory.
func (d Dirs) Kernel(id banger.Digest) KernelDir {
	return KernelDir(filepath.Join(d.Kernels(), hexOf(id)))
}

// Agent returns the file of an agent in the state directory.
func (d Dirs) Agent(id banger.Digest) string { return filepath.Join(d.Agents(), hexOf(id)) }

// Firecracker returns the file of a Firecracker in the state directory.
func (d Dirs) Firecracker(id banger.Digest) string { return filepath.Join(d.VMMs(), hexOf(id)) }

// BaseInitrd returns the cached initrd of a kernel set and an agent.
func (d Dirs) BaseInitrd(kernel, agent banger.Digest) string {
	return filepath.Join(d.Initrds(), hexOf(kernel)[:16]+"-"+hexOf(agent)[:16]+".cpio")
}

func hexOf(id banger.Digest) string { return strings.TrimPrefix(string(id), "sha256:") }

// VMDir is the directory of one VM. Its VMM runs in it and gets relative file names.
type VMDir string

// Names of files in a VM's directory, as a VMM gets them.
const (
	KernelName  = "vmlinux"
	InitrdName  = "initrd.img"
	BaseName    = "base.ext4"
	ModulesName = "mods.ext4"
	OverlayName = "overlay.ext4"
	WorkName    = "work.ext4"
	ConsoleName = "console.log"
)

func (v VMDir) Path(name string) string { return filepath.Join(string(v), name) }
func (v VMDir) Kernel() string          { return v.Path(KernelName) }
func (v VMDir) Initrd() string          { return v.Path(InitrdName) }
func (v VMDir) Base() string            { return v.Path(BaseName) }
func (v VMDir) Modules() string         { return v.Path(ModulesName) }
func (v VMDir) Overlay() string         { return v.Path(OverlayName) }
func (v VMDir) Work() string            { return v.Path(WorkName) }
func (v VMDir) Lock() string            { return v.Path("lock") }
func (v VMDir) Boot() string            { return v.Path("boot.json") }
func (v VMDir) HostKey() string         { return v.Path("ssh_host_ed25519_key") }
func (v VMDir) Console() string         { return v.Path(ConsoleName) }
func (v VMDir) OldConsole() string      { return v.Path(ConsoleName + ".1") }

// Suspect is there while the disks have to be checked before they are used again.
func (v VMDir) Suspect() string { return v.Path("suspect") }

// BeforeFsck is the copy of a disk from before its repair.
func (v VMDir) BeforeFsck(disk string) string { return v.Path(disk + ".before-fsck") }

// VMMLogName returns the name of a driver's log: firecracker.log, qemu.log.
func VMMLogName(driver string) string { return driver + ".log" }

func (v VMDir) VMMLog(driver string) string    { return v.Path(VMMLogName(driver)) }
func (v VMDir) OldVMMLog(driver string) string { return v.Path(VMMLogName(driver) + ".1") }

// NetDir is the directory of the network's helper, which runs in it.
type NetDir string

// NetStateName is what the helper reads, as it gets the name.
const NetStateName = "state.json"

func (n NetDir) State() string  { return filepath.Join(string(n), NetStateName) }
func (n NetDir) Lock() string   { return filepath.Join(string(n), "lock") }
func (n NetDir) Log() string    { return filepath.Join(string(n), "banger-net.log") }
func (n NetDir) OldLog() string { return n.Log() + ".1" }

// ImageDir is an image's directory in the state directory.
type ImageDir string

func (i ImageDir) Rootfs() string { return filepath.Join(string(i), "rootfs.ext4") }

// Info returns the file with what is known about the image besides its content.
func (i ImageDir) Info() string { return filepath.Join(string(i), "image.json") }

// Recipe returns the file that says what the image was built from.
func (i ImageDir) Recipe() string { return filepath.Join(string(i), "recipe.json") }

// KernelDir is the directory of a kernel set, in the state directory or in a bundle.
type KernelDir string

func (k KernelDir) Vmlinux() string { return filepath.Join(string(k), "vmlinux") }
func (k KernelDir) Modules() string { return filepath.Join(string(k), "modules.ext4") }

// BootModules returns the cpio archive with the boot modules and the file that gives
// their order, for an initrd.
func (k KernelDir) BootModules() string { return filepath.Join(string(k), "boot.cpio") }

// Info returns the file that describes the set.
func (k KernelDir) Info() string { return filepath.Join(string(k), "kernel.json") }

// BundleDir is the directory of a runtime bundle.
type BundleDir string

func (b BundleDir) Manifest() string  { return filepath.Join(string(b), "bundle.json") }
func (b BundleDir) Kernel() KernelDir { return KernelDir(filepath.Join(string(b), "kernel")) }
func (b BundleDir) Rootfs() string    { return filepath.Join(string(b), "rootfs-docker.ext4") }
func (b BundleDir) BaseRootfs() string {
	return filepath.Join(string(b), "rootfs.ext4")
}
func (b BundleDir) Packages() string    { return filepath.Join(string(b), "packages.apt") }
func (b BundleDir) Agent() string       { return filepath.Join(string(b), "agent") }
func (b BundleDir) Firecracker() string { return filepath.Join(string(b), "firecracker") }

// DirsFrom returns the directories that the XDG variables in the environment give.
// getenv is os.Getenv except in tests. Without XDG_RUNTIME_DIR, the runtime directory is
// in /run/user/<uid> if that is private, else in the temporary directory.
func DirsFrom(getenv func(string) string) (Dirs, error) {
	home := getenv("HOME")
	base := func(key, below string) (string, error) {
		if dir := getenv(key); filepath.IsAbs(dir) {
			return filepath.Join(dir, "banger"), nil
		}
		if !filepath.IsAbs(home) {
			return "", banger.Invalidf("export HOME=/home/you", "neither %s nor HOME is an absolute path", key)
		}
		return filepath.Join(home, below, "banger"), nil
	}
	var d Dirs
	var err error
	for _, dir := range []struct {
		to         *string
		key, below string
	}{{&d.Config, "XDG_CONFIG_HOME", ".config"}, {&d.State, "XDG_STATE_HOME", ".local/state"}, {&d.Cache, "XDG_CACHE_HOME", ".cache"}} {
		if *dir.to, err = base(dir.key, dir.below); err != nil {
			return Dirs{}, err
		}
	}
	// The first banger's variable, for scripts that set it.
	if dir := getenv("BANGER_STATE_DIR"); filepath.IsAbs(dir) {
		d.State = dir
	}
	d.Runtime = runtimeDir(getenv)
	return d, nil
}

func runtimeDir(getenv func(string) string) string {
	if dir := getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "banger")
	}
	run := fmt.Sprintf("/run/user/%d", os.Getuid())
	if info, err := os.Stat(run); err == nil && info.IsDir() && info.Mode().Perm() == 0o700 {
		return filepath.Join(run, "banger")
	}
	return filepath.Join(tempDir, fmt.Sprintf("banger-%d", os.Getuid()))
}
