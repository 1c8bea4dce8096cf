package network

import (
	"fmt"
	"net"
)

// RaiseLoopback raises the link lo.
func RaiseLoopback() error {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if lo.Flags&net.FlagUp != 0 {
		return nil
	}
	k, err := dial()
	if err != nil {
		return err
	}
	defer k.close()
	if err := k.raise(lo.Index); err != nil {
		return fmt.Errorf("raise lo: %w", err)
	}
	return nil
}
