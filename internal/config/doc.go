// Package config reads config.toml and the environment, and spells every file
// name that banger puts on disk. It does not create or open those files.
package config
