package config

// A key is one setting: a key of config.toml and, for some, an environment
// variable that overrides it. docs/config.md lists them.
type key struct {
	name     string
	value    string // what may be written, for a person
	fallback string // the default as one would write it; empty: see meaning
	env      string
	meaning  string
	set      func(*Config, value) error
}

var keys = []key{
	{"log_level", "`debug`, `info`, `warn` or `error`", "info", "BANGER_LOG_LEVEL",
		"How much the daemon logs.",
		func(c *Config, v value) error { return v.level(&c.LogLevel) }},
	{"driver", "`auto`, `firecracker` or `qemu`", "auto", "BANGER_DRIVER",
		"What runs new VMs. `auto` takes Firecracker where it is usable, else QEMU.",
		func(c *Config, v value) error { return v.word(&c.Driver) }},
	{"firecracker_bin", "a path, or a name in `PATH`", "", "",
		"The Firecracker to use. Without it: the one in `PATH`, else the one in the runtime bundle.",
		func(c *Config, v value) error { return v.command(&c.FirecrackerBin) }},
	{"runtime_dir", "a path", "", "BANGER_RUNTIME_DIR",
		"The runtime bundle. Without it: `runtime` beside the programs, or `../lib/banger` if they are in a `bin`.",
		func(c *Config, v value) error { return v.absolute(&c.RuntimeDir) }},
	{"vcpus", "a number from 1 to 1024", "", "",
		"Virtual CPUs of a new VM. Without it the driver decides.",
		func(c *Config, v value) error { return v.count(&c.VCPUs) }},
	{"memory", "a size; a number without a unit counts MiB", "1G", "",
		"Memory of a new VM.",
		func(c *Config, v value) error { return v.memory(&c.Memory) }},
	{"disk_size", "a size with its unit", "16G", "",
		"Maximum size of a new VM's work disk, `/root`.",
		func(c *Config, v value) error { return v.size(&c.Disk) }},
	{"overlay_size", "a size with its unit", "8G", "",
		"Maximum size of a new VM's changes to the rest of `/`, such as packages and Docker's data.",
		func(c *Config, v value) error { return v.size(&c.Overlay) }},
	{"network", "`auto` or `none`", "auto", "BANGER_NETWORK",
		"The network of new VMs. `auto` takes the best that the host and your user allow.",
		func(c *Config, v value) error { return v.oneOf(&c.Network, "auto", "none") }},
	{"nat", "`true` or `false`", "true", "",
		"Whether new VMs reach the internet and your other networks.",
		func(c *Config, v value) error { return v.flag(&c.NAT) }},
	{"forward", "`auto` or `off`", "auto", "",
		"Whether `localhost` reaches what listens in VMs. With `off` it reaches only what `--port` publishes.",
		func(c *Config, v value) error { return v.oneOf(&c.Forward, "auto", "off") }},
	{"default_image", "the name of an image", "docker", "",
		"The image of a new VM.",
		func(c *Config, v value) error { return v.word(&c.DefaultImage) }},
	{"ssh_key_path", "a path", "", "",
		"Your own SSH key for VMs. If only its `.pub` file exists, the private half is taken from your SSH agent. Without it banger uses a key of its own.",
		func(c *Config, v value) error { return v.absolute(&c.SSHKeyPath) }},
	{"user", "the name of a user, or `\"\"` for none", "dev", "",
		"A user beside root in each VM, with the same SSH keys and with sudo. It is made once: if you change or delete it in a VM, it stays so.",
		func(c *Config, v value) error { return v.account(&c.User) }},
	{"namegen_path", "a path, or a name in `PATH`", "", "",
		"A program that prints a name for a VM created without one.",
		func(c *Config, v value) error { return v.command(&c.NamegenPath) }},
	{"registry_mirrors", "an array of strings such as `\"docker.io=https://mirror.example\"`", "", "",
		"Mirrors that are asked for images before a registry, in this order.",
		func(c *Config, v value) error { return v.mirrors(&c.Mirrors) }},
	{"customize_script", "a path", "", "",
		"The script of `image build` without `--script`. It runs in the VM of the build.",
		func(c *Config, v value) error { return v.absolute(&c.CustomizeScript) }},
}

// Reasons why a legacy key has no effect.
const (
	superseded = "superseded by banger's own names in the domain vm"
	notYetUsed = "not yet used"
)

// legacy are the keys of the first banger's config.toml that have no effect.
// They are accepted with any value, so that an old file still loads.
var legacy = []struct{ name, why string }{
	{"mapdns_bin", superseded}, {"mapdns_data_file", superseded},
	{"default_rootfs", notYetUsed}, {"default_base_rootfs", notYetUsed},
	{"default_kernel", notYetUsed}, {"default_initrd", notYetUsed},
	{"default_modules_dir", notYetUsed}, {"default_packages_file", notYetUsed},
}
