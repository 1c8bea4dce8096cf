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
// applied. Paths are absolute. A path that was not set is empty, except for
// RuntimeDir, which always names a directory.
type Config struct {
	LogLevel   slog.Level
	RuntimeDir string
	Driver     string // "auto" or a driver's name

	VCPUs        int // 0: the driver's default
	Memory       banger.Size
	Disk         banger.Size
	Overlay      banger.Size
	DefaultImage string
	User         string // a user beside root in each VM; empty: none

	Network string // "auto" or "none"
	NAT     bool
	Forward string // "auto" or "off"

	FirecrackerBin string
	SSHKeyPath     string
	NamegenPath    string
	Mirrors        map[string][]string // URLs that are asked before a registry

	CustomizeScript string // of builds of images that name none; empty: none

	// Legacy are the keys in the file that have no effect, each with the reason:
	// "mapdns_bin: superseded by ...".
	Legacy []string
}

// Bundle returns the runtime bundle's directory, whether or not it exists.
func (c Config) Bundle() BundleDir { return BundleDir(c.RuntimeDir) }

func defaults() (Config, error) {
	var c Config
	for _, key := range keys {
		if key.fallback == "" {
			continue
		}
		if err := key.set(&c, value{any: key.fallback}); err != nil {
			return Config{}, fmt.Errorf("set the default of %s: %w", key.name, err)
		}
	}
	return c, nil
}

// Load reads config.toml, which need not exist, and applies the environment.
// getenv is os.Getenv except in tests. One Invalid error reports everything that
// is wrong with the file, each problem with its line and column.
func Load(dirs Dirs, getenv func(string) string) (Config, error) {
	exe, err := os.Executable()
	if err != nil {
		return Config{}, fmt.Errorf("find own executable: %w", err)
	}
	return load(dirs, getenv, filepath.Dir(exe))
}

func load(dirs Dirs, getenv func(string) string, beside string) (Config, error) {
	c, err := defaults()
	if err != nil {
		return Config{}, err
	}
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

// applyEnv lets the environment override the file. A relative path there is
// relative to the working directory, as in a shell.
func applyEnv(c *Config, getenv func(string) string) error {
	for _, key := range keys {
		text := getenv(key.env)
		if key.env == "" || text == "" {
			continue
		}
		if key.name == "runtime_dir" {
			abs, err := filepath.Abs(text)
			if err != nil {
				return fmt.Errorf("read %s: %w", key.env, err)
			}
			text = abs
		}
		if err := key.set(c, value{any: text}); err != nil {
			return &banger.Error{Kind: banger.Invalid, What: "read " + key.env, Why: err, Fix: "export " + key.env + "=" + key.fallback}
		}
	}
	return nil
}

// bundleBeside returns the bundle that belongs to the programs in dir: that of a
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
