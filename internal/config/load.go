package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"banger"
)

// maxFile bounds config.toml.
const maxFile = 1 << 20

// Config is config.toml with the environment's overrides and the defaults
// applied. Paths are absolute; a key that was not set leaves its path empty,
// except for RuntimeDir, which always names a directory.
type Config struct {
	LogLevel   slog.Level
	RuntimeDir string
	Driver     string // "auto" or a driver's name

	VCPUs        int // 0: the driver's default
	Memory       banger.Size
	Disk         banger.Size
	Overlay      banger.Size
	DefaultImage string

	FirecrackerBin  string
	SSHKeyPath      string
	NamegenPath     string
	CustomizeScript string

	DefaultRootfs       string
	DefaultBaseRootfs   string
	DefaultKernel       string
	DefaultInitrd       string
	DefaultModulesDir   string
	DefaultPackagesFile string

	// Superseded by the built-in DNS; accepted so that old files still load.
	MapdnsBin      string
	MapdnsDataFile string
}

// Bundle is the runtime bundle's directory, whether or not it exists.
func (c Config) Bundle() BundleDir { return BundleDir(c.RuntimeDir) }

func defaults() Config {
	return Config{
		LogLevel:     slog.LevelInfo,
		Driver:       "auto",
		Memory:       banger.GiB,
		Disk:         16 * banger.GiB,
		Overlay:      8 * banger.GiB,
		DefaultImage: "docker",
	}
}

// Load reads config.toml, which need not exist, and applies the environment.
// getenv is os.Getenv outside of tests. Everything wrong with the file is
// reported at once, each with its line and column, in one Invalid error.
func Load(dirs Dirs, getenv func(string) string) (Config, error) {
	exe, err := os.Executable()
	if err != nil {
		return Config{}, fmt.Errorf("find own executable: %w", err)
	}
	return load(dirs, getenv, filepath.Dir(exe))
}

func load(dirs Dirs, getenv func(string) string, beside string) (Config, error) {
	c := defaults()
	path := dirs.ConfigFile()
	data, err := readFile(path)
	if err != nil {
		return Config{}, &banger.Error{Kind: banger.Invalid, What: "read configuration", Why: err, Fix: "make " + path + " a readable file, or remove it"}
	}
	if problems := parse(&c, data, getenv("HOME")); len(problems) > 0 {
		return Config{}, &banger.Error{Kind: banger.Invalid, What: "read " + path, Why: list(problems), Fix: "correct " + path}
	}
	if err := applyEnv(&c, getenv); err != nil {
		return Config{}, err
	}
	if c.RuntimeDir == "" {
		c.RuntimeDir = bundleBeside(beside)
	}
	c.anchor()
	return c, nil
}

func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s is larger than %s", path, banger.Size(maxFile))
	}
	return data, nil
}

// applyEnv lets the environment override the file. A relative path is taken
// from the working directory, as a shell's user means it.
func applyEnv(c *Config, getenv func(string) string) error {
	if level := getenv("BANGER_LOG_LEVEL"); level != "" {
		if err := setLevel(&c.LogLevel, level); err != nil {
			return &banger.Error{Kind: banger.Invalid, What: "read BANGER_LOG_LEVEL", Why: err, Fix: "export BANGER_LOG_LEVEL=info"}
		}
	}
	if driver := getenv("BANGER_DRIVER"); driver != "" {
		c.Driver = driver
	}
	for _, override := range []struct {
		key string
		to  *string
	}{{"BANGER_RUNTIME_DIR", &c.RuntimeDir}, {"BANGER_MAPDNS_DATA_FILE", &c.MapdnsDataFile}} {
		if path := getenv(override.key); path != "" {
			abs, err := filepath.Abs(path)
			if err != nil {
				return fmt.Errorf("read %s: %w", override.key, err)
			}
			*override.to = abs
		}
	}
	return nil
}

// bundleBeside finds the bundle that belongs to the programs in dir: that of a
// source checkout, else that of an installation.
func bundleBeside(dir string) string {
	checkout, installed := filepath.Join(dir, "runtime"), filepath.Join(dir, "..", "lib", "banger")
	if isDir(checkout) {
		return checkout
	}
	if isDir(installed) || filepath.Base(dir) == "bin" {
		return installed
	}
	return checkout
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// anchor makes the relative paths of the default_ keys absolute: they are
// below the runtime directory.
func (c *Config) anchor() {
	for _, path := range []*string{
		&c.DefaultRootfs, &c.DefaultBaseRootfs, &c.DefaultKernel, &c.DefaultInitrd,
		&c.DefaultModulesDir, &c.DefaultPackagesFile, &c.CustomizeScript,
	} {
		if *path != "" && !filepath.IsAbs(*path) {
			*path = filepath.Join(c.RuntimeDir, *path)
		}
	}
}

// Idle lists the keys that are set and accepted, but that this version has no
// use for.
func (c Config) Idle() []string {
	var set []string
	for _, key := range []struct{ name, value string }{
		{"mapdns_bin", c.MapdnsBin}, {"mapdns_data_file", c.MapdnsDataFile},
		{"customize_script", c.CustomizeScript}, {"default_rootfs", c.DefaultRootfs}, {"default_base_rootfs", c.DefaultBaseRootfs},
		{"default_kernel", c.DefaultKernel}, {"default_initrd", c.DefaultInitrd}, {"default_modules_dir", c.DefaultModulesDir},
		{"default_packages_file", c.DefaultPackagesFile},
	} {
		if key.value != "" {
			set = append(set, key.name)
		}
	}
	return set
}
