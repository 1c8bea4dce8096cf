package apply

import (
	"errors"
	"fmt"
	"os"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"banger"
)

// explain gives an error that has no fix yet the one that its cause suggests.
func explain(err error) error {
	if err == nil || banger.FixOf(err) != "" {
		return err
	}
	if errors.Is(err, os.ErrPermission) {
		return &banger.Error{Kind: banger.Unready, Why: fmt.Errorf("changing the network needs CAP_NET_ADMIN: %w", err),
			Fix: `run bangerd as root, or set network = "usernet"`}
	}
	if errors.Is(err, unix.EROFS) {
		return &banger.Error{Kind: banger.Unready, Why: fmt.Errorf("/proc/sys is read-only, as in most containers: %w", err),
			Fix: "mount -o remount,rw /proc/sys"}
	}
	if noBridge(err) {
		return &banger.Error{Kind: banger.Unready, Why: fmt.Errorf("the kernel has no bridges: %w", err), Fix: "sudo modprobe bridge"}
	}
	return err
}

// noBridge reports whether a kernel without bridges said so.
func noBridge(err error) bool { return errors.Is(err, unix.EOPNOTSUPP) }

// tunClosed says why a TAP cannot be made.
func tunClosed(err error) error {
	wrapped := fmt.Errorf("open %s: %w", tunDevice, err)
	switch {
	case errors.Is(err, os.ErrPermission):
		return &banger.Error{Kind: banger.Unready, Why: wrapped, Fix: "sudo chmod 0666 " + tunDevice}
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return &banger.Error{Kind: banger.Unready, Why: wrapped, Fix: "sudo modprobe tun"}
	}
	return wrapped
}

// noFirewall reports whether a kernel without nftables said so.
func noFirewall(err error) bool {
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT) ||
		errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)
}

// whyNoFirewall finds out which part of nftables the kernel lacks, after it refused the
// tables with err.
func whyNoFirewall(tables []table, err error) error {
	if errors.Is(err, os.ErrPermission) {
		return err
	}
	if lacking := probeFirewall(tables); lacking != nil {
		return lacking
	}
	return fmt.Errorf("write the firewall's rules: %w", err)
}

func lacks(f nftables.TableFamily, err error) error {
	if f == nftables.TableFamilyBridge {
		return &banger.Error{Kind: banger.Unready, Why: fmt.Errorf("the kernel cannot filter a bridge's frames with nftables (CONFIG_NF_TABLES_BRIDGE): %w", err),
			Fix: "use a kernel with CONFIG_NF_TABLES_BRIDGE"}
	}
	return &banger.Error{Kind: banger.Unready, Why: fmt.Errorf("the kernel has no nftables with NAT (CONFIG_NF_TABLES, CONFIG_NFT_NAT, CONFIG_NFT_MASQ): %w", err),
		Fix: "sudo modprobe -a nf_tables nft_chain_nat nft_masq nft_reject_inet nft_ct"}
}
