// Package config reads config.toml and the environment, and defines the name of every
// file that banger writes. It does not create or open those files.
package config
